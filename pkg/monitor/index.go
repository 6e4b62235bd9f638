package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Bounds of what a run does with a search index's answers.
const (
	indexBatch   = 10      // entries asked for with one request
	indexSlice   = 1000    // entries settled with one commit
	indexDoubted = 10      // that do not verify and are looked at again, one by one
	indexHits    = 1 << 16 // entries taken of all that is listed, to be read in one run
	indexSeen    = 1 << 17 // entries remembered of one log: 2 MiB, or 3 MiB of its document
)

// errBeyond says that an entry is not in the trusted history yet.
var errBeyond = errors.New("the entry is not in the trusted history")

// indexRun reads what a Rekor v1 service's search index lists of one tree: coverage
// index. Nothing vouches for the index, so it is only where to look (best effort, and
// every finding says so); what it points at is held to the same as any leaf. An entry
// counts once its bytes hash to the UUID it is listed under, its inclusion proof
// verifies, and the root of that proof is proven consistent with the trusted
// checkpoint (P1). Which entries are settled is committed with what was found in
// them (P2, P3); all others are asked for again in the next run (P7, P9).
type indexRun struct {
	*logRun
	tree *rekorv1.Tree
	cp   tlog.Checkpoint
	// frozen: nothing that is served counts as proven. blind: entries beyond cp may
	// never come into the trusted history. Such are alerted as unproven.
	frozen, blind bool
	queries       []watch.Query
	roots         map[indexRoot]rootVerdict

	// The slice in progress.
	matched, unproven *matcher
	settled, doubtful []tlog.Hash // doubtful ones were held against the rules all the same
	earlier, entries  uint64
	low, high         uint64

	// listed is what the index lists for each query. unread counts entries that the run
	// did not take of it; partial is the lowest index from which on entries count for a
	// query of which not all was taken.
	listed  []listing
	unread  int
	partial uint64

	// What came of the whole run.
	waiting, left, missing int
	firstMissing           tlog.Hash
	bad                    []rekorv1.Hit
	err                    error
}

// indexRoot is a tree that inclusion proofs lead to, rootVerdict whether it and the
// trusted one are of one history.
type (
	indexRoot struct {
		size uint64
		root tlog.Hash
	}
	rootVerdict struct {
		same bool
		err  error
	}
)

// readIndex asks the service's search index for what the rules watch for, and reads
// what is new. That the index fails does not touch what was proven of the log.
func (w *logRun) readIndex(v tlog.Verdict) error {
	tree, ok := w.log.(*rekorv1.Tree)
	if !ok {
		return errNoIndex(w.info)
	}
	if _, err := w.Config.Rules.CheckQueries(); err != nil {
		return err
	}
	queries, uncovered := w.Config.Rules.Queries()
	defer w.noteUncovered(uncovered) // after what is new in this run
	if err := w.startIndex(v.Trusted, queries); err != nil {
		return err
	}
	doc := w.st.read()
	x := &indexRun{
		logRun: w, tree: tree, cp: v.Trusted, queries: queries, frozen: hasProof(doc),
		roots: make(map[indexRoot]rootVerdict), matched: w.matcher(), unproven: w.matcher(),
		listed: make([]listing, len(queries)), partial: math.MaxUint64,
	}
	x.blind = x.frozen || v.Incident != nil || v.Unprovable
	if !w.info.Active && !x.blind && x.from(doc, rekorv1.Hit{Queries: all(queries)}) >= x.cp.Size {
		w.clear = true
		return nil // it takes no more entries, and those it has came before the rules
	}
	return x.read(doc)
}

func (w *logRun) note(format string, args ...any) {
	if len(w.result.Notes) < maxNotes {
		w.result.Notes = append(w.result.Notes, w.say(format, args...))
	}
}

// noteUncovered says each rule, or part of one, that the index cannot be asked for (P9).
func (w *logRun) noteUncovered(uncovered []string) {
	for i, text := range uncovered {
		if left := len(uncovered) - i; left > 1 && len(w.result.Notes) == maxNotes-1 {
			text += fmt.Sprintf(" (and %d more: see whosigned check)", left-1)
		}
		w.note("its search index does not cover %s", text)
	}
}

