package rfc6962

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestFaultsOfOneLeafStopOnlyThere(t *testing.T) {
	const (
		clean       = iota // nothing is wrong
		withheld           // a LeafError without anything served
		wrong              // a LeafError with what was served
		unavailable        // nothing to judge
	)
	lie := func(l tlogtest.Lie) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.Lie(badLeaf, l) }
	}
	inject := func(e tlogtest.Effect) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.Inject(tlogtest.Path("get-entries"), 0, e) }
	}
	has := func(from, to uint64) bool { return from <= badLeaf && badLeaf < to }
	strike := func(e tlogtest.Effect) func(*testing.T, *fixture) {
		return func(t *testing.T, f *fixture) { inject(when(t, has, e))(t, f) }
	}
	more := func(from, to uint64) bool { return to-from > 3 }
	spaced := tlogtest.Edit(func(b []byte) []byte {
		var out bytes.Buffer
		if err := json.Indent(&out, b, " ", "\t"); err != nil {
			panic(err)
		}
		return out.Bytes()
	})
	for _, row := range []struct {
		name  string
		fault func(*testing.T, *fixture)
		want  int
	}{
		{"honest", func(*testing.T, *fixture) {}, clean},
		{"with white space", inject(spaced), clean},
		{"with escapes", inject(tlogtest.Edit(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("/"), []byte(`\/`)) })), clean},
		{"with a byte order of its own", inject(tlogtest.Edit(func(b []byte) []byte {
			return bytes.Replace(b, []byte(`{"entries"`), []byte(`{"size":30,"entries"`), 1)
		})), clean},
		{"no more than 3 at once: 400", func(t *testing.T, f *fixture) {
			inject(when(t, more, tlogtest.Status(400)))(t, f)
		}, clean},
		{"no more than 3 at once: 413", func(t *testing.T, f *fixture) {
			inject(when(t, more, tlogtest.Status(413)))(t, f)
		}, clean},
		{"beside it what is no chain", func(_ *testing.T, f *fixture) { f.LieBeside(badLeaf, []byte("?")) }, clean},
		{"beside it what is not base64", strike(editExtra("%%")), clean},
		{"500", lie(tlogtest.Lie{Status: 500}), withheld},
		{"404", lie(tlogtest.Lie{Status: 404}), withheld},
		{"400", lie(tlogtest.Lie{Status: 400}), withheld},
		{"endless", strike(tlogtest.Oversize(-1)), withheld},
		{"a compressed bomb", strike(tlogtest.GzipBomb(20 << 20)), withheld},
		{"nothing", strike(text("")), withheld},
		{"no entries", strike(text(`{"entries":[]}`)), withheld},
		{"null", strike(text(`{"entries":null}`)), withheld},
		{"garbage", strike(tlogtest.Garbage()), wrong},
		{"an error with status 200", strike(text(`{"error_message":"no"}`)), wrong},
		{"another type", strike(text(`{"entries":7}`)), wrong},
		{"cut short", strike(tlogtest.Edit(func(b []byte) []byte { return b[:len(b)-3] })), wrong},
		{"something after it", strike(tlogtest.Edit(func(b []byte) []byte { return append(b, '7') })), wrong},
		{"entries without leaf", strike(text(`{"entries":[{"extra_data":""}]}`)), wrong},
		{"a leaf that is not base64", strike(tlogtest.Edit(func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"leaf_input":"`), []byte(`"leaf_input":"%`))
		})), wrong},
		{"more than was asked for", strike(editPage(t, func(l []ct.LeafEntry) []ct.LeafEntry { return append(l, l[0]) })), wrong},
		{"millions of empty ones", strike(text(`{"entries":[` + strings.Repeat(`{},`, 1<<20) + `{}]}`)), wrong},
		{"millions of empty leaves", strike(text(`{"entries":[` + strings.Repeat(`{"leaf_input":"","extra_data":""},`, 1<<17) + `{"leaf_input":"","extra_data":""}]}`)), wrong},
		{"429", strike(tlogtest.Status(429)), unavailable},
		{"503", strike(tlogtest.Status(503)), unavailable},
		{"502", strike(tlogtest.Status(502)), unavailable},
		{"cut off", strike(tlogtest.Cut()), unavailable},
		{"truncated", strike(tlogtest.Truncate(100)), unavailable},
		{"a redirect", strike(tlogtest.Redirect("https://example.com/")), unavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := serve(t, allCount)
			f.SetPage(10, true)
			f.checkpoint(t)
			if _, err := read(t.Context(), f.log, 0, allCount); err != nil { // so that pages are known
				t.Fatal(err)
			}
			row.fault(t, f)
			leaves, err := read(t.Context(), f.log, 0, allCount)
			if row.want == clean {
				if err != nil {
					t.Fatalf("got %v, want all leaves", err)
				}
				wantLeaves(t, leaves, 0, allCount)
				return
			}
			var leafErr *tlog.LeafError
			if row.want == unavailable {
				// Nothing of the page need have come.
				if uint64(len(leaves)) > badLeaf {
					t.Errorf("got %d leaves, want at most %d", len(leaves), badLeaf)
				}
				wantLeaves(t, leaves, 0, uint64(len(leaves)))
				var un *tlog.Unavailable
				if !errors.As(err, &un) || errors.As(err, &leafErr) {
					t.Fatalf("got %v, want an Unavailable", err)
				}
				return
			}
			wantLeaves(t, leaves, 0, badLeaf)
			if !errors.As(err, &leafErr) || leafErr.Index != badLeaf || leafErr.End != badLeaf+1 || (leafErr.Served != nil) != (row.want == wrong) {
				t.Fatalf("got %v (%+v), want a LeafError for %d, with what was served: %t", err, leafErr, badLeaf, row.want == wrong)
			}
			rest, err := read(t.Context(), f.log, badLeaf+1, allCount)
			if err != nil {
				t.Fatalf("after the leaf: %v", err)
			}
			wantLeaves(t, rest, badLeaf+1, allCount)
		})
	}
}

// editExtra serves text in place of all extra_data.
func editExtra(s string) tlogtest.Effect {
	return tlogtest.Edit(func(b []byte) []byte {
		var page struct {
			Entries []map[string]string `json:"entries"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			panic(err)
		}
		for _, e := range page.Entries {
			e["extra_data"] = s
		}
		out, err := json.Marshal(page)
		if err != nil {
			panic(err)
		}
		return out
	})
}

