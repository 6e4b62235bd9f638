package state

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

const inBucket = "gs://acme/who/signed"

func openBucket(t testing.TB) *objects {
	t.Helper()
	o, err := openObjects(t.Context(), inBucket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	o.Wait = time.Millisecond
	return o
}

func TestBucketKeepsTheContractOfAStore(t *testing.T) {
	testStore(t, func(t *testing.T) func() Store {
		buckettest.New(t, "acme")
		return func() Store { return openBucket(t) }
	})
}

func TestBucketPassesOverWhatCannotBeAnObject(t *testing.T) {
	s := buckettest.New(t, "acme")
	for _, name := range []string{"who/signed/", "who/signed/state/", "who/signed/state/A", "who/signed/state/a", "who/state/b", "who/signed-too/state/c"} {
		s.Put("acme", name, "")
	}
	wantNames(t, openBucket(t), "", "state/a")
}

// onWrites faults every write up to the nth.
func onWrites(n int, fault buckettest.Fault) func(*http.Request) buckettest.Fault {
	seen := 0
	return func(r *http.Request) buckettest.Fault {
		if !buckettest.IsWrite(r) {
			return nil
		}
		if seen++; seen > n {
			return nil
		}
		return fault
	}
}

const always = 1000

// Each row is a fault on the way of a write, and what the three kinds of writes
// then say and leave.
func TestBucketTellsAWriteThatHappenedFromOneThatDidNot(t *testing.T) {
	for _, row := range []struct {
		name    string
		times   int
		fault   buckettest.Fault
		won     bool
		says    string // in the error
		timeout time.Duration
		cancel  bool // instead of a fault: it is written, and the caller gives up before there is an answer
	}{
		{name: "no fault", won: true},
		{name: "the answer is lost", times: 1, fault: buckettest.Lost, won: true},
		{name: "every answer is lost", times: always, fault: buckettest.Lost, won: true},
		{name: "503 after it was written", times: 1, fault: buckettest.Applied(buckettest.Status(503, "later")), won: true},
		{name: "429 after it was written", times: 1, fault: buckettest.Applied(buckettest.Status(429, "slow down")), won: true},
		{name: "the caller gives up after it was written", times: always, cancel: true, won: true},
		{name: "429 for a while", times: 3, fault: buckettest.Status(429, "slow down"), won: true},
		{name: "503 for a while", times: 3, fault: buckettest.Status(503, "later"), won: true},
		{name: "the connection breaks in the middle, once", times: 1, fault: buckettest.CutRequest, won: true},
		{name: "the connection always breaks in the middle", times: always, fault: buckettest.CutRequest, says: "EOF"},
		{name: "403", times: always, fault: buckettest.Status(403, "no access"), says: "storage.objects.create on bucket acme"},
		{name: "429 for ever", times: always, fault: buckettest.Status(429, "slow down"), says: "one write a second"},
		{name: "503 for ever", times: always, fault: buckettest.Status(503, "later"), says: "later"},
		{name: "no answer and nothing written", times: always, fault: buckettest.Silent, says: "no answer within 50ms", timeout: 50 * time.Millisecond},
	} {
		for _, write := range []struct {
			name string
			do   func(context.Context, *State) error
		}{
			{"AcquireLease", func(ctx context.Context, s *State) error {
				run, err := s.LoadRun(ctx)
				if errors.Is(err, ErrNotExist) {
					run, err = new(Run), nil
				}
				if err != nil {
					return err
				}
				return s.AcquireLease(ctx, run, "run1", noon.Add(time.Hour), noon)
			}},
			{"SaveLog", func(ctx context.Context, s *State) error {
				l, err := s.LoadLog(ctx, logA)
				if errors.Is(err, ErrNotExist) {
					l, err = &Log{ID: logA}, nil
				}
				if err != nil {
					return err
				}
				return s.SaveLog(ctx, l)
			}},
			{"PutFindings", func(ctx context.Context, s *State) error {
				_, err := s.PutFindings(ctx, logA, 0, 1, "", []watch.Finding{{Log: logA}})
				return err
			}},
		} {
			t.Run(row.name+"/"+write.name, func(t *testing.T) {
				server := buckettest.New(t, "acme")
				store := openBucket(t)
				if row.timeout != 0 {
					store.Timeout = row.timeout
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				fault := row.fault
				if row.cancel {
					fault = buckettest.Applied(func(w http.ResponseWriter, r *http.Request, apply http.Handler) {
						cancel()
						buckettest.Silent(w, r, apply)
					})
				}
				server.Fail(onWrites(row.times, fault))
				err := write.do(ctx, New(store))
				if (err == nil) != row.won || errors.Is(err, ErrConflict) || err != nil && !strings.Contains(err.Error(), row.says) {
					t.Errorf("got %v; want won %v, no conflict, and %q said", err, row.won, row.says)
				}
				server.Fail(nil)
				store.Timeout = time.Minute
				var names []string
				for name, err := range openBucket(t).List(t.Context(), "") {
					if err != nil {
						t.Fatal(err)
					}
					names = append(names, name)
				}
				if len(names) == 1 != row.won {
					t.Errorf("stored %q, want one object: %v", names, row.won)
				}
				// Whatever became of it, the same state goes on.
				if err := write.do(t.Context(), New(store)); err != nil {
					t.Errorf("again: %v", err)
				}
			})
		}
	}
}

// The generation after a commit whose answer was lost is the one that is stored.
func TestBucketGoesOnAfterACommitThatWasReadBack(t *testing.T) {
	server := buckettest.New(t, "acme")
	s := New(openBucket(t))
	l := &Log{ID: logA}
	for i := range uint64(3) {
		server.Fail(onWrites(1, buckettest.Lost))
		l.Entries = i
		saveLog(t, s, l)
	}
	if got, err := s.LoadLog(t.Context(), logA); err != nil || got.Entries != 2 {
		t.Errorf("stored %+v, %v; want the third commit", got, err)
	}
}

// Losing against another run is never taken for a lost answer, nor the reverse.
func TestBucketLosesAgainstARealRival(t *testing.T) {
	for name, fault := range map[string]buckettest.Fault{"plainly": nil, "after a broken connection": buckettest.CutRequest, "after 503": buckettest.Status(503, "later")} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			server := buckettest.New(t, "acme")
			mine, other := New(openBucket(t)), New(openBucket(t))
			run := new(Run)
			if err := mine.SaveRun(ctx, run); err != nil {
				t.Fatal(err)
			}
			l := &Log{ID: logA}
			saveLog(t, mine, l)

			// The rival writes while ours is on its way.
			between := func(rival func()) {
				seen := false
				server.Fail(func(r *http.Request) buckettest.Fault {
					if !buckettest.IsWrite(r) || seen {
						return nil
					}
					seen = true
					return func(w http.ResponseWriter, r *http.Request, apply http.Handler) {
						rival()
						if fault != nil {
							fault(w, r, apply)
							return
						}
						apply.ServeHTTP(w, r)
					}
				})
			}
			between(func() {
				theirs, err := other.LoadLog(ctx, logA)
				if err != nil {
					t.Error(err)
					return
				}
				theirs.Found = 99
				saveLog(t, other, theirs)
			})
			if err := mine.SaveLog(ctx, l); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "its writer is \"unleased-") {
				t.Errorf("SaveLog: %v, want ErrConflict and the writer", err)
			}
			if got, err := mine.LoadLog(ctx, logA); err != nil || got.Found != 99 {
				t.Errorf("stored %+v, %v; want the rival's", got, err)
			}
			between(func() {
				theirs, err := other.LoadRun(ctx)
				if err == nil {
					err = other.AcquireLease(ctx, theirs, "rival", noon.Add(time.Hour), noon)
				}
				if err != nil {
					t.Error(err)
				}
			})
			taken := (*LeaseError)(nil)
			if err := mine.AcquireLease(ctx, run, "run1", noon.Add(time.Hour), noon); !errors.As(err, &taken) || taken.Holder != "rival" {
				t.Errorf("AcquireLease: %v, want the rival's lease", err)
			}
		})
	}
}

// Where reading fails too, nobody says won or lost.
func TestBucketSaysUnknownIfItCannotReadBack(t *testing.T) {
	server := buckettest.New(t, "acme")
	store := openBucket(t)
	server.Fail(func(r *http.Request) buckettest.Fault {
		if buckettest.IsWrite(r) {
			return buckettest.Lost
		}
		return buckettest.Status(503, "later")
	})
	err := New(store).SaveLog(t.Context(), &Log{ID: logA})
	if err == nil || errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "whether "+logName(logA)+" was written is unknown") {
		t.Errorf("got %v, want it unknown", err)
	}
}

func TestBucketTroubleIsNeverAFirstRunOrLostState(t *testing.T) {
	for _, row := range []struct {
		name  string
		on    func(*http.Request) bool
		fault buckettest.Fault
		says  string
	}{
		{"403 on reading", buckettest.IsRead, buckettest.Status(403, "no access"), "storage.objects.get on bucket acme"},
		{"403 on listing", buckettest.IsList, buckettest.Status(403, "no access"), "storage.objects.list on bucket acme"},
		{"429", buckettest.IsRead, buckettest.Status(429, "slow down"), "slow down"},
		{"503", buckettest.IsRead, buckettest.Status(503, "later"), "later"},
		{"503 on listing", buckettest.IsList, buckettest.Status(503, "later"), "later"},
		{"404 on listing: the bucket is gone", buckettest.IsList, buckettest.Status(404, "The specified bucket does not exist."), "create the bucket acme"},
		{"no answer", buckettest.IsRead, buckettest.Silent, "no answer within"},
		{"no answer on listing", buckettest.IsList, buckettest.Silent, "no answer within"},
		{"the connection breaks", buckettest.IsRead, buckettest.CutRequest, "EOF"},
		{"the connection breaks in a listing", buckettest.IsList, buckettest.CutAnswer(10), "EOF"},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := buckettest.New(t, "acme")
			store := openBucket(t)
			if strings.HasPrefix(row.name, "no answer") {
				store.Timeout = 100 * time.Millisecond
			}
			server.Fail(func(r *http.Request) buckettest.Fault {
				if row.on(r) {
					return row.fault
				}
				return nil
			})
			_, err := New(store).LoadRun(t.Context())
			if err == nil || errors.Is(err, ErrNotExist) || errors.As(err, new(*LostError)) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("LoadRun: %v; want an error that is neither and says %q", err, row.says)
			}
		})
	}
	t.Run("a missing bucket", func(t *testing.T) {
		buckettest.New(t, "another")
		s := New(openBucket(t))
		_, loading := s.LoadRun(t.Context())
		_, loadingLog := s.LoadLog(t.Context(), logA)
		for call, err := range map[string]error{
			"LoadRun": loading, "LoadLog": loadingLog, "SaveLog": s.SaveLog(t.Context(), &Log{ID: logA}),
			"AcquireLease": s.AcquireLease(t.Context(), new(Run), "run1", noon.Add(time.Hour), noon),
		} {
			if err == nil || errors.Is(err, ErrNotExist) || errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "create the bucket acme") {
				t.Errorf("%s: %v; want it to say that there is no bucket, and nothing else", call, err)
			}
		}
	})
}

