package tlogtest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// Log is one tree as it is served and signed, with the lies it tells on demand.
// It is honest until told otherwise, and all its methods may be called while it is
// serving.
type Log struct {
	mu     sync.Mutex
	truth  *Tree
	key    crypto.Signer
	told   tale
	turn   int      // which of told.sizes answers next
	reads  []uint32 // how often each leaf (tiles: each bundle) was served
	resign func()   // what was signed before is no longer what is shown; called without mu
}

// tale is what a log shows instead of the truth.
type tale struct {
	tree   *Tree
	key    crypto.Signer
	origin string
	sizes  []uint64
	lies   map[uint64]Lie
	note   func([]byte) []byte
	hidden bool
}

// Lie is how a leaf is served otherwise than it was hashed. Its zero fields tell the
// truth.
type Lie struct {
	// Data is served in the leaf's place. Rekor v1 serves with it the UUID and the
	// signed entry timestamp that would be right for it, as a cunning log does.
	Data []byte
	// Status answers a request for this leaf, alone or with others, with an HTTP
	// status: 500 is a leaf that cannot be had.
	Status int
	// Missing leaves the leaf out of an answer with status 200.
	Missing bool
	// Index is, for Rekor v1, the index of the log's own under which the leaf is served.
	Index *uint64
	// UUID is, for Rekor v1, the entry's UUID verbatim.
	UUID string
}

func newLog(key crypto.Signer, resign func()) (*Log, error) {
	if key == nil {
		return nil, errors.New("a log needs a key to sign with")
	}
	return &Log{truth: &Tree{}, key: key, resign: resign}, nil
}

// Tree is the true tree, to append to and to fork.
func (l *Log) Tree() *Tree { return l.truth }

// Append adds leaves to the true tree. Rekor v1 serves them at once, tiles once
// they are published.
func (l *Log) Append(leaves ...[]byte) { l.truth.Append(leaves...) }

// PublicKeyPEM is the true key, as a configuration has it.
func (l *Log) PublicKeyPEM() ([]byte, error) { return publicKeyPEM(l.key.Public()) }

// PublicKey is the true key.
func (l *Log) PublicKey() crypto.PublicKey { return l.key.Public() }

// Show serves and signs another tree than the true one: a fork of it, one rewritten
// or one cut short. The caller goes on growing it. Tiles serve it at the size that was
// published last, until it is published itself.
func (l *Log) Show(t *Tree) { l.tell(func(told *tale) { told.tree = t }) }

// At answers as the log was at an older size, so one size is a rollback. With
// several sizes requests are answered in turn at each, as replicas do that lag
// behind one another. Without any the log is up to date again. Of tiles only the
// checkpoint goes back: files do not come back that were gone.
func (l *Log) At(sizes ...uint64) { l.tell(func(told *tale) { told.sizes = slices.Clone(sizes) }) }

// SignWith signs with another key under the same name.
func (l *Log) SignWith(key crypto.Signer) { l.tell(func(told *tale) { told.key = key }) }

// CallItself writes another origin line into the signed note: another log's, another
// tree's.
func (l *Log) CallItself(origin string) { l.tell(func(told *tale) { told.origin = origin }) }

// EditNote changes each note after it was signed; see [Unsigned], [Garbled] and
// [Padded].
func (l *Log) EditNote(edit func(note []byte) []byte) {
	l.tell(func(told *tale) { told.note = edit })
}

// Lie serves a leaf otherwise than it was hashed.
func (l *Log) Lie(index uint64, lie Lie) {
	l.tell(func(told *tale) {
		told.lies = maps.Clone(told.lies)
		if told.lies == nil {
			told.lies = make(map[uint64]Lie)
		}
		told.lies[index] = lie
	})
}

// Swap serves two leaves in each other's place.
func (l *Log) Swap(i, j uint64) error {
	a, err := l.truth.Leaf(i)
	if err != nil {
		return err
	}
	b, err := l.truth.Leaf(j)
	if err != nil {
		return err
	}
	l.Lie(i, Lie{Data: b})
	l.Lie(j, Lie{Data: a})
	return nil
}

// Honest ends every lie: the true tree is shown, under its own name and key.
func (l *Log) Honest() { l.tell(func(told *tale) { *told = tale{} }) }

func (l *Log) tell(change func(*tale)) {
	l.mu.Lock()
	change(&l.told)
	l.mu.Unlock()
	l.resign()
}

// Reads says how often the leaf at an index was served; for tiles, how often a
// bundle that holds it was, full or partial.
func (l *Log) Reads(index uint64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index >= uint64(len(l.reads)) {
		return 0
	}
	return int(l.reads[index])
}

func (l *Log) countRead(from, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if missing := int(from+n) - len(l.reads); missing > 0 {
		l.reads = append(l.reads, make([]uint32, missing)...)
	}
	for i := from; i < from+n; i++ {
		l.reads[i]++
	}
}

// view is what a log shows to one request.
type view struct {
	tale
	size   uint64 // of the tree, as far as this request may see it
	behind bool   // size was chosen by At
}

// look takes the view for a request; with several replicas the next one's.
func (l *Log) look() view {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.turn++ }()
	return l.peek()
}

// peek is the view of the replica whose turn it is; l.mu is held.
func (l *Log) peek() view {
	v := view{tale: l.told}
	if v.tree == nil {
		v.tree = l.truth
	}
	if v.key == nil {
		v.key = l.key
	}
	v.size = v.tree.Size()
	if n := len(v.sizes); n > 0 {
		v.behind = true
		v.size = min(v.size, v.sizes[l.turn%n])
	}
	return v
}

// files is the view that does not depend on whose turn it is.
func (l *Log) files() view {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peek()
}

// editNote applies what EditNote said.
func (v view) editNote(note []byte) []byte {
	if v.note == nil {
		return note
	}
	return v.note(slices.Clone(note))
}

// leaf is the leaf as it is served, and how it is lied about.
func (v view) leaf(index uint64) ([]byte, Lie, error) {
	lie := v.lies[index]
	if lie.Data != nil {
		return lie.Data, lie, nil
	}
	data, err := v.tree.Leaf(index)
	return data, lie, err
}

// Unsigned is a note without its signatures, for [Log.EditNote].
func Unsigned(note []byte) []byte {
	if end := bytes.LastIndex(note, []byte("\n\n")); end >= 0 {
		return note[:end+2]
	}
	return note
}

// Garbled is a note whose root hash was changed after it was signed.
func Garbled(note []byte) []byte {
	lines := bytes.SplitAfterN(note, []byte("\n"), 4)
	if len(lines) == 4 {
		if lines[2][0] == 'A' {
			lines[2][0] = 'B'
		} else {
			lines[2][0] = 'A'
		}
	}
	return bytes.Join(lines, nil)
}

// Padded makes notes longer by n bytes of signature lines that no key made.
func Padded(n int) func([]byte) []byte {
	line := []byte("— stranger " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 68)) + "\n")
	return func(note []byte) []byte {
		return append(note, bytes.Repeat(line, n/len(line)+1)...)
	}
}

func publicKeyPEM(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// refuse answers with a lie's status.
func refuse(w http.ResponseWriter, status int) { http.Error(w, http.StatusText(status), status) }
