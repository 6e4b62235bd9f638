package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Archive keeps the first verified note seen at each size of a log.
type Archive interface {
	// Keep stores cp's note unless one is kept for its size, and returns the one
	// that is kept.
	Keep(ctx context.Context, cp Checkpoint) (note []byte, err error)
}

// Audit checks one log against what was saved of it.
type Audit struct {
	Log     Log
	Archive Archive
	// Again is how long to wait before each further look at something that counts
	// against the log. The zero value looks twice more, after 0.2 s and after 2 s.
	Again []time.Duration
}

func (a *Audit) again() []time.Duration {
	if len(a.Again) == 0 {
		return []time.Duration{200 * time.Millisecond, 2 * time.Second}
	}
	return a.Again
}

// Verdict is what [Audit.Advance] found.
type Verdict struct {
	// Trusted is the newest checkpoint of the proven history: the served one if it
	// is consistent with what was trusted before, else the one from before.
	Trusted Checkpoint
	// Served is what the log serves now, verified under its key; nil if nothing
	// verified was served.
	Served *Checkpoint
	// Stale: the log serves an older checkpoint that is a prefix of the history.
	Stale bool
	// Unprovable: the log serves an older checkpoint that can no longer be proven a
	// prefix. It becomes the incident [Rollback] if it lasts; see NewRollback.
	Unprovable bool
	// Incident is tampering, already looked at again; nil if there is none.
	Incident *Incident
}

// settled: there is nothing to look at again.
func (v Verdict) settled() bool {
	if v.Incident != nil {
		return v.Incident.Proof
	}
	return !v.Stale && !v.Unprovable
}

// Advance fetches the newest checkpoint and proves it consistent with trusted,
// which is nil when there is none yet. Whatever counts against the log, but for
// proof, is looked at again with caches bypassed first. An error means that the
// log could not be checked, and says nothing about it.
func (a *Audit) Advance(ctx context.Context, trusted *Checkpoint) (Verdict, error) {
	v, err := a.advance(ctx, trusted)
	looked, lookErr := false, error(nil)
	for _, wait := range a.again() {
		if err != nil || v.settled() || sleep(ctx, wait) != nil {
			break
		}
		again, err := a.advance(Fresh(ctx), trusted)
		if err != nil {
			lookErr = err
			continue
		}
		v, looked = again, true
	}
	if err == nil && !v.settled() && !looked {
		// Once is no sign: what does not persist may have been a proxy's error page.
		return v, fmt.Errorf("what the log served counts against it, and it could not be asked again: %w", errors.Join(lookErr, context.Cause(ctx)))
	}
	return v, err
}

func (a *Audit) advance(ctx context.Context, trusted *Checkpoint) (Verdict, error) {
	v := Verdict{}
	if trusted != nil {
		v.Trusted = *trusted
	}
	cp, err := a.Log.Checkpoint(ctx)
	var unverified *Unverified
	if errors.As(err, &unverified) {
		v.Incident = NewBadCheckpoint(a.Log.Info().ID, BadCheckpoint, unverified)
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("checkpoint: %w", err)
	}
	v.Served = &cp
	archived, err := a.archived(ctx, cp)
	if err != nil {
		return v, err
	}
	switch {
	case archived.Root != cp.Root:
		v.Incident = a.fork(archived, cp)
	case trusted == nil:
		v.Trusted = cp
	case cp.Size == trusted.Size && cp.Root != trusted.Root:
		v.Incident = a.fork(*trusted, cp)
	case cp.Size == trusted.Size:
		// The same tree. A newer note of it may carry the frozen line.
		if cp.Frozen || !trusted.Frozen {
			v.Trusted = cp
		}
	case cp.Size > trusted.Size:
		return v, a.grown(ctx, &v, *trusted, cp)
	default:
		return v, a.older(ctx, &v, *trusted, cp)
	}
	return v, nil
}

// archived returns the first checkpoint seen at cp's size, which may be cp.
func (a *Audit) archived(ctx context.Context, cp Checkpoint) (Checkpoint, error) {
	note, err := a.Archive.Keep(ctx, cp)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("archiving the checkpoint of size %d: %w", cp.Size, err)
	}
	if bytes.Equal(note, cp.Note) {
		return cp, nil
	}
	// Only two valid signatures make a proof: our archive is checked like the log.
	kept, err := a.Log.Open(note)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the archived checkpoint of size %d: %w; restore it from a backup", cp.Size, err)
	}
	if kept.Size != cp.Size {
		return Checkpoint{}, fmt.Errorf("the checkpoint archived under size %d has size %d; restore it from a backup", cp.Size, kept.Size)
	}
	return kept, nil
}

func (a *Audit) fork(one, two Checkpoint) *Incident {
	in := newIncident(a.Log.Info().ID, Fork, one.Size, one.Root, two.Root)
	in.Text = fmt.Sprintf("two signed roots for tree size %d: %s and %s", one.Size, one.Root, two.Root)
	in.Notes = []string{string(one.Note), string(two.Note)}
	return in
}

