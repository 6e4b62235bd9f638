package rekorv1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// flood lists n entries of the active tree under a key, which it does not have.
func (f *fixture) flood(key string, n int) {
	prefix := f.rekor.Active().UUID(nil)[:16]
	uuids := make([]string, n)
	for i := range uuids {
		uuids[i] = prefix + tlog.LeafHash(fmt.Append(nil, key, i)).String()
	}
	f.rekor.Index().List(key, uuids...)
}

func TestALongAnswerIsReadAsItComesAndHoldsOnlyWhatIsWanted(t *testing.T) {
	f, tree := indexed(t, 2)
	f.flood("a@b.c", 51000)
	f.list("a@b.c", body("a", 0))
	f.list("x@b.c", body("a", 1))
	ours, told := tlog.LeafHash(body("a", 0)), 0
	queries := []Query{email("a@b.c"), email("x@b.c")}
	found := tree.Search(t.Context(), queries, func(query int, leaf tlog.Hash) bool {
		if query == 0 {
			told++
		}
		return query == 1 || leaf == ours
	})
	if found.Failed[0] != nil || found.Failed[1] != nil || told != 51001 || found.Listed[0] != 51001 || found.Listed[1] != 1 {
		t.Errorf("told of %d, listed %v, failed %v; want all 51001, and 1", told, found.Listed, found.Failed)
	}
	if len(found.Hits) != 2 {
		t.Errorf("%d hits, want 2", len(found.Hits))
	}
}

func TestAnEntryIsAHitOfEveryQueryThatListsItOnceItIsWanted(t *testing.T) {
	f, tree := indexed(t, 1)
	queries := []Query{email("a@b.c"), email("b@b.c"), email("c@b.c")}
	for _, q := range queries {
		f.list(q.Value, body("a", 0))
	}
	found := tree.Search(t.Context(), queries, func(query int, _ tlog.Hash) bool { return query == 1 })
	if len(found.Hits) != 1 || fmt.Sprint(found.Hits[0].Queries) != "[1 2]" {
		t.Errorf("got %+v, want one of queries 1 and 2", found.Hits)
	}
}

func TestEveryTreeReadsALongAnswerForItself(t *testing.T) {
	private, key := newKey(t)
	f := serve(t, private, bodies("a", 0, 1)...)
	f.rekor.Index().On()
	f.list("a@b.c", body("a", 0))
	f.flood("a@b.c", 20000)
	f.rotate(t, private, bodies("b", 0, 1)...)
	f.list("a@b.c", body("b", 0))
	for _, tree := range f.discover(t, nil, key).Trees {
		want, listed := tlog.LeafHash(body("a", 0)), 20001
		if tree.Info().Active {
			want, listed = tlog.LeafHash(body("b", 0)), 1
		}
		found := tree.Search(t.Context(), []Query{email("a@b.c")}, func(_ int, leaf tlog.Hash) bool { return leaf == want })
		if len(found.Hits) != 1 || found.Hits[0].Leaf != want || found.Failed[0] != nil || found.Listed[0] != listed || sum(found.Others) != 20002-listed {
			t.Errorf("tree %s: %d hits, listed %v and %v, failed %v", tree.treeID, len(found.Hits), found.Listed, found.Others, found.Failed)
		}
	}
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func TestAnswersThatAreTooMuchToKeepTogetherAreReadAllTheSame(t *testing.T) {
	f, tree := indexed(t, 0)
	var queries []Query
	for i := range 8 {
		queries = append(queries, email(fmt.Sprintf("a%d@b.c", i)))
		f.flood(queries[i].Value, 10000)
	}
	found := tree.Search(t.Context(), queries, all)
	if held := tree.service.index.held; held > maxKept {
		t.Errorf("%d UUIDs are kept, want at most %d", held, maxKept)
	}
	for i, n := range found.Listed {
		if n != 10000 || found.Failed[i] != nil {
			t.Errorf("%s: %d listed, error %v; want 10000", queries[i], n, found.Failed[i])
		}
	}
	if len(found.Hits) != 80000 {
		t.Errorf("%d hits, want 80000", len(found.Hits))
	}
}

func TestAnAnswerBeyondTheLimitIsReadToThereAndAnotherPartEachTime(t *testing.T) {
	f, tree := indexed(t, 0)
	f.flood("a@b.c", 250000)
	seen := make(map[tlog.Hash]bool)
	for i := range 2 {
		found := tree.Search(t.Context(), []Query{email("a@b.c")}, func(_ int, leaf tlog.Hash) bool { seen[leaf] = true; return false })
		var large *tlog.TooLargeError
		if !errors.As(found.Failed[0], &large) || large.Limit != tlog.MaxChunk || found.Listed[0] < 200000 || found.Listed[0] == 250000 {
			t.Errorf("search %d: %d listed, failed with %v; want those of %d bytes", i, found.Listed[0], found.Failed[0], tlog.MaxChunk)
		}
	}
	if len(seen) < 230000 {
		t.Errorf("%d different ones in two searches, want nearly all of 250000", len(seen))
	}
}

func TestOneSlowOrFailingQueryDoesNotKeepTheOthersFromBeingAsked(t *testing.T) {
	f, tree := indexed(t, 1)
	var queries []Query
	for i := range 2 * searches {
		queries = append(queries, email(fmt.Sprintf("a%d@b.c", i)))
		f.list(queries[i].Value, body("a", 0))
	}
	first := queries[0].body()
	f.rekor.Inject(func(r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, searchPath) {
			return false
		}
		sent, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		return err == nil && bytes.Equal(sent, first)
	}, 0, tlogtest.Status(http.StatusInternalServerError))
	found := tree.Search(t.Context(), queries, all)
	for i, err := range found.Failed {
		if (err != nil) != (i == 0) {
			t.Errorf("%s: %v", queries[i], err)
		}
	}
}

