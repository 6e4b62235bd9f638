package monitor

import (
	"context"
	"errors"
	"fmt"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
)

// take judges one entry; full says that the slice is.
func (x *indexRun) take(ctx context.Context, doc *state.Log, h rekorv1.Hit, e rekorv1.Entry) (full bool) {
	err := e.Err
	if err == nil {
		err = x.prove(ctx, e)
	}
	var unverified *tlog.Unverified
	switch {
	case err == nil && e.Leaf.Index < x.from(doc, h) && e.Leaf.Index >= x.partial:
		x.unread++ // it may count for a value whose list was not read to its end
	case err == nil && e.Leaf.Index < x.from(doc, h):
		x.settled = append(x.settled, h.Leaf)
		x.earlier++
	case err == nil:
		x.settled = append(x.settled, h.Leaf)
		full = x.visit(x.matched, e.Leaf)
	case errors.Is(err, errBeyond) && x.blind:
		full = x.doubt(doc, e.Leaf)
	case errors.Is(err, errBeyond):
		x.waiting++
	case errors.Is(err, rekorv1.ErrNoEntry):
		if h.Plain {
			break // it may be another tree's
		}
		if x.missing++; x.missing == 1 {
			x.firstMissing = h.Leaf
		}
	case errors.As(err, &unverified):
		x.bad = append(x.bad, h)
	default:
		x.left++
		if x.err == nil && x.work.Err() == nil {
			x.err = fmt.Errorf("an entry that its search index lists: %w", err)
		}
	}
	return full
}

func (x *indexRun) visit(m *matcher, leaf tlog.Leaf) (full bool) {
	if x.entries == 0 {
		x.low, x.high = leaf.Index, leaf.Index+1
	}
	x.low, x.high = min(x.low, leaf.Index), max(x.high, leaf.Index+1)
	x.entries++
	return m.Visit(leaf)
}

// doubt holds an entry against the rules that does not prove, once.
func (x *indexRun) doubt(doc *state.Log, leaf tlog.Leaf) (full bool) {
	if doc.Index.Unproven.Has(leaf.Hash) {
		return false
	}
	x.doubtful = append(x.doubtful, leaf.Hash)
	return x.visit(x.unproven, leaf)
}

// prove shows that the tree an entry was proven to be in, and the trusted one, are
// one history. The entry is below the trusted size, so it is in both.
func (x *indexRun) prove(ctx context.Context, e rekorv1.Entry) error {
	if x.frozen || e.Leaf.Index >= x.cp.Size {
		return errBeyond
	}
	at := indexRoot{e.Size, e.Root}
	v, known := x.roots[at]
	if !known || !v.same && tlog.IsFresh(ctx) {
		v = x.compare(ctx, at)
		x.roots[at] = v
	}
	if v.same || v.err != nil {
		return v.err
	}
	return &tlog.Unverified{
		What:   fmt.Sprintf("entry %s of tree %s at %s", e.Leaf.Claims.UUID, x.info.TreeID, x.info.URL),
		Served: e.Served,
		Err:    fmt.Errorf("its inclusion proof leads to root %s at size %d, which is not of one history with the trusted root %s at size %d", e.Root, e.Size, x.cp.Root, x.cp.Size),
	}
}

// compare asks for the consistency proof between a root and the trusted one.
func (x *indexRun) compare(ctx context.Context, at indexRoot) rootVerdict {
	older, newer := tlog.Checkpoint{Size: at.size, Root: at.root}, x.cp
	if older.Size > newer.Size {
		older, newer = newer, older
	}
	same, err := x.audit.Extends(ctx, older, newer)
	var unverified *tlog.Unverified
	if errors.As(err, &unverified) {
		err = nil // what was served is no proof
	}
	return rootVerdict{same, err}
}

// lookAgain asks past every cache for some of what does not verify, and returns what
// is left as suspicions. Their leaves are held against the rules, marked unproven.
func (x *indexRun) lookAgain(doc *state.Log) (denied []*tlog.Incident) {
	kinds := make(map[tlog.Kind]bool)
	doubted := x.bad
	x.bad = nil
	for i, h := range doubted {
		if i == indexDoubted || x.work.Err() != nil {
			x.left += len(doubted) - i
			break
		}
		in, leaf, err := x.persists(doc, h)
		if err != nil {
			x.left++
			x.err = errors.Join(x.err, err)
			continue
		}
		if in == nil {
			continue
		}
		x.bad = append(x.bad, h)
		if leaf.Data != nil {
			x.doubt(doc, leaf)
		}
		if !kinds[in.Kind] {
			kinds[in.Kind] = true
			denied = append(denied, in)
		}
	}
	return denied
}

// persists looks at an entry until it verifies, which settles it, or there is no
// further look.
func (x *indexRun) persists(doc *state.Log, h rekorv1.Hit) (*tlog.Incident, tlog.Leaf, error) {
	ctx := tlog.Fresh(x.work)
	var last error
	var unverified *tlog.Unverified
	var leaf tlog.Leaf
	for _, wait := range x.Again {
		if err := sleep(x.work, wait); err != nil {
			last = err
			break
		}
		e := x.tree.Entries(ctx, []tlog.Hash{h.Leaf})[0]
		err := e.Err
		if err == nil {
			err = x.prove(ctx, e)
		}
		if unverified, last = nil, err; errors.As(err, &unverified) {
			leaf = e.Leaf
			continue
		}
		if err == nil || errors.Is(err, errBeyond) || errors.Is(err, rekorv1.ErrNoEntry) {
			x.take(ctx, doc, h, e)
			return nil, leaf, nil
		}
	}
	if unverified == nil {
		return nil, leaf, fmt.Errorf("what was served as an entry does not verify, and it could not be asked for again: %w", last)
	}
	kind := tlog.BadLeaf
	if leaf.Data != nil {
		kind = tlog.BadProof
	}
	in := tlog.NewBadCheckpoint(x.info.ID, kind, unverified)
	in.Notes = []string{string(x.cp.Note)}
	return in, leaf, nil
}
