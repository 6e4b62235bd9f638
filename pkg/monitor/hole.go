package monitor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// stuck remembers since when leaves cannot be had. After holeAfter each of them
// becomes a hole, whose hash is proven, and reading passes it (P7).
func (w *logRun) stuck(slice tlog.Slice, cp tlog.Checkpoint) (passed bool, err error) {
	now := w.Now().UTC()
	s := state.Stuck{Index: slice.To, End: min(max(slice.Stuck.End, slice.To+1), cp.Size), Since: now, Error: fmt.Sprintf("%.2000s", slice.Stuck.Err)}
	if before := w.st.read().Stuck; before != nil && before.Index <= s.Index && s.Index < before.End {
		s.Since = before.Since
	}
	if now.Sub(s.Since) >= holeAfter {
		return true, w.pass(s, slice.Frontier, cp)
	}
	w.result.Error = fmt.Sprintf("%v; reading stops before it until %s", slice.Stuck, s.Since.Add(holeAfter).Format(time.RFC3339))
	ctx, cancel := w.keep()
	defer cancel()
	return false, w.st.commit(ctx, func(d *state.Log) { d.Stuck = &s })
}

// pass makes holes of leaves that cannot be had: one suspicion for all of them. If
// the budget ends meanwhile, the next run goes on with the rest.
func (w *logRun) pass(s state.Stuck, frontier tlog.Frontier, cp tlog.Checkpoint) error {
	var leaves []tlog.LeafProof
	for index := s.Index; index < s.End && (len(leaves) == 0 || w.work.Err() == nil); index++ {
		leaf, next, err := w.audit.Hole(w.work, cp, frontier)
		if err != nil && len(leaves) == 0 {
			return fmt.Errorf("leaf %d cannot be had, nor can its hash: %w", index, err)
		}
		if err != nil {
			break
		}
		leaves, frontier = append(leaves, leaf), next
	}
	in := tlog.NewHole(w.info.ID, leaves, cp.Note, s.Error)
	ctx, cancel := w.keep()
	defer cancel()
	change, err := w.accuse(ctx, in)
	if err != nil {
		return err
	}
	w.result.Status = StatusTamper
	err = w.st.commit(ctx, func(d *state.Log) {
		change(d)
		for _, leaf := range leaves {
			d.Holes = append(d.Holes, state.Hole{Index: leaf.Index, Hash: leaf.Hash, Since: s.Since, Reason: s.Error, Incident: in.ID})
		}
		d.Scanned, d.Stuck = &frontier, nil
		if frontier.Size < s.End {
			rest := s
			rest.Index = frontier.Size
			d.Stuck = &rest
		}
	})
	w.deliver.poke()
	return err
}

// maxRefill is how many runs of neighbouring holes are asked for again in a run.
const maxRefill = 20

// fillHoles asks once more for the leaves that could not be had, each run for
// other ones first.
func (w *logRun) fillHoles() error {
	runs := neighbours(w.st.read().Holes)
	if len(runs) == 0 {
		return nil
	}
	first := int(w.started.Unix()/max(int64(w.Every/time.Second), 1)) % len(runs)
	for i := range min(len(runs), maxRefill) {
		if w.work.Err() != nil {
			break
		}
		if err := w.refill(runs[(first+i)%len(runs)]); err != nil {
			return err
		}
	}
	return nil
}

// neighbours groups holes, which are in order, into runs without a leaf between.
func neighbours(holes []state.Hole) [][]state.Hole {
	var runs [][]state.Hole
	for _, h := range holes {
		if n := len(runs); n > 0 && runs[n-1][len(runs[n-1])-1].Index+1 == h.Index {
			runs[n-1] = append(runs[n-1], h)
			continue
		}
		runs = append(runs, []state.Hole{h})
	}
	return runs
}

// refill reads those of a run of holes that are served again.
func (w *logRun) refill(holes []state.Hole) error {
	m := w.matcher()
	filled := map[uint64]bool{}
	from, end := holes[0].Index, holes[len(holes)-1].Index+1
	full := false // what is left is read in the next run
	for at := from; at < end && !full; {
		var missing *tlog.LeafError
		next := end
		for leaf, err := range w.log.Leaves(tlog.Fresh(w.work), at, end) {
			if errors.As(err, &missing) {
				next = max(missing.End, missing.Index+1)
			}
			if err != nil {
				break
			}
			if leaf.Hash == holes[leaf.Index-from].Hash {
				filled[leaf.Index] = true
				full = m.Visit(leaf)
			}
			if full {
				break
			}
		}
		at = max(next, at+1)
	}
	findings, bad := m.take()
	if len(filled) == 0 {
		return nil
	}
	ctx, cancel := w.keep()
	defer cancel()
	kept, err := w.keepFindings(ctx, from, end, findings, bad)
	if err != nil {
		return err
	}
	err = w.st.commit(ctx, func(d *state.Log) {
		kept.apply(d)
		d.Entries += uint64(len(filled))
		d.Holes = slices.DeleteFunc(slices.Clone(d.Holes), func(h state.Hole) bool { return filled[h.Index] })
		d.Notices = append(d.Notices, w.notice("%d leaves from index %d on, which could not be had since %s, are served again and were read", len(filled), from, holes[0].Since.Format(time.RFC3339)))
	})
	if err != nil {
		return err
	}
	w.count(uint64(len(filled)), findings, bad)
	w.deliver.poke()
	return nil
}
