package tiles

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const ctOrigin = "ctfe.example/2026"

// ctLog is a served CT log, a reader for it, and what was submitted to it.
type ctLog struct {
	*tlogtest.StaticCT
	log   *Log
	key   tlog.Key
	entry func(index uint64) tlogtest.CTEntry
}

// serveCT starts a CT log of n entries, certificates and precertificates in turn.
func serveCT(t testing.TB, n uint64) *ctLog {
	t.Helper()
	return serveCTUnder(t, n, ecKey(t), Config{})
}

func serveCTUnder(t testing.TB, n uint64, key crypto.Signer, cfg Config) *ctLog {
	t.Helper()
	served, err := tlogtest.NewStaticCT(ctOrigin, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(served)
	t.Cleanup(s.Close)
	c := &ctLog{StaticCT: served, entry: ctEntries(t)}
	if c.key, err = tlog.NewKey(served.PublicKey()); err != nil {
		t.Fatal(err)
	}
	cfg.Type, cfg.URL = tlog.StaticCT, s.URL+"/"
	if cfg.Key.Public == nil {
		cfg.Key = c.key
	}
	if c.log, err = New(tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond}), cfg); err != nil {
		t.Fatal(err)
	}
	c.grow(t, n)
	return c
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ctEntries(t testing.TB) func(index uint64) tlogtest.CTEntry {
	t.Helper()
	ca, err := tlogtest.NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	id := tlogtest.Identity{URI: "https://github.com/acme/app", Issuer: "https://token.actions.githubusercontent.com"}
	_, certificate, err := ca.IssueForCT(id)
	if err != nil {
		t.Fatal(err)
	}
	_, precertificate, err := ca.IssuePrecertified(id)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := tlogtest.SyntheticCT(certificate, precertificate)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

func (c *ctLog) grow(t testing.TB, n uint64) {
	t.Helper()
	c.Generate(n, c.entry)
	c.publish(t)
}

func (c *ctLog) publish(t testing.TB) {
	t.Helper()
	if err := c.Publish(); err != nil {
		t.Fatal(err)
	}
}

// read collects [from, to), checking that what comes is what was submitted.
func (c *ctLog) read(t testing.TB, from, to uint64) (next uint64, _ error) {
	t.Helper()
	next = from
	for leaf, err := range c.log.Leaves(t.Context(), from, to) {
		if err != nil {
			return next, err
		}
		want := c.entry(next).Leaf(int64(next))
		if leaf.Index != next || !bytes.Equal(leaf.Data, want) || leaf.Hash != tlog.LeafHash(want) || leaf.Claims != nil || leaf.Submission == nil {
			t.Fatalf("got leaf %d %x, want leaf %d %x with its hash", leaf.Index, leaf.Data, next, want)
		}
		next++
	}
	return next, nil
}

// leaf reads one.
func (c *ctLog) leaf(t testing.TB, index uint64) tlog.Leaf {
	t.Helper()
	for leaf, err := range c.log.Leaves(t.Context(), index, index+1) {
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	t.Fatalf("leaf %d: none", index)
	return tlog.Leaf{}
}

func TestNewTakesCTLogsWithoutAnOriginAndOnlyUnderTheirKeys(t *testing.T) {
	client := tlog.NewClient(tlog.ClientOptions{})
	key, err := tlog.NewKey(ecKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	ed, err := tlog.NewKey(public)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"Ed25519":      {Type: tlog.StaticCT, URL: "https://ctfe.example", Key: ed},
		"no key":       {Type: tlog.StaticCT, URL: "https://ctfe.example"},
		"no URL":       {Type: tlog.StaticCT, Key: key},
		"another type": {Type: tlog.RFC6962, URL: "https://ctfe.example", Key: key, Origin: ctOrigin},
	} {
		if _, err := New(client, cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	key.LogID[0]++ // a trusted root gives it, and it is not for us to compute
	for _, tt := range []struct {
		cfg        Config
		id, origin string
	}{
		{Config{URL: "https://ctfe.example:8080/2026/"}, key.Hex(), "ctfe.example:8080/2026"},
		{Config{URL: "https://ctfe.example", Origin: ctOrigin}, key.Hex(), ctOrigin},
		{Config{URL: "https://ctfe.example/", ID: "given"}, "given", "ctfe.example"},
	} {
		tt.cfg.Type, tt.cfg.Key = tlog.StaticCT, key
		l, err := New(client, tt.cfg)
		if err != nil {
			t.Errorf("%+v: %v", tt.cfg, err)
			continue
		}
		if got := l.Info(); got.ID != tlog.ID(tt.id) || got.Origin != tt.origin || got.Type != tlog.StaticCT {
			t.Errorf("%+v: got %+v, want ID %s and origin %s", tt.cfg, got, tt.id, tt.origin)
		}
	}
}

func TestTreeHeadsCountUnderTheKeyWhateverTheOrigin(t *testing.T) {
	dated := time.UnixMilli(1_700_000_000_123).UTC()
	for _, tt := range []struct {
		name   string
		spoil  func(*ctLog)
		origin string // "" if it must not verify
	}{
		{"honest", func(*ctLog) {}, ctOrigin},
		{"other origin", func(c *ctLog) { c.CallItself("other.example/log") }, "other.example/log"},
		{"other key", func(c *ctLog) { c.SignWith(ecKey(t)) }, ""},
		{"unsigned", func(c *ctLog) { c.EditNote(tlogtest.Unsigned) }, ""},
		{"garbled", func(c *ctLog) { c.EditNote(tlogtest.Garbled) }, ""},
		{"too long", func(c *ctLog) { c.EditNote(tlogtest.Padded(tlog.MaxCheckpoint - 4096)) }, ""},
		{"empty", func(c *ctLog) { c.EditNote(func([]byte) []byte { return nil }) }, ""},
		{"extension line", func(c *ctLog) {
			// No tree head signs more than size, root and time: the signature stays good.
			c.EditNote(func(n []byte) []byte { return bytes.Replace(n, []byte("\n\n"), []byte("\nLog frozen — now\n\n"), 1) })
		}, ""},
		{"origin changed after signing", func(c *ctLog) {
			c.EditNote(func(n []byte) []byte { return bytes.Replace(n, []byte(ctOrigin), []byte("other.example"), 1) })
		}, "other.example"},
		{"signed as a tlog-tiles log", func(c *ctLog) {
			key := ecKey(t)
			tiles, err := tlogtest.NewTiles(ctOrigin, key)
			if err != nil {
				t.Fatal(err)
			}
			c.log.keys[0], _ = tlog.NewKey(key.Public())
			c.Inject(tlogtest.Path("/checkpoint"), 0, tlogtest.Instead(tiles))
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serveCT(t, 300)
			c.SetTime(dated)
			c.publish(t)
			before := c.log.Info().Origin
			tt.spoil(c)
			cp, err := c.log.Checkpoint(t.Context())
			if tt.origin == "" {
				var unverified *tlog.Unverified
				if !errors.As(err, &unverified) || c.log.Info().Origin != before {
					t.Fatalf("got %+v, error %v, origin %s; want an Unverified, and origin %s", cp, err, c.log.Info().Origin, before)
				}
				return
			}
			if err != nil || cp.Size != 300 || cp.Origin != tt.origin || !cp.Time.Equal(dated) || cp.Frozen || c.log.Info().Origin != tt.origin {
				t.Fatalf("got %+v, %v, origin %s; want size 300 of %s at %s", cp, err, c.log.Info().Origin, tt.origin, dated)
			}
			if again, err := c.log.Open(cp.Note); err != nil || again.Root != cp.Root || !again.Time.Equal(dated) {
				t.Errorf("the note that was kept: %+v, %v", again, err)
			}
		})
	}
}

func TestACTLogsKeyMayBeRSAOrOneAccepted(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := serveCTUnder(t, 5, key, Config{})
	if cp := checkpoint(t, c.log); cp.Size != 5 {
		t.Errorf("RSA: size %d, want 5", cp.Size)
	}
	former, err := tlog.NewKey(ecKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	current, err := tlog.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	c = serveCTUnder(t, 5, key, Config{Key: former, Accepted: []tlog.Key{current}})
	if cp := checkpoint(t, c.log); cp.Size != 5 || c.log.Info().ID != tlog.ID(former.Hex()) {
		t.Errorf("accepted: size %d of %s, want 5 of %s", cp.Size, c.log.Info().ID, former.Hex())
	}
}

func TestCTLeavesOfAnyRangeAreRead(t *testing.T) {
	const size = 1000
	c := serveCT(t, size)
	checkpoint(t, c.log)
	for _, compressed := range []bool{false, true} {
		for _, r := range [][2]uint64{{0, size}, {0, 0}, {0, 1}, {255, 256}, {255, 257}, {256, 512}, {1, 999}, {768, 1000}, {999, 1000}} {
			if next, err := c.read(t, r[0], r[1]); err != nil || next != r[1] {
				t.Errorf("gzip %t: [%d, %d): ended at %d, error %v", compressed, r[0], r[1], next, err)
			}
		}
		c.Compress()
	}
}

func TestPartialDataTilesAreThoseOfAPublishedSize(t *testing.T) {
	c := serveCT(t, 300)
	old := checkpoint(t, c.log)
	if next, err := c.read(t, 256, 280); err != nil || next != 280 || c.Requests()["GET /tile/data/001.p/44"] != 1 || len(c.Requests()) != 2 {
		t.Fatalf("ended at %d, error %v, requests %v; want the partial tile of 44 and no other", next, err, c.Requests())
	}
	c.grow(t, 700) // the tile is full now, and 44 of 256 no more
	if next, err := c.read(t, 0, old.Size); err != nil || next != 300 || c.Requests()["GET /tile/data/001"] != 1 {
		t.Errorf("ended at %d, error %v, requests %v; want the full tile", next, err, c.Requests())
	}
}

func TestALogThatGrowsWhileItIsReadIsReadToTheEnd(t *testing.T) {
	c := serveCT(t, 10_100)
	cp := checkpoint(t, c.log)
	n := uint64(0)
	for leaf, err := range c.log.Leaves(t.Context(), 0, cp.Size) {
		if err != nil {
			t.Fatalf("leaf %d: %v", n, err)
		}
		if leaf.Index != n || leaf.Hash != tlog.LeafHash(c.entry(n).Leaf(int64(n))) {
			t.Fatalf("leaf %d is not what was submitted", n)
		}
		if n++; n == 1 {
			c.grow(t, 500) // the partial tile at the end goes away
		}
	}
	if n != cp.Size || c.Requests()["GET /tile/data/039"] != 1 {
		t.Errorf("ended at %d, want %d, the last from the full tile: %v", n, cp.Size, c.Requests())
	}
}

func TestSubmissionsAreWhatWasSubmitted(t *testing.T) {
	c := serveCT(t, 20)
	checkpoint(t, c.log)
	for leaf, err := range c.log.Leaves(t.Context(), 3, 20) {
		if err != nil {
			t.Fatal(err)
		}
		want := c.entry(leaf.Index)
		got, err := leaf.Submission(t.Context())
		if err != nil || !bytes.Equal(got.Precertificate, want.Precertificate) || (got.Precertificate == nil) != (want.Precertificate == nil) ||
			!slices.EqualFunc(got.Chain, want.Chain, bytes.Equal) {
			t.Errorf("leaf %d: got %x, %v; want %x", leaf.Index, got, err, want)
		}
		if cap(got.Precertificate) != len(got.Precertificate) {
			t.Errorf("leaf %d: who appends to the precertificate writes over the tile", leaf.Index)
		}
	}
	issuers := 0
	for request, n := range c.Requests() {
		if strings.Contains(request, "/issuer/") {
			issuers += n
		}
	}
	if issuers != 2 {
		t.Errorf("%d requests for issuers, want one for each of 2: %v", issuers, c.Requests())
	}
}

func TestLeavesAreReadWithoutTheirIssuers(t *testing.T) {
	c := serveCT(t, 300)
	checkpoint(t, c.log)
	c.Inject(tlogtest.Path("/issuer/"), 0, tlogtest.Status(500))
	if next, err := c.read(t, 0, 300); err != nil || next != 300 {
		t.Errorf("ended at %d, error %v", next, err)
	}
}

func TestAChainThatCannotBeHadIsAnErrorBesideThePrecertificate(t *testing.T) {
	const issuers = "/issuer/"
	for _, tt := range []struct {
		name       string
		spoil      func(*ctLog)
		unverified bool
		chain      int // what is got of it
		ok         bool
	}{
		{name: "honest", spoil: func(*ctLog) {}, chain: 2, ok: true},
		{name: "missing", spoil: func(c *ctLog) { c.Inject(tlogtest.Path(issuers), 0, tlogtest.Status(404)) }},
		{name: "root missing", spoil: func(c *ctLog) {
			root := fmt.Sprintf("%x", sha256.Sum256(c.entry(1).Chain[1]))
			c.Inject(tlogtest.Path(root), 0, tlogtest.Status(404))
		}, chain: 1},
		{name: "another's bytes", spoil: func(c *ctLog) {
			c.Inject(tlogtest.Path(issuers), 0, tlogtest.Edit(func(b []byte) []byte { return append(b, 0) }))
		}, unverified: true},
		{name: "another's bytes in a cache", spoil: func(c *ctLog) {
			c.Inject(tlogtest.Path(issuers), 1, tlogtest.Edit(func([]byte) []byte { return []byte("stale") }))
		}, chain: 2, ok: true},
		{name: "endless", spoil: func(c *ctLog) { c.Inject(tlogtest.Path(issuers), 0, tlogtest.Oversize(-1)) }},
		{name: "a fingerprint cut short", spoil: func(c *ctLog) { c.Inject(tlogtest.Path("/tile/data/"), 0, chainOf(63)) }, unverified: true},
		{name: "17 fingerprints", spoil: func(c *ctLog) { c.Inject(tlogtest.Path("/tile/data/"), 0, chainOf(17*32)) }, unverified: true},
		{name: "no fingerprints", spoil: func(c *ctLog) { c.Inject(tlogtest.Path("/tile/data/"), 0, chainOf(0)) }, ok: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serveCT(t, 2) // the second is a precertificate
			checkpoint(t, c.log)
			tt.spoil(c)
			leaf := c.leaf(t, 1)
			got, err := leaf.Submission(t.Context())
			var unverified *tlog.Unverified
			var unavailable *tlog.Unavailable
			switch {
			case (err == nil) != tt.ok:
				t.Errorf("got %v, want an error: %t", err, !tt.ok)
			case err != nil && (errors.As(err, &unverified) != tt.unverified || errors.As(err, &unavailable) == tt.unverified):
				t.Errorf("got a %T (%v), want an Unverified: %t, else an Unavailable", err, err, tt.unverified)
			}
			if !bytes.Equal(got.Precertificate, c.entry(1).Precertificate) || len(got.Chain) != tt.chain {
				t.Errorf("got a precertificate of %d bytes and %d issuers, want %d", len(got.Precertificate), len(got.Chain), tt.chain)
			}
		})
	}
}

// chainOf gives the last leaf of a data tile a fingerprint list of n bytes in the
// place of two fingerprints.
func chainOf(n int) tlogtest.Effect {
	return tlogtest.Edit(func(tile []byte) []byte {
		tile = append(tile[:len(tile)-66], byte(n>>8), byte(n))
		return append(tile, make([]byte, n)...)
	})
}

func TestIssuersOfAHostileLogAreNotHoarded(t *testing.T) {
	c := serveCT(t, 0)
	for i := range 200 {
		c.Submit(tlogtest.CTEntry{Certificate: []byte("certificate"), Chain: [][]byte{fmt.Append(nil, "issuer ", i)}})
	}
	c.publish(t)
	for leaf, err := range c.log.Leaves(t.Context(), 0, checkpoint(t, c.log).Size) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Submission(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.log.issuers.files); n == 0 || n > 64 {
		t.Errorf("%d issuers are kept, want some, and at most 64", n)
	}
}

// all reads until the first error.
func all(leaves iter.Seq2[tlog.Leaf, error]) (n uint64, err error) {
	for _, err := range leaves {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func TestDataTilesOfLargeCertificatesAreReadAndTooLargeOnesAreHoles(t *testing.T) {
	c := serveCT(t, 0)
	large := make([]byte, 60_000) // 15 MB a tile
	c.Generate(256, func(index uint64) tlogtest.CTEntry {
		return tlogtest.CTEntry{Timestamp: index, Certificate: large}
	})
	huge := make([]byte, 1<<24-1) // what 24 bits of length allow
	c.Generate(256, func(index uint64) tlogtest.CTEntry {
		if index < 258 {
			return tlogtest.CTEntry{Timestamp: index, Certificate: huge}
		}
		return c.entry(index)
	})
	c.grow(t, 100)
	cp := checkpoint(t, c.log)
	n, err := all(c.log.Leaves(t.Context(), 0, cp.Size))
	var leaf *tlog.LeafError
	var tooLarge *tlog.TooLargeError
	if n != 256 || !errors.As(err, &leaf) || !errors.As(err, &tooLarge) || leaf.Index != 256 || leaf.End != 512 {
		t.Fatalf("ended at %d with %v, want a LeafError [256, 512) for its size", n, err)
	}
	if hash, err := c.log.LeafHash(t.Context(), 257, cp); err != nil || hash != tlog.LeafHash(tlogtest.CTEntry{Timestamp: 257, Certificate: huge}.Leaf(257)) {
		t.Errorf("hash of the leaf that is too large: %s, %v", hash, err)
	}
	if next, err := c.read(t, 512, cp.Size); err != nil || next != cp.Size {
		t.Errorf("after it: ended at %d, error %v", next, err)
	}
}
