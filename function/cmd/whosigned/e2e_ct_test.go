//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	merkle "github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rfc6962"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// hasher is that of every log.
var hasher = merkle.DefaultHasher

// issued is a certificate, and what its CA submits of it to a CT log.
type issued struct {
	tlogtest.Signer // with the certificate that entries are signed with
	id              tlogtest.Identity
	entry           tlogtest.CTEntry
}

// certificate is one whose SCT is not embedded: the log gets the certificate.
func certificate(t testing.TB, ca *tlogtest.CA, id tlogtest.Identity) issued {
	t.Helper()
	s, e, err := ca.IssueForCT(id)
	if err != nil {
		t.Fatal(err)
	}
	return issued{s, id, e}
}

// precertificate is one with an embedded SCT: the log gets its precertificate.
func precertificate(t testing.TB, ca *tlogtest.CA, id tlogtest.Identity) issued {
	t.Helper()
	s, e, err := ca.IssuePrecertified(id)
	if err != nil {
		t.Fatal(err)
	}
	return issued{s, id, e}
}

// bystanders are n certificates for identities of every form that Fulcio knows, a
// third of them precertificates.
func bystanders(t testing.TB, ca *tlogtest.CA, n int) []issued {
	t.Helper()
	all := make([]issued, n)
	for i := range all {
		id := tlogtest.Identity{Issuer: issuer}
		switch name := fmt.Sprintf("stranger-%d", i); i % 4 {
		case 0, 1:
			id.URI = "https://github.com/elsewhere/" + name + "/.github/workflows/ci.yml@refs/heads/main"
			id.Extensions = map[int]string{9: id.URI}
		case 2:
			id.Email, id.Issuer = name+"@elsewhere.test", "https://accounts.google.com"
		case 3:
			id.UserName, id.Issuer = name+"!elsewhere.test", "https://oidc.elsewhere.test"
		}
		if i/4%3 == 0 {
			all[i] = precertificate(t, ca, id)
		} else {
			all[i] = certificate(t, ca, id)
		}
	}
	return all
}

// logged is what a CT log took.
type logged struct {
	issued
	index uint64
	leaf  []byte // the MerkleTreeLeaf
}

func (l logged) kind() string {
	if l.entry.Certificate != nil {
		return "certificate"
	}
	return "precertificate"
}

