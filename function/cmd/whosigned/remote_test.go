package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// deploy makes Scheduler's job start real runs, by Google's clock. They are over
// when the test is.
func (in *installed) deploy() {
	var runs sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	in.t.Cleanup(func() { stop(); runs.Wait() })
	in.forced = func() {
		runs.Go(func() {
			m, err := in.monitor(ctx)
			if err != nil {
				in.t.Error(err)
				return
			}
			in.change(func() { skew := in.skew; m.Now = func() time.Time { return time.Now().Add(skew) } })
			if _, err := m.Run(ctx); err != nil {
				in.t.Error(err)
			}
		})
	}
}

// far is `run --remote`, which tells hear what it says to people.
func (in *installed) far(ctx context.Context, hear func(said string), args ...string) (status int, out, errOut string) {
	var stdout bytes.Buffer
	stderr := &hearing{hear: hear}
	status = execute(ctx, inCloud(append([]string{"run", "--remote"}, args...)...), &stdout, stderr)
	return status, stdout.String(), stderr.String()
}

type hearing struct {
	bytes.Buffer
	hear func(string)
}

func (h *hearing) Write(p []byte) (int, error) {
	if h.hear != nil {
		h.hear(string(p))
	}
	return h.Buffer.Write(p)
}

// calls is how often a call was made.
func (in *installed) calls(call string) (n int) {
	in.change(func() {
		for _, c := range in.asked {
			if c == call {
				n++
			}
		}
	})
	return n
}

const forceCall = "POST " + jobPath + ":run"

func TestARemoteRunPrintsItsResultWithItsExitStatus(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(in *installed)
		want int
		say  string
	}{
		{"the first run, clean", func(*installed) {}, monitor.ExitClean, "baseline  log.example"},
		{"a later run, clean", func(in *installed) { in.run() }, monitor.ExitClean, "ok        log.example"},
		{"findings", func(in *installed) { in.sign("eve@acme.example") }, monitor.ExitFindings, "FOUND: rule acme: signed as eve@acme.example"},
		{"a log that cannot be read", func(in *installed) {
			in.run()
			in.log.Inject(tlogtest.Path("/checkpoint"), 0, tlogtest.Status(404))
		}, monitor.ExitFailed, "error: checkpoint: "},
		{"tampering", func(in *installed) {
			in.sign("someone@else.example")
			in.run()
			fork, err := without(in.log.Tree(), 0)
			in.must(err)
			in.log.Show(fork)
		}, monitor.ExitTamper, "TAMPERING"},
		{"Google's clock is ahead of ours", func(in *installed) { in.skew = 5 * time.Hour }, monitor.ExitClean, "baseline"},
		{"Google's clock is behind ours", func(in *installed) { in.run(); in.skew = -5 * time.Hour }, monitor.ExitClean, "ok   "},
		{"the job is paused", func(in *installed) { in.job["state"] = "PAUSED" }, monitor.ExitClean, "baseline"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInstalled(t)
			tc.do(in)
			in.deploy()
			status, out, errOut := in.far(t.Context(), nil)
			if status != tc.want || !strings.Contains(out, tc.say) || !strings.Contains(out, fmt.Sprintf("exit %d (%s)", tc.want, meaning[tc.want])) {
				t.Errorf("exit status %d; want %d and %q in:\n%s%s", status, tc.want, tc.say, out, errOut)
			}
			if want := "job whosigned is forced; waiting for the run to begin\n"; !strings.Contains(errOut, want) {
				t.Errorf("want %q in:\n%s", want, errOut)
			}
			if paused := in.job["state"] == "PAUSED"; strings.Contains(errOut, "gcloud scheduler jobs resume whosigned --location europe-west1") != paused {
				t.Errorf("paused %v: %s", paused, errOut)
			}
			if n := in.calls(forceCall); n != 1 {
				t.Errorf("forced %d times, want once", n)
			}
		})
	}
}

func TestTheResultOfARemoteRunHasWhatItFoundAndNothingElse(t *testing.T) {
	in := newInstalled(t)
	in.sign("before@acme.example")
	in.run()
	in.sign("someone@else.example")
	in.sign("one@acme.example")
	in.sign("two@acme.example")
	in.deploy()
	status, out, errOut := in.far(t.Context(), nil, "--json")
	var res monitor.Result
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatalf("%v: %s%s", err, out, errOut)
	}
	var who []string
	for _, f := range res.Findings {
		who = append(who, f.Subject)
	}
	slices.Sort(who)
	if want := []string{"one@acme.example", "two@acme.example"}; status != monitor.ExitFindings || !slices.Equal(who, want) || res.FindingsCut != 0 || res.Version != "v1.2.3" {
		t.Errorf("exit status %d, found %q, cut %d, version %q; want 3, %q, 0, v1.2.3", status, who, res.FindingsCut, res.Version, want)
	}
}

// hold makes the log answer nobody until released, and says when it is asked.
func (in *installed) hold() (asked <-chan struct{}, release func()) {
	reached, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	in.log.Inject(tlogtest.Path("/checkpoint"), 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		once.Do(func() { close(reached) })
		select {
		case <-released:
		case <-r.Context().Done():
		}
		next.ServeHTTP(w, r)
	})
	return reached, sync.OnceFunc(func() { close(released) })
}

func TestARunAtWorkIsFollowedAndNoOtherForced(t *testing.T) {
	in := newInstalled(t)
	in.run()
	in.sign("eve@acme.example")
	in.deploy()
	asked, release := in.hold()
	defer release()
	in.forced()
	<-asked
	status, out, errOut := in.far(t.Context(), func(said string) {
		if strings.Contains(said, "is at work already: following it") {
			release()
		}
	})
	if status != monitor.ExitFindings || !strings.Contains(out, "signed as eve@acme.example") {
		t.Errorf("exit status %d, want 3: %s%s", status, out, errOut)
	}
	if n := in.calls(forceCall); n != 0 {
		t.Errorf("forced %d times, want never", n)
	}
}