func TestABadLeafIsBlamedWithWhatWasServedVerbatim(t *testing.T) {
	f := serve(t, allCount)
	f.checkpoint(t)
	var page string
	f.Inject(tlogtest.Path("get-entries"), 0, when(t, func(from, to uint64) bool { return from <= badLeaf && badLeaf < to },
		tlogtest.Edit(func(b []byte) []byte {
			page = strings.Replace(string(b), `","extra_data`, `!","extra_data`, -1)
			return []byte(page)
		})))
	_, err := read(t.Context(), f.log, 0, allCount)
	var leafErr *tlog.LeafError
	if !errors.As(err, &leafErr) || string(leafErr.Served) != page {
		t.Errorf("got %v with %.100q, want %.100q", err, leafErr.Served, page)
	}
}

// What has the form of a page can only be judged by the root.
func TestALeafThatIsNotInTheTreeIsDeliveredWithItsHash(t *testing.T) {
	f := serve(t, allCount)
	f.checkpoint(t)
	f.Lie(badLeaf, tlogtest.Lie{Data: []byte("{}")})
	leaves, err := read(t.Context(), f.log, 0, allCount)
	if err != nil || len(leaves) != allCount || leaves[badLeaf].Hash != tlog.LeafHash([]byte("{}")) {
		t.Errorf("got %d leaves, %v; want all, number %d with the hash of what was served", len(leaves), err, badLeaf)
	}
}

func TestALogThatFailsAltogetherBlamesNoLeaf(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{
		"500":          tlogtest.Status(500),
		"404":          tlogtest.Status(404),
		"501":          tlogtest.Status(501),
		"garbage":      tlogtest.Garbage(),
		"endless":      tlogtest.Oversize(-1),
		"a login page": text("<html>who are you?</html>"),
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, 1000)
			f.checkpoint(t)
			f.Inject(tlogtest.Path("get-entries"), 0, effect)
			_, err := read(t.Context(), f.log, badLeaf, 1000)
			var un *tlog.Unavailable
			var leafErr *tlog.LeafError
			if !errors.As(err, &un) || errors.As(err, &leafErr) {
				t.Errorf("got %v, want an Unavailable", err)
			}
			if asked := len(f.Requests()); asked > 10 {
				t.Errorf("took %d different requests to see it", asked)
			}
		})
	}
}

func TestLeavesThatCameAreNotAskedForAgainToBlameTheNext(t *testing.T) {
	f := serve(t, allCount)
	f.checkpoint(t)
	f.Lie(badLeaf, tlogtest.Lie{Status: 500})
	leaves, _ := read(t.Context(), f.log, 0, allCount)
	wantLeaves(t, leaves, 0, badLeaf)
	for i := range uint64(badLeaf) {
		if got := f.Reads(i); got != 1 {
			t.Errorf("leaf %d was served %d times, want once", i, got)
		}
	}
}

func TestTheOnlyLeafOfATreeIsBlamedWithoutNeighbours(t *testing.T) {
	f := serve(t, 1)
	f.checkpoint(t)
	f.Lie(0, tlogtest.Lie{Status: 500})
	_, err := read(t.Context(), f.log, 0, 1)
	var leafErr *tlog.LeafError
	if !errors.As(err, &leafErr) {
		t.Errorf("got %v, want a LeafError", err)
	}
}

func TestLeavesBesideOthersThatAreMissingAreBlamedToo(t *testing.T) {
	f := serve(t, allCount)
	f.checkpoint(t)
	for i := uint64(10); i < 20; i++ {
		f.Lie(i, tlogtest.Lie{Status: 500})
	}
	for i := uint64(10); i < 20; i++ {
		_, err := read(t.Context(), f.log, i, allCount)
		var leafErr *tlog.LeafError
		if !errors.As(err, &leafErr) || leafErr.Index != i {
			t.Errorf("leaf %d: got %v, want a LeafError for it", i, err)
		}
	}
	leaves, err := read(t.Context(), f.log, 20, allCount)
	if err != nil {
		t.Fatal(err)
	}
	wantLeaves(t, leaves, 20, allCount)
}

func TestAFailureThatGoesAwayIsNobodysFault(t *testing.T) {
	for times := range 6 {
		f := serve(t, allCount)
		f.checkpoint(t)
		f.Inject(tlogtest.Path("get-entries"), times+1, when(t, func(from, to uint64) bool { return to-from > 1 }, text(`{"entries":[]}`)))
		leaves, err := read(t.Context(), f.log, 0, allCount)
		if err != nil {
			t.Fatalf("%d failures: %v", times, err)
		}
		wantLeaves(t, leaves, 0, allCount)
	}
}
