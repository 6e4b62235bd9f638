// Package tiles reads logs that implement https://c2sp.org/tlog-tiles, as Rekor v2
// does, and CT logs that implement https://c2sp.org/static-ct-api.
//
// It keeps its share of P1 (nothing unproven is believed): the hash of each leaf is
// computed from its bytes, and a checkpoint counts only under the log's key and, but
// for a CT log, which does not sign it, its origin. It keeps its share of P5 (memory does not grow with the range): answers
// are limited to what the protocol allows and read ahead within the client's
// budget. It keeps its share of P7 (a run always makes progress): a bundle that
// cannot be had, when the log otherwise answers, is told from a log that is away.
package tiles

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// Config says which log to read.
type Config struct {
	Type tlog.Type // RekorV2, the default, or StaticCT
	URL  string    // base URL, under which "checkpoint" and "tile/" are
	// Origin is the first line its checkpoints must have. A CT log does not sign
	// it: there it is optional and not checked.
	Origin string
	Key    tlog.Key
	// Accepted are further keys that its checkpoints may be signed with, because an
	// operator decided so.
	Accepted []tlog.Key
	// ID is the log's ID as a trusted root gives it. Default: that of Key and
	// Origin, see [tlog.Key.OriginID]; of a CT log that of Key alone.
	ID tlog.ID
	// Retired says that the log takes no more entries.
	Retired bool
}

// Log is a tlog-tiles log. It implements [tlog.Log] and [tlog.LeafHasher].
type Log struct {
	client  *tlog.Client
	info    tlog.Info
	keys    []tlog.Key
	tiles   cache[tileKey]
	issuers cache[fingerprint] // of a CT log
	// size is that of the newest checkpoint returned. The log published it, so
	// the partial tiles and bundles of its right edge existed.
	size   atomic.Uint64
	origin atomic.Pointer[string] // of that checkpoint
}

// New checks cfg; it makes no request.
func New(c *tlog.Client, cfg Config) (*Log, error) {
	u, err := url.Parse(cfg.URL)
	cfg.Type = cmp.Or(cfg.Type, tlog.RekorV2)
	static := cfg.Type == tlog.StaticCT
	switch {
	case !static && cfg.Type != tlog.RekorV2:
		return nil, fmt.Errorf("log %s: type %s is not read from tiles", cfg.URL, cfg.Type)
	case err != nil:
		return nil, fmt.Errorf("log URL: %w", err)
	case u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("log URL %q: want https://<host>/<path>", cfg.URL)
	case cfg.Origin == "" && !static:
		return nil, fmt.Errorf("log %s: no origin given; it is the first line of %s/checkpoint", cfg.URL, cfg.URL)
	case cfg.Key.Public == nil:
		return nil, fmt.Errorf("log %s: no public key given", cfg.URL)
	case static && !signsTreeHeads(cfg.Key):
		return nil, fmt.Errorf("log %s: a CT log's key is ECDSA or RSA (RFC 6962 section 2.1.4), not %T", cfg.URL, cfg.Key.Public)
	}
	if cfg.ID == "" {
		id := cfg.Key.LogID
		if !static {
			id = cfg.Key.OriginID(cfg.Origin)
		}
		cfg.ID = tlog.ID(hex.EncodeToString(id[:]))
	}
	if cfg.Origin == "" {
		cfg.Origin = strings.TrimRight(u.Host+u.Path, "/")
	}
	return &Log{client: c, keys: append([]tlog.Key{cfg.Key}, cfg.Accepted...), info: tlog.Info{
		ID:     cfg.ID,
		Type:   cfg.Type,
		Origin: cfg.Origin,
		URL:    strings.TrimRight(cfg.URL, "/"),
		Active: !cfg.Retired,
	}}, nil
}

// Info describes the log.
func (l *Log) Info() tlog.Info {
	info := l.info
	if origin := l.origin.Load(); origin != nil {
		info.Origin = *origin
	}
	return info
}

func (l *Log) url(path string) string { return l.info.URL + "/" + path }

// Checkpoint implements [tlog.Log].
func (l *Log) Checkpoint(ctx context.Context) (tlog.Checkpoint, error) {
	at := l.url(layout.CheckpointPath)
	raw, err := l.client.Get(ctx, at, tlog.MaxCheckpoint)
	if err != nil {
		return tlog.Checkpoint{}, err
	}
	cp, err := l.Open(raw)
	if err != nil {
		return tlog.Checkpoint{}, &tlog.Unverified{What: "checkpoint " + at, Served: raw, Err: err}
	}
	l.size.Store(cp.Size)
	l.origin.Store(&cp.Origin)
	return cp, nil
}

// Open implements [tlog.Log].
func (l *Log) Open(note []byte) (tlog.Checkpoint, error) {
	if l.info.Type == tlog.StaticCT {
		cp, _, err := tlog.OpenTreeHead(note, l.keys)
		return cp, err
	}
	cp, _, err := tlog.OpenCheckpoint(note, l.keys)
	if err == nil && cp.Origin != l.info.Origin {
		err = fmt.Errorf("its origin is %q, want %q", cp.Origin, l.info.Origin)
	}
	return cp, err
}

// Leaves implements [tlog.Log], one entry bundle at a time.
func (l *Log) Leaves(ctx context.Context, from, to uint64) iter.Seq2[tlog.Leaf, error] {
	chunks := func(yield func(tlog.Chunk) bool) {
		for at := from; at < to; {
			end := min(to, at-at%layout.EntryBundleWidth+layout.EntryBundleWidth)
			if !yield(tlog.Chunk{From: at, To: end}) {
				return
			}
			at = end
		}
	}
	size := max(l.size.Load(), to)
	fetch := func(ctx context.Context, ch tlog.Chunk, limit int64) ([]tlog.Leaf, int64, error) {
		return l.bundle(ctx, ch, size, limit)
	}
	return tlog.ReadAhead(ctx, l.client, l.info.URL, chunks, fetch)
}

// bundle fetches the leaves of a chunk, which lies in one bundle of the tree of
// the given size.
func (l *Log) bundle(ctx context.Context, ch tlog.Chunk, size uint64, limit int64) ([]tlog.Leaf, int64, error) {
	index := ch.From / layout.EntryBundleWidth
	partial := layout.PartialTileSize(0, index, size)
	what, path, split := "bundle", layout.EntriesPath, splitBundle
	if l.info.Type == tlog.StaticCT {
		what, path, split = "data tile", dataTilePath, l.splitDataTile
	}
	raw, err := l.partialOrFull(ctx, partial, limit, func(p uint8) string { return path(index, p) })
	if err != nil {
		if l.blames(ctx, err) {
			err = &tlog.LeafError{Index: ch.From, End: ch.To, Err: err}
		}
		return nil, 0, err
	}
	leaves, served, err := split(raw, ch)
	if err != nil {
		from := ch.From + uint64(len(leaves))
		err = &tlog.LeafError{Index: from, End: ch.To, Served: served, Err: fmt.Errorf("%s %d of %s: %w", what, index, l.info.URL, err)}
	}
	// An answer whose length was not told, as one in gzip, came in a buffer that grew.
	return leaves, min(int64(cap(raw)), limit), err
}

// splitBundle is parse, whose evidence is the whole bundle.
func splitBundle(raw []byte, ch tlog.Chunk) (leaves []tlog.Leaf, served []byte, err error) {
	leaves, err = parse(raw, ch)
	return leaves, raw, err
}