func all[T any](s []T) []int {
	places := make([]int, len(s))
	for i := range s {
		places[i] = i
	}
	return places
}

// startIndex records which values are asked for, and from which index on entries
// count: for those that were there at the baseline from where reading began, for
// those that came with a change of the rules from now on, as under full coverage.
func (w *logRun) startIndex(cp tlog.Checkpoint, queries []watch.Query) error {
	doc := w.st.read()
	hash, now := w.Config.Rules.Hash(), w.Now().UTC()
	changed := len(doc.Rules) > 0 && doc.Rules[len(doc.Rules)-1].Hash != hash
	var next state.Index
	from := cp.Size
	if doc.Index != nil {
		next = *doc.Index
	} else if !changed {
		from = doc.Start
	}
	before := next.Queries
	next.Queries = make(map[string]uint64)
	added := 0
	for _, q := range queries {
		held, known := before[q.String()]
		if !known {
			held = from
			added++
		}
		next.Queries[q.String()] = held
	}
	if doc.Index != nil && !changed && maps.Equal(before, next.Queries) {
		return nil
	}
	ctx, cancel := w.keep()
	defer cancel()
	return w.st.commit(ctx, func(d *state.Log) {
		d.Index = &next
		if changed || len(d.Rules) == 0 {
			d.Rules = append(d.Rules, state.RulesFrom{Hash: hash, From: cp.Size, At: now})
		}
		switch {
		case doc.Index == nil:
			d.Notices = append(d.Notices, w.notice("the service's search index is asked for %s; entries that it lists are read from index %d on. That is best effort: what it leaves out is not seen", values(len(queries)), max(from, scannedOf(d))))
		case changed:
			d.Notices = append(d.Notices, w.notice("the rules were changed: the new ones hold from index %d on, and its search index is asked for %d further values; to hold them against earlier entries: %s", cp.Size, added, w.scanCommand(d.Start, cp.Size)))
		}
	})
}

func values(n int) string {
	if n == 1 {
		return "1 value"
	}
	return fmt.Sprintf("%d values", n)
}

func (w *logRun) scanCommand(from, to uint64) string {
	return fmt.Sprintf("whosigned scan --config %s --log %s --from %d --to %d", w.Config.Path, w.info.ID, from, to)
}

// from is the index from which on an entry that a hit names counts: the lowest of
// its queries', but after what was read in full.
func (x *indexRun) from(doc *state.Log, h rekorv1.Hit) uint64 {
	from := uint64(math.MaxUint64)
	for _, i := range h.Queries {
		from = min(from, doc.Index.Queries[x.queries[i].String()])
	}
	return max(from, scannedOf(doc))
}

// read asks the index and settles what it lists and was not settled before.
func (x *indexRun) read(doc *state.Log) error {
	hits, found := x.ask(doc)
	x.others(found.Others)
	if err := x.settle(doc, x.inTurn(hits)); err != nil {
		return err
	}
	denied := x.lookAgain(doc)
	err := x.commit()
	if err != nil {
		return err
	}
	for _, in := range denied {
		err = errors.Join(err, x.charge(in))
	}
	failed := x.notAsked(found.Failed)
	x.left += x.unread
	x.clear = len(x.bad) == 0 && x.left == 0 && x.partial == math.MaxUint64 && x.err == nil && failed == nil && x.work.Err() == nil
	if err := x.finish(); err != nil {
		return err
	}
	x.tell()
	return errors.Join(err, x.err, failed)
}

// settle reads hits and commits slice by slice. What cannot be settled stays
// unsettled.
func (x *indexRun) settle(doc *state.Log, hits []rekorv1.Hit) error {
	x.bound(x.matched)
	for len(hits) > 0 && x.work.Err() == nil {
		batch := hits[:min(indexBatch, len(hits))]
		leaves := make([]tlog.Hash, len(batch))
		for i, h := range batch {
			leaves[i] = h.Leaf
		}
		full, before := false, x.left
		for i, e := range x.tree.Entries(x.work, leaves) {
			full = x.take(x.work, doc, batch[i], e) || full
		}
		hits = hits[len(batch):]
		if full || len(x.settled) >= indexSlice {
			if err := x.commit(); err != nil {
				return err
			}
			x.bound(x.matched)
		}
		if x.left == before+len(batch) {
			break // it is the service that fails
		}
	}
	x.left += len(hits)
	return x.commit()
}

