package monitor_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

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
		later := s.of(6, 9)
		s.others(3)
		if e := s.is(later, monitor.BundleInHistory, "it is entry 6 of the history, and in the tree of size 9, which the log just proved to extend the history"); e.Proven != 7 || e.Size != 9 {
			t.Fatalf("proven %d, size %d", e.Proven, e.Size)
		}
	})
}

// A consistency proof says that a tree extends the history, and not that it is the one
// that others are shown.
func TestBundleOfAnEntryBeyondTheHistoryIsNotChecked(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		s.others(3)
		first, last := s.of(7, 10), s.of(9, 10)
		const want = "the log proves that it extends the history, which reaches 7: run, then check again"
		for _, b := range []*protobundle.Bundle{first, last} {
			if e := s.is(b, monitor.BundleNotChecked, want); e.Proven != 7 || e.Size != 10 {
				t.Fatalf("proven %d, size %d", e.Proven, e.Size)
			}
		}
		s.want(monitor.ExitClean)
		for _, b := range []*protobundle.Bundle{first, last} {
			s.is(b, monitor.BundleInHistory, "")
		}
	})
}

func TestForkThatOnlyTheCheckerIsShownIsNeverInTheHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.watch(7)
		fork, err := s.log.Tree().Fork(7)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			fork.Append(s.leaf())
		}
		forked := s.in(fork, 8, 10)
		s.log.Show(fork) // the log answers the checker as if the fork were its history
		if !s.v1Log() {
			s.publish()
		}
		s.is(forked, monitor.BundleNotChecked, "run, then check again")
		s.log.Honest()
		s.others(3)
		s.want(monitor.ExitClean)
		s.is(forked, monitor.BundleTamper, "two signed roots for tree size 10")
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
		s.is(b, monitor.BundleNotChecked, "extends the history")
	})
}

// A log that answers with an error for everything says nothing.
func TestRefusalOfALogWithoutACheckpointIsNotEvidence(t *testing.T) {
	w := newWorld(t)
	s := &signing{world: w, name: "rekor-v2", log: w.v2.Log, gate: w.v2.Gate}
	s.watch(7)
	b := s.of(3, 5)
	s.gate.Inject(tlogtest.Path("/tile/"), 0, tlogtest.Status(404))
	s.gate.Inject(tlogtest.Path("/checkpoint"), 0, tlogtest.Status(503))
	s.is(b, monitor.BundleNotChecked, "it does not serve a checkpoint either")
	s.gate.ClearFaults()
	s.gate.Inject(tlogtest.Path("/tile/"), 0, tlogtest.Status(404))
	s.is(b, monitor.BundleTamper, "the log serves size 7 now")
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
			"body":        {func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody[9] ^= 1 }, "the proof leads to root "},
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
func (s *signing) strangersNote(key crypto.Signer) string {
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
		var key crypto.Signer = ecKey(t)
		if !s.v1Log() {
			_, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			key = private
		}
		b := s.of(3, 7)
		only(b).InclusionProof.Checkpoint.Envelope = s.strangersNote(key)
		s.is(b, monitor.BundleUnverified, "not one that the log signed")
		public, err := tlog.NewKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		s.decide(state.Decision{Kind: state.AcceptKey, Log: s.id, Key: public.PEM()})
		if !s.v1Log() {
			public.LogID = public.OriginID(s.v2.Origin())
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
