package monitor_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/whosigned/whosigned/pkg/monitor"
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
