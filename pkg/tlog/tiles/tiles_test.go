package tiles

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const origin = "rekor.example/2026"

func leafAt(i uint64) []byte {
	return fmt.Appendf(nil, "leaf %d %s", i, strings.Repeat("x", int(i%97)))
}

// serve starts a log of n leaves and a reader for it.
func serve(t testing.TB, n uint64) (*tlogtest.Tiles, *Log) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	served, err := tlogtest.NewTiles(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, served, n)
	return served, open(t, served, Config{})
}

func grow(t testing.TB, served *tlogtest.Tiles, n uint64) {
	t.Helper()
	served.Tree().Generate(n, leafAt)
	if err := served.Publish(); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, served *tlogtest.Tiles, cfg Config) *Log {
	t.Helper()
	s := httptest.NewServer(served)
	t.Cleanup(s.Close)
	key, err := tlog.NewKey(served.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	cfg.URL, cfg.Key = s.URL+"/", key
	if cfg.Origin == "" {
		cfg.Origin = served.Origin()
	}
	l, err := New(tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond}), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func checkpoint(t testing.TB, l *Log) tlog.Checkpoint {
	t.Helper()
	cp, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// read collects [from, to), checking that what comes is what was logged.
func read(t *testing.T, l *Log, from, to uint64) (next uint64, _ error) {
	t.Helper()
	next = from
	for leaf, err := range l.Leaves(t.Context(), from, to) {
		if err != nil {
			return next, err
		}
		want := leafAt(next)
		if leaf.Index != next || !bytes.Equal(leaf.Data, want) || leaf.Hash != tlog.LeafHash(want) || leaf.Claims != nil {
			t.Fatalf("got leaf %d %q, want leaf %d %q with its hash", leaf.Index, leaf.Data, next, want)
		}
		next++
	}
	return next, nil
}

func TestNewRefusesWhatCannotBeALog(t *testing.T) {
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	key, err := tlog.NewKey(public)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no URL":      {Origin: origin, Key: key},
		"no scheme":   {URL: "rekor.example", Origin: origin, Key: key},
		"file":        {URL: "file:///log", Origin: origin, Key: key},
		"garbled URL": {URL: "http://%zz", Origin: origin, Key: key},
		"no origin":   {URL: "https://rekor.example", Key: key},
		"no key":      {URL: "https://rekor.example", Origin: origin},
	} {
		if _, err := New(tlog.NewClient(tlog.ClientOptions{}), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTheIDIsTheTrustedRootsElseThatOfKeyAndOrigin(t *testing.T) {
	served, l := serve(t, 1)
	id := l.keys[0].OriginID(origin)
	info := l.Info()
	if info.ID != tlog.ID(fmt.Sprintf("%x", id)) || info.Type != tlog.RekorV2 || !info.Active || info.Origin != origin || strings.HasSuffix(info.URL, "/") {
		t.Errorf("got %+v, want ID %x", info, id)
	}
	given := tlog.ID(strings.Repeat("ab", 32))
	if info := open(t, served, Config{ID: given, Retired: true}).Info(); info.ID != given || info.Active {
		t.Errorf("got %+v, want ID %s, not active", info, given)
	}
}

func TestCheckpointsCountOnlyUnderKeyAndOrigin(t *testing.T) {
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	for _, tt := range []struct {
		name  string
		spoil func(*tlogtest.Tiles)
		want  any // the error's type; nil for none
	}{
		{name: "honest", spoil: func(*tlogtest.Tiles) {}},
		{name: "wrong key", spoil: func(s *tlogtest.Tiles) { s.SignWith(other) }, want: new(*tlog.Unverified)},
		{name: "wrong origin", spoil: func(s *tlogtest.Tiles) { s.CallItself("rekor.example/2025") }, want: new(*tlog.Unverified)},
		{name: "unsigned", spoil: func(s *tlogtest.Tiles) {
			s.EditNote(func(n []byte) []byte { n, _, _ = bytes.Cut(n, []byte("\n—")); return n })
		}, want: new(*tlog.Unverified)},
		{name: "garbage", spoil: func(s *tlogtest.Tiles) { s.Inject(tlogtest.Path("checkpoint"), 0, tlogtest.Garbage()) }, want: new(*tlog.Unverified)},
		{name: "empty", spoil: func(s *tlogtest.Tiles) { s.EditNote(func([]byte) []byte { return nil }) }, want: new(*tlog.Unverified)},
		{name: "endless", spoil: func(s *tlogtest.Tiles) { s.Inject(nil, 0, tlogtest.Oversize(-1)) }, want: new(*tlog.TooLargeError)},
		{name: "gzip bomb", spoil: func(s *tlogtest.Tiles) { s.Inject(nil, 0, tlogtest.GzipBomb(1<<20)) }, want: new(*tlog.TooLargeError)},
		{name: "redirect", spoil: func(s *tlogtest.Tiles) { s.Inject(nil, 0, tlogtest.Redirect("/")) }, want: new(*tlog.StatusError)},
		{name: "404", spoil: func(s *tlogtest.Tiles) { s.Inject(nil, 0, tlogtest.Status(404)) }, want: new(*tlog.StatusError)},
		{name: "cut off", spoil: func(s *tlogtest.Tiles) { s.Inject(nil, 0, tlogtest.Cut()) }, want: new(*tlog.Unavailable)},
		{name: "503 twice", spoil: func(s *tlogtest.Tiles) { s.Inject(nil, 2, tlogtest.Status(503)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			served, l := serve(t, 300)
			tt.spoil(served)
			cp, err := l.Checkpoint(t.Context())
			if tt.want == nil {
				if err != nil || cp.Size != 300 || cp.Origin != origin || len(cp.Note) == 0 {
					t.Errorf("got %+v, %v; want size 300", cp, err)
				}
				return
			}
			if err == nil || !errors.As(err, tt.want) {
				t.Fatalf("got %+v, error %v; want a %T", cp, err, tt.want)
			}
			var unverified *tlog.Unverified
			var unavailable *tlog.Unavailable
			if errors.As(err, &unverified) == errors.As(err, &unavailable) {
				t.Errorf("%v is not one of Unverified and Unavailable", err)
			}
			if tt.name == "wrong key" && !bytes.HasPrefix(unverified.Served, []byte(origin+"\n300\n")) {
				t.Errorf("the evidence is %q, want the note as served", unverified.Served)
			}
		})
	}
}

func TestAFrozenLineIsSeen(t *testing.T) {
	served, l := serve(t, 10)
	if checkpoint(t, l).Frozen {
		t.Error("frozen before it was")
	}
	if err := served.Freeze(time.Now()); err != nil {
		t.Fatal(err)
	}
	if !checkpoint(t, l).Frozen {
		t.Error("the frozen line was not seen")
	}
}

func TestAnECDSALogIsReadToo(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	served, err := tlogtest.NewTiles(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, served, 5)
	if cp := checkpoint(t, open(t, served, Config{})); cp.Size != 5 {
		t.Errorf("size %d, want 5", cp.Size)
	}
}

func TestLeavesOfAnyRangeAreRead(t *testing.T) {
	const size = 1000
	_, l := serve(t, size)
	checkpoint(t, l)
	for _, r := range [][2]uint64{{0, size}, {0, 0}, {0, 1}, {255, 256}, {255, 257}, {256, 512}, {1, 999}, {768, 1000}, {999, 1000}, {900, 950}, {500, 500}} {
		if next, err := read(t, l, r[0], r[1]); err != nil || next != r[1] {
			t.Errorf("[%d, %d): ended at %d, error %v", r[0], r[1], next, err)
		}
	}
}

func TestAPartialBundleIsAskedForOnlyAtThePublishedSize(t *testing.T) {
	served, l := serve(t, 300)
	checkpoint(t, l)
	if next, err := read(t, l, 256, 280); err != nil || next != 280 {
		t.Fatalf("ended at %d, error %v", next, err)
	}
	if n := served.Requests()["GET /tile/entries/001.p/44"]; n != 1 || len(served.Requests()) != 2 {
		t.Errorf("requests: %v, want the partial bundle of 44 and no other", served.Requests())
	}
}

func TestAPartialBundleThatHasGoneIsReadFromTheFullOne(t *testing.T) {
	served, l := serve(t, 300)
	old := checkpoint(t, l)
	grow(t, served, 700) // the bundle is full now, and 44 of 256 no more
	if next, err := read(t, l, 0, old.Size); err != nil || next != 300 {
		t.Errorf("ended at %d, error %v", next, err)
	}
	if served.Requests()["GET /tile/entries/001"] != 1 {
		t.Errorf("requests: %v, want the full bundle", served.Requests())
	}
}

func TestABundleThatCannotBeHadIsALeafErrorAfterThoseBefore(t *testing.T) {
	const bundle = "/tile/entries/001"
	cutTo := func(n int) tlogtest.Effect {
		return tlogtest.Edit(func(b []byte) []byte {
			for at := 0; ; n-- {
				if n == 0 {
					return b[:at]
				}
				at += 2 + int(binary.BigEndian.Uint16(b[at:]))
			}
		})
	}
	for _, tt := range []struct {
		name   string
		effect tlogtest.Effect
		from   uint64 // the first that is missing
		served bool
		status int
	}{
		{"404", tlogtest.Status(404), 256, false, 404},
		{"500", tlogtest.Status(500), 256, false, 500},
		{"503", tlogtest.Status(503), 256, false, 503},
		{"redirect", tlogtest.Redirect("/tile/entries/000"), 256, false, 302},
		{"connection cut, log answers", tlogtest.Cut(), 256, false, 0},
		{"truncated, log answers", tlogtest.Truncate(1000), 256, false, 0},
		{"endless", tlogtest.Oversize(-1), 256, false, 0},
		{"gzip bomb", tlogtest.GzipBomb(20 << 20), 256, false, 0},
		{"empty", cutTo(0), 256, true, 0},
		{"200 entries", cutTo(200), 456, true, 0},
		{"255 entries", cutTo(255), 511, true, 0},
		{"within an entry", tlogtest.Edit(func(b []byte) []byte { return b[:len(b)-1] }), 511, true, 0},
		{"within a length", tlogtest.Edit(func(b []byte) []byte { return []byte{0} }), 256, true, 0},
		{"a page of HTML", tlogtest.Edit(func([]byte) []byte { return []byte("<html>sorry</html>") }), 256, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			served, l := serve(t, 700)
			checkpoint(t, l)
			served.Inject(tlogtest.Path(bundle), 0, tt.effect)
			next, err := read(t, l, 10, 700)
			var leaf *tlog.LeafError
			if !errors.As(err, &leaf) || leaf.Index != next || leaf.End != 512 || (leaf.Served != nil) != tt.served {
				t.Fatalf("ended at %d with %v (%+v), want a LeafError [%d, 512)", next, err, leaf, tt.from)
			}
			if next != tt.from {
				t.Errorf("ended at %d, want %d", next, tt.from)
			}
			var status *tlog.StatusError
			if errors.As(err, &status) && status.Code != tt.status || tt.status != 0 && status == nil {
				t.Errorf("status %v, want %d", status, tt.status)
			}
			var unavailable *tlog.Unavailable
			if !tt.served && !errors.As(err, &unavailable) {
				t.Errorf("%v wraps no Unavailable", err)
			}
			served.ClearFaults()
			if next, err := read(t, l, next, 700); err != nil || next != 700 {
				t.Errorf("afterwards it ended at %d, error %v", next, err)
			}
		})
	}
}

func TestALogThatIsAwayIsUnavailable(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{"cut": tlogtest.Cut(), "503": tlogtest.Status(503), "429": tlogtest.Status(429)} {
		served, l := serve(t, 700)
		checkpoint(t, l)
		served.Inject(nil, 0, effect)
		_, err := read(t, l, 0, 700)
		var leaf *tlog.LeafError
		var unavailable *tlog.Unavailable
		if !errors.As(err, &unavailable) || errors.As(err, &leaf) {
			t.Errorf("%s: got %v, want an Unavailable that blames no leaf", name, err)
		}
	}
}

func TestEntriesAfterThoseWantedAreNotLookedAt(t *testing.T) {
	served, l := serve(t, 300)
	old := checkpoint(t, l)
	grow(t, served, 300)
	served.Inject(tlogtest.Path("/tile/entries/001"), 0, tlogtest.Edit(func(b []byte) []byte { return append(b, "\xff\xffgarbage"...) }))
	if next, err := read(t, l, 0, old.Size); err != nil || next != 300 {
		t.Errorf("ended at %d, error %v", next, err)
	}
}

func TestBundlesOfTheLargestEntriesAreRead(t *testing.T) {
	served, l := serve(t, 0)
	largest := bytes.Repeat([]byte("x"), 65_535)
	served.Tree().Generate(600, func(uint64) []byte { return largest })
	if err := served.Publish(); err != nil {
		t.Fatal(err)
	}
	var n int
	for leaf, err := range l.Leaves(t.Context(), 0, checkpoint(t, l).Size) {
		if err != nil || len(leaf.Data) != len(largest) {
			t.Fatalf("leaf %d of %d bytes, error %v", leaf.Index, len(leaf.Data), err)
		}
		n++
	}
	if n != 600 {
		t.Errorf("%d leaves, want 600", n)
	}
}

// sizes are those at which tiles begin, end and nest.
func sizes(n uint64) []uint64 {
	s := []uint64{1, 2, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, n - 1, n}
	kept := s[:0]
	for _, size := range s {
		if size >= 1 && size <= n {
			kept = append(kept, size)
		}
	}
	return kept
}

func TestFrontiersAreThoseOfTheTree(t *testing.T) {
	check := func(t *testing.T, served *tlogtest.Tiles, l *Log, cp tlog.Checkpoint, size uint64) {
		t.Helper()
		r, err := l.Frontier(t.Context(), size, cp)
		if err != nil {
			t.Fatalf("size %d of %d: %v", size, cp.Size, err)
		}
		want, err := served.Tree().Root(size)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tlog.Root(r); err != nil || got != tlog.Hash(want) {
			t.Fatalf("size %d of %d: root %s, %v; want %x", size, cp.Size, got, err, want)
		}
	}
	t.Run("every size to 1000", func(t *testing.T) {
		served, l := serve(t, 1000)
		cp := checkpoint(t, l)
		for size := uint64(1); size <= cp.Size; size++ {
			check(t, served, l, cp, size)
		}
	})
	t.Run("every tree to 1000, and below", func(t *testing.T) {
		served, l := serve(t, 0)
		for n := uint64(1); n <= 1000; n++ {
			grow(t, served, 1)
			if testing.Short() && n%50 > 1 {
				continue
			}
			cp := checkpoint(t, l)
			for _, size := range sizes(n) {
				check(t, served, l, cp, size)
			}
		}
	})
	t.Run("boundaries above 65536", func(t *testing.T) {
		served, l := serve(t, 65535)
		for _, n := range []uint64{65536, 65537, 65536 + 255, 65536 + 256, 65536 + 257, 2*65536 - 1, 2 * 65536, 2*65536 + 1} {
			grow(t, served, n-served.Tree().Size())
			cp := checkpoint(t, l)
			for _, size := range sizes(n) {
				check(t, served, l, cp, size)
			}
		}
	})
	t.Run("of an older checkpoint, whose partial tiles have gone", func(t *testing.T) {
		served, l := serve(t, 700)
		cp := checkpoint(t, l)
		grow(t, served, 70_000)
		for _, size := range sizes(cp.Size) {
			check(t, served, l, cp, size)
		}
	})
}

func TestConsistencyProofsVerify(t *testing.T) {
	served, l := serve(t, 1)
	for _, n := range []uint64{2, 254, 256, 258, 1000, 65536, 65538, 70_000} {
		grow(t, served, n-served.Tree().Size())
		to := checkpoint(t, l)
		grow(t, served, 1) // the log moves on
		for _, from := range sizes(n - 1) {
			hashes, err := l.ConsistencyProof(t.Context(), from, to.Size)
			if err != nil {
				t.Fatalf("%d to %d: %v", from, n, err)
			}
			root, err := served.Tree().Root(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, n, hashes, root[:], to.Root[:]); err != nil {
				t.Errorf("%d to %d: %v", from, n, err)
			}
		}
	}
}

func TestWhatDoesNotExistIsNotAskedFor(t *testing.T) {
	served, l := serve(t, 100)
	cp := checkpoint(t, l)
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"proof from 0":       func() error { _, err := l.ConsistencyProof(ctx, 0, 100); return err },
		"proof to itself":    func() error { _, err := l.ConsistencyProof(ctx, 100, 100); return err },
		"proof backwards":    func() error { _, err := l.ConsistencyProof(ctx, 100, 50); return err },
		"frontier of 0":      func() error { _, err := l.Frontier(ctx, 0, cp); return err },
		"frontier past end":  func() error { _, err := l.Frontier(ctx, 101, cp); return err },
		"leaf hash past end": func() error { _, err := l.LeafHash(ctx, 100, cp); return err },
	} {
		if call() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if r := served.Requests(); len(r) != 1 {
		t.Errorf("requests: %v, want the checkpoint's only", r)
	}
}

func TestLeafHashesComeFromTiles(t *testing.T) {
	served, l := serve(t, 300)
	cp := checkpoint(t, l)
	for index := range cp.Size {
		if got, err := l.LeafHash(t.Context(), index, cp); err != nil || got != tlog.LeafHash(leafAt(index)) {
			t.Fatalf("leaf %d: %s, %v", index, got, err)
		}
	}
	if r := served.Requests(); len(r) != 3 || r["GET /tile/0/000"] != 1 {
		t.Errorf("requests: %v, want each tile once", r)
	}
}

func TestFreshCallsBypassTheTileCache(t *testing.T) {
	served, l := serve(t, 1000)
	cp := checkpoint(t, l)
	want := leafAt(1)
	wrong := served.Inject(tlogtest.Path("/tile/0/"), 0, tlogtest.Edit(func(b []byte) []byte { return make([]byte, len(b)) }))
	get := func(ctx context.Context) tlog.Hash {
		h, err := l.LeafHash(ctx, 1, cp)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if get(t.Context()) != (tlog.Hash{}) {
		t.Fatal("the wrong tile was not served")
	}
	wrong()
	if got := get(tlog.Fresh(t.Context())); got != tlog.LeafHash(want) {
		t.Errorf("fresh: got %s, want that of leaf 1", got)
	}
	if got := get(t.Context()); got != tlog.LeafHash(want) {
		t.Errorf("afterwards: got %s, want what the fresh call got", got)
	}
}

func TestBadTilesAreUnverifiedAndMissingOnesUnavailable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		effect tlogtest.Effect
		want   any
	}{
		{"garbage", tlogtest.Garbage(), new(*tlog.Unverified)},
		{"short", tlogtest.Edit(func(b []byte) []byte { return b[:len(b)-32] }), new(*tlog.Unverified)},
		{"empty", tlogtest.Edit(func([]byte) []byte { return nil }), new(*tlog.Unverified)},
		{"404", tlogtest.Status(404), new(*tlog.StatusError)},
		{"500", tlogtest.Status(500), new(*tlog.StatusError)},
		{"endless", tlogtest.Oversize(-1), new(*tlog.TooLargeError)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			served, l := serve(t, 1000)
			cp := checkpoint(t, l)
			served.Inject(tlogtest.Path("/tile/"), 0, tt.effect)
			for what, call := range map[string]func() error{
				"proof":     func() error { _, err := l.ConsistencyProof(t.Context(), 300, 1000); return err },
				"frontier":  func() error { _, err := l.Frontier(t.Context(), 300, cp); return err },
				"leaf hash": func() error { _, err := l.LeafHash(t.Context(), 300, cp); return err },
			} {
				if err := call(); !errors.As(err, tt.want) {
					t.Errorf("%s: got %v, want a %T", what, err, tt.want)
				}
			}
		})
	}
}

func FuzzParseYieldsWhatTheBundleHolds(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00\x00\x02bc"), uint16(0), uint16(3))
	f.Add([]byte("\xff\xffa"), uint16(1), uint16(2))
	f.Add(bytes.Repeat([]byte{0}, 600), uint16(250), uint16(256))
	f.Fuzz(func(t *testing.T, raw []byte, first, end uint16) {
		ch := tlog.Chunk{From: 1024 + uint64(first)%256, To: 1024 + uint64(end)%257}
		if ch.From >= ch.To {
			return
		}
		leaves, err := parse(raw, ch)
		if (err == nil) != (uint64(len(leaves)) == ch.To-ch.From) {
			t.Fatalf("%d leaves of %d with error %v", len(leaves), ch.To-ch.From, err)
		}
		// Written back, the leaves are where the bundle has them.
		at := 0
		for range ch.From - 1024 {
			if len(leaves) > 0 {
				at += 2 + int(binary.BigEndian.Uint16(raw[at:]))
			}
		}
		for i, leaf := range leaves {
			if leaf.Index != ch.From+uint64(i) || leaf.Hash != tlog.LeafHash(leaf.Data) {
				t.Fatalf("leaf %d has index %d", i, leaf.Index)
			}
			again := append(binary.BigEndian.AppendUint16(nil, uint16(len(leaf.Data))), leaf.Data...)
			if !bytes.HasPrefix(raw[at:], again) {
				t.Fatalf("leaf %d is not at byte %d of the bundle", leaf.Index, at)
			}
			at += len(again)
		}
	})
}
