package function

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
)

func TestSIGTERMEndsARunCommittedAndTheNextOneGoesOn(t *testing.T) {
	for _, kept := range []string{"folder", "bucket"} {
		t.Run(kept, func(t *testing.T) {
			w := newWorld(t)
			if kept == "bucket" {
				w.inBuckets()
			}
			w.sign()
			w.add("https://example.com/stranger", 1500)
			i := w.start()
			release := w.stall(3)
			answered := make(chan response, 1)
			go func() { answered <- i.send(t.Context()) }()
			i.read.wait(t, 768)
			took, err := i.terminate()
			if err != nil || took > stopTime {
				t.Errorf("it ended with %v after %v, want status 0 within %v", err, took, stopTime)
			}
			t.Logf("%s: gone %v after SIGTERM", kept, took.Round(time.Millisecond))
			if r := <-answered; r.err != nil || !r.result(t).Failed {
				t.Errorf("answer %d %s, %v; want the result, failed", r.status, r.body, r.err)
			}
			run, scanned := w.left()
			if run.Lease != nil || scanned != 768 {
				t.Errorf("lease %v, %d entries read; want none, and the 768 that were proven", run.Lease, scanned)
			}
			if lines := runLines(t, i.log.String()); len(lines) != 1 || lines[0]["outcome"] != "failed" {
				t.Errorf("run lines %v, want one, failed", lines)
			}
			release()
			r := w.start().send(t.Context())
			if res := r.result(t); r.status != 200 || res.Failed || res.Logs[0].Scanned != 1501 || res.Logs[0].Entries != 1501-768 {
				t.Errorf("the next run got %d %s, want the rest read", r.status, r.body)
			}
			found := 0
			for _, m := range w.sendgrid.Mails() {
				found += strings.Count(m.Subject, "acme/app")
			}
			if found != 1 {
				t.Errorf("the finding was mailed %d times, want once: %q", found, w.subjects())
			}
		})
	}
}

func TestSIGTERMIsObeyedWhenTheBucketNoLongerAnswers(t *testing.T) {
	w := newWorld(t)
	gcs := w.inBuckets()
	w.add("https://example.com/stranger", 1500)
	i := w.start()
	w.stall(3)
	go i.send(t.Context())
	i.read.wait(t, 768)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	gcs.Fail(func(*http.Request) buckettest.Fault {
		return func(http.ResponseWriter, *http.Request, http.Handler) { <-over }
	})
	if took, err := i.terminate(); err != nil || took > stopTime {
		t.Errorf("it ended with %v after %v, want status 0 within %v", err, took, stopTime)
	} else {
		t.Logf("gone %v after SIGTERM", took.Round(time.Millisecond))
	}
	if lines := runLines(t, i.log.String()); len(lines) != 1 || lines[0]["outcome"] != "failed" {
		t.Errorf("run lines %v, want one, failed", lines)
	}
}

func TestSIGTERMEndsAnIdleInstanceAtOnce(t *testing.T) {
	w := newWorld(t)
	i := w.start()
	if r := i.send(t.Context()); r.status != 200 {
		t.Fatalf("got %d %s", r.status, r.body)
	}
	if took, err := i.terminate(); err != nil || took > time.Second {
		t.Errorf("it ended with %v after %v, want status 0 at once", err, took)
	}
}

func TestARunThatDoesNotEndIsNotWaitedForLongerThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status, late := make(chan int, 1), 0
		s := newStopper(func(code int) { status <- code })
		ctx, done, ok := s.begin(t.Context(), func() { late++ })
		if !ok {
			t.Fatal("no run may begin")
		}
		began := time.Now()
		go s.stop()
		<-ctx.Done()
		if code := <-status; code != 0 || time.Since(began) > stopTime || time.Since(began) < stopTime/2 {
			t.Errorf("exit %d after %v, want 0 a little before %v", code, time.Since(began), stopTime)
		}
		if late != 1 {
			t.Errorf("the run was told %d times that it is late, want once", late)
		}
		done()
	})
}

func TestALogThatNobodyReadsDoesNotKeepTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status, blocked := make(chan int, 2), make(chan struct{})
		s := newStopper(func(code int) { status <- code })
		if _, _, ok := s.begin(t.Context(), func() { <-blocked }); !ok {
			t.Fatal("no run may begin")
		}
		began := time.Now()
		go s.stop()
		if code := <-status; code != 0 || time.Since(began) > stopTime {
			t.Errorf("exit %d after %v, want 0 within %v", code, time.Since(began), stopTime)
		}
		close(blocked)
	})
}

func TestAnInstanceThatIsStoppingTakesNoMoreRuns(t *testing.T) {
	s := newStopper(func(int) {})
	s.stop()
	e := &endpoint{getenv: func(string) string { return "" }, log: &buffer{}, stop: s, clock: production}
	e.first.Do(func() {})
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", w.Code, w.Body)
	}
}
