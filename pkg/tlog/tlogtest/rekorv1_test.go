package tlogtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

func newRekor(t testing.TB, key crypto.Signer) (*RekorV1, string) {
	t.Helper()
	s, err := NewRekorV1(key)
	if err != nil {
		t.Fatal(err)
	}
	return s, serve(t, s)
}

func getJSON[T any](t testing.TB, url string) T {
	t.Helper()
	status, body := get(t, url)
	if status != 200 {
		t.Fatalf("GET %s: status %d: %s", url, status, body)
	}
	return decode[T](t, body)
}

func decode[T any](t testing.TB, body []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

func post(t testing.TB, url, body string) (int, []byte) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// entries retrieves by global index; it gives the entries in the order served.
func entries(t testing.TB, base string, indexes ...int) []models.LogEntry {
	t.Helper()
	q, err := json.Marshal(map[string][]int{"logIndexes": indexes})
	if err != nil {
		t.Fatal(err)
	}
	status, body := post(t, base+"/api/v1/log/entries/retrieve", string(q))
	if status != 200 {
		t.Fatalf("retrieve %v: status %d: %s", indexes, status, body)
	}
	return decode[[]models.LogEntry](t, body)
}

func only(t testing.TB, e models.LogEntry) (string, *models.LogEntryAnon) {
	t.Helper()
	for uuid, anon := range e {
		return uuid, &anon
	}
	t.Fatal("an entry without a UUID")
	return "", nil
}

func verifier(t testing.TB, key crypto.PublicKey) signature.Verifier {
	t.Helper()
	v, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func signedCheckpoint(t testing.TB, note string) util.SignedCheckpoint {
	t.Helper()
	var cp util.SignedCheckpoint
	if err := cp.UnmarshalText([]byte(note)); err != nil {
		t.Fatalf("%v in %q", err, note)
	}
	return cp
}

func TestRekorV1VerifiesWithRekorsOwnCode(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ECDSA": p256(t), "Ed25519": edKey(t), "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			s, base := newRekor(t, key)
			v := verifier(t, key.Public())
			if cp := signedCheckpoint(t, *getJSON[models.LogInfo](t, base+"/api/v1/log").SignedTreeHead); !cp.Verify(v) || cp.Size != 0 {
				t.Errorf("the empty tree's checkpoint: %q", cp.Note)
			}
			s.Active().Tree().Generate(7, numbered)
			if err := s.Rotate(nil); err != nil {
				t.Fatal(err)
			}
			s.Active().Tree().Generate(20, numbered)

			info := getJSON[models.LogInfo](t, base+"/api/v1/log")
			if cp := signedCheckpoint(t, *info.SignedTreeHead); !cp.Verify(v) || cp.Size != 20 ||
				cp.Origin != fmt.Sprintf("rekor.example.com - %d", s.Active().ID) || *info.TreeSize != 20 {
				t.Errorf("active tree: %q, size %d", cp.Note, *info.TreeSize)
			}
			if n := len(info.InactiveShards); n != 1 {
				t.Fatalf("%d inactive shards, want 1", n)
			}
			if cp := signedCheckpoint(t, *info.InactiveShards[0].SignedTreeHead); !cp.Verify(v) || cp.Size != 7 ||
				cp.Origin != fmt.Sprintf("rekor.example.com - %d", s.Trees()[0].ID) {
				t.Errorf("inactive tree: %q", cp.Note)
			}
			for i, e := range entries(t, base, 0, 6, 7, 26) {
				uuid, anon := only(t, e)
				if err := verify.VerifyLogEntry(t.Context(), anon, v); err != nil {
					t.Errorf("entry %d, %s: %v", i, uuid, err)
				}
			}
		})
	}
}

