// Package trusttest has a TUF repository that gives out a Sigstore trusted root, as
// https://github.com/sigstore/root-signing publishes one: consistent snapshots, a
// root role of several keys and a threshold, a timestamp that is signed often. It
// rotates, expires and lies on demand. For tests only.
package trusttest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const (
	target    = "trusted_root.json"
	rootKeys  = 3
	threshold = 2 // of them
)

// Empty is the trusted root that a new repository gives out: it lists nothing.
const Empty = `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// Repo is a TUF repository that is served on loopback. Every method that changes it
// publishes the change, in new versions of what it touches. Its methods may be called
// while it is serving.
type Repo struct {
	URL string // of the server on loopback, without a trailing slash

	t    testing.TB
	mu   sync.Mutex
	keys map[string][]ed25519.PrivateKey // by role

	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   map[string]*metadata.Metadata[metadata.TargetsType] // by role, delegated ones too
	chain     []string                                            // from targets to the role that lists the target
	content   []byte                                              // of the target

	files    map[string][]byte // by path
	replaced [][]byte          // earlier timestamp.json, oldest first
	counts   map[string]int
	faults   map[*fault]bool
}

type fault struct {
	match  tlogtest.Match
	effect tlogtest.Effect
}

// New makes a repository that gives out Empty, and serves it until the test ends.
func New(t testing.TB) *Repo {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	r := &Repo{
		t: t, keys: map[string][]ed25519.PrivateKey{}, files: map[string][]byte{}, counts: map[string]int{}, faults: map[*fault]bool{},
		root:      metadata.Root(now.AddDate(1, 0, 0)),
		timestamp: metadata.Timestamp(now.AddDate(0, 0, 7)),
		snapshot:  metadata.Snapshot(now.AddDate(0, 1, 0)),
		targets:   map[string]*metadata.Metadata[metadata.TargetsType]{metadata.TARGETS: metadata.Targets(now.AddDate(0, 1, 0))},
		chain:     []string{metadata.TARGETS},
		content:   []byte(Empty),
	}
	for range rootKeys {
		r.addKey(metadata.ROOT)
	}
	r.root.Signed.Roles[metadata.ROOT].Threshold = threshold
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		r.addKey(role)
	}
	r.publishRoot(r.keys[metadata.ROOT])
	r.publishTarget()
	r.publishTargets()
	r.publishSnapshot()
	r.publishTimestamp()

	server := httptest.NewServer(r.Handler())
	t.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// InitialRoot is the first root.json.
func (r *Repo) InitialRoot() []byte { return r.RootVersion(1) }

// RootVersion is a root.json that was published.
func (r *Repo) RootVersion(version int64) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[fmt.Sprintf("/%d.root.json", version)]
}

// SetTrustedRoot publishes another trusted_root.json.
func (r *Repo) SetTrustedRoot(data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content = data
	r.publishTarget()
	r.publishTargets()
	r.publishSnapshot()
	r.publishTimestamp()
}

// Renew signs the timestamp anew, as a repository does every few days.
func (r *Repo) Renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.publishTimestamp()
}

// RotateRoot publishes a root in which one root key is another.
func (r *Repo) RotateRoot() { r.RotateRootSignedBy(threshold) }

// RotateRootSignedBy is RotateRoot with the signatures of the new key and of only n of
// the old ones. With fewer than 2 no client may take it.
func (r *Repo) RotateRootSignedBy(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revoke(metadata.ROOT, r.keys[metadata.ROOT][0])
	old := r.keys[metadata.ROOT][:n:n]
	r.addKey(metadata.ROOT)
	r.publishRoot(append(old, r.keys[metadata.ROOT][rootKeys-1]))
}

// RotateKeys publishes a root with another key for each of the given roles, and what
// these sign.
func (r *Repo) RotateKeys(roles ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, role := range roles {
		r.revoke(role, r.keys[role][0])
		r.addKey(role)
	}
	r.publishRoot(r.keys[metadata.ROOT])
	r.publishTargets()
	r.publishSnapshot()
	r.publishTimestamp()
}

// Reset begins a role's versions anew at 1, as a repository may after a stolen key was
// used to use up the numbers: call RotateKeys after it.
func (r *Repo) Reset(roles ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, role := range roles {
		switch role {
		case metadata.TIMESTAMP:
			r.timestamp.Signed.Version = 0
		case metadata.SNAPSHOT:
			r.snapshot.Signed.Version = 0
		case metadata.TARGETS:
			r.targets[role].Signed.Version = 0
		}
	}
}

// ExpireTimestamp is Expire of the timestamp: nobody has signed it in time.
func (r *Repo) ExpireTimestamp() { r.Expire(metadata.TIMESTAMP) }

// Expire publishes a role, "root", "timestamp", "snapshot" or "targets", that expired an
// hour ago, and what refers to it.
func (r *Repo) Expire(role string) { r.expire(role, time.Now().Add(-time.Hour)) }

// Heal ends what Expire did to a role.
func (r *Repo) Heal(role string) { r.expire(role, time.Now().AddDate(0, 0, 7)) }

func (r *Repo) expire(role string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = at.UTC().Truncate(time.Second)
	switch role {
	case metadata.ROOT:
		r.root.Signed.Expires = at
		r.publishRoot(r.keys[metadata.ROOT])
	case metadata.TARGETS:
		r.targets[role].Signed.Expires = at
		r.publishTargets()
		r.publishSnapshot()
	case metadata.SNAPSHOT:
		r.snapshot.Signed.Expires = at
		r.publishSnapshot()
	case metadata.TIMESTAMP:
		r.timestamp.Signed.Expires = at
	}
	r.publishTimestamp()
}

// Rollback serves the repository as it was before its timestamp was last signed: an
// attacker on the way, who has no keys, replays it. The next change ends it.
func (r *Repo) Rollback() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.replaced); n > 0 {
		r.files["/timestamp.json"] = r.replaced[n-1]
	}
}

// RollbackSnapshot signs a new timestamp for the snapshot before the newest: an attacker
// who has the timestamp's key.
func (r *Repo) RollbackSnapshot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timestamp.Signed.Meta["snapshot.json"].Version--
	r.signTimestamp()
}

// RollbackTargets signs a new snapshot and timestamp for the targets before the newest:
// an attacker who has both of these keys.
func (r *Repo) RollbackTargets() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Signed.Meta["targets.json"].Version--
	r.signSnapshot()
	r.publishTimestamp()
}

// Delegate leaves it to a role depth delegations below targets to list the target.
func (r *Repo) Delegate(depth int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chain = []string{metadata.TARGETS}
	for i := range depth {
		role, parent := fmt.Sprintf("role%d", i+1), r.targets[r.chain[i]]
		r.targets[role] = metadata.Targets(time.Now().UTC().Truncate(time.Second).AddDate(0, 1, 0))
		key := newKey(r.t)
		r.keys[role] = []ed25519.PrivateKey{key}
		public := tufKey(r.t, key)
		id, err := public.ID()
		if err != nil {
			r.t.Fatal(err)
		}
		parent.Signed.Delegations = &metadata.Delegations{
			Keys:  map[string]*metadata.Key{id: public},
			Roles: []metadata.DelegatedRole{{Name: role, KeyIDs: []string{id}, Threshold: 1, Paths: []string{target}}},
		}
		r.chain = append(r.chain, role)
	}
	r.publishTarget()
	r.publishTargets()
	r.publishSnapshot()
	r.publishTimestamp()
}

// Timestamp changes what the timestamp says, and signs it.
func (r *Repo) Timestamp(edit func(*metadata.TimestampType)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	edit(&r.timestamp.Signed)
	r.signTimestamp()
}

// Targets changes what the targets say, and signs them and what refers to them.
func (r *Repo) Targets(edit func(*metadata.TargetsType)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	edit(&r.targets[metadata.TARGETS].Signed)
	r.publishTargets()
	r.publishSnapshot()
	r.publishTimestamp()
}

// Inject makes requests that match, all if match is nil, go wrong until clear is called.
func (r *Repo) Inject(match tlogtest.Match, effect tlogtest.Effect) (clear func()) {
	f := &fault{match, effect}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[f] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.faults, f)
	}
}

// Requests says how often each path was asked for since the last call.
func (r *Repo) Requests() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts
	r.counts = map[string]int{}
	return counts
}

// Handler serves the repository.
func (r *Repo) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.counts[req.URL.Path]++
		faults := maps.Clone(r.faults)
		r.mu.Unlock()
		for f := range faults {
			if f.match == nil || f.match(req) {
				f.effect(w, req, http.HandlerFunc(r.serve))
				return
			}
		}
		r.serve(w, req)
	})
}

func (r *Repo) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	data, ok := r.files[req.URL.Path]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(data) // the client may be gone
}

// The publish methods sign a role's next version, from targets up to timestamp.

func (r *Repo) publishRoot(signers []ed25519.PrivateKey) {
	if len(r.root.Signatures) > 0 {
		r.root.Signed.Version++
	}
	r.files[fmt.Sprintf("/%d.root.json", r.root.Signed.Version)] = sign(r.t, r.root, signers)
}

func (r *Repo) publishTarget() {
	info, err := metadata.TargetFile().FromBytes(target, r.content)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, role := range r.chain {
		delete(r.targets[role].Signed.Targets, target)
		if i == len(r.chain)-1 {
			r.targets[role].Signed.Targets[target] = info
		}
	}
	sum := sha256.Sum256(r.content)
	r.files["/targets/"+hex.EncodeToString(sum[:])+"."+target] = r.content
}

func (r *Repo) publishTargets() {
	for _, role := range r.chain {
		next(&r.targets[role].Signed.Version, r.targets[role].Signatures)
		version := r.targets[role].Signed.Version
		r.files[fmt.Sprintf("/%d.%s.json", version, role)] = sign(r.t, r.targets[role], r.keys[role])
		r.snapshot.Signed.Meta[role+".json"] = &metadata.MetaFiles{Version: version}
	}
}

func (r *Repo) publishSnapshot() {
	for _, role := range r.chain {
		r.snapshot.Signed.Meta[role+".json"].Version = r.targets[role].Signed.Version
	}
	r.signSnapshot()
}

func (r *Repo) signSnapshot() {
	next(&r.snapshot.Signed.Version, r.snapshot.Signatures)
	r.files[fmt.Sprintf("/%d.snapshot.json", r.snapshot.Signed.Version)] = sign(r.t, r.snapshot, r.keys[metadata.SNAPSHOT])
}

func (r *Repo) publishTimestamp() {
	r.timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: r.snapshot.Signed.Version}
	r.signTimestamp()
}

func (r *Repo) signTimestamp() {
	next(&r.timestamp.Signed.Version, r.timestamp.Signatures)
	if old := r.files["/timestamp.json"]; old != nil {
		r.replaced = append(r.replaced, old)
	}
	r.files["/timestamp.json"] = sign(r.t, r.timestamp, r.keys[metadata.TIMESTAMP])
}

// next is the version after one that was signed.
func next(version *int64, signatures []metadata.Signature) {
	if len(signatures) > 0 {
		*version++
	}
}

func sign[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], keys []ed25519.PrivateKey) []byte {
	m.ClearSignatures()
	for _, key := range keys {
		signer, err := signature.LoadSigner(key, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Sign(signer); err != nil {
			t.Fatal(err)
		}
	}
	data, err := m.ToBytes(true)
	if err != nil {
		t.Fatal(err)
	}
	// Real ones are written in many ways; clients must keep the bytes as they are.
	return []byte(strings.ReplaceAll(string(data), "\t", "  ") + "\n")
}

func (r *Repo) addKey(role string) {
	key := newKey(r.t)
	r.keys[role] = append(r.keys[role], key)
	if err := r.root.Signed.AddKey(tufKey(r.t, key), role); err != nil {
		r.t.Fatal(err)
	}
}

func (r *Repo) revoke(role string, key ed25519.PrivateKey) {
	id, err := tufKey(r.t, key).ID()
	if err == nil {
		err = r.root.Signed.RevokeKey(id, role)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var left []ed25519.PrivateKey
	for _, k := range r.keys[role] {
		if !k.Equal(key) {
			left = append(left, k)
		}
	}
	r.keys[role] = left
}

func newKey(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func tufKey(t testing.TB, key ed25519.PrivateKey) *metadata.Key {
	k, err := metadata.KeyFromPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}
