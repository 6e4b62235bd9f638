//go:build e2e && linux

package main_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	tilesverify "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/tle"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
)

// rekor is a Rekor of either version, as those who sign have bundles of it.
type rekor interface {
	watched(start string) watched
	// take uploads a signature by s, and returns what the log answers.
	take(t testing.TB, s *signer, signed *pb.CreateEntryRequest) *rekorpb.TransparencyLogEntry
	// verify is what Sigstore's own client says of a bundle; it knows the keys only.
	verify(t testing.TB, m *monitor, b *protobundle.Bundle) error
	// keep remembers the log as it is now; back makes it so again.
	keep(testing.TB) (back func(testing.TB))
}

func (r *rekorV1) take(t testing.TB, s *signer, signed *pb.CreateEntryRequest) *rekorpb.TransparencyLogEntry {
	t.Helper()
	kind, props := "", types.ArtifactProperties{PKIFormat: "x509", PublicKeyBytes: [][]byte{s.pem(t)}}
	switch spec := signed.GetSpec().(type) {
	case *pb.CreateEntryRequest_HashedRekordRequestV002:
		h := spec.HashedRekordRequestV002
		kind, props.ArtifactHash, props.SignatureBytes = "hashedrekord", "sha256:"+hex.EncodeToString(h.GetDigest()), h.GetSignature().GetContent()
	case *pb.CreateEntryRequest_DsseRequestV002:
		envelope, err := protojson.Marshal(spec.DsseRequestV002.GetEnvelope())
		if err != nil {
			t.Fatal(err)
		}
		kind, props.ArtifactBytes = "dsse", envelope
	}
	proposed, err := types.NewProposedEntry(t.Context(), kind, "0.0.1", props)
	if err != nil {
		t.Fatalf("making a %s entry: %v", kind, err)
	}
	request, err := json.Marshal(proposed)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := post(r.url+"/api/v1/log/entries", request)
	if err != nil {
		t.Fatalf("uploading a %s entry: %v", kind, err)
	}
	var entries models.LogEntry
	if err := json.Unmarshal(answer, &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		took, err := tle.GenerateTransparencyLogEntry(e)
		if err != nil {
			t.Fatal(err)
		}
		return took
	}
	t.Fatalf("uploading a %s entry: the answer names none: %s", kind, answer)
	return nil
}

func (s *shard) take(t testing.TB, _ *signer, signed *pb.CreateEntryRequest) *rekorpb.TransparencyLogEntry {
	t.Helper()
	took, err := s.tryAdd(signed)
	if err != nil {
		t.Fatal(err)
	}
	s.published(t, uint64(took.GetInclusionProof().GetTreeSize()))
	return took
}