// commit makes what was settled count, as commitSlice does.
func (x *indexRun) commit() error {
	findings, bad := x.matched.take()
	nothing, found := x.parted(findings)
	doubtful, more := x.unproven.take()
	for i := range doubtful {
		doubtful[i].Unproven, doubtful[i].Expected = true, false
	}
	findings, bad = append(findings, doubtful...), append(bad, more...)
	for i := range findings {
		findings[i].BestEffort = true
	}
	if len(x.settled) == 0 && len(x.doubtful) == 0 {
		return nil
	}
	ctx, cancel := x.keep()
	defer cancel()
	kept, err := x.keepFindings(ctx, x.low, x.high, findings, bad)
	if err != nil {
		return err
	}
	x.sayFindings(findings)
	err = x.st.commit(ctx, func(d *state.Log) {
		next := *d.Index
		next.Settle(nothing, found, indexSeen)
		next.Unproven = next.Unproven.With(x.doubtful...)
		if next.Unproven.Len() > indexSeen {
			next.Unproven = state.Leaves(nil).With(x.doubtful...) // the others may be alerted again
		}
		if !next.Forgetful {
			next.Earlier += x.earlier
		}
		d.Index = &next
		d.Entries += x.entries
		kept.apply(d)
	})
	if err != nil {
		return err
	}
	x.count(x.entries, findings, bad)
	x.settled, x.doubtful, x.earlier, x.entries = nil, nil, 0, 0
	x.deliver.poke()
	return nil
}

// parted are the settled entries without findings, and those with.
func (x *indexRun) parted(findings []watch.Finding) (nothing, found []tlog.Hash) {
	in := make(map[tlog.Hash]bool, len(findings))
	for _, f := range findings {
		in[f.LeafHash] = true
	}
	for _, leaf := range x.settled {
		if in[leaf] {
			found = append(found, leaf)
		} else {
			nothing = append(nothing, leaf)
		}
	}
	return nothing, found
}

// finish, after a run that read all that is listed, says how many earlier entries
// were passed over, and forgets which entries were unproven.
func (x *indexRun) finish() error {
	doc := x.st.read()
	proven := !x.blind && doc.Index.Unproven.Len() > 0
	if !x.clear || doc.Index.Earlier == 0 && !proven {
		return nil
	}
	ctx, cancel := x.keep()
	defer cancel()
	return x.st.commit(ctx, func(d *state.Log) {
		next := *d.Index
		if next.Earlier > 0 {
			d.Notices = append(d.Notices, x.notice("its search index lists %s from before the rules hold, which are not reported; to hold the rules against them: %s",
				counted(int(next.Earlier)), x.scanCommand(0, slices.Max(slices.Collect(maps.Values(next.Queries))))))
			next.Earlier = 0
		}
		if proven {
			next.Unproven = nil
		}
		d.Index = &next
	})
}

// notAsked is the error for queries that were not answered in full.
func (x *indexRun) notAsked(failed []error) error {
	var first error
	n, unsaid := 0, false
	for i, err := range failed {
		if err == nil {
			continue
		}
		if errors.Is(err, rekorv1.ErrNoSubjects) {
			// Nobody here can change that, and the rest is still best effort: it is said once,
			// and in each run's result.
			unsaid = !x.st.read().Index.NoSubjects
			x.note("%v: subjects that are no email addresses are not asked for", err)
			continue
		}
		if n++; n == 1 {
			first = fmt.Errorf("%s: %w", x.queries[i], err)
		}
	}
	if unsaid {
		first = errors.Join(first, x.sayNoSubjects())
	}
	if n == 0 {
		return first
	}
	return fmt.Errorf("its search index did not answer for %d of %s (its history was checked); the first, %w", n, values(len(failed)), first)
}

// IndexPlan is what a search index answered when `whosigned check` asked it.
type IndexPlan struct {
	Values int    `json:"values"` // that a run asks for
	Asked  string `json:"asked"`  // the one that was asked for, as in "email \"a@b.c\""
	Listed int    `json:"listed"` // entries of this tree that are listed for it
	// Warning is what cannot be asked for at this server, and will not be.
	Warning string `json:"warning,omitempty"`
}

