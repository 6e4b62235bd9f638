package tlogtest

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
)

// Tiles serves a log as https://c2sp.org/tlog-tiles, as a file server over the
// storage of Rekor v2's POSIX server does: files appear when a checkpoint is
// published, a partial one exists for the sizes that were published and goes away
// when it fills.
type Tiles struct {
	*Gate
	*Log
	origin string

	storage   sync.Mutex
	published []publication     // in order
	notes     map[uint64][]byte // by size, as signed
	frozen    map[uint64]string // extension lines, by size
}

// publication is a checkpoint that was published.
type publication struct {
	tree *Tree
	size uint64
}

// NewTiles makes an empty log with a published checkpoint of size 0. The key is
// Ed25519 or ECDSA; the origin has no spaces.
func NewTiles(origin string, key crypto.Signer) (*Tiles, error) {
	t := &Tiles{Gate: &Gate{}, origin: origin, notes: make(map[uint64][]byte), frozen: make(map[uint64]string)}
	log, err := newLog(key, t.forget)
	if err != nil {
		return nil, err
	}
	t.Log = log
	if err := t.Publish(); err != nil {
		return nil, err
	}
	return t, nil
}

// Origin is the log's true origin line.
func (t *Tiles) Origin() string { return t.origin }

// Publish signs and serves a checkpoint of what the tree that is shown holds now.
func (t *Tiles) Publish() error {
	t.storage.Lock()
	defer t.storage.Unlock()
	v := t.files()
	size := v.tree.Size()
	if _, err := t.sign(v, size); err != nil {
		return err
	}
	t.published = append(t.published, publication{v.tree, size})
	return nil
}

// Freeze signs the newest checkpoint again with the extension line that tells that
// no more will come; publishing another one breaks that promise.
func (t *Tiles) Freeze(at time.Time) error {
	t.storage.Lock()
	defer t.storage.Unlock()
	v := t.files()
	size := t.newest(v.tree)
	t.frozen[size] = "Log frozen — " + at.UTC().Format(time.UnixDate) + "\n"
	delete(t.notes, size)
	_, err := t.sign(v, size)
	return err
}

// newest is the size of a tree's last checkpoint; of a tree that has none yet, the
// last one of any tree, as far as it goes. t.storage is held.
func (t *Tiles) newest(tree *Tree) uint64 {
	for i := len(t.published) - 1; i >= 0; i-- {
		if t.published[i].tree == tree {
			return t.published[i].size
		}
	}
	if len(t.published) == 0 {
		return 0
	}
	return min(t.published[len(t.published)-1].size, tree.Size())
}

// forget drops signed notes when something else is shown than was signed.
func (t *Tiles) forget() {
	t.storage.Lock()
	defer t.storage.Unlock()
	clear(t.notes)
}

// sign makes the note of a size, once: a checkpoint is a file. t.storage is held.
func (t *Tiles) sign(v view, size uint64) ([]byte, error) {
	if signed := t.notes[size]; signed != nil {
		return signed, nil
	}
	root, err := v.tree.Root(size)
	if err != nil {
		return nil, err
	}
	origin := t.origin
	if v.origin != "" {
		origin = v.origin
	}
	loaded, err := signature.LoadSigner(v.key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", origin, err)
	}
	signer, err := rekornote.NewNoteSigner(context.Background(), origin, loaded)
	if err != nil {
		return nil, fmt.Errorf("signing as %s: %w", origin, err)
	}
	text := formats.Checkpoint{Origin: origin, Size: size, Hash: root[:]}.Marshal()
	signed, err := note.Sign(&note.Note{Text: string(text) + t.frozen[size]}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing the checkpoint of size %d of %s: %w", size, origin, err)
	}
	t.notes[size] = signed
	return signed, nil
}

// ServeHTTP serves the log, through the gate.
func (t *Tiles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.handle(w, r, http.HandlerFunc(t.serve))
}

func (t *Tiles) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == layout.CheckpointPath {
		t.serveCheckpoint(w, r)
		return
	}
	rest, ok := strings.CutPrefix(path, "tile/")
	level, index, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		http.NotFound(w, r)
		return
	}
	if level == "entries" {
		t.serveEntries(w, r, index)
		return
	}
	t.serveHashes(w, r, level, index)
}

func (t *Tiles) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	t.storage.Lock()
	v := t.look() // under the lock, so that forget drops what is signed for it
	size := t.newest(v.tree)
	if v.behind {
		size = v.size
	}
	signed, err := t.sign(v, size)
	t.storage.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	serveFile(w, r, "text/plain; charset=utf-8", v.editNote(signed))
}

func (t *Tiles) serveHashes(w http.ResponseWriter, r *http.Request, level, index string) {
	l, n, partial, err := layout.ParseTileLevelIndexPartial(level, index)
	if err != nil || !t.exists(l, n, partial) {
		http.NotFound(w, r)
		return
	}
	b, err := t.files().tree.hashes(uint(l*layout.TileHeight), n*layout.TileWidth, width(partial))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	serveFile(w, r, "application/octet-stream", b)
}

func (t *Tiles) serveEntries(w http.ResponseWriter, r *http.Request, index string) {
	n, partial, err := layout.ParseTileIndexPartial(index)
	if err != nil || !t.exists(0, n, partial) {
		http.NotFound(w, r)
		return
	}
	v := t.files()
	from, count := n*layout.EntryBundleWidth, width(partial)
	var bundle []byte
	for i := from; i < from+count; i++ {
		leaf, lie, err := v.leaf(i)
		switch {
		case err != nil:
			http.NotFound(w, r)
			return
		case lie.Status != 0:
			refuse(w, lie.Status)
			return
		case lie.Missing:
			continue
		case len(leaf) > math.MaxUint16:
			http.Error(w, fmt.Sprintf("leaf %d has %d bytes, a bundle holds 65535", i, len(leaf)), http.StatusInternalServerError)
			return
		}
		if bundle == nil {
			bundle = make([]byte, 0, int(count)*(len(leaf)+64)) // leaves are much alike
		}
		bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(leaf)))
		bundle = append(bundle, leaf...)
	}
	t.countRead(from, count)
	serveFile(w, r, "application/octet-stream", bundle)
}

// exists tells whether the tile of a level (a bundle's is 0) is there: a full one as
// soon as a checkpoint covers it, a partial one between the checkpoint of its size
// and the one that fills it.
func (t *Tiles) exists(level, index uint64, partial uint8) bool {
	if level*layout.TileHeight > 63 || index > math.MaxUint64>>layout.TileHeight {
		return false
	}
	t.storage.Lock()
	defer t.storage.Unlock()
	found := false
	for _, p := range t.published {
		hashes := p.size >> (level * layout.TileHeight)
		switch full := hashes / layout.TileWidth; {
		case index < full:
			return partial == 0
		case index == full && partial > 0 && hashes%layout.TileWidth == uint64(partial):
			found = true
		}
	}
	return found
}

func width(partial uint8) uint64 {
	if partial == 0 {
		return layout.TileWidth
	}
	return uint64(partial)
}

// serveFile answers as a file server does, HEAD and ranges included.
func serveFile(w http.ResponseWriter, r *http.Request, contentType string, b []byte) {
	w.Header().Set("Content-Type", contentType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}
