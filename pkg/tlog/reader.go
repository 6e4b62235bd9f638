package tlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/transparency-dev/merkle/compact"
)

// Visitor is shown every leaf of a slice before the slice is proven. Nothing it
// learns may be acted upon until [Reader.Next] has returned.
type Visitor interface {
	// Visit sees the next leaf, and says whether the slice shall end after it.
	Visit(Leaf) (end bool)
	// Reset tells it to forget the slice's leaves: they will be shown again.
	Reset()
}

// Reader reads the leaves of one log in order, slice by slice.
type Reader struct {
	audit  *Audit
	ctx    context.Context
	cp     Checkpoint
	to     uint64   // where reading ends, at most cp.Size
	proven Frontier // where the next slice begins
	next   func() (Leaf, error, bool)
	stop   func()
}

// Slice is a stretch of leaves that was read and proven.
type Slice struct {
	// From and To bound the leaves that were visited, hashed and proven.
	From, To uint64
	// Frontier is that of To.
	Frontier Frontier
	// Stuck, if set, is why the slice ends at To: the next leaves cannot be had, or
	// are not what the log signed.
	Stuck *LeafError
	// Incident goes with Stuck if what was served in place of the leaf does not
	// verify.
	Incident *Incident
	// Interrupted: the stream's context ended, or the log went away; Err says which.
	Err error
}

// Reader starts reading at from, which must be proven against cp, and ends at to,
// at most cp.Size. Stopping ctx ends the stream; what was read up to then can
// still be proven and kept.
func (a *Audit) Reader(ctx context.Context, cp Checkpoint, from Frontier, to uint64) *Reader {
	r := &Reader{audit: a, ctx: ctx, cp: cp, to: min(to, cp.Size), proven: from}
	r.open(ctx, from.Size, r.to)
	return r
}

// Close ends the read-ahead.
func (r *Reader) Close() { r.stop() }

// Done says whether everything was read.
func (r *Reader) Done() bool { return r.proven.Size >= r.to }

// open streams [from, to) from here on.
func (r *Reader) open(ctx context.Context, from, to uint64) {
	if r.stop != nil {
		r.stop()
	}
	r.next, r.stop = iter.Pull2(r.audit.Log.Leaves(ctx, from, to))
}

// Next reads until the visitor ends the slice, the log's end, or a leaf that
// cannot be passed, and proves what it read, even if the reader's context has
// ended meanwhile. After an error nothing of the slice counts, and the reader is of
// no more use.
func (r *Reader) Next(v Visitor) (Slice, error) {
	ctx := r.ctx
	slice := Slice{From: r.proven.Size, To: r.proven.Size}
	hashes, err := r.read(v, &slice, r.to)
	if err != nil {
		return slice, err
	}
	if slice.Stuck != nil {
		if hashes, err = r.lookAgain(ctx, v, &slice, hashes); err != nil {
			return slice, err
		}
	}
	err = r.settle(ctx, &slice, hashes)
	var denied *mismatch
	if errors.As(err, &denied) {
		return r.dispute(ctx, v, slice)
	}
	if err == nil && slice.Stuck != nil && slice.Stuck.Served != nil {
		slice.Incident = r.badLeaf(ctx, &slice)
	}
	return slice, err
}

// read takes leaves off the stream up to index end, lengthens slice by them and
// returns their hashes.
func (r *Reader) read(v Visitor, slice *Slice, end uint64) ([]Hash, error) {
	var hashes []Hash
	for slice.To < end {
		leaf, err, ok := r.next()
		var leafErr *LeafError
		switch {
		case !ok:
			slice.Err = fmt.Errorf("the stream ended at leaf %d of %d", slice.To, end)
			return hashes, nil
		case errors.As(err, &leafErr) && r.ctx.Err() == nil:
			slice.Stuck = leafErr
			return hashes, nil
		case err != nil:
			slice.Err = err
			return hashes, nil
		case leaf.Index != slice.To:
			return nil, fmt.Errorf("leaf %d came where %d was due", leaf.Index, slice.To)
		}
		hashes = append(hashes, leaf.Hash)
		slice.To++
		if v.Visit(leaf) {
			break
		}
	}
	return hashes, nil
}

