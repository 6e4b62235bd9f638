package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

var (
	logA = tlog.ID(strings.Repeat("a", 64))
	logB = tlog.ID(strings.Repeat("b", 64) + "-12")
	noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

// faulty lets a test decide what becomes of each call.
type faulty struct {
	Store
	// write says whether a write reaches the store, and what error it returns
	// unless that is the store's own.
	write func(name string) (apply bool, err error)
	after func() // runs after a write that was applied
	read  func(name string) error
	list  func(prefix string) error
}

func (f *faulty) Read(ctx context.Context, name string) ([]byte, Generation, error) {
	if f.read != nil {
		if err := f.read(name); err != nil {
			return nil, "", err
		}
	}
	return f.Store.Read(ctx, name)
}

func (f *faulty) Create(ctx context.Context, name string, data []byte) error {
	_, err := f.do(name, func() (Generation, error) { return "", f.Store.Create(ctx, name, data) })
	return err
}

func (f *faulty) Replace(ctx context.Context, name string, data []byte, old Generation) (Generation, error) {
	return f.do(name, func() (Generation, error) { return f.Store.Replace(ctx, name, data, old) })
}

func (f *faulty) do(name string, write func() (Generation, error)) (Generation, error) {
	if f.write == nil {
		return write()
	}
	apply, failed := f.write(name)
	if apply {
		gen, err := write()
		if f.after != nil {
			f.after()
		}
		if err != nil || failed == nil {
			return gen, err
		}
	}
	return "", failed
}

func (f *faulty) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	if f.list != nil {
		if err := f.list(prefix); err != nil {
			return func(yield func(string, error) bool) { yield("", err) }
		}
	}
	return f.Store.List(ctx, prefix)
}

func newFaulty(t *testing.T) (*State, *faulty) {
	t.Helper()
	f := &faulty{Store: &folder{root: t.TempDir()}}
	return New(f), f
}

// overwrite puts data in an object's place, whatever is there.
func overwrite(t *testing.T, s Store, name, data string) {
	t.Helper()
	_, gen, err := s.Read(t.Context(), name)
	if err != nil && !errors.Is(err, ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := s.Replace(t.Context(), name, []byte(data), gen); err != nil {
		t.Fatal(err)
	}
}

func saveLog(t *testing.T, s *State, l *Log) {
	t.Helper()
	if err := s.SaveLog(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func TestDocumentsComeBackAsTheyWereSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, _ := newFaulty(t)
		run := &Run{FirstRun: noon, Services: []string{"https://rekor.example"}, Logs: map[tlog.ID]string{logA: "https://rekor.example"},
			Last: map[string]any{"size": uint64(1<<63 + 1)}, Conditions: map[string]Condition{"log": {Text: "quiet", Count: 2, Since: noon}},
			Outbox: []Pending{{Alert: "x", Sinks: []string{"email"}, Errors: map[string]string{"email": "no"}}}}
		if err := s.AcquireLease(ctx, run, "run1", noon.Add(time.Hour), noon); err != nil {
			t.Fatal(err)
		}
		got, err := s.LoadRun(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var last map[string]uint64
		if err := json.Unmarshal(got.Last.(json.RawMessage), &last); err != nil || last["size"] != 1<<63+1 {
			t.Errorf("last result %s, %v", got.Last, err)
		}
		got.Last = run.Last
		if !reflect.DeepEqual(got, run) {
			t.Errorf("run loaded\n%+v, saved\n%+v", got, run)
		}

		l := &Log{ID: logA, Type: tlog.RekorV2, Checkpoint: "note\n", Scanned: &tlog.Frontier{Size: 3, Hashes: []tlog.Hash{{1}, {2}}},
			Holes: []Hole{{Index: 2, Hash: tlog.Hash{3}}}, Stuck: &Stuck{Index: 3, End: 4}, Incidents: []Incident{{ID: "i", Evidence: []string{"e"}}}}
		saveLog(t, s, l)
		if l.Format != Format || l.MinReader != MinReader || l.Writer != "run1/2" || !l.Saved.Equal(time.Now()) {
			t.Errorf("header %+v, want this format, writer run1/2 and now, %v", l.Header, time.Now())
		}
		loaded, err := s.LoadLog(ctx, logA)
		if err != nil || !reflect.DeepEqual(loaded, l) {
			t.Errorf("log loaded\n%+v (%v), saved\n%+v", loaded, err, l)
		}
	})
}

func TestASavedDocumentIsSavedAgainWithoutLoading(t *testing.T) {
	s, _ := newFaulty(t)
	l := &Log{ID: logA}
	for i := range uint64(3) {
		l.Entries = i
		saveLog(t, s, l)
	}
	if got, err := s.LoadLog(t.Context(), logA); err != nil || got.Entries != 2 {
		t.Errorf("loaded %+v, %v; want the last of three saves", got, err)
	}
}

func TestOfTwoWritersTheSecondConflicts(t *testing.T) {
	ctx := t.Context()
	_, f := newFaulty(t)
	one, two := New(f), New(f)
	l1 := &Log{ID: logA}
	saveLog(t, one, l1)
	l2, err := two.LoadLog(ctx, logA)
	if err != nil {
		t.Fatal(err)
	}
	l2.Entries = 2
	saveLog(t, two, l2)
	l1.Entries = 1
	header := l1.Header
	if err := one.SaveLog(ctx, l1); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), logName(logA)) || !strings.Contains(err.Error(), l2.Writer) {
		t.Errorf("second save: %v, want ErrConflict that names the object and the winner %s", err, l2.Writer)
	}
	if l1.Header != header {
		t.Errorf("a failed save changed the header from %+v to %+v", header, l1.Header)
	}
	if err := two.SaveLog(ctx, &Log{ID: logA}); !errors.Is(err, ErrConflict) {
		t.Errorf("saving a new document over one: %v, want ErrConflict", err)
	}
	if got, err := one.LoadLog(ctx, logA); err != nil || got.Entries != 2 {
		t.Errorf("stored %+v, %v; want the first writer's", got, err)
	}
}