// parse reads and hashes the leaves of ch from its bundle without copying them.
// It stops at the last that is wanted: a bundle may have grown since, and nothing
// after it can do harm. (api.EntryBundle would make a slice for each of the
// millions of empty entries that a hostile bundle has room for.)
func parse(raw []byte, ch tlog.Chunk) ([]tlog.Leaf, error) {
	leaves := make([]tlog.Leaf, 0, ch.To-ch.From)
	rest := raw
	for index := ch.From - ch.From%layout.EntryBundleWidth; index < ch.To; index++ {
		if len(rest) == 0 {
			return leaves, fmt.Errorf("it ends before entry %d", index)
		}
		if len(rest) < 2 {
			return leaves, fmt.Errorf("it ends within entry %d", index)
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		if len(rest) < n {
			return leaves, fmt.Errorf("it ends within entry %d", index)
		}
		// The capacity ends with the leaf, so that nobody appends into the next.
		data := rest[2:n:n]
		rest = rest[n:]
		if index >= ch.From {
			leaves = append(leaves, tlog.Leaf{Index: index, Data: data, Hash: tlog.LeafHash(data)})
		}
	}
	return leaves, nil
}

// blames reports whether err, the failure to get one bundle, is about that
// bundle and not about the log, its host or the way to it, which is so if the log
// said no for good, or if it answers when asked for something else.
func (l *Log) blames(ctx context.Context, err error) bool {
	var large *tlog.TooLargeError
	if errors.As(err, &large) {
		return true
	}
	var status *tlog.StatusError
	if errors.As(err, &status) && status.Code < 500 && status.Code != http.StatusTooManyRequests {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	_, err = l.client.Get(tlog.Fresh(ctx), l.url(layout.CheckpointPath), tlog.MaxCheckpoint)
	return err == nil
}

// partialOrFull gets a tile or bundle. A partial one (0 < p < 256 wide) may go away once
// the full one exists, whose first p are the same.
func (l *Log) partialOrFull(ctx context.Context, p uint8, limit int64, path func(p uint8) string) ([]byte, error) {
	raw, err := l.client.Get(ctx, l.url(path(p)), limit)
	var status *tlog.StatusError
	if p != 0 && errors.As(err, &status) && status.Code == http.StatusNotFound {
		return l.client.Get(ctx, l.url(path(0)), limit)
	}
	return raw, err
}

// ConsistencyProof implements [tlog.Log], from the hash tiles of the tree of size to.
func (l *Log) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	if from < 1 || from >= to {
		return nil, fmt.Errorf("there is no consistency proof from size %d to %d", from, to)
	}
	t := &tileSource{log: l, size: to}
	b, err := client.NewProofBuilder(ctx, to, t.fetch)
	if err != nil {
		return nil, fmt.Errorf("consistency proof from %d to %d: %w", from, to, err)
	}
	proof, err := b.ConsistencyProof(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("consistency proof from %d to %d: %w", from, to, t.because(err))
	}
	return proof, nil
}

// Frontier implements [tlog.Log], from the hash tiles of the tree of cp's size:
// those of size itself need never have been published.
func (l *Log) Frontier(ctx context.Context, size uint64, cp tlog.Checkpoint) (*compact.Range, error) {
	if size < 1 || size > cp.Size {
		return nil, fmt.Errorf("there is no frontier at %d in a tree of %d", size, cp.Size)
	}
	t := &tileSource{log: l, size: cp.Size}
	hashes, err := client.FetchRangeNodes(ctx, size, t.fetch)
	if err != nil {
		return nil, fmt.Errorf("frontier at %d: %w", size, t.because(err))
	}
	return tlog.NewRange(size, hashes)
}

// LeafHash implements [tlog.LeafHasher], from a level-0 tile.
func (l *Log) LeafHash(ctx context.Context, index uint64, cp tlog.Checkpoint) (tlog.Hash, error) {
	if index >= cp.Size {
		return tlog.Hash{}, fmt.Errorf("there is no leaf %d in a tree of %d", index, cp.Size)
	}
	t := &tileSource{log: l, size: cp.Size}
	raw, err := t.fetch(ctx, 0, index/layout.TileWidth, 0)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("hash of leaf %d: %w", index, err)
	}
	at := index % layout.TileWidth * hashSize
	return tlog.Hash(raw[at : at+hashSize]), nil
}
