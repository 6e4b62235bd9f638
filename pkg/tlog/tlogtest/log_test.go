package tlogtest

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/verify"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"golang.org/x/mod/sumdb/note"
)

// A served is a log of 300 leaves, at 260 when it was first published, over one of
// the protocols.
type served struct {
	*Log
	publish func() error
	// checkpoint fetches and verifies under the true key and origin.
	checkpoint func() (size uint64, root Hash, err error)
	// leaf fetches one; ok is false if it was left out.
	leaf  func(index uint64) (leaf []byte, ok bool)
	note  func() []byte
	proof func(from, to uint64) (hashes [][]byte, status int) // Rekor v1 only
}

func protocols(t *testing.T) map[string]func(*testing.T) served {
	t.Helper()
	return map[string]func(*testing.T) served{"tiles": servedTiles, "Rekor v1": servedRekorV1}
}

func servedTiles(t *testing.T) served {
	log, base := newTiles(t, edKey(t))
	publish(t, log, 260)
	publish(t, log, 40)
	raw := func() []byte { _, b := get(t, base+"/checkpoint"); return b }
	return served{
		Log: log.Log, publish: log.Publish, note: raw,
		checkpoint: func() (uint64, Hash, error) {
			cp, _, _, err := formats.ParseCheckpoint(raw(), log.Origin(), noteVerifier(t, log.Origin(), log.PublicKey()))
			if err != nil {
				return 0, Hash{}, err
			}
			return cp.Size, Hash(cp.Hash), nil
		},
		leaf: func(i uint64) ([]byte, bool) {
			status, body := get(t, base+"/tile/entries/000")
			var b api.EntryBundle
			if status != 200 || b.UnmarshalText(body) != nil {
				return fmt.Append(nil, status), false
			}
			return b.Entries[i], len(b.Entries) == 256
		},
	}
}

func servedRekorV1(t *testing.T) served {
	s, base := newRekor(t, p256(t))
	s.Active().Tree().Generate(300, numbered)
	raw := func() []byte {
		return []byte(*getJSON[models.LogInfo](t, base+"/api/v1/log").SignedTreeHead)
	}
	return served{
		Log: s.Active().Log, publish: func() error { return nil }, note: raw,
		checkpoint: func() (uint64, Hash, error) {
			b := raw()
			if !bytes.Contains(b, []byte("\n\n— ")) {
				return 0, Hash{}, fmt.Errorf("unsigned: %q", b)
			}
			cp := signedCheckpoint(t, string(b))
			if !cp.Verify(verifier(t, s.Active().PublicKey())) || cp.Origin != fmt.Sprintf("rekor.example.com - %d", s.Active().ID) {
				return 0, Hash{}, fmt.Errorf("does not verify: %q", b)
			}
			return cp.Size, Hash(cp.Hash), nil
		},
		leaf: func(i uint64) ([]byte, bool) {
			status, body := post(t, base+"/api/v1/log/entries/retrieve", fmt.Sprintf(`{"logIndexes":[%d]}`, i))
			if status != 200 {
				return fmt.Append(nil, status), false
			}
			found := decode[[]models.LogEntry](t, body)
			if len(found) == 0 {
				return nil, false
			}
			_, e := only(t, found[0])
			return bodyOf(t, e), true
		},
		proof: func(from, to uint64) ([][]byte, int) {
			status, _ := get(t, fmt.Sprintf("%s/api/v1/log/proof?firstSize=%d&lastSize=%d", base, from, to))
			return nil, status
		},
	}
}

// bodyOf decodes a body, which the model keeps in base64.
func bodyOf(t *testing.T, e *models.LogEntryAnon) []byte {
	t.Helper()
	s, ok := e.Body.(string)
	if !ok {
		t.Fatalf("body is a %T", e.Body)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLogLiesUnderItsOwnSignatureOverBothProtocols(t *testing.T) {
	for name, start := range protocols(t) {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			_, truth, err := s.checkpoint()
			if err != nil {
				t.Fatal(err)
			}
			checkFork(t, s, truth)
			checkGrowth(t, s, truth)
			s.Honest()
			if size, root, err := s.checkpoint(); err != nil || size != 300 || root != truth {
				t.Errorf("honest again: size %d, root %x (%v), want 300, %x", size, root, err, truth)
			}
		})
	}
}

