package monitor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/entry"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/watch"
)

// A batch is what one worker parses and matches at a time: enough to make
// handing it over cheap, little enough to keep few bytes in hand.
const (
	batchLeaves = 64
	batchBytes  = 512 << 10
)

// maxHeld bounds a slice's findings and unparsed leaves, in bytes: all of them are in
// memory until the slice's commit.
const maxHeld = 4 << 20

// workers bounds the batches in hand over all logs: one on each core and one
// waiting for it.
type workers chan struct{}

func newWorkers() workers { return make(workers, runtime.GOMAXPROCS(0)+1) }

// unparsed is a leaf that could not be parsed: counted, kept and reported.
type unparsed struct {
	leaf tlog.Leaf
	kind *entry.UnknownKindError // set if only its kind is not known
	err  error
}

// matcher parses leaves on all cores and holds them against the rules. It
// implements tlog.Visitor: the leaves between two calls of take are a slice.
type matcher struct {
	info    tlog.Info
	rules   *watch.Rules
	chains  *trust.Chains
	issuers *issuers
	workers workers
	// end says, after each batch, whether the slice shall end.
	end func(leaves, findings, unparsed int) bool
	// saw is told how many leaves of the slice were seen, for progress on a terminal.
	saw func(leaves int)

	batch []tlog.Leaf
	bytes int
	seen  int // leaves of this slice

	wg       sync.WaitGroup
	mu       sync.Mutex
	findings []watch.Finding
	unparsed []unparsed
	held     int // bytes, see maxHeld
}

func newMatcher(cfg *config.Config, info tlog.Info, w workers, x *issuers) *matcher {
	return &matcher{info: info, rules: cfg.Rules, chains: cfg.Chains, issuers: x, workers: w, saw: func(int) {}}
}

// What a log may take of a run's time for the certificates beside its leaves: it
// invents as many leaves that fit a rule as it likes, and all logs share the workers.
const (
	issuerTime  = 5 * time.Second  // one look
	issuersTime = 10 * time.Second // all looks together; an honest log's take a fraction, for they are few
)

// issuers gets what a CT log serves beside the leaves of findings.
type issuers struct {
	ctx      context.Context
	one, all time.Duration
	spent    atomic.Int64           // time, in vain or not: slow answers hold the workers as none do
	odd      atomic.Pointer[string] // what was served beside a leaf and is not what it committed to
}

func (x *issuers) wrong(leaf tlog.Leaf, err error) {
	text := fmt.Sprintf("what it serves as the precertificate of index %d is not what it committed to: %.200s", leaf.Index, err)
	x.odd.CompareAndSwap(nil, &text)
}

func (r *run) newIssuers() *issuers {
	return &issuers{ctx: r.work, one: r.issuerTime, all: r.issuersTime}
}

// local is what is there without asking the log.
func (x *issuers) local(leaf tlog.Leaf) tlog.Submission {
	offline, cancel := context.WithCancel(x.ctx)
	cancel()
	sub, _ := leaf.Submission(offline)
	return sub
}

// fetch gets everything beside a leaf, or as much as can be had.
func (x *issuers) fetch(leaf tlog.Leaf) (tlog.Submission, error) {
	if x.spent.Load() >= int64(x.all) {
		return x.local(leaf), errors.New("the log took too long to give the certificates beside other leaves, and is not asked again in this run")
	}
	began := time.Now()
	defer func() { x.spent.Add(int64(time.Since(began))) }()
	ctx, cancel := context.WithTimeout(x.ctx, x.one)
	defer cancel()
	return leaf.Submission(ctx)
}

// trusted checks the certificate of a signer that fits a rule against the CAs.
func (m *matcher) trusted(leaf tlog.Leaf, s *entry.Signer) (watch.Trust, string) {
	switch {
	case m.chains.Len() == 0:
		return watch.Unknown, "no CA certificates are configured"
	case len(s.TBS) > 0:
		return m.trustedPrecertificate(leaf, s)
	}
	trusted, _, err := m.chains.Check(s.Certificate, s.Chain)
	if trusted || leaf.Submission == nil {
		return verdict(trusted, err)
	}
	// The CAs that are known may want links that the log has.
	return m.linked(leaf, func(chain [][]byte) (bool, error) {
		trusted, _, err := m.chains.Check(s.Certificate, chain)
		return trusted, err
	})
}