func TestAProbeThatFailsIsNotTakenForAServerThatKnowsSubjects(t *testing.T) {
	f, tree := indexed(t, 1)
	f.rekor.Index().BeforeSubjects()
	f.rekor.Inject(tlogtest.Path(searchPath), 4, tlogtest.Status(http.StatusInternalServerError)) // every try of the probe
	found := tree.Search(t.Context(), []Query{subject("https://d"), subject("https://e")}, all)
	for i, err := range found.Failed {
		var gone *tlog.Unavailable
		if !errors.As(err, &gone) || errors.Is(err, ErrNoSubjects) {
			t.Errorf("subject %d, which an old server lists nothing for: %v, want an *Unavailable", i, err)
		}
	}
	if n := f.rekor.Requests()[searchURI]; n != 4 {
		t.Errorf("%d requests, want the 4 tries of the probe", n)
	}
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// endless is one byte without end.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestAListThatIsNoneIsRefusedBeforeMuchOfItIsHeld(t *testing.T) {
	uuid := `"` + strings.Repeat("a", 80) + `"`
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		answer io.Reader
		taken  int
		want   string
	}{
		"empty":                 {strings.NewReader(""), 0, "EOF"},
		"null":                  {strings.NewReader("null"), 0, "a list was expected"},
		"an object":             {strings.NewReader(`{"a":1}`), 0, "a list was expected"},
		"a number in it":        {strings.NewReader("[" + uuid + ",1]"), 1, "not what Rekor's search index answers"},
		"no end":                {strings.NewReader("[" + uuid), 1, "EOF"},
		"more behind it":        {strings.NewReader("[" + uuid + "] []"), 1, "something follows"},
		"no UUIDs":              {strings.NewReader(`["x",` + uuid + `,null]`), 1, `lists 2 that are no UUID of an entry, the first "x"`},
		"a reader that fails":   {io.MultiReader(strings.NewReader("["+uuid+","), &failing{broken}), 1, "broken"},
		"a text without end":    {io.MultiReader(strings.NewReader("["+uuid+`,"`), endless('a')), 1, "bytes that are no UUID"},
		"a space without end":   {io.MultiReader(strings.NewReader("["+uuid), endless(' ')), 1, "bytes that are no UUID"},
		"brackets without end":  {endless('['), 0, "not what Rekor's search index answers"},
		"a comma and no number": {strings.NewReader("[" + uuid + ",]"), 1, "not what Rekor's search index answers"},
	} {
		in, taken := &counter{Reader: tc.answer}, 0
		err := readList(in, func(entryID) { taken++ })
		if err == nil || !strings.Contains(err.Error(), tc.want) || taken != tc.taken {
			t.Errorf("%s: %d taken, error %v; want %d, %q", name, taken, err, tc.taken, tc.want)
		}
		if in.n > 4*maxElement {
			t.Errorf("%s: %d bytes were read", name, in.n)
		}
	}
	if err := readList(&failing{broken}, nil); !errors.Is(err, broken) {
		t.Errorf("the reader's error is %v, want it as it is", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }
