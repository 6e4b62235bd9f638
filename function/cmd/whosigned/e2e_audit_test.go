//go:build e2e && linux

package main_test

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/whosigned/whosigned/pkg/entry"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust"
)

// archive keeps the notes of one log, by size.
type archive map[uint64][]byte

func (a archive) Keep(_ context.Context, cp tlog.Checkpoint) ([]byte, error) {
	if _, ok := a[cp.Size]; !ok {
		a[cp.Size] = cp.Note
	}
	return a[cp.Size], nil
}

// reading is what one pass of the library over a log came to.
type reading struct {
	cp     tlog.Checkpoint // the history that was proven
	leaves []tlog.Leaf     // that were proven
	slice  tlog.Slice      // the last one
}

// collector keeps the leaves of a slice.
type collector []tlog.Leaf

func (c *collector) Visit(l tlog.Leaf) bool {
	*c = append(*c, l)
	return len(*c) == 700 // so that slices end within pages and tiles
}
func (c *collector) Reset() { *c = nil }

// readOn audits a log as a run does: it proves the newest checkpoint consistent with
// the trusted one, reads from a frontier on, and proves slice by slice. It ends at
// the checkpoint, or where the log does not go on.
func readOn(t testing.TB, audit *tlog.Audit, trusted *tlog.Checkpoint, from tlog.Frontier) reading {
	t.Helper()
	v, err := audit.Advance(t.Context(), trusted)
	if err != nil || v.Incident != nil || v.Stale || v.Unprovable {
		t.Fatalf("advancing: %+v, %v", v, err)
	}
	r := reading{cp: v.Trusted, slice: tlog.Slice{To: from.Size, Frontier: from}}
	reader := audit.Reader(t.Context(), r.cp, from, r.cp.Size)
	defer reader.Close()
	for !reader.Done() && r.slice.Stuck == nil {
		var leaves collector
		if r.slice, err = reader.Next(&leaves); err != nil {
			t.Fatal(err)
		}
		if r.slice.Err != nil {
			t.Fatal(r.slice.Err)
		}
		r.leaves = append(r.leaves, leaves...)
	}
	return r
}

// checkAudited goes on from what was read before to the log's end, and begins again in
// the middle; either way every leaf must be the one that was submitted.
func checkAudited(t *testing.T, audit *tlog.Audit, before reading, all []logged) {
	size := uint64(len(all))
	byIndex := make([][]byte, size)
	for _, a := range all {
		byIndex[a.index] = a.leaf
	}
	check := func(r reading, from uint64) {
		t.Helper()
		if r.cp.Size != size || r.slice.To != size || r.slice.Stuck != nil || uint64(len(r.leaves)) != size-from {
			t.Fatalf("read %d leaves to %d of %d, stuck %v; want all of %d to %d", len(r.leaves), r.slice.To, r.cp.Size, r.slice.Stuck, from, size)
		}
		for i, l := range r.leaves {
			if at := from + uint64(i); l.Index != at || !bytes.Equal(l.Data, byIndex[at]) {
				t.Fatalf("leaf %d is %d, %x; submitted was %x", at, l.Index, l.Data, byIndex[at])
			}
		}
		if root, err := r.slice.Frontier.Range(); err != nil {
			t.Error(err)
		} else if root, err := tlog.Root(root); err != nil || root != r.cp.Root {
			t.Errorf("the leaves have root %s, %v; want %s", root, err, r.cp.Root)
		}
	}
	check(readOn(t, audit, &before.cp, before.slice.Frontier), before.slice.To)

	middle := size/2 + 1
	cp, err := audit.Log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	frontier, incident, err := audit.Frontier(t.Context(), middle, cp)
	if err != nil || incident != nil {
		t.Fatalf("the left edge at %d: incident %+v, %v", middle, incident, err)
	}
	check(readOn(t, audit, &cp, frontier), middle)
}

// checkIdentities parses every leaf of a log. What was submitted, and nobody else, must
// be named; what is served beside the leaves must be what was submitted with them.
func checkIdentities(t *testing.T, log tlog.Log, ca *tlogtest.CA, all []logged) {
	roots := filepath.Join(t.TempDir(), "roots.pem")
	writeFile(t, roots, ca.RootPEM())
	chains, err := trust.ReadChains(roots, "", trust.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	wants := map[uint64]logged{}
	for _, a := range all {
		wants[a.index] = a
	}
	for _, l := range readOn(t, &tlog.Audit{Log: log, Archive: archive{}}, nil, tlog.Frontier{}).leaves {
		want := wants[l.Index]
		e, err := entry.ParseCT(l.Data)
		if err != nil {
			t.Fatalf("leaf %d: %v", l.Index, err)
		}
		s := e.Signers[0]
		if e.Kind != want.kind() || len(e.Signers) != 1 || uint64(e.Logged.UnixMilli()) != want.entry.Timestamp ||
			!slices.Equal(s.Subjects, []string{subjectOf(want.id)}) || s.Issuer != want.id.Issuer ||
			!bytes.Equal(s.Certificate, want.entry.Certificate) || !bytes.Equal(s.TBS, want.entry.TBS) {
			t.Fatalf("leaf %d:\n got %+v\nwant %+v", l.Index, e, want)
		}
		final, err := entry.FromCertificate(want.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if id := s.CertificateID(); id == "" || id != final.CertificateID() {
			t.Fatalf("leaf %d, a %s, has certificate ID %q, and its certificate %q", l.Index, e.Kind, id, final.CertificateID())
		}

		sub, err := l.Submission(t.Context())
		if err != nil {
			t.Fatalf("leaf %d: %v", l.Index, err)
		}
		if !bytes.Equal(sub.Precertificate, want.entry.Precertificate) || !slices.EqualFunc(sub.Chain, want.entry.Chain, bytes.Equal) {
			t.Fatalf("leaf %d: beside it %x is served, submitted was %+v", l.Index, sub, want.entry)
		}
		if sub.Precertificate != nil {
			if err := s.CheckPrecertificate(sub.Precertificate); err != nil {
				t.Fatalf("leaf %d: %v", l.Index, err)
			}
		}
		if l.Index%97 != 0 {
			continue // two P-384 verifications each
		}
		trusted, known, err := chains.Check(s.Certificate, sub.Chain)
		if sub.Precertificate != nil {
			trusted, known, err = chains.CheckPrecertificate(sub.Precertificate, s.IssuerKeyHash, sub.Chain)
		}
		if !trusted || !known {
			t.Fatalf("leaf %d: trusted %t, known %t: %v", l.Index, trusted, known, err)
		}
	}
}

// subjectOf is the one subject that an identity has.
func subjectOf(id tlogtest.Identity) string { return id.URI + id.Email + id.UserName }
