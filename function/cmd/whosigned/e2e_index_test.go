//go:build e2e && linux

package main_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/transparency-dev/merkle/proof"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// startIndexed starts a rekor-server with a search index, in a database of its own
// beside Trillian's.
func startIndexed(t testing.TB, tr *trillian) *rekorV1 {
	t.Helper()
	database := "index_" + freePort(t)
	tr.sql(t, "CREATE DATABASE "+database)
	return newRekorV1(t, tr, database)
}

// search asks the index, and returns the UUIDs in order.
func (r *rekorV1) search(t testing.TB, query map[string]any) []string {
	t.Helper()
	request, err := json.Marshal(query)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := post(r.url+"/api/v1/index/retrieve", request)
	if err != nil {
		t.Fatal(err)
	}
	var uuids []string
	if err := json.Unmarshal(answer, &uuids); err != nil {
		t.Fatalf("the index answers %q: %v", answer, err)
	}
	slices.Sort(uuids)
	return uuids
}

// indexed waits until the index has what it is asked for: rekor-server writes there
// after it has answered the upload.
func (r *rekorV1) indexed(t testing.TB, query map[string]any, want ...uploaded) {
	t.Helper()
	var uuids []string
	for _, e := range want {
		uuids = append(uuids, r.uuid(t, e))
	}
	slices.Sort(uuids)
	r.server.await(t, func() error {
		if got := r.search(t, query); !slices.Equal(got, uuids) {
			return fmt.Errorf("asked for %v the index has %q, want %q", query, got, uuids)
		}
		return nil
	})
}

// uuid is the entry's: the tree's ID and the leaf hash.
func (r *rekorV1) uuid(t testing.TB, e uploaded) string {
	t.Helper()
	id, err := strconv.ParseUint(r.active().id, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%016x%s", id, tlog.LeafHash(e.leaf))
}

// signer is the certificate's holder.
func (i issued) signer(t testing.TB) *signer {
	t.Helper()
	cert, err := x509.ParseCertificate(i.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := i.Key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("a certificate for a %T", i.Key)
	}
	return &signer{key: key, spki: spkiOf(t, key.Public()), certificate: cert}
}

// signed uploads a signature by s over a known artifact.
func (r *rekorV1) signed(t testing.TB, s *signer, artifact []byte) uploaded {
	t.Helper()
	return r.add(t, "hashedrekord", "0.0.1", types.ArtifactProperties{PKIFormat: "x509", ArtifactHash: "sha256:" + digestOf(artifact),
		SignatureBytes: s.sign(t, artifact), PublicKeyBytes: [][]byte{s.pem(t)}})
}

func digestOf(artifact []byte) string {
	sum := sha256.Sum256(artifact)
	return hex.EncodeToString(sum[:])
}

// testIndexAnswers shows by plain HTTP what a real search index can be asked for,
// and that a hit can be proven.
func (s *suite) testIndexAnswers(t *testing.T) {
	r, ca := startIndexed(t, s.trillian), newCA(t)
	keyed := newSigner(t)
	mailed := certificate(t, ca, tlogtest.Identity{Email: "Release.Bot@Acme.test", Issuer: "https://accounts.google.com"}).signer(t)
	built := precertificate(t, ca, tlogtest.Identity{URI: rogue, Issuer: issuer}).signer(t)
	artifact := randomBytes(t, 32)

	byKey := []uploaded{r.signed(t, keyed, artifact), r.attestation(t, keyed, "dsse", "0.0.1")}
	byMail := []uploaded{r.hashedRekord(t, mailed), r.attestation(t, mailed, "intoto", "0.0.2")}
	byBuild := []uploaded{r.hashedRekord(t, built), r.signed(t, built, artifact)}
	r.hashedRekord(t, newSigner(t))

	publicKey := func(s *signer) map[string]any { return map[string]any{"format": "x509", "content": s.pem(t)} }
	for _, row := range []struct {
		name  string
		query map[string]any
		want  []uploaded
	}{
		{"email", map[string]any{"email": "Release.Bot@Acme.test"}, byMail},
		{"email in lower case", map[string]any{"email": "release.bot@acme.test"}, byMail},
		{"email as a subject", map[string]any{"subject": "release.bot@acme.test"}, byMail},
		{"subject", map[string]any{"subject": rogue}, byBuild},
		{"subject in another case", map[string]any{"subject": strings.ToUpper(rogue)}, byBuild},
		{"a part of a subject", map[string]any{"subject": workflow}, nil},
		{"hash", map[string]any{"hash": digestOf(artifact)}, []uploaded{byKey[0], byBuild[1]}},
		{"hash with its algorithm", map[string]any{"hash": "sha256:" + digestOf(artifact)}, []uploaded{byKey[0], byBuild[1]}},
		// A key is looked up by the digest of its PEM form, under which attestations are
		// not: they have that digest among their hashes.
		{"key", map[string]any{"publicKey": publicKey(keyed)}, byKey[:1]},
		{"key of an attestation", map[string]any{"hash": digestOf(keyed.pem(t))}, byKey[1:]},
		{"certificate", map[string]any{"publicKey": publicKey(built)}, byBuild},
		{"key or subject", map[string]any{"publicKey": publicKey(keyed), "subject": rogue}, slices.Concat(byKey[:1], byBuild)},
		{"hash and subject", map[string]any{"hash": digestOf(artifact), "subject": rogue, "operator": "and"}, byBuild[1:]},
		{"nobody", map[string]any{"email": "nobody@acme.test"}, nil},
	} {
		t.Run(row.name, func(t *testing.T) { r.indexed(t, row.query, row.want...) })
	}

	hit := byBuild[0]
	answer, err := get(r.url + "/api/v1/log/entries/" + r.uuid(t, hit))
	if err != nil {
		t.Fatal(err)
	}
	var entries models.LogEntry
	if err := json.Unmarshal(answer, &entries); err != nil {
		t.Fatal(err)
	}
	e, ok := entries[r.uuid(t, hit)]
	if !ok || len(entries) != 1 {
		t.Fatalf("asked for %s, the log answers %s", r.uuid(t, hit), answer)
	}
	var hashes [][]byte
	for _, h := range e.Verification.InclusionProof.Hashes {
		hashes = append(hashes, unhex(t, h))
	}
	leafHash := tlog.LeafHash(hit.leaf)
	if err := proof.VerifyInclusion(hasher, hit.index, uint64(*e.Verification.InclusionProof.TreeSize), leafHash[:], hashes,
		unhex(t, *e.Verification.InclusionProof.RootHash)); err != nil {
		t.Errorf("inclusion of a hit: %v", err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
