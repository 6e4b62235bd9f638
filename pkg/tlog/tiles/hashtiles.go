package tiles

import (
	"context"
	"fmt"
	"sync"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	hashSize = uint64(len(tlog.Hash{}))
	maxTile  = layout.TileWidth * int64(hashSize)
)

// tileSource gives tessera's client the hash tiles of the tree of one size.
type tileSource struct {
	log  *Log
	size uint64
	err  error // of the last fetch; tessera does not wrap it all the way
}

// fetch is a client.TileFetcherFunc. The width it is asked for does not matter:
// that which the tree of t.size has is at least that.
func (t *tileSource) fetch(ctx context.Context, level, index uint64, _ uint8) ([]byte, error) {
	raw, err := t.log.tile(ctx, level, index, layout.PartialTileSize(level, index, t.size))
	t.err = err
	return raw, err
}

// because is the error behind err that can be told by its type.
func (t *tileSource) because(err error) error {
	if t.err != nil {
		return t.err
	}
	return err
}

// tile returns exactly the hashes of a tile that is width wide, 0 meaning full.
func (l *Log) tile(ctx context.Context, level, index uint64, width uint8) ([]byte, error) {
	key := tileKey{level, index, width}
	if raw, ok := l.tiles.get(key); ok && !tlog.IsFresh(ctx) {
		return raw, nil
	}
	path := func(p uint8) string { return layout.TilePath(level, index, p) }
	raw, err := l.partialOrFull(ctx, width, maxTile, path)
	if err != nil {
		return nil, err
	}
	want := maxTile
	if width != 0 {
		want = int64(width) * int64(hashSize)
	}
	if int64(len(raw)) < want || uint64(len(raw))%hashSize != 0 {
		return nil, &tlog.Unverified{
			What:   "hash tile " + l.url(path(width)),
			Served: raw,
			Err:    fmt.Errorf("it has %d bytes, want %d", len(raw), want),
		}
	}
	raw = raw[:want]
	l.tiles.put(key, raw)
	return raw, nil
}

type tileKey struct {
	level, index uint64
	width        uint8
}

// cache keeps the tiles around the edge at which a run works: a proof and a
// frontier, and the holes of one bundle, need the same few. At 64 tiles it holds at
// most 512 KiB; at 64 of a CT log's issuers 2 MiB.
type cache[K comparable] struct {
	mu    sync.Mutex
	files map[K][]byte
}

func (c *cache[K]) get(k K) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, ok := c.files[k]
	return raw, ok
}

func (c *cache[K]) put(k K, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil || len(c.files) >= 64 {
		c.files = map[K][]byte{}
	}
	c.files[k] = raw
}
