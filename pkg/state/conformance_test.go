package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// testStore is the contract of [Store] as a test, the same for every store.
// fresh makes an empty place to keep objects in; each call of what it returns
// opens another Store there, as another process would.
func testStore(t *testing.T, fresh func(t *testing.T) (open func() Store)) {
	for _, row := range []struct {
		name string
		test func(t *testing.T, open func() Store)
	}{
		{"an absent object is ErrNotExist", conformAbsent},
		{"what was created is read back by another process", conformCreate},
		{"creating over other content changes nothing and shows what is there", conformCreateExisting},
		{"replace asks for the generation that is stored", conformReplace},
		{"list yields each object below a prefix once", conformList},
		{"only object names are names", conformNames},
		{"an object at the size limit fits and one beyond is refused unwritten", conformLimit},
		{"a context that is done stops every call", conformContext},
		{"a reader sees an object before or after a write and never between", conformWhole},
		{"of many writers at one generation one wins", conformRace},
		{"increments by many processes are all counted", conformCount},
		{"of many creators one wins and the others see its content", conformCreateRace},
	} {
		t.Run(row.name, func(t *testing.T) { row.test(t, fresh(t)) })
	}
}

func conformAbsent(t *testing.T, open func() Store) {
	ctx := t.Context()
	s := open()
	for _, name := range []string{"run.json", "state/a.json", "a/b/c/d"} {
		if _, gen, err := s.Read(ctx, name); !errors.Is(err, ErrNotExist) || gen != "" {
			t.Errorf("Read(%s) = generation %q, %v; want none and ErrNotExist", name, gen, err)
		}
	}
	wantNames(t, s, "")
	wantNames(t, s, "state/")
}

func conformCreate(t *testing.T, open func() Store) {
	ctx := t.Context()
	for i, data := range [][]byte{[]byte("x"), {}, {0, 0xff, '\r', '\n'}, bytes.Repeat([]byte("long "), 100_000)} {
		name := fmt.Sprintf("deep/er/%d", i)
		for range 2 { // again with the same content is success
			if err := open().Create(ctx, name, data); err != nil {
				t.Fatalf("Create(%s): %v", name, err)
			}
		}
		got, gen, err := open().Read(ctx, name)
		if err != nil || !bytes.Equal(got, data) || gen == "" {
			t.Errorf("Read(%s) = %d bytes, generation %q, %v; want %d bytes", name, len(got), gen, err, len(data))
		}
	}
}

func conformCreateExisting(t *testing.T, open func() Store) {
	ctx := t.Context()
	s := open()
	mustCreate(t, s, "a", "first")
	err := open().Create(ctx, "a", []byte("second"))
	exists := (*ExistsError)(nil)
	if !errors.As(err, &exists) || exists.Name != "a" || string(exists.Stored) != "first" {
		t.Errorf("Create over other content: %v, want an *ExistsError with what is stored", err)
	}
	wantContent(t, s, "a", "first")
}

