package monitor_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// signing is one of the world's logs as a user has bundles of it.
type signing struct {
	*world
	name string
	log  *tlogtest.Log
	gate *tlogtest.Gate
	id   tlog.ID
}

// onBoth tests with a world of its own for each log that bundles come from.
func onBoth(t *testing.T, f func(t *testing.T, s *signing)) {
	for _, name := range []string{"rekor-v1", "rekor-v2"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := &signing{world: w, name: name, log: w.v1.Active().Log, gate: w.v1.Gate}
			if name == "rekor-v2" {
				s.log, s.gate = w.v2.Log, w.v2.Gate
			}
			f(t, s)
		})
	}
}

func (s *signing) v1Log() bool { return s.name == "rekor-v1" }

// watch makes n entries and a run.
func (s *signing) watch(n int) {
	s.t.Helper()
	s.others(n)
	res := s.want(monitor.ExitClean)
	for _, l := range res.Logs {
		if string(l.Type) == s.name {
			s.id = l.ID
		}
	}
}

// fork is another history: the true one but for an entry, and n entries longer.
func (s *signing) fork(index uint64, n int) *tlogtest.Tree {
	s.t.Helper()
	tree, err := s.log.Tree().Rewrite(index, s.leaf())
	if err != nil {
		s.t.Fatal(err)
	}
	for range n {
		tree.Append(s.leaf())
	}
	return tree
}

// leaf is a stranger's entry that is in no log yet.
func (s *signing) leaf() []byte {
	s.t.Helper()
	one, two := s.entry(github("https://github.com/someone/else/.github/workflows/ci.yml@refs/heads/main"))
	if s.v1Log() {
		return one
	}
	return two
}

// in is the bundle of the entry at an index, as the log gives it out when it shows a
// tree, at a size.
func (s *signing) in(tree *tlogtest.Tree, index, size uint64) *protobundle.Bundle {
	s.t.Helper()
	s.log.Show(tree)
	s.log.At(size)
	defer s.log.Honest()
	if s.v1Log() {
		return s.v1Bundle(index)
	}
	return s.v2Bundle(tree, index, size)
}

// of is the bundle of an entry of the true tree.
func (s *signing) of(index, size uint64) *protobundle.Bundle {
	s.t.Helper()
	return s.in(s.log.Tree(), index, size)
}

func (w *world) get(url string) []byte {
	w.t.Helper()
	res, err := http.Get(url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s: %s (%v)", url, res.Status, body, err)
	}
	return body
}

// v1Bundle is of the entry at an index of the active tree.
func (w *world) v1Bundle(index uint64) *protobundle.Bundle {
	w.t.Helper()
	base := uint64(0)
	for _, t := range w.v1.Trees() {
		if t != w.v1.Active() {
			base += t.Tree().Size()
		}
	}
	var answer models.LogEntry
	if err := json.Unmarshal(w.get(fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", w.v1URL, base+index)), &answer); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range answer {
		body, err := base64.StdEncoding.DecodeString(e.Body.(string))
		if err != nil {
			w.t.Fatal(err)
		}
		p := e.Verification.InclusionProof
		t := entryOf("hashedrekord", "0.0.1", body, unhex(w.t, *e.LogID))
		t.LogIndex, t.IntegratedTime = *e.LogIndex, *e.IntegratedTime
		t.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: e.Verification.SignedEntryTimestamp}
		t.InclusionProof = &protorekor.InclusionProof{
			LogIndex: *p.LogIndex, TreeSize: *p.TreeSize, RootHash: unhex(w.t, *p.RootHash), Checkpoint: &protorekor.Checkpoint{Envelope: *p.Checkpoint},
		}
		for _, h := range p.Hashes {
			t.InclusionProof.Hashes = append(t.InclusionProof.Hashes, unhex(w.t, h))
		}
		return bundleOf(t)
	}
	w.t.Fatal("no entry in the answer")
	return nil
}