// verify asks sigstore-go, which is in cosign.
func (r *rekorV1) verify(t testing.TB, m *monitor, b *protobundle.Bundle) error {
	t.Helper()
	trusted, err := root.NewTrustedRootFromPath(filepath.Join(m.dir, "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := verify.NewVerifier(trusted, verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := bundle.NewBundle(b)
	if err != nil {
		return err
	}
	artifact := verify.WithoutArtifactUnsafe() // an attestation says itself what it is about
	if digest := b.GetMessageSignature().GetMessageDigest().GetDigest(); digest != nil {
		artifact = verify.WithArtifactDigest("sha256", digest)
	}
	_, err = verifier.Verify(signed, verify.NewPolicy(artifact, verify.WithoutIdentitiesUnsafe()))
	return err
}

// verify asks rekor-tiles: sigstore-go takes neither an origin with a port nor, of Rekor
// v2, dsse.
func (s *shard) verify(t testing.TB, _ *monitor, b *protobundle.Bundle) error {
	t.Helper()
	verifier, err := signature.LoadVerifier(s.secret.Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	nv, err := rekornote.NewNoteVerifier(s.origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	return tilesverify.VerifyLogEntry(b.GetVerificationMaterial().GetTlogEntries()[0], nv)
}

func (r *rekorV1) keep(t testing.TB) func(testing.TB) {
	t.Helper()
	dump := r.dump(t, r.active().id)
	return func(t testing.TB) {
		t.Helper()
		r.restore(t, r.active().id, dump)
		r.restart(t)
	}
}

func (s *shard) keep(t testing.TB) func(testing.TB) {
	t.Helper()
	s.server.stop(t)
	copied := s.snapshot(t)
	s.serve(t)
	return func(t testing.TB) {
		t.Helper()
		s.server.stop(t)
		s.restore(t, copied)
		s.serve(t)
	}
}

// bundled is a bundle's file, and the inclusion proof of its one entry.
type bundled struct {
	*rekorpb.InclusionProof
	path string
}

// sign signs what a log is asked to take, and makes the bundle of its answer, as a client
// does. Sigstore's own client takes it.
func (m *monitor) sign(t testing.TB, l rekor, request func(testing.TB, *signer) *pb.CreateEntryRequest) bundled {
	t.Helper()
	s := m.signer(t, "https://github.com/elsewhere/app/.github/workflows/ci.yml@refs/heads/main")
	signed := request(t, s)
	took := l.take(t, s, signed)
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &commonpb.X509Certificate{RawBytes: s.certificate.Raw}},
			TlogEntries: []*rekorpb.TransparencyLogEntry{took},
		},
	}
	switch spec := signed.GetSpec().(type) {
	case *pb.CreateEntryRequest_HashedRekordRequestV002:
		h := spec.HashedRekordRequestV002
		b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{
			MessageDigest: &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: h.GetDigest()}, Signature: h.GetSignature().GetContent(),
		}}
	case *pb.CreateEntryRequest_DsseRequestV002:
		b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: spec.DsseRequestV002.GetEnvelope()}
	}
	if err := l.verify(t, m, b); err != nil {
		t.Fatalf("the bundle of what the log took does not verify: %v", err)
	}
	raw, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "app.sigstore.json")
	writeFile(t, path, raw)
	return bundled{took.GetInclusionProof(), path}
}

// checkBundles holds bundles of a log against the history: each has the status, and of
// each is said what is given. The state stays as it is. It returns the evidence.
func (m *monitor) checkBundles(t testing.TB, log string, exit int, status, says string, bundles ...bundled) (all []incident) {
	t.Helper()
	before, folder := snapshotOf(t, m.state()), filepath.Join(t.TempDir(), "evidence")
	args := []string{"--evidence", folder}
	for _, b := range bundles {
		args = append(args, b.path)
	}
	r := m.call(t, "check-bundle", args...)
	var report struct {
		Bundles []struct {
			Name, Status string
			Entries      []struct {
				Status, Text, Log string
				Index, Size       int64
			}
		}
		EvidenceFiles map[string]string
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.exit != exit || len(report.Bundles) != len(bundles) {
		t.Fatalf("check-bundle: exit %d, want %d and a report of %d bundles (%v)\nstdout: %s\nstderr: %s", r.exit, exit, len(bundles), err, r.stdout, r.stderr)
	}
	for i, b := range bundles {
		got := report.Bundles[i]
		if got.Name != b.path || got.Status != status || len(got.Entries) != 1 {
			t.Errorf("%s: %+v, want status %s of one entry", b.path, got, status)
			continue
		}
		if e := got.Entries[0]; e.Status != status || e.Log != log || e.Index != b.GetLogIndex() || e.Size != b.GetTreeSize() || !strings.Contains(e.Text, says) {
			t.Errorf("entry %d of the tree of size %d of log %s: %+v, want %s and that %q", b.GetLogIndex(), b.GetTreeSize(), log, e, status, says)
		}
	}
	for _, path := range report.EvidenceFiles {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		in := incident{raw: raw}
		if err := json.Unmarshal(raw, &in); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, in)
	}
	if after := snapshotOf(t, m.state()); after != before {
		t.Errorf("check-bundle changed the state:\nbefore:\n%s\nafter:\n%s", before, after)
	}
	return all
}