func conformReplace(t *testing.T, open func() Store) {
	ctx := t.Context()
	s := open()
	if _, err := s.Replace(ctx, "a", []byte("x"), "stale"); !errors.Is(err, ErrConflict) {
		t.Errorf("replacing an absent object at some generation: %v, want ErrConflict", err)
	}
	first, err := s.Replace(ctx, "a", []byte("1"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open().Replace(ctx, "a", []byte("x"), ""); !errors.Is(err, ErrConflict) {
		t.Errorf("replacing what exists as if it did not: %v, want ErrConflict", err)
	}
	second, err := open().Replace(ctx, "a", []byte("2"), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, gen, err := s.Read(ctx, "a"); err != nil || gen != second || gen == first {
		t.Errorf("generation read %q, %v; want %q as Replace returned, not %q", gen, err, second, first)
	}
	if _, err := s.Replace(ctx, "a", []byte("x"), first); !errors.Is(err, ErrConflict) {
		t.Errorf("replacing an old generation: %v, want ErrConflict", err)
	}
	wantContent(t, s, "a", "2")
	// A created object is replaced like any other.
	mustCreate(t, s, "b", "1")
	_, gen, err := s.Read(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replace(ctx, "b", []byte("2"), gen); err != nil {
		t.Error(err)
	}
	wantContent(t, s, "b", "2")
}

func conformList(t *testing.T, open func() Store) {
	s := open()
	names := []string{"a", "a-b", "a.json", "a/b", "a/b.c", "a/c/d", "b", "run.json"}
	for _, name := range slices.Backward(names[3:]) {
		mustCreate(t, s, name, "content")
	}
	mustCreate(t, s, "a-b", "")
	wantNames(t, open(), "", "a-b", "a/b", "a/b.c", "a/c/d", "b", "run.json")
	wantNames(t, s, "a", "a-b", "a/b", "a/b.c", "a/c/d")
	wantNames(t, s, "a/", "a/b", "a/b.c", "a/c/d")
	wantNames(t, s, "a/b", "a/b", "a/b.c")
	wantNames(t, s, "a/c/", "a/c/d")
	wantNames(t, s, "run.json", "run.json")
	wantNames(t, s, "c")
	for range s.List(t.Context(), "") {
		break // must not panic
	}
}

func conformNames(t *testing.T, open func() Store) {
	ctx := t.Context()
	s := open()
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".lock", "a/.b",
		"A", "a b", "a\x00b", "a\\b", "a\n", "ä", "%2e", strings.Repeat("a/", 300) + "a"} {
		if _, _, err := s.Read(ctx, name); err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("Read(%q): %v, want a refusal", name, err)
		}
		if err := s.Create(ctx, name, nil); err == nil {
			t.Errorf("Create(%q) succeeded", name)
		}
		if _, err := s.Replace(ctx, name, nil, ""); err == nil || errors.Is(err, ErrConflict) {
			t.Errorf("Replace(%q): %v, want a refusal", name, err)
		}
	}
	for _, prefix := range []string{"/", "..", "a/../", "A", "a//", ".tmp"} {
		for name, err := range s.List(ctx, prefix) {
			if err == nil {
				t.Errorf("List(%q) yielded %q, want a refusal", prefix, name)
			}
		}
	}
	wantNames(t, s, "")
}

func conformLimit(t *testing.T, open func() Store) {
	ctx := t.Context()
	s := open()
	big := make([]byte, MaxObject+1)
	if err := s.Create(ctx, "big", big); err == nil {
		t.Error("Create beyond the limit succeeded")
	}
	if _, err := s.Replace(ctx, "big", big, ""); err == nil {
		t.Error("Replace beyond the limit succeeded")
	}
	wantNames(t, s, "")
	if err := s.Create(ctx, "big", big[:MaxObject]); err != nil {
		t.Fatal(err)
	}
	if got, _, err := s.Read(ctx, "big"); err != nil || len(got) != MaxObject {
		t.Errorf("Read at the limit = %d bytes, %v", len(got), err)
	}
}

func conformContext(t *testing.T, open func() Store) {
	s := open()
	mustCreate(t, s, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, readErr := s.Read(ctx, "a")
	_, replaceErr := s.Replace(ctx, "b", nil, "")
	var listErr error
	for _, err := range s.List(ctx, "") {
		listErr = err
	}
	for call, err := range map[string]error{"Read": readErr, "Create": s.Create(ctx, "b", nil), "Replace": replaceErr, "List": listErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", call, err)
		}
	}
	wantNames(t, s, "", "a")
}

func conformWhole(t *testing.T, open func() Store) {
	ctx := t.Context()
	filled := func(i int) []byte { return bytes.Repeat([]byte{'a' + byte(i%26)}, 1<<20) }
	s := open()
	gen, err := s.Replace(ctx, "filled", filled(0), "")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	together(3, func(i int) {
		if i == 0 { // the writer
			defer close(done)
			for n := 1; n <= 20; n++ {
				if gen, err = s.Replace(ctx, "filled", filled(n), gen); err != nil {
					t.Error(err)
					return
				}
			}
			return
		}
		for reader := open(); ; {
			data, _, err := reader.Read(ctx, "filled")
			if err != nil || len(data) != 1<<20 || bytes.Count(data, data[:1]) != len(data) {
				t.Errorf("read %d bytes, %v; want one of the contents, whole", len(data), err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
}

func conformRace(t *testing.T, open func() Store) {
	ctx := t.Context()
	mustCreate(t, open(), "a", "start")
	_, gen, err := open().Read(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	var won []string
	var mu sync.Mutex
	together(16, func(i int) {
		mine := fmt.Sprintf("writer %d", i)
		_, err := open().Replace(ctx, "a", []byte(mine), gen)
		if err != nil && !errors.Is(err, ErrConflict) {
			t.Errorf("writer %d: %v, want ErrConflict", i, err)
		}
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			won = append(won, mine)
		}
	})
	if len(won) != 1 {
		t.Fatalf("%d writers won: %v", len(won), won)
	}
	wantContent(t, open(), "a", won[0])
}

func conformCount(t *testing.T, open func() Store) {
	const writers, times = 8, 10
	together(writers, func(int) {
		if err := increment(t.Context(), open(), "count", times); err != nil {
			t.Error(err)
		}
	})
	wantContent(t, open(), "count", strconv.Itoa(writers*times))
}

// increment adds one to a number n times, each by compare-and-swap.
func increment(ctx context.Context, s Store, name string, n int) error {
	for done := 0; done < n; {
		data, gen, err := s.Read(ctx, name)
		if err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
		count := 0
		if err == nil {
			if count, err = strconv.Atoi(string(data)); err != nil {
				return err
			}
		}
		_, err = s.Replace(ctx, name, []byte(strconv.Itoa(count+1)), gen)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		done++
	}
	return nil
}

func conformCreateRace(t *testing.T, open func() Store) {
	ctx := t.Context()
	var mu sync.Mutex
	var created int
	var seen []string
	together(16, func(i int) {
		err := open().Create(ctx, "a", fmt.Appendf(nil, "writer %d", i))
		mu.Lock()
		defer mu.Unlock()
		exists := (*ExistsError)(nil)
		switch {
		case err == nil:
			created++
		case errors.As(err, &exists):
			seen = append(seen, string(exists.Stored))
		default:
			t.Errorf("writer %d: %v, want success or an *ExistsError", i, err)
		}
	})
	if created != 1 {
		t.Errorf("%d creators won", created)
	}
	for _, content := range seen {
		wantContent(t, open(), "a", content)
	}
}

// together runs f for 0 to n-1 at once, and waits.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func mustCreate(t *testing.T, s Store, name, content string) {
	t.Helper()
	if err := s.Create(t.Context(), name, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, s Store, name, want string) {
	t.Helper()
	if got, _, err := s.Read(t.Context(), name); err != nil || string(got) != want {
		t.Errorf("%s holds %.100q, %v; want %q", name, got, err, want)
	}
}

func wantNames(t *testing.T, s Store, prefix string, want ...string) {
	t.Helper()
	var got []string
	for name, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Errorf("List(%q): %v", prefix, err)
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("List(%q) = %q, want %q", prefix, got, want)
	}
}