func TestBucketNeverReturnsADamagedDocument(t *testing.T) {
	server := buckettest.New(t, "acme")
	s := New(openBucket(t))
	saveLog(t, s, &Log{ID: logA, Origin: strings.Repeat("long ", 1000)})
	for name, fault := range map[string]buckettest.Fault{"a flipped bit": buckettest.Corrupt, "short": buckettest.ShortAnswer, "cut off": buckettest.CutAnswer(0)} {
		server.Fail(func(*http.Request) buckettest.Fault { return fault })
		l, err := s.LoadLog(t.Context(), logA)
		// Not a *CorruptError either: what is stored is whole, and needs no decision.
		if err == nil || errors.Is(err, ErrNotExist) || errors.As(err, new(*CorruptError)) {
			t.Errorf("%s: loaded %v, %v; want an error of reading", name, l, err)
		}
	}
	server.Fail(onWrites(0, nil))
	if _, err := s.LoadLog(t.Context(), logA); err != nil {
		t.Error(err)
	}
}

// An account that may create and read, and not overwrite, is refused with 403 for
// an object that exists. That must not hide proof of tampering.
func TestBucketFindsAContradictionWithoutTheRightToOverwrite(t *testing.T) {
	server := buckettest.New(t, "acme")
	s := New(openBucket(t))
	if err := s.PutCheckpoint(t.Context(), logA, testCheckpoint(5, 1, "")); err != nil {
		t.Fatal(err)
	}
	server.Fail(onWrites(always, buckettest.Status(403, "no storage.objects.delete access")))
	if err := s.PutCheckpoint(t.Context(), logA, testCheckpoint(5, 1, "")); err != nil {
		t.Errorf("the same checkpoint: %v, want success", err)
	}
	if err := s.PutCheckpoint(t.Context(), logA, testCheckpoint(5, 2, "")); !errors.As(err, new(*ContradictionError)) {
		t.Errorf("another root: %v, want a *ContradictionError", err)
	}
	if err := s.PutCheckpoint(t.Context(), logA, testCheckpoint(6, 1, "")); err == nil || !strings.Contains(err.Error(), "storage.objects.create") {
		t.Errorf("a new size: %v, want the refusal", err)
	}
}