// linked checks a certificate with the chain that the log serves beside the leaf, as
// far as it is needed. That a part of it cannot be had does not make it untrusted.
func (m *matcher) linked(leaf tlog.Leaf, check func(chain [][]byte) (bool, error)) (watch.Trust, string) {
	if trusted, _ := check(m.issuers.local(leaf).Chain); trusted {
		return watch.Trusted, ""
	}
	sub, lost := m.issuers.fetch(leaf)
	trusted, err := check(sub.Chain)
	if !trusted && lost != nil {
		return watch.Unknown, fmt.Sprintf("the certificates beside the leaf cannot be had: %v", lost)
	}
	return verdict(trusted, err)
}

func verdict(trusted bool, err error) (watch.Trust, string) {
	switch {
	case trusted:
		return watch.Trusted, ""
	case err != nil:
		return watch.Untrusted, err.Error()
	}
	return watch.Untrusted, "the certificate does not chain to a trusted CA"
}

// trustedPrecertificate checks the chain of the precertificate that the log serves
// beside the leaf, once that is shown to be the one that the leaf commits to. It
// becomes the signer's certificate then.
func (m *matcher) trustedPrecertificate(leaf tlog.Leaf, s *entry.Signer) (watch.Trust, string) {
	if leaf.Submission == nil {
		return watch.Unknown, "there is no precertificate to check"
	}
	pre := m.issuers.local(leaf).Precertificate
	if err := s.CheckPrecertificate(pre); err != nil {
		// Nothing commits to what is beside the leaf, so this says of the log that it
		// serves it wrongly, and nothing of the certificate.
		m.issuers.wrong(leaf, err)
		return watch.Unknown, fmt.Sprintf("what the log serves as the precertificate is not what it committed to: %v", err)
	}
	s.Certificate = pre
	return m.linked(leaf, func(chain [][]byte) (bool, error) {
		trusted, _, err := m.chains.CheckPrecertificate(pre, s.IssuerKeyHash, chain)
		return trusted, err
	})
}

// Visit implements tlog.Visitor.
func (m *matcher) Visit(leaf tlog.Leaf) bool {
	m.batch = append(m.batch, leaf)
	m.bytes += len(leaf.Data) + leaf.Beside
	if len(m.batch) < batchLeaves && m.bytes < batchBytes {
		return false
	}
	m.flush()
	m.mu.Lock()
	found, bad, held := len(m.findings), len(m.unparsed), m.held
	m.mu.Unlock()
	return held >= maxHeld || m.end != nil && m.end(m.seen, found, bad)
}

// Reset implements tlog.Visitor.
func (m *matcher) Reset() { m.take() }

// take waits for the batches in hand and returns what the slice held, in the
// log's order.
func (m *matcher) take() ([]watch.Finding, []unparsed) {
	m.flush()
	m.wg.Wait()
	findings, bad := m.findings, m.unparsed
	m.findings, m.unparsed, m.seen, m.held = nil, nil, 0, 0
	// Stable: the findings of one leaf stay in the order of its signers.
	slices.SortStableFunc(findings, func(a, b watch.Finding) int { return cmp.Compare(a.Index, b.Index) })
	slices.SortFunc(bad, func(a, b unparsed) int { return cmp.Compare(a.leaf.Index, b.leaf.Index) })
	return findings, bad
}

// visitAll shows a matcher the leaves [from, to) without proving anything, and
// returns how far it came: to the end, or as far as the matcher takes at once. A
// range that cannot be had is passed over, and named.
func visitAll(ctx context.Context, log tlog.Log, m *matcher, from, to uint64) (next uint64, missed []state.Range, err error) {
	var last error
	for from < to {
		var skip *tlog.LeafError
		for leaf, err := range log.Leaves(ctx, from, to) {
			if last = err; err != nil {
				break
			}
			from = leaf.Index + 1
			if m.Visit(leaf) {
				return from, missed, nil
			}
		}
		if !errors.As(last, &skip) {
			return from, missed, last
		}
		end := min(to, max(from+1, skip.End))
		missed = append(missed, state.Range{From: from, To: end})
		from, last = end, nil
	}
	return from, missed, nil
}