func (w *world) v2Bundle(tree *tlogtest.Tree, index, size uint64) *protobundle.Bundle {
	w.t.Helper()
	leaf, err := tree.Leaf(index)
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := tree.Root(size)
	if err != nil {
		w.t.Fatal(err)
	}
	hashes, err := tree.InclusionProof(index, size)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := tlog.NewKey(w.v2.PublicKey())
	if err != nil {
		w.t.Fatal(err)
	}
	id := key.OriginID(w.v2.Origin())
	t := entryOf("hashedrekord", "0.0.2", leaf, id[:])
	t.LogIndex = int64(index)
	t.InclusionProof = &protorekor.InclusionProof{
		LogIndex: int64(index), TreeSize: int64(size), RootHash: root[:], Hashes: hashes,
		Checkpoint: &protorekor.Checkpoint{Envelope: string(w.get(w.v2URL + "/checkpoint"))},
	}
	return bundleOf(t)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entryOf(kind, version string, body, keyID []byte) *protorekor.TransparencyLogEntry {
	return &protorekor.TransparencyLogEntry{
		LogId: &protocommon.LogId{KeyId: keyID}, KindVersion: &protorekor.KindVersion{Kind: kind, Version: version}, CanonicalizedBody: body,
	}
}

func bundleOf(entries ...*protorekor.TransparencyLogEntry) *protobundle.Bundle {
	return &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "release"}},
			TlogEntries: entries,
		},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: make([]byte, 32)}, Signature: []byte("s"),
		}},
	}
}

func only(b *protobundle.Bundle) *protorekor.TransparencyLogEntry {
	return b.VerificationMaterial.TlogEntries[0]
}

// promiseOnly takes the inclusion proof out of a bundle.
func promiseOnly(b *protobundle.Bundle) *protobundle.Bundle {
	b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	only(b).InclusionProof = nil
	return b
}

// check checks a bundle with a state that cannot be written.
func (w *world) check(b *protobundle.Bundle) *monitor.BundleCheck {
	w.t.Helper()
	raw, err := protojson.Marshal(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.checkData(raw)
}

func (w *world) checkData(data []byte) *monitor.BundleCheck {
	w.t.Helper()
	w.store.hook = func(op, name string, _ bool) error {
		if op != "read" && op != "list" {
			w.t.Errorf("%s of %s: a check writes", op, name)
		}
		return nil
	}
	defer func() { w.store.hook = nil }()
	h, err := w.monitor().History(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return h.CheckBundle(context.Background(), "a bundle", data)
}

// is checks a bundle of one entry, and what is said of it.
func (w *world) is(b *protobundle.Bundle, want monitor.BundleStatus, text string) monitor.BundleEntry {
	w.t.Helper()
	got := w.check(b)
	said := ""
	for _, e := range got.Entries {
		if said = e.Text; e.Evidence != nil {
			said += ": " + e.Evidence.Text
		}
		if (e.Evidence != nil) != (e.Status == monitor.BundleTamper) {
			w.t.Errorf("status %s, evidence %v", e.Status, e.Evidence)
		}
	}
	if got.Status != want || len(got.Entries) != 1 || got.Entries[0].Status != want || !strings.Contains(said, text) {
		j, _ := json.MarshalIndent(got, "", " ")
		w.t.Fatalf("status %s, want %s and one entry of which is said %q: %s", got.Status, want, text, j)
	}
	return got.Entries[0]
}

// down makes the log fail all requests.
func (s *signing) down() (up func()) { return s.gate.Inject(nil, 0, tlogtest.Status(503)) }

func TestBundlesOfTheTestLogsAreSigstoreBundles(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.others(7)
		raw, err := protojson.Marshal(s.of(3, 7))
		if err != nil {
			t.Fatal(err)
		}
		if err := new(bundle.Bundle).UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBundleWhoseCheckpointWeSawLiesInTheHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(5)
		s.watch(2)
		for _, size := range []uint64{5, 7} {
			b := s.of(3, size)
			up := s.down() // the archive is enough
			e := s.is(b, monitor.BundleInHistory, "whose root is the one that this monitor saw")
			if e.Log != s.id || e.Index != 3 || e.Size != size || e.Proven != 7 || e.ProvenAt == nil || e.Origin == "" || e.URL == "" || e.Evidence != nil {
				t.Fatalf("entry %+v", e)
			}
			up()
		}
	})
}

func TestBundleOfAnotherSizeIsProvenByTheLog(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		s.is(s.of(3, 5), monitor.BundleInHistory, "which the log just proved to be the beginning of the history")
		s.others(2)
		later := s.of(8, 9)
		s.others(3)
		if e := s.is(later, monitor.BundleInHistory, "which the log just proved to extend the history"); e.Proven != 7 || e.Size != 9 {
			t.Fatalf("proven %d, size %d", e.Proven, e.Size)
		}
	})
}

func TestBundleOfAnotherSizeIsNotCheckedWhenTheLogIsAway(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		small := s.of(3, 5)
		s.others(2)
		large := s.of(8, 9)
		s.down()
		for _, b := range []*protobundle.Bundle{small, large} {
			s.is(b, monitor.BundleNotChecked, "503")
		}
		// What needs no answer is told all the same.
		s.gate.ClearFaults()
		forked := s.in(s.fork(2, 0), 3, 7)
		s.down()
		s.is(forked, monitor.BundleTamper, "two signed roots for tree size 7")
		only(small).InclusionProof.Hashes[0][0] ^= 1
		s.is(small, monitor.BundleUnverified, "does not show it to be entry 3")
	})
}

func TestBundleOfAForkOfTheSameSizeIsProof(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(5)
		s.watch(2)
		for _, size := range []uint64{5, 7} {
			e := s.is(s.in(s.fork(2, 0), 3, size), monitor.BundleTamper, fmt.Sprintf("two signed roots for tree size %d", size))
			in := e.Evidence
			if in == nil || in.Kind != tlog.Fork || !in.Proof || in.Log != s.id || len(in.Notes) != 2 {
				t.Fatalf("evidence %+v", in)
			}
			s.checkNotes(in)
		}
	})
}

// checkNotes does what a third party would: both notes are the log's, of one size, and
// with two roots.
func (s *signing) checkNotes(in *tlog.Incident) {
	s.t.Helper()
	key, err := tlog.NewKey(s.log.PublicKey())
	if err != nil {
		s.t.Fatal(err)
	}
	if !s.v1Log() {
		key.LogID = key.OriginID(s.v2.Origin())
	}
	var seen []tlog.Checkpoint
	for _, note := range in.Notes {
		cp, _, err := tlog.OpenCheckpoint([]byte(note), []tlog.Key{key})
		if err != nil {
			s.t.Fatal(err)
		}
		seen = append(seen, cp)
	}
	if seen[0].Size != seen[1].Size || seen[0].Root == seen[1].Root {
		s.t.Fatalf("the notes prove nothing: sizes %d and %d, roots %s and %s", seen[0].Size, seen[1].Size, seen[0].Root, seen[1].Root)
	}
}

func TestBundleOfAForkOfAnotherSizeIsSuspicion(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		smaller, larger := s.in(s.fork(2, 0), 3, 5), s.in(s.fork(2, 2), 8, 9)
		for _, grown := range []int{0, 2, 3} { // less than the fork's size, the same, more
			if grown > 0 {
				s.others(grown)
			}
			for _, b := range []*protobundle.Bundle{smaller, larger} {
				e := s.is(b, monitor.BundleTamper, "does not prove that its tree of size")
				in := e.Evidence
				if in == nil || in.Kind != tlog.Inconsistent || in.Proof || len(in.Notes) != 2 || in.Consistency == nil {
					t.Fatalf("evidence %+v", in)
				}
				if c := in.Consistency; len(c.Hashes) > 0 {
					if err := proof.VerifyConsistency(rfc6962.DefaultHasher, c.From, c.To, c.Hashes, c.Root[:], rootOf(t, in.Notes[1])); err == nil {
						t.Fatal("the proof that was served proves what the evidence denies")
					}
				}
			}
		}
	})
}

func rootOf(t testing.TB, note string) []byte {
	t.Helper()
	root, err := base64.StdEncoding.DecodeString(strings.Split(note, "\n")[2])
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestOneBadAnswerIsNotEvidence(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		s.others(2)
		b := s.of(8, 9)
		path := "/log/proof"
		if !s.v1Log() {
			path = "/tile/0/"
		}
		s.gate.Inject(tlogtest.Path(path), 1, tlogtest.Status(404))
		s.is(b, monitor.BundleInHistory, "extend the history")
	})
}

