package tiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"filippo.io/sunlight"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// logEntry is e as sunlight has it.
func logEntry(e tlogtest.CTEntry, index uint64) *sunlight.LogEntry {
	out := &sunlight.LogEntry{Certificate: e.Certificate, LeafIndex: int64(index), Timestamp: int64(e.Timestamp)}
	if e.Certificate == nil {
		out.IsPrecert, out.Certificate, out.PreCertificate, out.IssuerKeyHash = true, e.TBS, e.Precertificate, e.IssuerKeyHash
	}
	for _, issuer := range e.Chain {
		out.ChainFingerprints = append(out.ChainFingerprints, sha256.Sum256(issuer))
	}
	return out
}

// tileOf is the data tile of entries [from, to) as sunlight writes it, and where each begins.
func tileOf(entry func(uint64) tlogtest.CTEntry, from, to uint64) (tile []byte, at []int) {
	for i := from; i < to; i++ {
		at = append(at, len(tile))
		tile = sunlight.AppendTileLeaf(tile, logEntry(entry(i), i))
	}
	return tile, append(at, len(tile))
}

func TestTilesThatSunlightWritesAreRead(t *testing.T) {
	entry := ctEntries(t)
	tile, _ := tileOf(entry, 512, 768)
	for _, r := range [][2]uint64{{512, 768}, {512, 513}, {767, 768}, {600, 700}} {
		leaves, rest, err := (&Log{}).splitDataTile(bytes.Clone(tile), tlog.Chunk{From: r[0], To: r[1]})
		if err != nil || uint64(len(leaves)) != r[1]-r[0] {
			t.Fatalf("%v: %d leaves, %v", r, len(leaves), err)
		}
		if r[1] == 768 && len(rest) != 0 {
			t.Errorf("%v: %d bytes left", r, len(rest))
		}
		for i, leaf := range leaves {
			index := r[0] + uint64(i)
			if want := entry(index).Leaf(int64(index)); leaf.Index != index || !bytes.Equal(leaf.Data, want) || leaf.Hash != tlog.LeafHash(want) {
				t.Errorf("%v: leaf %d is %x, want %x", r, leaf.Index, leaf.Data, want)
			}
			if cap(leaf.Data) != len(leaf.Data) {
				t.Errorf("%v: who appends to leaf %d writes over the tile", r, index)
			}
		}
	}
}