func TestAFailedWriteIsReadBackBeforeAnyoneSaysWonOrLost(t *testing.T) {
	broken := errors.New("connection reset")
	rival := func(t *testing.T, f *faulty) { // another run's write
		other := New(f.Store)
		l, err := other.LoadLog(t.Context(), logA)
		if err != nil {
			t.Error(err)
			return
		}
		l.Found = 99
		if err := other.SaveLog(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
	for _, row := range []struct {
		name           string
		apply          bool
		err            error
		rival          bool  // writes before ours is tried
		readErr        error // of reading back
		won            bool
		conflict       bool
		unknown        bool
		entries, found uint64
	}{
		{name: "failed but persisted is won", apply: true, err: broken, won: true, entries: 1},
		{name: "failed and not persisted is an error, and no conflict", err: broken},
		{name: "lost against its own retry is won", apply: true, err: ErrConflict, won: true, entries: 1},
		{name: "failed while another run won is a conflict", err: broken, rival: true, conflict: true, found: 99},
		{name: "a conflict is a conflict", apply: true, rival: true, conflict: true, found: 99},
		{name: "failed, persisted and not to be read back is unknown", apply: true, err: broken, readErr: broken, unknown: true, entries: 1},
		{name: "failed, not persisted and not to be read back is unknown", err: broken, readErr: broken, unknown: true},
		{name: "cancelled but persisted is won", apply: true, err: context.Canceled, won: true, entries: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, f := newFaulty(t)
			l := &Log{ID: logA}
			saveLog(t, s, l)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if errors.Is(row.err, context.Canceled) {
				f.after = cancel // before the answer came
			}
			f.write = func(string) (bool, error) {
				if row.rival {
					rival(t, f)
				}
				if row.readErr != nil {
					f.read = func(string) error { return row.readErr }
				}
				return row.apply, row.err
			}
			l.Entries = 1
			err := s.SaveLog(ctx, l)
			f.write, f.read = nil, nil
			if (err == nil) != row.won || errors.Is(err, ErrConflict) != row.conflict {
				t.Errorf("SaveLog: %v; want success %v, conflict %v", err, row.won, row.conflict)
			}
			if err != nil && row.err != nil && !errors.Is(err, row.err) {
				t.Errorf("SaveLog: %v, want the cause %v in it", err, row.err)
			}
			if unknown := err != nil && strings.Contains(err.Error(), "is unknown:"); unknown != row.unknown {
				t.Errorf("SaveLog: %v; want it to say unknown: %v", err, row.unknown)
			}
			stored, err := s.LoadLog(t.Context(), logA)
			if err != nil || stored.Entries != row.entries || stored.Found != row.found {
				t.Errorf("stored %+v, %v; want entries %d, found %d", stored, err, row.entries, row.found)
			}
			if row.won { // the generation is the written one
				saveLog(t, s, l)
			}
		})
	}
}

func TestAFailedCreateIsReadBack(t *testing.T) {
	broken := errors.New("connection reset")
	for _, row := range []struct {
		name  string
		apply bool
		want  error
	}{
		{"failed but persisted is success", true, nil},
		{"failed and not persisted is an error", false, broken},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, f := newFaulty(t)
			f.write = func(string) (bool, error) { return row.apply, broken }
			if err := s.PutAlert(t.Context(), "a", []byte("{}")); !errors.Is(err, row.want) {
				t.Errorf("PutAlert: %v, want %v", err, row.want)
			}
			f.write = nil
			if err := s.PutAlert(t.Context(), "a", []byte("{}")); err != nil {
				t.Errorf("PutAlert again: %v", err)
			}
		})
	}
}