// A replica lags behind what another one has just signed; but not for ever.
func TestYoungBundleLargerThanTheLogIsNotEvidenceYet(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		tree, err := s.log.Tree().Fork(7)
		if err != nil {
			t.Fatal(err)
		}
		tree.Append(s.leaf())
		b := s.in(tree, 7, 8)
		only(b).IntegratedTime = s.now.Add(-time.Minute).Unix()
		s.is(b, monitor.BundleNotChecked, "a replica may lag")
		s.now = s.now.Add(10 * time.Minute)
		s.is(b, monitor.BundleTamper, "the log serves size 7 now")
		// The age of a bundle does not excuse a log that has the size.
		s.others(2)
		s.now = s.now.Add(-10 * time.Minute)
		s.is(b, monitor.BundleTamper, "does not prove")
	})
}

// That the log serves less than was proven is for runs to judge: see rollback.
func TestLogThatWasSetBackDoesNotSpeakAgainstABundle(t *testing.T) {
	w := newWorld(t)
	s := &signing{world: w, name: "rekor-v1", log: w.v1.Active().Log, gate: w.v1.Gate}
	s.watch(7)
	b := s.of(3, 5)
	s.log.At(6)
	s.is(b, monitor.BundleNotChecked, "the log serves size 6 now")
}

func TestAlteredBundleSpeaksAgainstTheBundleOnly(t *testing.T) {
	stranger := ecKey(t)
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		for name, row := range map[string]struct {
			alter func(e *protorekor.TransparencyLogEntry)
			want  string
		}{
			"body":        {func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody[9] ^= 1 }, "it leads to another root"},
			"index":       {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.LogIndex, e.LogIndex = 4, 4 }, "does not show it to be entry 4"},
			"beyond":      {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.LogIndex, e.LogIndex = 1<<62, 1<<62 }, "does not show it to be entry"},
			"negative":    {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.LogIndex = -1 }, "negative"},
			"short proof": {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes = e.InclusionProof.Hashes[1:] }, "does not show it"},
			"odd hash":    {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes[0] = []byte("odd") }, "does not show it"},
			"many hashes": {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes = make([][]byte, 100_000) }, "does not show it"},
			"checkpoint": {func(e *protorekor.TransparencyLogEntry) {
				e.InclusionProof.Checkpoint.Envelope = strings.Replace(e.InclusionProof.Checkpoint.Envelope, "\n7\n", "\n8\n", 1)
			}, "not one that the log signed"},
			"no signature": {func(e *protorekor.TransparencyLogEntry) {
				e.InclusionProof.Checkpoint.Envelope = string(tlogtest.Unsigned([]byte(e.InclusionProof.Checkpoint.Envelope)))
			}, "not one that the log signed"},
		} {
			b := s.of(3, 7)
			row.alter(only(b))
			if e := s.is(b, monitor.BundleUnverified, row.want); e.Evidence != nil || e.Size != 0 {
				t.Errorf("%s: evidence %v, size %d: want none", name, e.Evidence, e.Size)
			}
		}
		b := s.of(3, 7)
		if only(b).LogIndex = 4; !s.v1Log() { // where it counts over all trees, and nothing signs it
			s.is(b, monitor.BundleUnverified, "it is said to be entry 4, and its inclusion proof is for entry 3")
		}
		b = s.of(3, 7)
		only(b).InclusionProof.Checkpoint.Envelope = s.strangersNote(stranger)
		s.is(b, monitor.BundleUnverified, "not one that the log signed")
	})
}

// strangersNote is what the log serves under a key that is not its own.
func (s *signing) strangersNote(key *ecdsaKey) string {
	s.t.Helper()
	s.log.SignWith(key)
	defer s.log.Honest()
	if s.v1Log() {
		return only(s.v1Bundle(3)).InclusionProof.Checkpoint.Envelope
	}
	return string(s.get(s.v2URL + "/checkpoint"))
}