func TestAMalformedDataTileIsALeafErrorFromThatLeafOn(t *testing.T) {
	// In the tile of 256…511 entry 300 is a certificate, 301 a precertificate, whose
	// TBSCertificate and extensions come before the precertificate itself.
	precert := func(tile []byte, at func(int) int) int {
		return at(301) + 45 + int(binary.BigEndian.Uint16(tile[at(301)+43:])) + 10
	}
	for _, tt := range []struct {
		name string
		edit func(tile []byte, at func(index int) int) []byte
		from uint64 // the first that is missing
	}{
		{"empty", func([]byte, func(int) int) []byte { return nil }, 256},
		{"a page of HTML", func([]byte, func(int) int) []byte { return []byte("<html>sorry, something went wrong</html>") }, 256},
		{"one byte", func([]byte, func(int) int) []byte { return []byte{0} }, 256},
		{"one entry short", func(tile []byte, at func(int) int) []byte { return tile[:at(511)] }, 511},
		{"cut in the last byte", func(tile []byte, _ func(int) int) []byte { return tile[:len(tile)-1] }, 511},
		{"cut in a timestamp", func(tile []byte, at func(int) int) []byte { return tile[:at(300)+7] }, 300},
		{"cut in a type", func(tile []byte, at func(int) int) []byte { return tile[:at(300)+9] }, 300},
		{"cut in an issuer key hash", func(tile []byte, at func(int) int) []byte { return tile[:at(301)+41] }, 301},
		{"cut in a length", func(tile []byte, at func(int) int) []byte { return tile[:at(300)+12] }, 300},
		{"cut in a certificate", func(tile []byte, at func(int) int) []byte { return tile[:at(300)+100] }, 300},
		{"cut before the extensions", func(tile []byte, at func(int) int) []byte { return tile[:at(301)-76] }, 300},
		{"cut in the extensions", func(tile []byte, at func(int) int) []byte { return tile[:at(301)-67] }, 300},
		{"cut before the chain", func(tile []byte, at func(int) int) []byte { return tile[:at(301)-66] }, 300},
		{"cut in the chain", func(tile []byte, at func(int) int) []byte { return tile[:at(301)-1] }, 300},
		{"cut before a precertificate", func(tile []byte, at func(int) int) []byte { return tile[:precert(tile, at)] }, 301},
		{"cut in a precertificate", func(tile []byte, at func(int) int) []byte { return tile[:at(302)-67] }, 301},
		{"unknown type", func(tile []byte, at func(int) int) []byte { tile[at(300)+9] = 2; return tile }, 300},
		{"unknown type, high byte", func(tile []byte, at func(int) int) []byte { tile[at(300)+8] = 1; return tile }, 300},
		{"a certificate beyond the tile", func(tile []byte, at func(int) int) []byte { tile[at(300)+10] = 0xff; return tile }, 300},
		{"a TBSCertificate beyond the tile", func(tile []byte, at func(int) int) []byte { tile[at(301)+42] = 0xff; return tile }, 301},
		{"a precertificate beyond the tile", func(tile []byte, at func(int) int) []byte {
			copy(tile[precert(tile, at):], []byte{0xff, 0xff, 0xff, 0, 0}) // and what could be no fingerprints
			return tile
		}, 301},
		{"fingerprints beyond the tile", func(tile []byte, _ func(int) int) []byte { tile[len(tile)-66] = 0xff; return tile }, 511},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serveCT(t, 700)
			checkpoint(t, c.log)
			whole, offsets := tileOf(c.entry, 256, 512)
			at := func(index int) int { return offsets[index-256] }
			edited := tt.edit(bytes.Clone(whole), at)
			c.Inject(tlogtest.Path("/tile/data/001"), 0, tlogtest.Edit(func(served []byte) []byte {
				if !bytes.Equal(served, whole) {
					t.Error("the server's tile is not sunlight's")
				}
				return edited
			}))
			next, err := c.read(t, 10, 700)
			var leaf *tlog.LeafError
			if !errors.As(err, &leaf) || leaf.Index != next || leaf.End != 512 || next != tt.from {
				t.Fatalf("ended at %d with %v, want a LeafError [%d, 512)", next, err, tt.from)
			}
			if short := len(edited) == at(int(next)); short != strings.Contains(err.Error(), fmt.Sprintf("ends before entry %d", next)) {
				t.Errorf("got %v; the tile ends before entry %d: %t", err, next, short)
			}
			// The evidence is what was served in the leaf's place, not what became of it here.
			if want := edited[min(at(int(next)), len(edited)):]; leaf.Served == nil || !bytes.Equal(leaf.Served, want) {
				t.Errorf("the evidence is %d bytes, want the tile from leaf %d on, %d bytes", len(leaf.Served), next, len(want))
			}
			c.ClearFaults()
			if next, err := c.read(t, next, 700); err != nil || next != 700 {
				t.Errorf("afterwards it ended at %d, error %v", next, err)
			}
		})
	}
}

func TestADataTileThatCannotBeHadIsALeafErrorAfterThoseBefore(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{
		"404": tlogtest.Status(404), "500": tlogtest.Status(500), "cut": tlogtest.Cut(), "truncated": tlogtest.Truncate(1000),
		"redirect": tlogtest.Redirect("/tile/data/000"), "endless": tlogtest.Oversize(-1), "gzip bomb": tlogtest.GzipBomb(20 << 20),
	} {
		c := serveCT(t, 700)
		checkpoint(t, c.log)
		c.Inject(tlogtest.Path("/tile/data/001"), 0, effect)
		next, err := c.read(t, 10, 700)
		var leaf *tlog.LeafError
		var unavailable *tlog.Unavailable
		if !errors.As(err, &leaf) || leaf.Index != 256 || leaf.End != 512 || next != 256 || leaf.Served != nil || !errors.As(err, &unavailable) {
			t.Errorf("%s: ended at %d with %v, want a LeafError [256, 512) that wraps an Unavailable", name, next, err)
		}
	}
}

func TestWhatFollowsTheLeavesWantedIsNotLookedAt(t *testing.T) {
	c := serveCT(t, 300)
	checkpoint(t, c.log)
	c.Inject(tlogtest.Path("/tile/data/001"), 0, tlogtest.Edit(func(b []byte) []byte { return append(b, "trailing"...) }))
	if next, err := c.read(t, 0, 300); err != nil || next != 300 {
		t.Errorf("ended at %d, error %v", next, err)
	}
}

func TestWhatChunksKeepAliveIsToldToTheBudget(t *testing.T) {
	c := serveCT(t, 256)
	checkpoint(t, c.log)
	for _, compressed := range []bool{false, true} {
		leaves, size, err := c.log.bundle(t.Context(), tlog.Chunk{From: 0, To: 256}, 256, tlog.MaxChunk)
		if err != nil {
			t.Fatal(err)
		}
		tile, _ := tileOf(c.entry, 0, 256)
		if size < int64(len(tile)) || !compressed && size != int64(len(tile)) || size > 2*int64(len(tile)) {
			t.Errorf("gzip %t: %d bytes for a tile of %d and %d leaves", compressed, size, len(tile), len(leaves))
		}
		c.Compress()
	}
}