// checkForked expects that a bundle is evidence against its log: what the log signed for
// the bundle's user beside what it signed for the monitor.
func (m *monitor) checkForked(t testing.TB, log, kind string, proof bool, forked bundled) {
	t.Helper()
	all := m.checkBundles(t, log, exitTamper, "tamper", "that tree is not of the history", forked)
	want := []string{forked.GetCheckpoint().GetEnvelope(), m.checkpoint(t, log)}
	if len(all) != 1 || all[0].Kind != kind || all[0].Proof != proof || len(all[0].Notes) != 2 || !slices.Contains(all[0].Notes, want[0]) || !slices.Contains(all[0].Notes, want[1]) {
		t.Errorf("a bundle of the forked tree of size %d: evidence %+v, want one of kind %s, proof %t, with the notes\n%s", forked.GetTreeSize(), all, kind, proof, strings.Join(want, "\n"))
	}
}

// checkpoint is the newest note of a log that the monitor proved.
func (m *monitor) checkpoint(t testing.TB, log string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(m.state(), "state", log+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Checkpoint string }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Checkpoint
}

// testBundles holds bundles of both Rekors against what a monitor saw of them: as a
// user has them from the log that all see, and from one that is forked for that user.
func (s *suite) testBundles(t *testing.T) {
	t.Run("rekor v1", func(t *testing.T) {
		v1 := startRekorV1(t, s.trillian)
		s.checkBundlesOf(t, v1, v1.id(t, v1.active()))
	})
	t.Run("rekor v2", func(t *testing.T) {
		v2 := startShard(t, "v2.2.1") // which takes dsse
		s.checkBundlesOf(t, v2, v2.id(t))
	})
}

func (s *suite) checkBundlesOf(t *testing.T, l rekor, log string) {
	m := s.monitor(t)
	m.sendGrid(t)
	m.configure(t, nil, l.watched("0"))
	seen := []bundled{m.sign(t, l, hashedRekordV2), m.sign(t, l, dsseV2)}
	m.run(t, exitClean)
	m.checkBundles(t, log, exitClean, "in-history", "proven up to size 2 since", seen...)

	later := m.sign(t, l, hashedRekordV2)
	m.checkBundles(t, log, exitFailed, "not-checked", "the history, which reaches 2: run, then check again", later)
	m.run(t, exitClean)
	m.checkBundles(t, log, exitClean, "in-history", "proven up to size 3 since", append(seen, later)...)

	// The monitor is shown trees of 3, 5 and 6 entries, somebody else others of 4, 5 and 6.
	older := l.keep(t)
	seen = append(seen, later, m.sign(t, l, dsseV2), m.sign(t, l, hashedRekordV2))
	m.run(t, exitClean)
	newest := l.keep(t)
	older(t)
	between, same, beyond := m.sign(t, l, hashedRekordV2), m.sign(t, l, dsseV2), m.sign(t, l, hashedRekordV2)
	newest(t)
	m.checkForked(t, log, "inconsistent", false, between)
	m.checkForked(t, log, "fork", true, same)
	m.checkBundles(t, log, exitFailed, "not-checked", "a replica may lag behind size 6, which it signed", beyond)
	seen = append(seen, m.sign(t, l, hashedRekordV2))
	m.checkForked(t, log, "inconsistent", false, beyond)
	m.run(t, exitClean)
	m.checkForked(t, log, "fork", true, beyond)
	m.checkBundles(t, log, exitClean, "in-history", "proven up to size 6 since", seen...)
	m.checkNoIncidents(t)
}

// imports imports files, and returns what is said.
func (m *monitor) imports(t testing.TB, want int, files ...string) string {
	t.Helper()
	out, err := m.command(t, "import", files...).CombinedOutput()
	status := exitClean
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		status, err = exit.ExitCode(), nil
	}
	if err != nil || status != want {
		t.Fatalf("import %q: exit %d (%v), want %d\n%s", files, status, err, want, out)
	}
	return string(out)
}

