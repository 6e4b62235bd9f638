package monitor_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

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

// Trees of one service share a key: only the origin tells their notes apart, also when
// the service is away.
func TestArchivedNoteOfAnotherTreeIsNoEvidence(t *testing.T) {
	w := newWorld(t)
	w.others(4)
	one := logOf(t, w.want(monitor.ExitClean), "rekor.example.com").ID
	w.rotate(nil)
	w.others(4)
	w.want(monitor.ExitClean)
	b := w.v1Bundle(2)
	w.others(2)
	two := tlog.ID("")
	for _, l := range w.want(monitor.ExitClean).Logs {
		if l.Type == tlog.RekorV1 && l.ID != one {
			two = l.ID
		}
	}
	note := w.store.objects["checkpoints/"+string(one)+"/4"].data
	w.store.put("checkpoints/"+string(two)+"/4", note)
	w.is(b, monitor.BundleNotChecked, "the archived checkpoint of size 4")
	w.v1.Inject(nil, 0, tlogtest.Status(503))
	w.is(b, monitor.BundleNotChecked, "the archived checkpoint of size 4")
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

	other := uint64(5)
	s.log.Lie(3, tlogtest.Lie{Index: &other})
	moved := promiseOnly(s.v1Bundle(3))
	s.log.Honest()
	if e := s.is(moved, monitor.BundleInHistory, "is not where its promise says"); e.Index != 3 || only(moved).LogIndex != 5 {
		t.Fatalf("index %d, promised %d: want 3 and 5", e.Index, only(moved).LogIndex)
	}

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

// Before a promise counts as broken the service is asked for the entry by its hash.
func TestBrokenPromiseIsLookedForElsewhere(t *testing.T) {
	w := newWorld(t)
	s := &signing{world: w, name: "rekor-v1", log: w.v1.Active().Log, gate: w.v1.Gate}
	s.watch(7)
	fork := s.fork(3, 0)
	broken := promiseOnly(s.in(fork, 3, 7))

	// byHash changes how the service answers when it is asked for an entry by its hash.
	byHash := func(effect tlogtest.Effect) {
		s.gate.ClearFaults()
		s.gate.Inject(nil, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if !bytes.Contains(body, []byte("entryUUIDs")) {
				next.ServeHTTP(rw, r)
				return
			}
			effect(rw, r, next)
		})
	}
	byHash(tlogtest.Status(503))
	s.is(broken, monitor.BundleNotChecked, "whether it is elsewhere in the log cannot be told")
	byHash(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		s.log.Show(fork)
		defer s.log.Honest()
		next.ServeHTTP(rw, r)
	})
	s.is(broken, monitor.BundleTamper, "the promise (signed entry timestamp) that entry 3 is")
	s.gate.ClearFaults()

	s.others(1)
	index := uint64(5)
	s.log.Lie(7, tlogtest.Lie{Index: &index})
	moved := promiseOnly(s.v1Bundle(7))
	s.log.Honest()
	s.is(moved, monitor.BundleNotChecked, "the service has it as entry 7, beyond the history")
	s.want(monitor.ExitClean)
	s.is(moved, monitor.BundleInHistory, "entry 7 of the history")
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