func checkFork(t *testing.T, s served, truth Hash) {
	t.Helper()
	fork, err := s.Tree().Rewrite(17, []byte("forged"))
	if err != nil {
		t.Fatal(err)
	}
	s.Show(fork)
	if size, root, err := s.checkpoint(); err != nil || size != 300 || root == truth || root != mustRoot(t, fork, 300) {
		t.Errorf("fork: size %d, root %x (%v), want 300 and %x", size, root, err, mustRoot(t, fork, 300))
	}
	if leaf, ok := s.leaf(17); !ok || string(leaf) != "forged" {
		t.Errorf("fork: leaf 17 is %q", leaf)
	}
}

func checkGrowth(t *testing.T, s served, truth Hash) {
	t.Helper()
	rewritten, err := s.Tree().Rewrite(17, []byte("forged"))
	if err != nil {
		t.Fatal(err)
	}
	rewritten.Append([]byte("more"))
	s.Show(rewritten)
	if err := s.publish(); err != nil {
		t.Fatal(err)
	}
	size, root, err := s.checkpoint()
	if err != nil || size != 301 {
		t.Fatalf("rewritten history: size %d (%v), want 301", size, err)
	}
	p, err := rewritten.ConsistencyProof(300, 301)
	if err != nil {
		t.Fatal(err)
	}
	if proof.VerifyConsistency(rfc6962.DefaultHasher, 300, 301, p, truth[:], root[:]) == nil {
		t.Error("rewritten history is consistent with the true one")
	}
}

func TestLogServesLeavesOtherwiseThanHashed(t *testing.T) {
	for name, start := range protocols(t) {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.Lie(3, Lie{Data: []byte("altered")})
			if leaf, ok := s.leaf(3); !ok || string(leaf) != "altered" {
				t.Errorf("altered: %q", leaf)
			}
			if size, root, err := s.checkpoint(); err != nil || size != 300 || root != mustRoot(t, s.Tree(), 300) {
				t.Errorf("a leaf altered in serving changes the checkpoint: size %d, root %x (%v)", size, root, err)
			}
			if err := s.Swap(4, 5); err != nil {
				t.Fatal(err)
			}
			for i, want := range map[uint64]uint64{4: 5, 5: 4, 6: 6} {
				if leaf, ok := s.leaf(i); !ok || !bytes.Equal(leaf, numbered(want)) {
					t.Errorf("swapped: leaf %d is %q, want %q", i, leaf, numbered(want))
				}
			}
			s.Honest()
			s.Lie(3, Lie{Missing: true})
			if leaf, ok := s.leaf(3); ok {
				t.Errorf("left out: leaf 3 is %q", leaf)
			}
			s.Lie(3, Lie{Status: 500})
			if got, ok := s.leaf(3); ok || string(got) != "500" {
				t.Errorf("withheld: got %q, want status 500", got)
			}
			s.Honest()
			if leaf, ok := s.leaf(3); !ok || !bytes.Equal(leaf, numbered(3)) {
				t.Errorf("honest again: leaf 3 is %q", leaf)
			}
			if err := s.Swap(1, 300); err == nil {
				t.Error("a leaf beyond the tree was swapped")
			}
		})
	}
}

func TestLogSignsWhatDoesNotVerify(t *testing.T) {
	for name, start := range protocols(t) {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			other := crypto.Signer(p256(t))
			for fault, set := range map[string]func(){
				"another key":         func() { s.SignWith(other) },
				"another origin":      func() { s.CallItself("other.example.com") },
				"no signature":        func() { s.EditNote(Unsigned) },
				"a changed root":      func() { s.EditNote(Garbled) },
				"nothing":             func() { s.EditNote(func([]byte) []byte { return nil }) },
				"bytes of no meaning": func() { s.EditNote(func([]byte) []byte { return []byte("\n\n\n\x00— ") }) },
			} {
				set()
				if size, _, err := try3(t, s); err == nil {
					t.Errorf("%s: a checkpoint of size %d verifies", fault, size)
				}
				s.Honest()
				if _, _, err := s.checkpoint(); err != nil {
					t.Errorf("honest after %s: %v", fault, err)
				}
			}
			s.EditNote(Padded(1 << 20))
			if n := len(s.note()); n < 1<<20 {
				t.Errorf("padded note has %d bytes", n)
			}
		})
	}
}