func TestBundleOfALogThatIsNotWatched(t *testing.T) {
	w := newWorld(t)
	other, url := w.shard("other.example")
	w.others(7)
	w.want(monitor.ExitClean)
	other.Append(w.strangers(3)...)
	if err := other.Publish(); err != nil {
		t.Fatal(err)
	}
	known := w.v2
	w.v2, w.v2URL = other, url
	b := w.v2Bundle(other.Tree(), 1, 3)
	w.v2 = known
	w.is(b, monitor.BundleNotWatched, "is not watched: this monitor has no history of it")
	w.logs += w.v2Line("other.example", url, "start: 0")
	w.is(b, monitor.BundleNotWatched, "run first")
	w.want(monitor.ExitClean)
	w.is(b, monitor.BundleInHistory, "")
	w.logs = w.v2Line("other.example", url, "start: 0")
	w.is(w.v1Bundle(3), monitor.BundleNotChecked, "not configured any more")
}

// strangers are n entries for a Rekor v2 shard.
func (w *world) strangers(n int) (leaves [][]byte) {
	w.t.Helper()
	_, two := w.strangerLeaves()
	for i := range n {
		leaves = append(leaves, two(uint64(i)))
	}
	return leaves
}

// A Rekor v1 service has a log for each tree, under one key.
func TestBundlesOfEachTreeOfAService(t *testing.T) {
	w := newWorld(t)
	w.others(7)
	old := w.v1Bundle(3)
	w.want(monitor.ExitClean)
	w.rotate(nil)
	w.others(4)
	b := w.v1Bundle(2)
	if got := only(b).LogIndex; got != 9 {
		t.Fatalf("log index %d, want 9 over both trees", got)
	}
	w.is(b, monitor.BundleNotWatched, "not this tree of it")
	w.is(promiseOnly(w.v1Bundle(2)), monitor.BundleNotChecked, "its index 9 is beyond the history")
	w.want(monitor.ExitClean)
	if e := w.is(b, monitor.BundleInHistory, ""); e.Index != 2 || e.Proven != 4 {
		t.Fatalf("index %d, proven %d", e.Index, e.Proven)
	}
	w.is(old, monitor.BundleInHistory, "")
	if e := w.is(promiseOnly(b), monitor.BundleInHistory, "it has no inclusion proof; the log just proved it to be entry 2"); e.Proven != 4 {
		t.Fatalf("proven %d, want 4", e.Proven)
	}
	if e := w.is(promiseOnly(old), monitor.BundleInHistory, "proved it to be entry 3"); e.Proven != 7 {
		t.Fatalf("proven %d, want 7", e.Proven)
	}
}

func TestPromiseIsHeldAgainstTheEntryAtItsIndex(t *testing.T) {
	w := newWorld(t)
	s := &signing{world: w, name: "rekor-v1", log: w.v1.Active().Log, gate: w.v1.Gate}
	s.watch(7)
	s.is(promiseOnly(s.of(3, 7)), monitor.BundleInHistory, "proved it to be entry 3")
	s.is(promiseOnly(s.of(0, 7)), monitor.BundleInHistory, "proved it to be entry 0")

	altered := promiseOnly(s.of(3, 7))
	only(altered).CanonicalizedBody[9] ^= 1
	s.is(altered, monitor.BundleUnverified, "nor a promise that the log signed")
	unsigned := promiseOnly(s.in(s.fork(3, 0), 3, 7))
	only(unsigned).InclusionPromise = nil
	s.is(unsigned, monitor.BundleUnverified, "entry 3 of the history is another one")

	e := s.is(promiseOnly(s.in(s.fork(3, 0), 3, 7)), monitor.BundleTamper, "the promise (signed entry timestamp) that entry 3 is")
	s.checkPromise(e)

	beyond := s.fork(3, 2)
	s.is(promiseOnly(s.in(beyond, 8, 9)), monitor.BundleNotChecked, "beyond the history")
	s.log.Lie(3, tlogtest.Lie{Data: s.leaf()})
	s.is(promiseOnly(s.v1Bundle(2)), monitor.BundleInHistory, "")
	lied := promiseOnly(s.v1Bundle(3))
	if e := s.is(lied, monitor.BundleTamper, "not what the log signed"); e.Evidence.Kind != tlog.BadLeaf {
		t.Fatalf("evidence %+v", e.Evidence)
	}
	s.log.Honest()
	s.down()
	s.is(lied, monitor.BundleNotChecked, "503")
}