func TestOnlyTheAbsenceOfEverythingIsAFirstRun(t *testing.T) {
	for _, row := range []struct {
		object string
		lost   bool
	}{
		{"state/" + string(logA) + ".json", true},
		{"checkpoints/" + string(logA) + "/1", true},
		{"findings/" + string(logA) + "/0-1-x.jsonl", true},
		{"alerts/a.json", true},
		{"incidents/" + string(logA) + "/i.json", true},
		{"decisions/d.json", false},
		{"trust/r/root.json", false},
		{"report/index.html", false},
		{"whosigned.yaml", false},
	} {
		t.Run(row.object, func(t *testing.T) {
			s, f := newFaulty(t)
			mustCreate(t, f, row.object, "")
			_, err := s.LoadRun(t.Context())
			lost := (*LostError)(nil)
			if errors.As(err, &lost) != row.lost || errors.Is(err, ErrNotExist) == row.lost {
				t.Fatalf("LoadRun: %v; want lost: %v", err, row.lost)
			}
			if row.lost && (!strings.Contains(err.Error(), runName) || !strings.Contains(err.Error(), row.object) || !strings.Contains(err.Error(), "--baseline")) {
				t.Errorf("%v; want run.json, what was found and the decision named", err)
			}
		})
	}
	t.Run("a listing that fails", func(t *testing.T) {
		for _, failure := range []error{errors.New("503"), fmt.Errorf("no bucket: %w", ErrNotExist)} {
			s, f := newFaulty(t)
			f.list = func(prefix string) error {
				if prefix == "findings/" {
					return failure
				}
				return nil
			}
			if _, err := s.LoadRun(t.Context()); err == nil || errors.Is(err, ErrNotExist) {
				t.Errorf("LoadRun: %v, want an error that is not ErrNotExist", err)
			}
		}
	})
}

func TestAFirstRunThatBeginsBetweenTwoLooksIsNotLostState(t *testing.T) {
	s, f := newFaulty(t)
	f.list = func(string) error {
		f.list = nil
		mustCreate(t, f, runName, `{"format":1,"min_reader":1}`)
		mustCreate(t, f, "checkpoints/"+string(logA)+"/1", "")
		return nil
	}
	if _, err := s.LoadRun(t.Context()); err != nil {
		t.Errorf("LoadRun beside a first run: %v", err)
	}
}

func TestALogOfRunJSONWithoutStateIsLost(t *testing.T) {
	s, _ := newFaulty(t)
	if _, err := s.LoadLog(t.Context(), logA); !errors.Is(err, ErrNotExist) {
		t.Errorf("LoadLog: %v, want ErrNotExist", err)
	}
	err := Lost(logA)
	for _, want := range []string{logName(logA), runName, "--log " + string(logA) + " --baseline"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q named", err, want)
		}
	}
}

func TestACorruptDocumentIsNeverAFreshStart(t *testing.T) {
	s, f := newFaulty(t)
	good := `{"format":1,"min_reader":1,"writer":"r/1","saved":"2026-11-22T12:00:00Z","id":"` + string(logA) + `","checkpoint":"x"}`
	saveLog(t, s, &Log{ID: logA})
	contents := []string{"null", "[]", "{}", "\x00\x00\x00", good + good, strings.Replace(good, `"format":1`, `"format":0`, 1),
		strings.Replace(good, string(logA), string(logB), 1), strings.Replace(good, `"x"`, `7`, 1),
		strings.Replace(good, `"x"`, `"x","scanned":{"size":5,"hashes":[]}`, 1)}
	for i := range good {
		contents = append(contents, good[:i])
	}
	for _, content := range contents {
		overwrite(t, f, logName(logA), content)
		_, err := s.LoadLog(t.Context(), logA)
		corrupt := (*CorruptError)(nil)
		if !errors.As(err, &corrupt) || errors.Is(err, ErrNotExist) || corrupt.Name != logName(logA) || !strings.Contains(err.Error(), "--log "+string(logA)+" --baseline") {
			t.Fatalf("LoadLog of %.80q: %v, want a *CorruptError that names the object and the decision", content, err)
		}
	}
	for _, content := range []string{"", "{}", `{"format":1,"min_reader":1,"logs":{"../x":"u"}}`} {
		overwrite(t, f, runName, content)
		if _, err := s.LoadRun(t.Context()); !errors.As(err, new(*CorruptError)) || !strings.Contains(err.Error(), runName) {
			t.Errorf("LoadRun of %q: %v, want a *CorruptError", content, err)
		}
	}
}