// frozenGrowth is for two signed notes that contradict each other in whatever
// order they came.
func (a *Audit) frozenGrowth(frozen, larger Checkpoint) *Incident {
	in := newIncident(a.Log.Info().ID, FrozenGrowth, frozen.Size)
	in.Text = fmt.Sprintf("the log signed that it is frozen at size %d, and it signed size %d", frozen.Size, larger.Size)
	in.Notes = []string{string(frozen.Note), string(larger.Note)}
	return in
}

// grown handles a checkpoint that is larger than the trusted one.
func (a *Audit) grown(ctx context.Context, v *Verdict, trusted, cp Checkpoint) error {
	id := a.Log.Info().ID
	if trusted.Frozen {
		v.Incident = a.frozenGrowth(trusted, cp)
		return nil
	}
	if trusted.Size == 0 {
		v.Trusted = cp // every tree extends the empty one; there is no proof from 0
		return nil
	}
	hashes, err := a.consistency(ctx, trusted.Size, cp.Size)
	var unverified *Unverified
	if err != nil && !errors.As(err, &unverified) {
		return fmt.Errorf("consistency proof from size %d to %d: %w", trusted.Size, cp.Size, err)
	}
	if err == nil {
		err = proof.VerifyConsistency(rfc6962.DefaultHasher, trusted.Size, cp.Size, hashes, trusted.Root[:], cp.Root[:])
	}
	if err != nil {
		v.Incident = newIncident(id, Inconsistent, trusted.Size, trusted.Root)
		v.Incident.Text = fmt.Sprintf("the log does not prove that its tree of size %d extends the one of size %d seen before: %v", cp.Size, trusted.Size, inHex(err))
		v.Incident.Notes = []string{string(trusted.Note), string(cp.Note)}
		v.Incident.Consistency = &ConsistencyEvidence{trusted.Size, cp.Size, trusted.Root, hashes}
		if unverified != nil {
			v.Incident.Served = unverified.Served
		}
		return nil
	}
	v.Trusted = cp
	return nil
}

// consistency asks for a consistency proof, and again where it is refused: a
// replica that lags does not have the size yet that another one signed.
func (a *Audit) consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	hashes, err := a.Log.ConsistencyProof(ctx, from, to)
	for _, wait := range a.again() {
		if !refused(err) || sleep(ctx, wait) != nil {
			break
		}
		hashes, err = a.Log.ConsistencyProof(Fresh(ctx), from, to)
	}
	return hashes, err
}

// refused reports whether the log answered, and said no.
func refused(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code >= 400 && status.Code < 500 && status.Code != http.StatusTooManyRequests
}

// older handles a checkpoint that is smaller than the trusted one. A cache or a
// replica that lags serves one, and the log can still prove it a prefix. A log
// that was set back cannot, nor can one set back to nothing.
func (a *Audit) older(ctx context.Context, v *Verdict, trusted, cp Checkpoint) error {
	switch {
	case cp.Frozen:
		v.Incident = a.frozenGrowth(cp, trusted)
		return nil
	case cp.Size == 0:
		v.Unprovable = true
		return nil
	}
	hashes, err := a.Log.ConsistencyProof(ctx, cp.Size, trusted.Size)
	var unverified *Unverified
	switch {
	case refused(err), errors.As(err, &unverified):
		v.Unprovable = true
	case err != nil:
		return fmt.Errorf("consistency proof from size %d to %d: %w", cp.Size, trusted.Size, err)
	case proof.VerifyConsistency(rfc6962.DefaultHasher, cp.Size, trusted.Size, hashes, cp.Root[:], trusted.Root[:]) != nil:
		v.Unprovable = true
	default:
		v.Stale = true
	}
	return nil
}

// Extends reports whether the log proves that the tree of cp extends that of old.
func (a *Audit) Extends(ctx context.Context, old, cp Checkpoint) (bool, error) {
	switch {
	case old.Size > cp.Size:
		return false, nil
	case old.Size == cp.Size:
		return old.Root == cp.Root, nil
	case old.Size == 0:
		return true, nil
	}
	hashes, err := a.consistency(ctx, old.Size, cp.Size)
	if err != nil {
		return false, fmt.Errorf("consistency proof from size %d to %d: %w", old.Size, cp.Size, err)
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, cp.Size, hashes, old.Root[:], cp.Root[:]) == nil, nil
}

// NewRollback is the incident that an unprovable older checkpoint becomes when
// it lasts.
func NewRollback(log ID, trusted, served Checkpoint, since time.Time) *Incident {
	in := newIncident(log, Rollback, trusted.Size, trusted.Root)
	in.Text = fmt.Sprintf("since %s the log serves size %d, after it signed size %d, and cannot prove that the one leads to the other",
		since.UTC().Format(time.RFC3339), served.Size, trusted.Size)
	in.Notes = []string{string(trusted.Note), string(served.Note)}
	return in
}

// inHex says what a failed proof came to, in the form that everything else has.
func inHex(err error) error {
	var roots proof.RootMismatchError
	if errors.As(err, &roots) {
		return fmt.Errorf("the proof leads to root %x, want %x", roots.CalculatedRoot, roots.ExpectedRoot)
	}
	return err
}