func TestARunThatWasKilledIsWaitedForUntilItsLeaseIsOverByGooglesClock(t *testing.T) {
	for _, skew := range []time.Duration{0, 5 * time.Hour, -5 * time.Hour} {
		in := newInstalled(t)
		in.run()
		in.skew = skew
		// The Date of an answer has no fractions of a second.
		expires := time.Now().Add(skew + 1200*time.Millisecond)
		in.edit(func(d *state.Run) { d.Lease = &state.Lease{Run: "20261122T110700Z-0a", Expires: expires} })
		in.deploy()
		status, out, errOut := in.far(t.Context(), nil)
		if status != monitor.ExitClean || !strings.Contains(errOut, "following it") || !strings.Contains(errOut, "its lease is over: it was killed") || in.calls(forceCall) != 1 {
			t.Errorf("skew %s: exit status %d, forced %d times; want 0 and once: %s%s", skew, status, in.calls(forceCall), out, errOut)
		}
	}
}

func TestALeaseThatIsOverIsNoRunAtWork(t *testing.T) {
	in := newInstalled(t)
	in.run()
	in.skew = -5 * time.Hour
	in.edit(func(d *state.Run) {
		d.Lease = &state.Lease{Run: "20261122T110700Z-0a", Expires: time.Now().Add(in.skew - time.Minute)}
	})
	in.deploy()
	if status, out, errOut := in.far(t.Context(), nil); status != monitor.ExitClean || strings.Contains(errOut, "at work already") {
		t.Errorf("exit status %d: %s%s", status, out, errOut)
	}
}

func TestCtrlCStopsFollowingAndNotTheRun(t *testing.T) {
	in := newInstalled(t)
	in.deploy()
	_, release := in.hold()
	defer release()
	ctx, interrupt := context.WithCancel(t.Context())
	status, out, errOut := in.far(ctx, func(said string) {
		if strings.Contains(said, "has begun") {
			interrupt()
		}
	})
	for _, want := range []string{"interrupted: run 20", " goes on by itself; see: whosigned status --project acme-security --region europe-west1"} {
		if status != monitor.ExitFailed || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("exit status %d, %q; want 1 and %q in %s", status, out, want, errOut)
		}
	}
	// The run is still at work: who asks again follows it to its end.
	status, out, errOut = in.far(t.Context(), func(said string) {
		if strings.Contains(said, "following it") {
			release()
		}
	})
	if status != monitor.ExitClean || !strings.Contains(out, "baseline  log.example") {
		t.Errorf("exit status %d: %s%s", status, out, errOut)
	}
}

func TestTheTimeoutSaysHowFarItGotAndWhereToLook(t *testing.T) {
	for _, tc := range []struct {
		name  string
		start bool
		want  string
	}{
		{"nothing begins", false, "no run has begun within 400ms; see: whosigned status --project acme-security"},
		{"a run does not end", true, " has not ended within 400ms; "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInstalled(t)
			if tc.start {
				in.deploy()
			}
			_, release := in.hold()
			defer release()
			status, _, errOut := in.far(t.Context(), nil, "--timeout", "400ms")
			if status != monitor.ExitFailed || !strings.Contains(errOut, tc.want) || !strings.Contains(errOut, "gcloud logging read") {
				t.Errorf("exit status %d; want 1 and %q in %s", status, tc.want, errOut)
			}
		})
	}
}

func TestARunThatCannotBeginIsGivenUpWithSchedulersReason(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer func(in *installed)
		begin  time.Duration
		want   string
	}{
		{"the function is not to be called", func(in *installed) { in.job["status"] = map[string]any{"code": 7} }, time.Minute, "failed (PERMISSION_DENIED); the account in the job's oidcToken needs roles/run.invoker"},
		{"the function answers 500", func(in *installed) { in.job["status"] = map[string]any{"code": 13} }, time.Minute, "failed (INTERNAL); see what the function said: gcloud logging read"},
		{"nothing is heard", func(in *installed) {}, 50 * time.Millisecond, "no run has begun within "},
		{"the call is refused for a run at work", func(in *installed) { in.job["status"] = map[string]any{"code": 10} }, 300 * time.Millisecond, "no run has begun within "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInstalled(t)
			in.run()
			in.forced = func() { in.change(func() { tc.answer(in) }) }
			p := &place{project: "acme-security", region: "europe-west1", name: "whosigned"}
			jobs, err := p.scheduler(t.Context())
			in.must(err)
			w := &follower{place: p, state: in.state, jobs: jobs, say: func(string, ...any) {}, bars: &progress{}, known: map[string]bool{}, begin: tc.begin}
			res, err := w.follow(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v; want %q", res, err, tc.want)
			}
		})
	}
}

func TestAFirstRunThatBeginsWhileItIsLookedForIsNotLostState(t *testing.T) {
	in := newInstalled(t)
	in.run()
	// run.json is not there yet when it is read first.
	missing := true
	in.bucket.Fail(func(r *http.Request) buckettest.Fault {
		if !buckettest.IsRead(r) || !strings.HasSuffix(r.URL.Path, "run.json") || !missing {
			return nil
		}
		missing = false
		return buckettest.Status(http.StatusNotFound, "No such object")
	})
	if s, _ := in.statusOf("status", "--state", stateURL); !s.Healthy || missing {
		t.Errorf("got %+v, missing %v", s.Problems, missing)
	}
}