// testImport goes on from where rekor-monitor stopped, and from nowhere that the logs
// do not show any more.
func (s *suite) testImport(t *testing.T) {
	d := startSigstore(t, s.trillian)
	bad := func() issued { return precertificate(t, d.ca, workflowOf(rogue)) }
	d.use(t, "yes", bad())
	earlier := d.checkpoints(t)
	d.use(t, "yes", bad())
	saved := d.checkpoints(t)
	elsewhere, v1 := d.use(t, "yes", bad(), bad())

	t.Run("reads on there", func(t *testing.T) {
		m := s.follower(t, d.deployment)
		mails := m.sendGrid(t)
		m.follow(t, d.deployment, teamRules)
		appendTo(t, earlier[0], saved[0]) // rekor-monitor adds a line in each of its runs
		files := append(earlier[:1:1], saved[1:]...)
		ids := []string{d.v1.id(t, d.v1.active()), d.v2.id(t), d.static.id(t), d.rfc.id(t)}
		said := m.imports(t, exitClean, files...)
		for i, id := range ids {
			if line := fmt.Sprintf("%s: log %s goes on at entry 2 (", files[i], id); !strings.Contains(said, line) {
				t.Errorf("import does not say %q:\n%s", line, said)
			}
		}
		r := m.run(t, exitFindings)
		checkFindings(t, r, slices.Concat(elsewhere, v1))
		for i, id := range ids {
			checkScanned(t, r, id, 4, 2, "ok")
			if text := "the size of the checkpoint imported from " + files[i]; !strings.Contains(mails.since(t, 0), text) {
				t.Errorf("no mail says that reading starts at %s", text)
			}
		}
		checkFindings(t, m.run(t, exitClean), nil)
		kept := filepath.Join(m.state(), "state")
		before := snapshotOf(t, kept)
		for _, file := range saved {
			if said := m.imports(t, exitFailed, file); !strings.Contains(said, file+": log ") || !strings.Contains(said, "has state already") {
				t.Errorf("a second import says %q", said)
			}
		}
		if after := snapshotOf(t, kept); after != before {
			t.Errorf("a second import changed the state:\nbefore:\n%s\nafter:\n%s", before, after)
		}
	})

	whole := t // the servers outlive the rows
	for i, row := range []struct {
		name string
		keep func(testing.TB) (back func(testing.TB))
		do   string // what the message says of the file
	}{
		{"rekor v1", d.v1.keep, "keep the file, it is evidence"},
		{"rekor v2", d.v2.keep, "has no signature, so "},
		{"static ct", d.static.snapshot, "has no signature, so "},
		{"rfc 6962", d.rfc.snapshot, "keep the file, it is evidence"},
	} {
		t.Run("not from a history that is gone, "+row.name, func(t *testing.T) {
			back := row.keep(whole)
			d.use(t, "yes", bad())
			file := d.checkpoints(t)[i]
			back(whole)
			s.checkRefused(t, d, file, "now shows only ", row.do)
			d.use(t, "yes", bad(), bad())
			s.checkRefused(t, d, file, "now serves another history than this checkpoint is of", row.do)
		})
	}
}

// checkRefused expects that a file is not imported, that the message has the words, and
// that the next run is still the first.
func (s *suite) checkRefused(t *testing.T, d *sigstore, file string, words ...string) {
	t.Helper()
	m := s.follower(t, d.deployment)
	m.sendGrid(t)
	m.follow(t, d.deployment, teamRules)
	said := m.imports(t, exitFailed, file)
	for _, w := range append(words, file+": ") {
		if !strings.Contains(said, w) {
			t.Errorf("import does not say %q:\n%s", w, said)
		}
	}
	for line := range strings.Lines(snapshotOf(t, m.state())) {
		path, _, _ := strings.Cut(line, " ")
		// The lease, which is given back, and its lock.
		if name := filepath.Base(path); name != "run.json" && name != ".lock" {
			t.Errorf("a refused import wrote %s", path)
		}
	}
	r := m.run(t, exitClean)
	for _, l := range r.Logs {
		if l.Status != "baseline" {
			t.Errorf("log %s after a refused import: %+v, want a baseline", l.ID, l)
		}
	}
	if len(r.Logs) != 4 {
		t.Errorf("%d logs after a refused import, want 4", len(r.Logs))
	}
}

// appendTo adds what a file holds to another.
func appendTo(t testing.TB, path, more string) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(more)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, append(old, line...))
}