// rateLimited answers 429 to a write of an object less than a gap after the last
// one that was let through, as GCS does with a gap of about a second; and to the
// first attempt in any case, so that a slow machine tests the same.
func rateLimited(gap time.Duration) func(*http.Request) buckettest.Fault {
	last, refused := make(map[string]time.Time), make(map[string]bool)
	return func(r *http.Request) buckettest.Fault {
		if !buckettest.IsWrite(r) {
			return nil
		}
		name := r.URL.Query().Get("name")
		if now := time.Now(); refused[name] && now.Sub(last[name]) >= gap {
			last[name], refused[name] = now, false
			return nil
		}
		refused[name] = true
		return buckettest.Status(429, "The object exceeded the rate limit for object mutation operations")
	}
}

func TestBucketKeepsToTheRateOfWritesThatAnObjectTakes(t *testing.T) {
	const gap = 50 * time.Millisecond
	server := buckettest.New(t, "acme")
	server.Fail(rateLimited(gap))
	const writers, times = 3, 3
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			store := openBucket(t)
			store.Wait = 2 * gap
			s := New(store)
			for range times {
				// One object that all write, and one each of its own.
				if err := increment(t.Context(), store, "count", 1); err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
				if _, err := s.PutDecision(t.Context(), Decision{Log: logA, Kind: TakeBaseline, Reason: fmt.Sprint(i), At: noon}); err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	server.Fail(nil)
	wantContent(t, openBucket(t), "count", strconv.Itoa(writers*times))
}

func TestOpenTakesABucket(t *testing.T) {
	buckettest.New(t, "acme")
	s, err := Open(t.Context(), inBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadRun(t.Context()); !errors.Is(err, ErrNotExist) {
		t.Errorf("LoadRun of an empty bucket: %v, want ErrNotExist", err)
	}
	run := &Run{Logs: map[tlog.ID]string{logA: "https://rekor.example"}}
	if err := s.AcquireLease(t.Context(), run, "run1", noon.Add(time.Hour), noon); err != nil {
		t.Fatal(err)
	}
	wantNames(t, openBucket(t), "", runName)
}

// A commit is a findings object, then the log's document.
func BenchmarkBucketCommit(b *testing.B) {
	buckettest.New(b, "acme")
	s := New(openBucket(b))
	l := &Log{ID: logA, Origin: strings.Repeat("x", 2000)}
	var index uint64
	for b.Loop() {
		name, err := s.PutFindings(b.Context(), logA, index, index+1, l.Findings, []watch.Finding{{Log: logA, Index: index}})
		if err != nil {
			b.Fatal(err)
		}
		l.Findings, index = name, index+1
		if err := s.SaveLog(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
}
