package tlogtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

func newRFC6962(t testing.TB, key crypto.Signer) (*RFC6962, string) {
	t.Helper()
	log, err := NewRFC6962(key)
	if err != nil {
		t.Fatal(err)
	}
	return log, serve(t, log)
}

// ctClient is Google's, which verifies each tree head.
func ctClient(t testing.TB, log *RFC6962, base string) *ctclient.LogClient {
	t.Helper()
	pem, err := log.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	c, err := ctclient.New(base, &http.Client{}, jsonclient.Options{PublicKey: string(pem)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// synthetic entries, of both kinds.
func synthetic(t testing.TB) func(uint64) CTEntry {
	t.Helper()
	_, final, pre, _ := submitted(t)
	entry, err := SyntheticCT(final, pre)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

func TestRFC6962VerifiesWithGooglesClient(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ECDSA": p256(t), "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			log, base := newRFC6962(t, key)
			c := ctClient(t, log, base)
			_, final, pre, _ := submitted(t)
			entry := synthetic(t)
			var older []*ct.SignedTreeHead
			for _, grow := range []func(){func() {}, func() { log.Submit(final) }, func() { log.Submit(pre) }, func() { log.Generate(300, entry) }} {
				grow()
				sth, err := c.GetSTH(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if want := mustRoot(t, log.Tree(), sth.TreeSize); sth.TreeSize != log.Tree().Size() || sth.SHA256RootHash != want {
					t.Fatalf("tree head of size %d with root %x, want %d with %x", sth.TreeSize, sth.SHA256RootHash, log.Tree().Size(), want)
				}
				for _, old := range older {
					p, err := c.GetSTHConsistency(t.Context(), old.TreeSize, sth.TreeSize)
					if err == nil && old.TreeSize > 0 {
						err = proof.VerifyConsistency(rfc6962.DefaultHasher, old.TreeSize, sth.TreeSize, p, old.SHA256RootHash[:], sth.SHA256RootHash[:])
					}
					if err != nil {
						t.Errorf("consistency of %d with %d: %v", old.TreeSize, sth.TreeSize, err)
					}
				}
				older = append(older, sth)
			}
			head := older[len(older)-1]
			page, err := c.GetRawEntries(t.Context(), 0, 500)
			if err != nil || len(page.Entries) != 302 {
				t.Fatalf("got %d entries, %v; want 302", len(page.Entries), err)
			}
			for i, e := range page.Entries {
				if _, err := ct.RawLogEntryFromLeaf(int64(i), &e); err != nil {
					t.Errorf("entry %d: %v", i, err)
				}
				one, err := c.GetEntryAndProof(t.Context(), uint64(i), head.TreeSize)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(one.LeafInput, e.LeafInput) || !bytes.Equal(one.ExtraData, e.ExtraData) {
					t.Errorf("entry %d is another with its proof", i)
				}
				if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), head.TreeSize,
					rfc6962.DefaultHasher.HashLeaf(e.LeafInput), one.AuditPath, head.SHA256RootHash[:]); err != nil {
					t.Errorf("entry %d: %v", i, err)
				}
			}
		})
	}
}

func TestRFC6962PagesEndWhereTheirServersDo(t *testing.T) {
	log, base := newRFC6962(t, p256(t))
	log.Generate(100, synthetic(t))
	for _, row := range []struct {
		most             uint64
		aligned          bool
		start, end, want int // number of entries; with a negative one a status
	}{
		{10, true, 0, 9, 10},
		{10, true, 0, 99, 10},
		{10, true, 5, 99, 5},
		{10, true, 5, 14, 5},
		{10, true, 5, 13, 9}, // fewer than a page are not aligned
		{10, true, 99, 1000, 1},
		{10, false, 5, 99, 10},
		{10, false, 95, 200, 5},
		{1000, true, 95, 200, 5},
		{1000, true, 0, 1<<63 - 1, 100},
		{10, true, 100, 100, -400},
		{10, true, 5, 4, -400},
		{10, true, -1, 4, -400},
	} {
		log.SetPage(row.most, row.aligned)
		status, body := get(t, fmt.Sprintf("%s/ct/v1/get-entries?start=%d&end=%d", base, row.start, row.end))
		got := -status
		if status == http.StatusOK {
			var page ct.GetEntriesResponse
			if err := json.Unmarshal(body, &page); err != nil {
				t.Fatal(err)
			}
			got = len(page.Entries)
		}
		if got != row.want {
			t.Errorf("%+v: got %d", row, got)
		}
	}
}