// checkPromise does what a third party would with the evidence of a broken promise.
func (s *signing) checkPromise(e monitor.BundleEntry) {
	s.t.Helper()
	in := e.Evidence
	if in == nil || in.Kind != tlog.BadLeaf || in.Proof || len(in.Notes) != 1 || len(in.Leaves) != 1 || in.Leaves[0].ProvenHash == nil {
		s.t.Fatalf("evidence %+v", in)
	}
	var served struct{ Payload, Signature []byte }
	if err := json.Unmarshal(in.Served, &served); err != nil {
		s.t.Fatal(err)
	}
	key, err := tlog.NewKey(s.log.PublicKey())
	if err != nil {
		s.t.Fatal(err)
	}
	if !key.Verify(served.Payload, served.Signature) {
		s.t.Error("the log did not sign the promise")
	}
	var promise struct{ Body []byte }
	if err := json.Unmarshal(served.Payload, &promise); err != nil {
		s.t.Fatal(err)
	}
	leaf := in.Leaves[0]
	if got := tlog.LeafHash(promise.Body); got != *leaf.ServedHash || got == *leaf.ProvenHash || got != e.LeafHash {
		s.t.Errorf("promised %s, evidence says %s, and proven %s", got, leaf.ServedHash, leaf.ProvenHash)
	}
	tree, err := leaf.Before.Range()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := tree.Append(leaf.ProvenHash[:], nil); err != nil {
		s.t.Fatal(err)
	}
	root, err := tlog.Root(tree)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, leaf.Index+1, 7, leaf.Proof, root[:], rootOf(s.t, in.Notes[0])); err != nil {
		s.t.Errorf("the other leaf is not proven: %v", err)
	}
}

// Rekor v2 promises nothing; what is in its history is there all the same.
func TestEntryWithoutProofOrPromise(t *testing.T) {
	w := newWorld(t)
	s := &signing{world: w, name: "rekor-v2", log: w.v2.Log, gate: w.v2.Gate}
	s.watch(7)
	s.is(promiseOnly(s.of(3, 7)), monitor.BundleInHistory, "proved it to be entry 3")
	s.is(promiseOnly(s.in(s.fork(3, 0), 3, 7)), monitor.BundleUnverified, "nor a promise")
}

// Sizes archived of another history than the trusted one are no witness for a bundle,
// and what a decision gave up none against it.
func TestArchiveOfAnotherHistoryIsNotOurs(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(5)
		fork := s.fork(2, 1)
		other := s.in(fork, 3, 6)
		s.log.Show(fork)
		if !s.v1Log() {
			s.publish()
		}
		s.want(monitor.ExitTamper)
		if d := s.doc(s.id); d.Size != 5 || !slices.Contains(d.Strays, 6) {
			t.Fatalf("size %d, strays %v: the run archived another history's size 6", d.Size, d.Strays)
		}
		s.log.Honest()
		s.others(4)
		e := s.is(other, monitor.BundleTamper, "does not prove")
		if len(e.Incidents) != 1 {
			t.Fatalf("incidents %v, want the one that the run opened", e.Incidents)
		}
		// The history grows past that size: what is archived there is still not of it.
		s.want(monitor.ExitTamper)
		if d := s.doc(s.id); d.Size != 9 || !slices.Contains(d.Strays, 6) {
			t.Fatalf("size %d, strays %v: want 6 remembered at size 9", d.Size, d.Strays)
		}
		s.is(other, monitor.BundleTamper, "does not prove")
		// Two notes of one size are proof, of whatever history the archived one is.
		if e := s.is(s.of(3, 6), monitor.BundleTamper, "two signed roots for tree size 6"); !e.Evidence.Proof {
			t.Fatal("want proof")
		}
		s.log.Show(fork)
		fork.Append(s.leaf())
		if !s.v1Log() {
			s.publish()
		}
		s.decide(state.Decision{Kind: state.TakeBaseline, Log: s.id})
		s.want(monitor.ExitClean)
		if d := s.doc(s.id); d.Size != 7 || d.ArchiveFloor == 0 {
			t.Fatalf("size %d, floor %d after a new baseline", d.Size, d.ArchiveFloor)
		}
		s.log.Show(nil)
		given := s.of(3, 5)
		s.log.Show(fork)
		s.is(given, monitor.BundleTamper, "does not prove")
	})
}

func TestFrozenLogThatGrewIsProof(t *testing.T) {
	w := newWorld(t)
	s := &signing{world: w, name: "rekor-v2", log: w.v2.Log, gate: w.v2.Gate}
	s.watch(7)
	if err := w.v2.Freeze(s.now); err != nil {
		t.Fatal(err)
	}
	s.want(monitor.ExitClean)
	w.v2.Append(s.leaf())
	s.publish()
	e := s.is(s.of(7, 8), monitor.BundleTamper, "it is frozen at size 7")
	if in := e.Evidence; in.Kind != tlog.FrozenGrowth || !in.Proof || len(in.Notes) != 2 {
		t.Fatalf("evidence %+v", in)
	}
}

func TestAcceptedKeySignsBundlesToo(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		key := ecKey(t)
		b := s.of(3, 7)
		note := s.strangersNote(key)
		only(b).InclusionProof.Checkpoint.Envelope = note
		s.is(b, monitor.BundleUnverified, "not one that the log signed")
		s.writeKeyOf("new.pub", key)
		pem, err := os.ReadFile(filepath.Join(s.dir, "new.pub"))
		if err != nil {
			t.Fatal(err)
		}
		s.decide(state.Decision{Kind: state.AcceptKey, Log: s.id, Key: string(pem)})
		public, err := tlog.ParseKeyPEM(pem)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range [][]byte{only(b).LogId.KeyId, public.LogID[:]} {
			only(b).LogId.KeyId = id
			s.is(b, monitor.BundleInHistory, "the one that this monitor saw")
		}
	})
}

// The history of a log that the trusted root drops goes on, under the key from before.
func TestBundlesOfLogsThatTheTrustedRootLists(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.issue()
	s.want(monitor.ExitClean)
	one, two := s.v1Bundle(1), s.v2Bundle(s.v2.Tree(), 1, 2)
	s.is(one, monitor.BundleInHistory, "")
	s.is(two, monitor.BundleInHistory, "")

	other, _ := s.namedShard()
	dropped := s.root.Rekor[1]
	s.root.Rekor[1] = listedLog{URL: s.v2URL, Key: other.Log}
	s.publishRoot()
	s.is(one, monitor.BundleInHistory, "")
	s.is(two, monitor.BundleNotChecked, "the trusted root now has another key")

	s.root.Rekor = s.root.Rekor[:1]
	s.publishRoot()
	s.want(monitor.ExitClean)
	s.is(two, monitor.BundleInHistory, "")
	s.root.Rekor = append(s.root.Rekor, dropped)
	s.publishRoot()
	s.is(two, monitor.BundleInHistory, "")
}

func TestWhatIsNoBundleIsSaidToBeNone(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	b := w.v1Bundle(1)
	whole, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	many := bundleOf(slices.Repeat(b.VerificationMaterial.TlogEntries, 33)...)
	tooMany, err := protojson.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		data string
		want string
	}{
		"nothing":    {"", "not a Sigstore bundle"},
		"garbage":    {"\x00\xff{", "not a Sigstore bundle"},
		"a list":     {"[]", "not a Sigstore bundle"},
		"empty":      {"{}", `its mediaType is ""`},
		"cut short":  {string(whole[:len(whole)/2]), "not a Sigstore bundle"},
		"deep":       {strings.Repeat(`{"verificationMaterial":`, 50_000), "not a Sigstore bundle"},
		"huge":       {strings.Repeat(" ", monitor.MaxBundle+1), "our limit"},
		"old cosign": {`{"base64Signature":"c2ln","cert":"","rekorBundle":{"SignedEntryTimestamp":""}}`, "--new-bundle-format"},
		"v0.4":       {strings.Replace(string(whole), "v0.3", "v0.4", 1), "not a Sigstore bundle of v0.1 to v0.3"},
		"no entry":   {`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{}}`, "no transparency log entry"},
		"entries":    {string(tooMany), "33 transparency log entries"},
	} {
		got := w.checkData([]byte(row.data))
		if got.Status != monitor.BundleNotChecked || !strings.Contains(got.Error, row.want) || len(got.Entries) != 0 || len(got.Error) > 1000 {
			t.Errorf("%s: %s, %.1000q, want not checked and %q", name, got.Status, got.Error, row.want)
		}
	}
	hollow := w.check(bundleOf(&protorekor.TransparencyLogEntry{}))
	if hollow.Status != monitor.BundleNotWatched {
		t.Errorf("an entry without anything: %+v", hollow)
	}
}

func TestBundleHasTheWorstStatusOfItsEntries(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	good, bad := w.v1Bundle(1), w.v1Bundle(1)
	only(bad).CanonicalizedBody[9] ^= 1
	for _, entries := range [][]*protorekor.TransparencyLogEntry{{only(good), only(bad)}, {only(bad), only(good)}} {
		if got := w.check(bundleOf(entries...)); got.Status != monitor.BundleUnverified || len(got.Entries) != 2 {
			t.Errorf("status %s of %d entries, want unverified of 2", got.Status, len(got.Entries))
		}
	}
}

// An unknown type of entry is bytes with a hash as any other.
func TestEntryOfAnyTypeIsChecked(t *testing.T) {
	w := newWorld(t)
	w.v2.Append([]byte(`{"apiVersion":"9.9.9","kind":"quantum","spec":{}}`))
	w.others(2)
	w.want(monitor.ExitClean)
	w.is(w.v2Bundle(w.v2.Tree(), 0, 3), monitor.BundleInHistory, "")
}

// publicBundles are from the test data of sigstore-go v1.3.0.
func publicBundles(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/bundles/*.sigstore.json")
	if err != nil || len(names) != 4 {
		t.Fatalf("%d bundles, want 4 (%v)", len(names), err)
	}
	all := make(map[string][]byte)
	for _, name := range names {
		if all[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestPublicBundlesAreOfALogThatIsNotWatched(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	for name, b := range publicBundles(t) {
		got := w.checkData(b)
		want, text := monitor.BundleNotWatched, "is not watched"
		if name == "public-key-validity.sigstore.json" {
			want, text = monitor.BundleNotChecked, "no transparency log entry"
		}
		said := got.Error
		for _, e := range got.Entries {
			said += e.Text
		}
		if got.Status != want || !strings.Contains(said, text) {
			t.Errorf("%s: %s (%s), want %s", name, got.Status, said, want)
		}
	}
}

// The history here is one checkpoint of the public Rekor v1, which is not asked.
func TestPublicBundlesAreHeldAgainstTheHistoryOfTheirLog(t *testing.T) {
	w := newWorld(t)
	w.write("public.pub", []byte(publicRekor))
	url := w.serve(http.NotFoundHandler())
	w.logs = fmt.Sprintf("  - {type: rekor-v1, url: %q, key: public.pub}\n", url)
	bundles := publicBundles(t)
	var b bundle.Bundle
	if err := b.UnmarshalJSON(bundles["provenance.sigstore.json"]); err != nil {
		t.Fatal(err)
	}
	e := only(b.Bundle)
	note := e.InclusionProof.Checkpoint.Envelope
	id := tlog.ID(hex.EncodeToString(e.LogId.KeyId) + "-2605736670972794746")
	ctx, s := context.Background(), state.New(w.store)
	if err := s.SaveRun(ctx, &state.Run{FirstRun: w.now, Logs: map[tlog.ID]string{id: url}}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveLog(ctx, &state.Log{ID: id, Type: tlog.RekorV1, Service: url, Checkpoint: note, Size: 27657875, CheckpointGrew: w.now}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]monitor.BundleStatus{
		"provenance.sigstore.json": monitor.BundleInHistory,
		"dsse.sigstore.json":       monitor.BundleNotChecked, // a promise alone
		"othername.sigstore.json":  monitor.BundleNotWatched, // another log's
	} {
		if got := w.checkData(bundles[name]); got.Status != want {
			j, _ := json.MarshalIndent(got, "", " ")
			t.Errorf("%s: %s, want %s: %s", name, got.Status, want, j)
		}
	}
}

// publicRekor is the key of rekor.sigstore.dev.
const publicRekor = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----
`

func TestThereIsNoHistoryBeforeTheFirstRun(t *testing.T) {
	w := newWorld(t)
	if _, err := w.monitor().History(context.Background()); err == nil || !strings.Contains(err.Error(), "no run has been made yet") {
		t.Fatalf("error %v", err)
	}
}