// askIndex asks a tree's search index for the first value that the rules watch for.
// Whether the server takes subjects shows with the first of those, if there is one.
func (r *run) askIndex(ctx context.Context, l tlog.Log) (*IndexPlan, error) {
	tree, ok := l.(*rekorv1.Tree)
	if !ok {
		return nil, errNoIndex(l.Info())
	}
	if _, err := r.Config.Rules.CheckQueries(); err != nil {
		return nil, err
	}
	queries, _ := r.Config.Rules.Queries()
	asked := queries[:1]
	if i := slices.IndexFunc(queries, func(q watch.Query) bool { return q.Field == "subject" }); i > 0 {
		asked = []watch.Query{queries[0], queries[i]}
	}
	found := tree.Search(ctx, inRekor(asked), func(int, tlog.Hash) bool { return false })
	p := &IndexPlan{Values: len(queries), Asked: asked[0].String(), Listed: found.Listed[0]}
	for i, err := range found.Failed {
		switch {
		case errors.Is(err, rekorv1.ErrNoSubjects):
			p.Warning = fmt.Sprintf("%v: rules by subjects that are no email addresses are not covered here", err)
		case tlog.IsTooLarge(err):
			p.Warning = fmt.Sprintf("its search index lists more for %s than is read of one answer: %v", asked[i], err)
		case err != nil:
			return nil, fmt.Errorf("its search index does not answer for %s: %w", asked[i], err)
		}
	}
	return p, nil
}

func errNoIndex(info tlog.Info) error {
	return fmt.Errorf("coverage: index is for rekor-v1, this log is of type %s; set coverage: full or consistency", info.Type)
}

// inRekor are queries as package rekorv1 has them.
func inRekor(queries []watch.Query) []rekorv1.Query {
	asked := make([]rekorv1.Query, len(queries))
	for i, q := range queries {
		asked[i] = rekorv1.Query{Field: q.Field, Value: q.Value, Format: q.Format}
	}
	return asked
}

func (x *indexRun) sayNoSubjects() error {
	ctx, cancel := x.keep()
	defer cancel()
	return x.st.commit(ctx, func(d *state.Log) {
		next := *d.Index
		next.NoSubjects = true
		d.Index = &next
		d.Notices = append(d.Notices, x.notice("%v: rules by subjects that are no email addresses are not covered here. "+
			"The CT logs have every certificate: watch them in full, and set coverage: consistency here if that is enough", rekorv1.ErrNoSubjects))
	})
}

// others says that the index lists entries of trees that the service does not have.
func (x *indexRun) others(listed map[string]int) {
	if !x.info.Active {
		return // said once for the service
	}
	for id, url := range x.doc.known() {
		if _, tree, _ := strings.Cut(string(id), "-"); url == x.info.URL {
			delete(listed, tree)
		}
	}
	if len(listed) == 0 {
		return
	}
	n := 0
	for _, count := range listed {
		n += count
	}
	tree := slices.Min(slices.Collect(maps.Keys(listed)))
	x.health.lasting("log:"+string(x.info.ID)+":index-trees", x.say("the search index lists %s of %d trees that the service does not have, such as tree %s", counted(n), len(listed), tree),
		"they cannot be read; ask the service's operator where those trees are")
}

// tell puts what is left to read into the result, and into health if it may not pass.
func (x *indexRun) tell() {
	if x.missing > 0 {
		text := x.say("%s that its search index lists cannot be had, the first with leaf hash %s", counted(x.missing), x.firstMissing)
		x.health.lasting("log:"+string(x.info.ID)+":index-missing", text, "they are asked for again in every run; if it lasts, ask the log's operator")
		x.note("%s that its search index lists cannot be had", counted(x.missing))
	}
	if x.waiting > 0 {
		x.note("%s that its search index lists are newer than the checkpoint, and are read in the next run", counted(x.waiting))
	}
	for query, l := range x.listed {
		x.tellLimits(x.queries[query], l)
	}
	if x.left > 0 {
		x.note("%s that its search index lists are still to be read", counted(x.left))
		if x.result.Status == StatusOK {
			x.result.Status = StatusBehind
		}
	}
}