func TestACorruptDocumentIsReplacedByDecisionOnly(t *testing.T) {
	ctx := t.Context()
	s, f := newFaulty(t)
	mustCreate(t, f, logName(logA), "{")
	if err := s.SaveLog(ctx, &Log{ID: logA}); !errors.Is(err, ErrConflict) {
		t.Errorf("saving over it unasked: %v, want ErrConflict", err)
	}
	_, err := s.LoadLog(ctx, logA)
	corrupt := (*CorruptError)(nil)
	if !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	l := &Log{ID: logA}
	l.Supersede(corrupt)
	saveLog(t, s, l)
	if _, err := s.LoadLog(ctx, logA); err != nil {
		t.Error(err)
	}
	again := &Log{ID: logA}
	again.Supersede(corrupt)
	if err := s.SaveLog(ctx, again); !errors.Is(err, ErrConflict) {
		t.Errorf("superseding what is no longer corrupt: %v, want ErrConflict", err)
	}
}

func TestADocumentOfANewerFormatIsRefusedOnlyIfItSaysSo(t *testing.T) {
	s, f := newFaulty(t)
	overwrite(t, f, logName(logA), `{"format":7,"min_reader":2,"saved":"in another form"}`)
	_, err := s.LoadLog(t.Context(), logA)
	newer := (*FormatError)(nil)
	if !errors.As(err, &newer) || newer.MinReader != 2 || newer.Format != Format || newer.Name != logName(logA) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("LoadLog: %v, want a *FormatError that names the object, 2 and %d, and what to do", err, Format)
	}
	overwrite(t, f, logName(logA), `{"format":7,"min_reader":1,"id":"`+string(logA)+`","novel":1}`)
	l, err := s.LoadLog(t.Context(), logA)
	if err != nil {
		t.Fatalf("a newer document that this release can read: %v", err)
	}
	saveLog(t, s, l)
	if l.Format != Format || l.MinReader != 1 {
		t.Errorf("saved as format %d, min_reader %d; want %d and 1", l.Format, l.MinReader, Format)
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	s, f := newFaulty(t)
	const novel = `"novel":{"z":[1.50,"<"],"a":9007199254740993}`
	in := `{"format":1,"min_reader":1,"id":"` + string(logA) + `","stuck":{"index":1,` + novel + `},"outbox":[{"alert":"x",` + novel + `},{"alert":"y"}],` +
		`"incidents":[{"id":"i",` + novel + `}],"holes":[{"index":4,"hash":"` + strings.Repeat("0", 64) + `",` + novel + `}],` +
		`"gaps":[{` + novel + `}],"rules":[{` + novel + `}],"unproven":{` + novel + `},` + novel + `}`
	overwrite(t, f, logName(logA), in)
	l, err := s.LoadLog(t.Context(), logA)
	if err != nil {
		t.Fatal(err)
	}
	l.Outbox = append(l.Outbox[:1:1], Pending{Alert: "new"})
	l.Entries++
	saveLog(t, s, l)
	wantKept(t, s, logName(logA), novel, 8)

	in = `{"format":1,"min_reader":1,"lease":{"run":"r",` + novel + `},"conditions":{"c":{` + novel + `}},"outbox":[{` + novel + `}],"last_result":{` + novel + `},` + novel + `}`
	overwrite(t, f, runName, in)
	run, err := s.LoadRun(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveRun(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	wantKept(t, s, runName, novel, 5)
}

func wantKept(t *testing.T, s *State, name, field string, times int) {
	t.Helper()
	data, _, err := s.store.Read(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(json.RawMessage(data)) // compact, "<" escaped
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(raw), strings.ReplaceAll(field, "<", `\u003c`)); got != times {
		t.Errorf("%s holds the unknown field %d times, want %d:\n%s", name, got, times, data)
	}
}

func TestALiveLeaseKeepsAnotherRunOut(t *testing.T) {
	ctx := t.Context()
	_, f := newFaulty(t)
	until := noon.Add(30 * time.Minute)
	one, run := New(f), &Run{}
	if err := one.AcquireLease(ctx, run, "one", until, noon); err != nil {
		t.Fatal(err)
	}
	two := New(f)
	other, err := two.LoadRun(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = two.AcquireLease(ctx, other, "two", until.Add(time.Hour), until.Add(-1))
	held := (*LeaseError)(nil)
	if !errors.As(err, &held) || held.Holder != "one" || !held.Expires.Equal(until) {
		t.Errorf("AcquireLease: %v, want a *LeaseError with holder and expiry", err)
	}
	if other.Lease == nil || other.Lease.Run != "one" {
		t.Errorf("a refused run's lease is %+v, want the holder's", other.Lease)
	}
	// The holder renews, and the other's copy is old.
	if err := one.AcquireLease(ctx, run, "one", until.Add(time.Minute), noon); err != nil {
		t.Fatal(err)
	}
	err = two.AcquireLease(ctx, other, "two", until.Add(time.Hour), until)
	if !errors.As(err, &held) || !held.Expires.Equal(until.Add(time.Minute)) {
		t.Errorf("AcquireLease from an old copy: %v, want a *LeaseError with the renewed expiry", err)
	}
	// Expired, it is anybody's.
	if other, err = two.LoadRun(ctx); err != nil {
		t.Fatal(err)
	}
	if err := two.AcquireLease(ctx, other, "two", until.Add(time.Hour), until.Add(time.Minute)); err != nil {
		t.Errorf("AcquireLease after expiry: %v", err)
	}
	if err := one.SaveRun(ctx, run); !errors.Is(err, ErrConflict) {
		t.Errorf("the old holder's save: %v, want ErrConflict", err)
	}
	// Released, too.
	other.Lease = nil
	if err := two.SaveRun(ctx, other); err != nil {
		t.Fatal(err)
	}
	if run, err = one.LoadRun(ctx); err != nil {
		t.Fatal(err)
	}
	if err := one.AcquireLease(ctx, run, "three", until, noon); err != nil {
		t.Errorf("AcquireLease after release: %v", err)
	}
}

func TestOfManyFirstRunsOneGetsTheLease(t *testing.T) {
	_, f := newFaulty(t)
	errs := make([]error, 12)
	together(len(errs), func(i int) {
		errs[i] = New(f).AcquireLease(t.Context(), &Run{}, fmt.Sprint("run", i), noon.Add(time.Hour), noon)
	})
	var won int
	for i, err := range errs {
		if err == nil {
			won++
		} else if !errors.As(err, new(*LeaseError)) {
			t.Errorf("run %d: %v, want a *LeaseError", i, err)
		}
	}
	if won != 1 {
		t.Errorf("%d runs got the lease", won)
	}
}

func TestALogIDIsCheckedBeforeItGetsIntoAPath(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s := New(&folder{root: filepath.Join(dir, "root")})
	for _, id := range []tlog.ID{"", "..", "../../x", "AA", logA + "/x", logA + "-x"} {
		_, loadErr := s.LoadLog(ctx, id)
		_, findErr := s.PutFindings(ctx, id, 0, 1, "", nil)
		_, incErr := s.PutIncident(ctx, id, "i", []byte("{}"))
		_, unparsedErr := s.PutUnparsed(ctx, id, 0, nil)
		_, sizesErr := s.Sizes(ctx, id)
		_, cpErr := s.Checkpoint(ctx, id, 1)
		_, decErr := s.PutDecision(ctx, Decision{Log: id, Kind: TakeBaseline, Reason: "r", At: noon})
		for call, err := range map[string]error{"LoadLog": loadErr, "SaveLog": s.SaveLog(ctx, &Log{ID: id}), "PutFindings": findErr,
			"PutIncident": incErr, "PutUnparsed": unparsedErr, "Sizes": sizesErr, "Checkpoint": cpErr, "PutDecision": decErr,
			"PutCheckpoint": s.PutCheckpoint(ctx, id, testCheckpoint(1, 1, ""))} {
			if err == nil || errors.Is(err, ErrNotExist) {
				t.Errorf("%s(%q): %v, want a refusal", call, id, err)
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("something was written: %v, %v", left, err)
	}
}