// try3 is checkpoint for notes that need not parse.
func try3(t *testing.T, s served) (uint64, Hash, error) {
	t.Helper()
	if b := s.note(); !bytes.HasSuffix(b, []byte("=\n")) || !strings.Contains(string(b), "\n\n— ") {
		return 0, Hash{}, fmt.Errorf("no note: %q", b)
	}
	return s.checkpoint()
}

func TestLogRollsBackAndSkewsReplicas(t *testing.T) {
	for name, start := range protocols(t) {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.At(260)
			for range 2 {
				if size, root, err := s.checkpoint(); err != nil || size != 260 || root != mustRoot(t, s.Tree(), 260) {
					t.Errorf("rolled back: size %d, root %x (%v)", size, root, err)
				}
			}
			s.At(260, 300)
			seen := map[uint64]int{}
			for range 4 {
				size, _, err := s.checkpoint()
				if err != nil {
					t.Fatal(err)
				}
				seen[size]++
			}
			if seen[260] != 2 || seen[300] != 2 {
				t.Errorf("four requests to skewed replicas gave sizes %v", seen)
			}
			if s.proof != nil {
				_, a := s.proof(1, 300)
				_, b := s.proof(1, 300)
				if a+b != 600 || a == b {
					t.Errorf("proof to 300 of replicas at 260 and 300: status %d and %d, want 200 and 400", a, b)
				}
			}
			s.At()
			if size, _, err := s.checkpoint(); err != nil || size != 300 {
				t.Errorf("up to date again: size %d (%v)", size, err)
			}
		})
	}
}

func TestRekorV1ServesWrongIndexAndUUID(t *testing.T) {
	s, base := newRekor(t, p256(t))
	s.Active().Tree().Generate(5, numbered)
	v := verifier(t, s.Active().PublicKey())
	wrong := uint64(4)
	s.Active().Lie(2, Lie{Index: &wrong})
	uuid, e := only(t, entries(t, base, 2)[0])
	if *e.LogIndex != 4 || *e.Verification.InclusionProof.LogIndex != 4 {
		t.Errorf("wrong index: %d and %d, want 4", *e.LogIndex, *e.Verification.InclusionProof.LogIndex)
	}
	if err := verify.VerifySignedEntryTimestamp(t.Context(), e, v); err != nil {
		t.Errorf("a cunning log signs its lie: %v", err)
	}
	if verify.VerifyInclusion(t.Context(), e) == nil {
		t.Error("the leaf is proven at the wrong index")
	}
	flipped := strings.Repeat("0", len(uuid))
	s.Active().Lie(2, Lie{UUID: flipped})
	if got, _ := only(t, entries(t, base, 2)[0]); got != flipped {
		t.Errorf("wrong UUID: %s, want %s", got, flipped)
	}
}

func TestUnsignedAndGarbledNotesKeepTheirForm(t *testing.T) {
	log, base := newTiles(t, edKey(t))
	publish(t, log, 2)
	_, raw := get(t, base+"/checkpoint")
	if got := Unsigned(raw); !bytes.HasPrefix(raw, got) || !bytes.HasSuffix(got, []byte("\n\n")) {
		t.Errorf("unsigned: %q", got)
	}
	got := Garbled(bytes.Clone(raw))
	var cp formats.Checkpoint
	if _, err := cp.Unmarshal(got); err != nil || cp.Size != 2 || bytes.Equal(got, raw) {
		t.Errorf("garbled: %q: %v", got, err)
	}
	if _, err := note.Open(got, note.VerifierList(noteVerifier(t, log.Origin(), log.PublicKey()))); err == nil {
		t.Error("garbled note verifies")
	}
	for _, b := range []string{"", "\n\n", "a\nb\n"} {
		_, _ = Unsigned([]byte(b)), Garbled([]byte(b))
	}
}