func TestRekorV1NumbersEntriesOverAllTrees(t *testing.T) {
	s, base := newRekor(t, p256(t))
	for range 2 {
		s.Active().Tree().Generate(3, numbered)
		if err := s.Rotate(p256(t)); err != nil {
			t.Fatal(err)
		}
	}
	s.Active().Tree().Generate(3, numbered)
	trees := s.Trees()
	for global := range 9 {
		own, tree := uint64(global%3), trees[global/3]
		url := fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", base, global)
		uuid, e := only(t, getJSON[models.LogEntry](t, url))
		if *e.LogIndex != int64(global) || *e.Verification.InclusionProof.LogIndex != int64(own) {
			t.Errorf("entry %d: index %d, own index %d, want own index %d", global, *e.LogIndex, *e.Verification.InclusionProof.LogIndex, own)
		}
		leafHash := rfc6962.DefaultHasher.HashLeaf(numbered(own))
		if want := fmt.Sprintf("%016x%x", tree.ID, leafHash); uuid != want {
			t.Errorf("entry %d: UUID %s, want %s", global, uuid, want)
		}
		if got, _ := only(t, getJSON[models.LogEntry](t, base+"/api/v1/log/entries/"+uuid)); got != uuid {
			t.Errorf("entry by UUID %s is %s", uuid, got)
		}
		if err := verify.VerifyLogEntry(t.Context(), e, verifier(t, tree.PublicKey())); err != nil {
			t.Errorf("entry %d: %v", global, err)
		}
		if tree.Reads(own) != 2 {
			t.Errorf("entry %d: read %d times, want 2", global, tree.Reads(own))
		}
		_, pem := get(t, fmt.Sprintf("%s/api/v1/log/publicKey?treeID=%d", base, tree.ID))
		if key, err := cryptoutils.UnmarshalPEMToPublicKey(pem); err != nil || cryptoutils.EqualKeys(key, tree.PublicKey()) != nil {
			t.Errorf("tree %d serves key %s (%v)", tree.ID, pem, err)
		}
	}
}

func TestRekorV1ProvesConsistencyOfEachTree(t *testing.T) {
	s, base := newRekor(t, p256(t))
	s.Active().Tree().Generate(13, numbered)
	if err := s.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	s.Active().Tree().Generate(40, numbered)
	for _, tree := range s.Trees() {
		n := tree.Tree().Size()
		for from := uint64(1); from <= n; from += 3 {
			url := fmt.Sprintf("%s/api/v1/log/proof?firstSize=%d&lastSize=%d&treeID=%d", base, from, n, tree.ID)
			var hashes [][]byte
			for _, h := range getJSON[models.ConsistencyProof](t, url).Hashes {
				b, err := hex.DecodeString(h)
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, b)
			}
			old, now := mustRoot(t, tree.Tree(), from), mustRoot(t, tree.Tree(), n)
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, n, hashes, old[:], now[:]); err != nil {
				t.Errorf("tree %d, %d to %d: %v", tree.ID, from, n, err)
			}
		}
	}
}

func TestRekorV1RefusesAsRekorDoes(t *testing.T) {
	s, base := newRekor(t, p256(t))
	s.Active().Tree().Generate(5, numbered)
	if err := s.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	s.Active().Tree().Generate(8, numbered)
	old := s.Trees()[0].ID
	for path, want := range map[string]int{
		"log/proof?lastSize=8":                                         200, // firstSize is 1 by default
		"log/proof?firstSize=8&lastSize=8":                             200,
		"log/proof?firstSize=1&lastSize=9":                             400,
		fmt.Sprintf("log/proof?firstSize=1&lastSize=6&treeID=%d", old): 400,
		fmt.Sprintf("log/proof?firstSize=1&lastSize=5&treeID=%d", old): 200,
		"log/proof?firstSize=3&lastSize=2":                             400,
		"log/proof?firstSize=0&lastSize=5":                             422,
		"log/proof?firstSize=1":                                        422,
		"log/proof?firstSize=x&lastSize=5":                             422,
		"log/proof?firstSize=1&lastSize=5&treeID=12":                   400,
		"log/publicKey":                                                200,
		"log/publicKey?treeID=12":                                      400,
		"log/entries?logIndex=12":                                      200,
		"log/entries?logIndex=13":                                      404,
		"log/entries?logIndex=-1":                                      422,
		"log/entries":                                                  422,
		"log/entries/abc":                                              422,
		"log/entries/" + strings.Repeat("0", 64):                       404,
		"log/nothing":                                                  404,
	} {
		if got, body := get(t, base+"/api/v1/"+path); got != want {
			t.Errorf("GET %s: status %d, want %d: %s", path, got, want, body)
		}
	}
	for body, want := range map[string]int{
		`{"logIndexes":[0,1,2,3,4,5,6,7,8,9]}`:    200,
		`{"logIndexes":[0,1,2,3,4,5,6,7,8,9,10]}`: 422,
		`{"logIndexes":[]}`:                       422,
		`{"logIndexes":[-1]}`:                     422,
		`{"logIndexes":["a"]}`:                    400,
		`{`:                                       400,
		``:                                        422,
	} {
		if got, answer := post(t, base+"/api/v1/log/entries/retrieve", body); got != want {
			t.Errorf("retrieve %s: status %d, want %d: %s", body, got, want, answer)
		}
	}
	if status, _ := post(t, base+"/api/v1/log/entries", `{}`); status != 501 {
		t.Errorf("upload: status %d, want 501", status)
	}
}