func newCA(t testing.TB) *tlogtest.CA {
	t.Helper()
	ca, err := tlogtest.NewCA("acme.test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// ctLog is what CT logs of both protocols have in common: where a CA submits, and
// the key that they sign with.
type ctLog struct {
	submit string // URL that ct/v1/add-chain is under
	key    keyPair
	sec1   []byte // the private key in the one form that both servers take
}

func newCTLog(t testing.TB) ctLog {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return ctLog{key: writeKeyPair(t, key, key.Public()), sec1: sec1}
}

func (l *ctLog) tlogKey(t testing.TB) tlog.Key {
	t.Helper()
	raw, err := os.ReadFile(l.key.public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tlog.ParseKeyPEM(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// client is certificate-transparency-go's, which verifies whatever is signed.
func (l *ctLog) client(t testing.TB) *ctclient.LogClient {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: submitters}}
	t.Cleanup(hc.CloseIdleConnections)
	c, err := ctclient.New(l.submit, hc, jsonclient.Options{PublicKeyDER: l.key.spki(t), Logger: printer{t}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// printer shows what jsonclient prints, its retries, as the test's.
type printer struct{ testing.TB }

func (p printer) Printf(format string, args ...any) { p.Helper(); p.Logf(format, args...) }

// submitters is how many certificates are on their way to a log at once.
const submitters = 32

// submitAll submits what was issued, and returns the SCTs for it.
func (l *ctLog) submitAll(t testing.TB, all []issued) []*ct.SignedCertificateTimestamp {
	t.Helper()
	client := l.client(t)
	scts := make([]*ct.SignedCertificateTimestamp, len(all))
	next := make(chan int)
	var workers sync.WaitGroup
	var refused atomic.Bool
	for range min(submitters, len(all)) {
		workers.Go(func() {
			for i := range next {
				e, add := all[i].entry, client.AddChain
				chain := []ct.ASN1Cert{{Data: e.Certificate}}
				if e.Certificate == nil {
					chain[0].Data, add = e.Precertificate, client.AddPreChain
				}
				for _, issuer := range e.Chain {
					chain = append(chain, ct.ASN1Cert{Data: issuer})
				}
				var err error
				if scts[i], err = add(t.Context(), chain); err != nil {
					t.Errorf("submitting the certificate for %+v: %v", all[i].id, err)
					refused.Store(true)
				}
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	workers.Wait()
	if refused.Load() {
		t.FailNow()
	}
	return scts
}

// rfc6962Log is a ct_server with a Trillian tree.
type rfc6962Log struct {
	ctLog
	*trillian
	tree   string
	roots  string // PEM file
	url    string
	at     string // host and port of the server
	server *process
}

// startRFC6962 starts a log that takes what the CAs issue.
func startRFC6962(t testing.TB, tr *trillian, cas ...*tlogtest.CA) *rfc6962Log {
	t.Helper()
	l := &rfc6962Log{trillian: tr, tree: tr.createTree(t), ctLog: newCTLog(t), roots: writeRoots(t, cas), at: "127.0.0.1:" + freePort(t)}
	l.serve(t)
	return l
}

// writeRoots is a file with the CAs' roots.
func writeRoots(t testing.TB, cas []*tlogtest.CA) string {
	t.Helper()
	var roots []byte
	for _, ca := range cas {
		roots = append(roots, ca.RootPEM()...)
	}
	path := filepath.Join(t.TempDir(), "roots.pem")
	writeFile(t, path, roots)
	return path
}

// restart stops the server and starts it again at the same place.
func (l *rfc6962Log) restart(t testing.TB) {
	t.Helper()
	l.server.stop(t)
	l.serve(t)
}

// replica is a second server of the same log, started with further flags.
func (l *rfc6962Log) replica(t testing.TB, flags ...string) *rfc6962Log {
	t.Helper()
	r := *l
	r.at = "127.0.0.1:" + freePort(t)
	r.serve(t, flags...)
	return &r
}

func (l *rfc6962Log) serve(t testing.TB, flags ...string) {
	t.Helper()
	const name = "acme"
	config := filepath.Join(t.TempDir(), "ct_server.cfg")
	l.url = "http://" + l.at + "/" + name
	l.submit = l.url
	var der strings.Builder
	for _, b := range l.sec1 {
		fmt.Fprintf(&der, `\x%02x`, b)
	}
	writeFile(t, config, fmt.Appendf(nil, `config {
  log_id: %s
  prefix: %q
  roots_pem_file: %q
  private_key { [type.googleapis.com/keyspb.PrivateKey] { der: "%s" } }
  max_merge_delay_sec: 86400
}
`, l.tree, name, l.roots, der.String()))
	l.server = start(t, "ct_server", filepath.Join(serversDir(t), "bin", "ct_server"), append([]string{
		"--log_rpc_server=127.0.0.1:" + l.port, "--log_config=" + config, "--http_endpoint=" + l.at}, flags...)...)
	// A tree that was just made has no root until Trillian's signer has come by.
	l.server.await(t, func() error { _, err := get(l.url + ct.GetSTHPath); return err })
}

// add submits certificates, waits until they are in the tree, and finds them there.
// Their order is the log's affair.
func (l *rfc6962Log) add(t testing.TB, all ...issued) []logged {
	t.Helper()
	before := l.treeHead(t).TreeSize
	took := make([]logged, len(all))
	for i, sct := range l.submitAll(t, all) {
		took[i] = logged{issued: all[i]}
		took[i].entry.Timestamp = sct.Timestamp
		took[i].leaf = took[i].entry.Leaf(-1)
	}
	l.published(t, before+uint64(len(all)))
	at := map[string]uint64{}
	for i, e := range l.entries(t, before) {
		at[string(e.LeafInput)] = before + uint64(i)
	}
	for i := range took {
		index, ok := at[string(took[i].leaf)]
		if !ok {
			t.Fatalf("the log has an SCT for %+v, and no leaf", took[i].id)
		}
		took[i].index = index
	}
	return took
}

// treeHead asks for the newest tree head and verifies it.
func (l *rfc6962Log) treeHead(t testing.TB) *ct.SignedTreeHead {
	t.Helper()
	sth, err := l.client(t).GetSTH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sth
}

// published waits until the tree head has at least size.
func (l *rfc6962Log) published(t testing.TB, size uint64) {
	t.Helper()
	l.server.await(t, func() error {
		if sth := l.treeHead(t); sth.TreeSize < size {
			return fmt.Errorf("tree head of size %d, want %d", sth.TreeSize, size)
		}
		return nil
	})
}

// entries reads from an index to the end, page by page.
func (l *rfc6962Log) entries(t testing.TB, from uint64) []ct.LeafEntry {
	t.Helper()
	client, size := l.client(t), l.treeHead(t).TreeSize
	var all []ct.LeafEntry
	for at := from; at < size; at = from + uint64(len(all)) {
		page, err := client.GetRawEntries(t.Context(), int64(at), int64(size-1))
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Entries) == 0 {
			t.Fatalf("an empty page at %d of %d", at, size)
		}
		all = append(all, page.Entries...)
	}
	return all
}

// open makes whosigned's own reader of the log.
func (l *rfc6962Log) open(t testing.TB) tlog.Log {
	t.Helper()
	log, err := rfc6962.New(tlog.NewClient(tlog.ClientOptions{}), rfc6962.Config{URL: l.url, Key: l.tlogKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// replaceLeaf changes the stored bytes of a leaf and leaves all hashes as they were.
func (l *rfc6962Log) replaceLeaf(t testing.TB, index uint64, leaf []byte) {
	t.Helper()
	l.sql(t, fmt.Sprintf(`UPDATE LeafData SET LeafValue=x'%x' WHERE TreeId=%[2]s AND LeafIdentityHash=
		(SELECT LeafIdentityHash FROM SequencedLeafData WHERE TreeId=%[2]s AND SequenceNumber=%[3]d)`, leaf, l.tree, index))
}

// testRFC6962 reads a real ct_server with more entries than one page has.
func (s *suite) testRFC6962(t *testing.T) {
	ca := newCA(t)
	l := startRFC6962(t, s.trillian, ca)
	if sth := l.treeHead(t); sth.TreeSize != 0 || !bytes.Equal(sth.SHA256RootHash[:], hasher.EmptyRoot()) {
		t.Errorf("an empty log has size %d and root %x", sth.TreeSize, sth.SHA256RootHash)
	}
	audit := &tlog.Audit{Log: l.open(t), Archive: archive{}}
	read := readOn(t, audit, nil, tlog.Frontier{})
	if read.cp.Size != 0 || read.slice.To != 0 {
		t.Errorf("an empty log is read to %d, of %d", read.slice.To, read.cp.Size)
	}
	all := l.add(t, bystanders(t, ca, 40)...)
	old := l.treeHead(t)
	read = readOn(t, audit, &read.cp, read.slice.Frontier)
	all = append(all, l.add(t, bystanders(t, ca, 2300)...)...)
	t.Run("serves what was submitted", func(t *testing.T) { l.checkServed(t, old, all) })
	t.Run("is read and proven", func(t *testing.T) { checkAudited(t, audit, read, all) })
	t.Run("names whom it was submitted for", func(t *testing.T) { checkIdentities(t, l.open(t), ca, all) })
	t.Run("is read from shorter pages", func(t *testing.T) {
		short := l.replica(t, "--max_get_entries=300")
		if page, err := short.client(t).GetRawEntries(t.Context(), 0, 999); err != nil || len(page.Entries) != 300 {
			t.Errorf("a page of %d entries, error %v; want 300", len(page.Entries), err)
		}
		checkAudited(t, &tlog.Audit{Log: short.open(t), Archive: archive{}}, reading{}, all)
	})
	t.Run("an altered row is no leaf", func(t *testing.T) {
		hidden := all[len(all)-7]
		l.replaceLeaf(t, hidden.index, all[0].leaf)
		defer l.replaceLeaf(t, hidden.index, hidden.leaf)
		r := readOn(t, &tlog.Audit{Log: l.open(t), Archive: archive{}, Again: []time.Duration{time.Millisecond}}, nil, tlog.Frontier{})
		if r.slice.To != hidden.index || r.slice.Incident == nil || r.slice.Incident.Kind != tlog.BadLeaf {
			t.Errorf("read to %d, incident %+v; want a bad leaf %d", r.slice.To, r.slice.Incident, hidden.index)
		}
	})
}

// checkServed shows with certificate-transparency-go's client what the server makes
// of its entries. Without it the rest of the test would say little.
func (l *rfc6962Log) checkServed(t *testing.T, old *ct.SignedTreeHead, all []logged) {
	sth, client := l.treeHead(t), l.client(t)
	if want := uint64(len(all)); sth.TreeSize != want {
		t.Fatalf("tree head of size %d, want %d", sth.TreeSize, want)
	}
	end := int64(sth.TreeSize)
	for _, row := range []struct {
		start, end int64
		want       int
	}{
		{0, end - 1, 1000},       // a page at most
		{500, 1599, 500},         // and it ends where one would that began at 0
		{end - 40, end + 99, 40}, // and where the tree ends
		{end - 1, end - 1, 1},
	} {
		page, err := client.GetRawEntries(t.Context(), row.start, row.end)
		if err != nil || len(page.Entries) != row.want {
			t.Errorf("get-entries from %d to %d: %d entries, error %v; want %d", row.start, row.end, len(page.Entries), err, row.want)
		}
	}
	var status jsonclient.RspError
	if _, err := client.GetRawEntries(t.Context(), end, end); !errors.As(err, &status) || status.StatusCode != http.StatusBadRequest {
		t.Errorf("get-entries past the end: error %v, want status 400", err)
	}

	entries := l.entries(t, 0)
	tree := (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0)
	for i, e := range entries {
		if err := tree.Append(hasher.HashLeaf(e.LeafInput), nil); err != nil {
			t.Fatal(err)
		}
		if tree.End() == old.TreeSize {
			checkRoot(t, tree, old)
		}
		if _, err := ct.LogEntryFromLeaf(int64(i), &e); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	checkRoot(t, tree, sth)
	for _, a := range all {
		if e := entries[a.index]; !bytes.Equal(e.LeafInput, a.leaf) || !bytes.Equal(e.ExtraData, a.entry.ExtraData()) {
			t.Fatalf("entry %d, a %s for %+v, is served as %x, %x", a.index, a.kind(), a.id, e.LeafInput, e.ExtraData)
		}
	}

	hashes, err := client.GetSTHConsistency(t.Context(), old.TreeSize, sth.TreeSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyConsistency(hasher, old.TreeSize, sth.TreeSize, hashes, old.SHA256RootHash[:], sth.SHA256RootHash[:]); err != nil {
		t.Errorf("consistency from %d to %d: %v", old.TreeSize, sth.TreeSize, err)
	}
	for _, a := range []logged{all[0], all[len(all)-1]} {
		e, err := client.GetEntryAndProof(t.Context(), a.index, sth.TreeSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(hasher, a.index, sth.TreeSize, hasher.HashLeaf(a.leaf), e.AuditPath, sth.SHA256RootHash[:]); err != nil {
			t.Errorf("inclusion of entry %d: %v", a.index, err)
		}
	}
}

func checkRoot(t testing.TB, tree *compact.Range, sth *ct.SignedTreeHead) {
	t.Helper()
	root, err := tree.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(root, sth.SHA256RootHash[:]) {
		t.Errorf("the leaves up to %d have root %x, and the tree head says %x", sth.TreeSize, root, sth.SHA256RootHash)
	}
}