// FuzzDataTilesAreReadAsSunlightReadsThem also holds every leaf against the tile.
func FuzzDataTilesAreReadAsSunlightReadsThem(f *testing.F) {
	entry := ctEntries(f)
	short := func(i uint64) tlogtest.CTEntry {
		e := entry(i)
		for _, b := range []*[]byte{&e.Certificate, &e.TBS, &e.Precertificate} {
			*b = (*b)[:min(len(*b), 9)]
		}
		return e
	}
	for _, n := range []uint64{0, 1, 2, 5} {
		tile, at := tileOf(short, 0, n)
		f.Add(tile, uint16(0), uint16(n))
		f.Add(tile, uint16(n/2), uint16(n+1))
		for _, i := range at[:n] {
			broken := bytes.Clone(tile)
			broken[i+9] = 7
			f.Add(broken, uint16(0), uint16(n))
		}
	}
	plain := tlogtest.CTEntry{Timestamp: math.MaxUint64, Certificate: []byte("c")}.Leaf(-1)[2:]
	f.Add(append(bytes.Clone(plain), 0, 0), uint16(0), uint16(1))
	f.Add(append(bytes.Clone(plain), 0, 1, 9), uint16(0), uint16(1))
	f.Fuzz(func(t *testing.T, raw []byte, first, end uint16) {
		ch := tlog.Chunk{From: 1024 + uint64(first)%256, To: 1024 + uint64(end)%257}
		if ch.From >= ch.To {
			return
		}
		leaves, served, err := (&Log{}).splitDataTile(bytes.Clone(raw), ch)
		if (err == nil) != (uint64(len(leaves)) == ch.To-ch.From) || !bytes.HasSuffix(raw, served) {
			t.Fatalf("%d leaves of %d with error %v, %d bytes left of %d", len(leaves), ch.To-ch.From, err, len(served), len(raw))
		}
		rest, index := raw, uint64(1024)
		for ; index < ch.To; index++ {
			ours, size, err := readTileLeaf(rest)
			want, after, theirs := sunlight.ReadTileLeaf(rest)
			if err != nil {
				if theirs == nil {
					t.Fatalf("entry %d: %v, and sunlight reads it", index, err)
				}
				break
			}
			if theirs != nil {
				// What we are not as strict about set right, it must be the same leaf.
				if want, after, theirs = sunlight.ReadTileLeaf(mended(rest[:size], ours)); theirs != nil || len(after) != 0 {
					t.Fatalf("entry %d: we read it, and sunlight says %v", index, theirs)
				}
			} else if len(rest)-len(after) != size || len(want.ChainFingerprints)*32 != len(ours.chain) {
				t.Fatalf("entry %d is %d bytes, sunlight has %d and %d issuers", index, size, len(rest)-len(after), len(want.ChainFingerprints))
			}
			if want.IsPrecert != (ours.precertificate != nil) || !bytes.Equal(want.PreCertificate, ours.precertificate) {
				t.Fatalf("entry %d: precertificate %x, sunlight has %x", index, ours.precertificate, want.PreCertificate)
			}
			if index >= ch.From {
				leaf := leaves[index-ch.From]
				if leaf.Index != index || leaf.Hash != tlog.LeafHash(leaf.Data) || !bytes.Equal(leaf.Data, append([]byte{0, 0}, rest[:ours.entry]...)) {
					t.Fatalf("entry %d: leaf %d is %x", index, leaf.Index, leaf.Data)
				}
				if theirs == nil && len(want.Certificate) > 0 && !bytes.Contains(leaf.Data, want.Certificate) {
					t.Fatalf("entry %d lacks its certificate", index)
				}
			}
			rest = rest[size:]
		}
		if missing := ch.To - max(index, ch.From); missing != ch.To-ch.From-uint64(len(leaves)) || !bytes.Equal(rest, served) {
			t.Fatalf("%d leaves, sunlight has %d fewer than %d", len(leaves), missing, ch.To-ch.From)
		}
	})
}

// mended is a leaf of a tile with a timestamp, extensions and fingerprints that
// sunlight accepts.
func mended(tile []byte, leaf tileLeaf) []byte {
	out := bytes.Clone(tile[:leaf.entry])
	out[0] &= 0x7f
	// Forward to the extensions, independently of the code under test.
	at := 10
	if out[9] == 1 {
		at += 32
	}
	at += 3 + int(out[at])<<16 + int(out[at+1])<<8 + int(out[at+2])
	out = append(out[:at], 0, 8, 0, 0, 5, 0, 0, 0, 0, 0)
	if leaf.precertificate != nil {
		n := len(leaf.precertificate)
		out = append(append(out, byte(n>>16), byte(n>>8), byte(n)), leaf.precertificate...)
	}
	return append(out, 0, 0)
}