// mismatch says that a root computed here is not the one that the log's
// checkpoint commits to.
type mismatch struct {
	size   uint64
	root   Hash
	hashes [][]byte
	cp     Checkpoint
	err    error
}

func (m *mismatch) evidence() *ConsistencyEvidence {
	return &ConsistencyEvidence{m.size, m.cp.Size, m.root, m.hashes}
}

func (m *mismatch) Error() string {
	return fmt.Sprintf("root %s computed at size %d is not in the tree of size %d that the log signed: %v", m.root, m.size, m.cp.Size, m.err)
}

// prove checks that the tree r is a prefix of the one that cp commits to, and
// returns the consistency proof, which is empty if it is the same tree. The error
// is a *mismatch if what the log served denies it.
func (a *Audit) prove(ctx context.Context, r *compact.Range, cp Checkpoint) ([][]byte, error) {
	root, err := Root(r)
	if err != nil {
		return nil, err
	}
	switch size := r.End(); {
	case size > cp.Size:
		return nil, fmt.Errorf("frontier of size %d is beyond the checkpoint's %d", size, cp.Size)
	case size == cp.Size:
		if root != cp.Root {
			return nil, &mismatch{size, root, nil, cp, errors.New("the roots differ")}
		}
		return nil, nil
	case size == 0:
		return nil, nil
	}
	hashes, err := a.consistency(ctx, r.End(), cp.Size)
	var unverified *Unverified
	if errors.As(err, &unverified) {
		return nil, &mismatch{r.End(), root, nil, cp, err}
	}
	if err != nil {
		return nil, fmt.Errorf("consistency proof from size %d to %d: %w", r.End(), cp.Size, err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, r.End(), cp.Size, hashes, root[:], cp.Root[:]); err != nil {
		return nil, &mismatch{r.End(), root, hashes, cp, inHex(err)}
	}
	return hashes, nil
}

// Frontier returns the compact range of [0, size), proven against cp. It is how
// reading starts at an index other than 0. If what the log serves for it does not
// verify when looked at again, the incident says so.
func (a *Audit) Frontier(ctx context.Context, size uint64, cp Checkpoint) (Frontier, *Incident, error) {
	if size == 0 {
		return Frontier{}, nil, nil
	}
	if size > cp.Size {
		return Frontier{}, nil, fmt.Errorf("start %d is beyond the log's size %d", size, cp.Size)
	}
	for i := 0; ; i++ {
		var denied *mismatch
		var unverified *Unverified
		r, err := a.Log.Frontier(ctx, size, cp)
		if err == nil {
			if _, err = a.prove(ctx, r, cp); err == nil {
				return Save(r), nil, nil
			}
		}
		if !errors.As(err, &denied) && !errors.As(err, &unverified) {
			return Frontier{}, nil, fmt.Errorf("left edge at %d: %w", size, err)
		}
		if i < len(a.again()) {
			if err := sleep(ctx, a.again()[i]); err != nil {
				return Frontier{}, nil, fmt.Errorf("left edge at %d: no time to look again at what does not verify: %w", size, err)
			}
			ctx = Fresh(ctx)
			continue
		}
		in := newIncident(a.Log.Info().ID, BadProof, "left edge", size)
		in.Text = fmt.Sprintf("what the log serves as the left edge of its tree at %d does not fit its signed checkpoint of size %d: %v", size, cp.Size, err)
		in.Notes = []string{string(cp.Note)}
		if denied != nil {
			in.Consistency = denied.evidence()
			edge := Save(r)
			in.Edge = &edge
		}
		if errors.As(err, &unverified) {
			in.Served = unverified.Served
		}
		return Frontier{}, in, nil
	}
}

// Hole gets the hash of the leaf after from, apart from the leaf, and proves it
// against cp. It returns the proof and the frontier past that leaf.
func (a *Audit) Hole(ctx context.Context, cp Checkpoint, from Frontier) (LeafProof, Frontier, error) {
	p, next, err := a.hole(ctx, cp, from)
	if err != nil && ctx.Err() == nil && !IsFresh(ctx) {
		p, next, err = a.hole(Fresh(ctx), cp, from)
	}
	if err != nil {
		return LeafProof{}, from, fmt.Errorf("hash of leaf %d: %w", from.Size, err)
	}
	return p, next, nil
}

func (a *Audit) hole(ctx context.Context, cp Checkpoint, from Frontier) (LeafProof, Frontier, error) {
	hasher, ok := a.Log.(LeafHasher)
	if !ok {
		return LeafProof{}, from, errors.New("this log gives none without the leaf")
	}
	hash, err := hasher.LeafHash(ctx, from.Size, cp)
	if err != nil {
		return LeafProof{}, from, err
	}
	r, err := from.Range()
	if err != nil {
		return LeafProof{}, from, err
	}
	if err := r.Append(hash[:], nil); err != nil {
		return LeafProof{}, from, err
	}
	hashes, err := a.prove(ctx, r, cp)
	if err != nil {
		return LeafProof{}, from, err
	}
	return LeafProof{Index: from.Size, Hash: hash, Before: from, Consistency: hashes}, Save(r), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