// lookAgain asks once more, caches bypassed, for the leaves at which the stream
// got stuck. If they can be had now, the slice ends after them.
func (r *Reader) lookAgain(ctx context.Context, v Visitor, slice *Slice, hashes []Hash) ([]Hash, error) {
	end := min(max(slice.Stuck.End, slice.To+1), r.to)
	stuck := *slice.Stuck
	looked, lookErr := false, error(nil)
	for _, wait := range r.audit.again() {
		if err := sleep(r.ctx, wait); err != nil {
			break
		}
		first := *slice.Stuck
		slice.Stuck = nil
		r.open(Fresh(r.ctx), slice.To, end)
		more, err := r.read(v, slice, end)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, more...)
		if slice.Stuck == nil && slice.Err == nil {
			r.open(r.ctx, slice.To, r.to)
			return hashes, nil
		}
		if slice.Err != nil {
			// The log went away while it was asked again: the first answer stands.
			lookErr = slice.Err
			slice.Stuck, slice.Err = &first, nil
			continue
		}
		looked = true
	}
	if !looked {
		// Once is no sign: it does not count.
		slice.Stuck = nil
		slice.Err = fmt.Errorf("%w, and it could not be asked for again: %w", &stuck, errors.Join(lookErr, context.Cause(r.ctx)))
	}
	return hashes, nil
}

// badLeaf is for an answer that is not the leaf after a slice, nor another one.
func (r *Reader) badLeaf(ctx context.Context, slice *Slice) *Incident {
	in := newIncident(r.audit.Log.Info().ID, BadLeaf, slice.To)
	in.Text = fmt.Sprintf("the log serves something else in place of leaf %d: %v", slice.To, slice.Stuck.Err)
	in.Notes = []string{string(r.cp.Note)}
	in.Served = slice.Stuck.Served
	evidence := LeafEvidence{Index: slice.To, Error: slice.Stuck.Err.Error()}
	if p, _, err := r.audit.Hole(Fresh(ctx), r.cp, slice.Frontier); err != nil {
		evidence.Error += "; " + err.Error()
	} else {
		evidence.prove(p)
	}
	in.Leaves = []LeafEvidence{evidence}
	return in
}

// settleTime is how long the proof at the end of a slice may take. It has its own
// time, so that what was read is not lost when the reader's is over.
const settleTime = 30 * time.Second

// settle computes the frontier at the slice's end and proves it.
func (r *Reader) settle(ctx context.Context, slice *Slice, hashes []Hash) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	tree, err := r.extend(hashes)
	if err != nil {
		return err
	}
	// The frontier at From was proven before.
	if slice.To > slice.From {
		if _, err := r.audit.prove(ctx, tree, r.cp); err != nil {
			return err
		}
	}
	slice.Frontier = Save(tree)
	r.proven = slice.Frontier
	return nil
}