func (m *matcher) flush() {
	if len(m.batch) == 0 {
		return
	}
	batch, large := m.batch, m.bytes > 2*batchBytes
	m.batch, m.bytes = make([]tlog.Leaf, 0, batchLeaves), 0
	m.seen += len(batch)
	m.saw(m.seen)
	m.workers <- struct{}{}
	m.wg.Go(func() {
		defer func() { <-m.workers }()
		findings, bad, held := m.match(batch)
		if held == 0 {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.findings = append(m.findings, findings...)
		m.unparsed = append(m.unparsed, bad...)
		m.held += held
	})
	if large {
		// A leaf of megabytes takes several times that to parse. Until it is parsed no
		// more is read, and of all logs only this one has the lane for chunks of its size.
		m.wg.Wait()
	}
}

func (m *matcher) match(batch []tlog.Leaf) (findings []watch.Finding, bad []unparsed, held int) {
	var leaf tlog.Leaf
	trusted := func(s *entry.Signer) (watch.Trust, string) { return m.trusted(leaf, s) }
	for _, leaf = range batch {
		e, err := parse(m.info.Type, leaf.Data)
		if m.info.Type == tlog.StaticCT && err == nil {
			err = misplaced(leaf)
		}
		if e != nil {
			for _, f := range m.rules.Match(e, trusted) {
				f = m.locate(f, leaf)
				findings = append(findings, f)
				held += f.Size()
				if f.Cut && err == nil {
					err = errors.New("it holds more than a finding shows")
				}
			}
		}
		if err != nil {
			u := unparsed{leaf: leaf, err: err}
			errors.As(err, &u.kind)
			// The buffer that the leaf lies in is as large as its bundle. A leaf that is most
			// of that ends the slice: there is room for it, but not for both.
			if u.leaf.Submission = nil; len(leaf.Data) < tlog.MaxChunk/2 {
				u.leaf.Data = bytes.Clone(leaf.Data)
			}
			bad = append(bad, u)
			held += len(leaf.Data) + 1
		}
	}
	return findings, bad, held
}

// parse reads a leaf of a log of some type. A panic in one of the many parsers behind
// it (PGP, RPM, CMS, …) is one more way of an entry not to parse: it must not stop the log.
func parse(t tlog.Type, leaf []byte) (e *entry.Entry, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("parser panicked: %v", r)
		}
	}()
	if t == tlog.RFC6962 || t == tlog.StaticCT {
		return entry.ParseCT(leaf)
	}
	return entry.Parse(leaf)
}

// misplaced says if a static CT log committed to another index than the leaf has:
// what holds its SCT then looks for it in the wrong place.
func misplaced(leaf tlog.Leaf) error {
	index, err := tiles.LeafIndex(leaf.Data)
	if err == nil && index != leaf.Index {
		err = fmt.Errorf("it commits to index %d", index)
	}
	return err
}

// locate fills in what the entry itself does not say: where it is, and what the
// log claims about it.
func (m *matcher) locate(f watch.Finding, leaf tlog.Leaf) watch.Finding {
	f.Log, f.Origin, f.LogType = m.info.ID, m.info.Origin, m.info.Type
	f.Index, f.LeafHash = leaf.Index, leaf.Hash
	f.Link = link(m.info, leaf)
	c := leaf.Claims
	if c == nil {
		return f
	}
	f.UUID, f.LogIndex = c.UUID, &c.GlobalIndex
	vouched := "nothing"
	if c.Vouched != nil && c.Vouched() {
		vouched = "signed entry timestamp"
	}
	f.Times = append([]watch.Time{{Time: c.IntegratedTime, What: "integrated", Vouched: vouched}}, f.Times...)
	return f
}

// link is where the entry can be looked at. It is built from the configured URL
// and numbers, never from what the log says.
func link(info tlog.Info, leaf tlog.Leaf) string {
	u, err := url.Parse(info.URL)
	if err != nil {
		return ""
	}
	switch info.Type {
	case tlog.RekorV1:
		if leaf.Claims == nil {
			return ""
		}
		if u.Host == "rekor.sigstore.dev" {
			return fmt.Sprintf("https://search.sigstore.dev/?logIndex=%d", leaf.Claims.GlobalIndex)
		}
		return u.JoinPath("api/v1/log/entries").String() + fmt.Sprintf("?logIndex=%d", leaf.Claims.GlobalIndex)
	case tlog.RekorV2:
		return u.JoinPath(bundlePath(leaf.Index)).String()
	case tlog.RFC6962:
		return u.JoinPath("ct/v1/get-entries").String() + fmt.Sprintf("?start=%d&end=%d", leaf.Index, leaf.Index)
	case tlog.StaticCT:
		return u.JoinPath(strings.Replace(bundlePath(leaf.Index), "tile/entries/", "tile/data/", 1)).String()
	}
	return ""
}