func TestRetrieveLeavesOutWhatIsBeyondTheTree(t *testing.T) {
	s, base := newRekor(t, p256(t))
	s.Append(numbered(0), numbered(1))
	if got := entries(t, base, 0, 7, 1, 100); len(got) != 2 {
		t.Errorf("%d entries, want the 2 that exist", len(got))
	}
	_, body := post(t, base+"/api/v1/log/entries/retrieve", `{"logIndexes":[9]}`)
	if got := strings.TrimSpace(string(body)); got != "[]" {
		t.Errorf("nothing found: %s, want []", got)
	}
}

func TestHiddenTreeIsMissingFromLogInfoOnly(t *testing.T) {
	s, base := newRekor(t, p256(t))
	s.Append(numbered(0))
	if err := s.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	s.Trees()[0].Hide()
	if got := getJSON[models.LogInfo](t, base+"/api/v1/log").InactiveShards; len(got) != 0 {
		t.Errorf("hidden: %d inactive shards, want none", len(got))
	}
	if got := entries(t, base, 0); len(got) != 1 {
		t.Errorf("hidden: %d entries, want 1", len(got))
	}
	s.Trees()[0].Honest()
	if got := getJSON[models.LogInfo](t, base+"/api/v1/log").InactiveShards; len(got) != 1 {
		t.Errorf("honest again: %d inactive shards, want 1", len(got))
	}
}

func TestRekorV1SignsActiveTreesAnewAndInactiveOnesOnce(t *testing.T) {
	s, base := newRekor(t, p256(t))
	s.Append(numbered(0))
	if err := s.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	s.Append(numbered(0))
	heads := func() (active, inactive string) {
		info := getJSON[models.LogInfo](t, base+"/api/v1/log")
		return *info.SignedTreeHead, *info.InactiveShards[0].SignedTreeHead
	}
	a1, i1 := heads()
	a2, i2 := heads()
	if a1 == a2 {
		t.Error("the active tree's note was not signed anew")
	}
	if i1 != i2 {
		t.Error("the inactive tree's note was signed anew")
	}
	s.SetHost("rekor-server-7f9c-x2kq")
	s.SetTimestamp(1679349379012118479)
	a3, i3 := heads()
	for _, note := range []string{a3, i3} {
		cp := signedCheckpoint(t, note)
		if !strings.HasPrefix(cp.Origin, "rekor-server-7f9c-x2kq - ") || !cp.Verify(verifier(t, s.Active().PublicKey())) ||
			len(cp.OtherContent) != 1 || cp.OtherContent[0] != "Timestamp: 1679349379012118479" || cp.Signatures[0].Name != "rekor-server-7f9c-x2kq" {
			t.Errorf("after a restart on another host: %q", note)
		}
	}
}