func (r *Reader) extend(hashes []Hash) (*compact.Range, error) {
	tree, err := r.proven.Range()
	if err != nil {
		return nil, err
	}
	for i := range hashes {
		if err := tree.Append(hashes[i][:], nil); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// reread shows the visitor [From, end) once more, caches bypassed.
func (r *Reader) reread(v Visitor, end uint64) (Slice, []Hash, error) {
	v.Reset()
	slice := Slice{From: r.proven.Size, To: r.proven.Size}
	r.open(Fresh(r.ctx), slice.From, end)
	hashes, err := r.read(toEnd{v}, &slice, end)
	return slice, hashes, err
}

// toEnd keeps a visitor from ending a slice whose end is given.
type toEnd struct{ Visitor }

func (t toEnd) Visit(leaf Leaf) bool { t.Visitor.Visit(leaf); return false }

// maxCuts is how often a disputed slice is cut off before a bad leaf: a log that
// serves another bad leaf each time does not keep us here.
const maxCuts = 3

// dispute is for a slice whose root is not in the signed tree: it is read again
// with caches bypassed, and if that does not help, cut off before the first leaf
// that is not the one the log signed.
func (r *Reader) dispute(ctx context.Context, v Visitor, slice Slice) (Slice, error) {
	ctx = Fresh(ctx)
	again, hashes, err := r.reread(v, slice.To)
	if err != nil {
		return again, err
	}
	err = r.settle(ctx, &again, hashes)
	var denied *mismatch
	if !errors.As(err, &denied) {
		r.open(r.ctx, again.To, r.to)
		return again, err // it was a cache, or a replica; or the log went away
	}
	for range maxCuts {
		good, first, err := r.lastGood(ctx, hashes, denied)
		if ctx.Err() != nil {
			return again, context.Cause(ctx)
		}
		if err != nil {
			break // a log whose leaves do not prove is not cleared by giving no proofs
		}
		served := hashes[good]
		cut, cutHashes, err := r.reread(v, r.proven.Size+uint64(good))
		if err != nil {
			return cut, err
		}
		err = r.settle(ctx, &cut, cutHashes)
		if errors.As(err, &denied) {
			hashes = cutHashes // what proved a moment ago was served otherwise now
			continue
		}
		if err == nil && cut.Err == nil && cut.Stuck == nil {
			r.accuse(ctx, &cut, served, first)
		}
		return cut, err
	}
	v.Reset()
	none := Slice{From: r.proven.Size, To: r.proven.Size, Frontier: r.proven}
	r.accuse(ctx, &none, hashes[0], denied)
	return none, nil
}

// lastGood is the number of leaves of the disputed slice that prove, found by
// bisection: each step asks for one consistency proof. It returns also how the
// leaf after them is denied; denied is how all of them are.
func (r *Reader) lastGood(ctx context.Context, hashes []Hash, denied *mismatch) (int, *mismatch, error) {
	good, bad := 0, len(hashes)
	for bad-good > 1 {
		mid := (good + bad) / 2
		tree, err := r.extend(hashes[:mid])
		if err != nil {
			return 0, nil, err
		}
		var first *mismatch
		switch _, err := r.audit.prove(ctx, tree, r.cp); {
		case err == nil:
			good = mid
		case errors.As(err, &first):
			bad, denied = mid, first
		default:
			return 0, nil, err
		}
	}
	return good, denied, nil
}

// accuse makes the leaf after a slice an incident with its evidence: with its hash
// as served the tree does not prove, which is how it is denied.
func (r *Reader) accuse(ctx context.Context, slice *Slice, served Hash, denied *mismatch) {
	index := slice.To
	evidence := LeafEvidence{Index: index, ServedHash: &served, Before: &slice.Frontier}
	r.open(Fresh(r.ctx), index, index+1)
	if leaf, err, ok := r.next(); ok && err == nil && leaf.Hash == served {
		evidence.Served = leaf.Data
	}
	kind := BadLeaf
	reason := fmt.Errorf("leaf %d as served, with hash %s, is not what the log signed: %w", index, served, denied)
	if p, _, err := r.audit.Hole(ctx, r.cp, slice.Frontier); err != nil {
		evidence.Error = err.Error()
	} else {
		evidence.prove(p)
		if p.Hash == served {
			// The leaf is the one that was signed; what denied it was wrong, or is about
			// a later one.
			kind = BadProof
			reason = fmt.Errorf("leaf %d is what the log signed, and what it serves from there on to size %d does not prove: %w", index, denied.size, denied)
		}
	}
	in := newIncident(r.audit.Log.Info().ID, kind, index)
	in.Text = reason.Error()
	in.Notes = []string{string(r.cp.Note)}
	in.Leaves = []LeafEvidence{evidence}
	in.Consistency = denied.evidence()
	slice.Incident = in
	slice.Stuck = &LeafError{Index: index, End: index + 1, Served: evidence.Served, Err: reason}
}