func TestRFC6962RefusesWhatItsServersDo(t *testing.T) {
	log, base := newRFC6962(t, p256(t))
	log.Generate(5, synthetic(t))
	log.Lie(3, Lie{Status: 500})
	for path, want := range map[string]int{
		"get-sth":                                      200,
		"get-sth-consistency?first=1&second=5":         200,
		"get-sth-consistency?first=0&second=5":         200,
		"get-sth-consistency?first=5&second=5":         200,
		"get-sth-consistency?first=5&second=6":         400,
		"get-sth-consistency?first=5&second=1":         400,
		"get-sth-consistency?first=5":                  400,
		"get-entry-and-proof?leaf_index=4&tree_size=5": 200,
		"get-entry-and-proof?leaf_index=0&tree_size=1": 200,
		"get-entry-and-proof?leaf_index=5&tree_size=5": 400,
		"get-entry-and-proof?leaf_index=4&tree_size=6": 400,
		"get-entry-and-proof?leaf_index=0&tree_size=0": 400,
		"get-entry-and-proof?leaf_index=3&tree_size=5": 500,
		"get-entries?start=0&end=2":                    200,
		"get-entries?start=0&end=3":                    500,
		"get-entries?start=4&end=4":                    200,
		"get-entries?start=x&end=4":                    400,
		"get-proof-by-hash?hash=&tree_size=1":          404,
	} {
		if got, body := get(t, base+"/ct/v1/"+path); got != want {
			t.Errorf("GET %s: status %d, want %d: %.100s", path, got, want, body)
		}
	}
}

func TestRFC6962LiesOnDemand(t *testing.T) {
	log, base := newRFC6962(t, p256(t))
	log.Generate(20, synthetic(t))
	c := ctClient(t, log, base)
	entries := func() []ct.LeafEntry {
		page, err := c.GetRawEntries(t.Context(), 0, 19)
		if err != nil {
			t.Fatal(err)
		}
		return page.Entries
	}
	honest := entries()
	log.Lie(4, Lie{Data: []byte("forged")})
	log.LieBeside(5, []byte("beside"))
	log.Lie(6, Lie{Missing: true})
	got := entries()
	if len(got) != 19 || string(got[4].LeafInput) != "forged" || string(got[5].ExtraData) != "beside" ||
		!bytes.Equal(got[5].LeafInput, honest[5].LeafInput) || !reflect.DeepEqual(got[6:], honest[7:]) {
		t.Errorf("got %d entries with %q at 4 and %q beside 5", len(got), got[4].LeafInput, got[5].ExtraData)
	}
	log.Honest()
	log.LieBeside(5, nil)
	if !reflect.DeepEqual(entries(), honest) {
		t.Error("honest again: got other entries than before")
	}
	at := time.UnixMilli(1_600_000_000_123)
	log.SetTime(at)
	log.At(7)
	sth, err := c.GetSTH(t.Context())
	if err != nil || sth.TreeSize != 7 || !ct.TimestampToTime(sth.Timestamp).Equal(at) {
		t.Errorf("got %+v, %v; want size 7 of %s", sth, err, at)
	}
	again, err := c.GetSTH(t.Context())
	if err != nil || bytes.Equal(again.TreeHeadSignature.Signature, sth.TreeHeadSignature.Signature) {
		t.Errorf("the tree head was not signed anew (%v)", err)
	}
	log.SignWith(p256(t))
	if _, err := c.GetSTH(t.Context()); err == nil {
		t.Error("a stranger's tree head verifies")
	}
	log.Honest()
	log.EditNote(func([]byte) []byte { return []byte(`{"tree_size":8}`) })
	if _, body := get(t, base+"/ct/v1/get-sth"); string(body) != `{"tree_size":8}` {
		t.Errorf("got %q for an edited tree head", body)
	}
	if log.Reads(6) == 0 || log.Requests()["GET /ct/v1/get-entries?end=19&start=0"] != 3 {
		t.Errorf("leaf 6 was read %d times, requests %v", log.Reads(6), log.Requests())
	}
}

func TestRFC6962WantsAKeyOfItsKind(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"none": nil, "Ed25519": edKey(t)} {
		if _, err := NewRFC6962(key); err == nil {
			t.Errorf("%s: got a log, want an error", name)
		}
	}
}
