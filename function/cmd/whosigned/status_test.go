package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// statusOf is the status as --json says it, which must agree with what people read.
func (in *installed) statusOf(args ...string) (*status, string) {
	in.t.Helper()
	code, out, errOut := in.whosigned(append(args, "--json")...)
	s := new(status)
	if err := json.Unmarshal([]byte(out), s); err != nil {
		in.t.Fatalf("exit status %d, %v: %s%s", code, err, out, errOut)
	}
	again, text, _ := in.whosigned(args...)
	if code != s.Exit || again != s.Exit || s.Healthy != (len(s.Problems) == 0) {
		in.t.Errorf("exit status %d with --json and %d without; it says exit %d, healthy %v, %d problems", code, again, s.Exit, s.Healthy, len(s.Problems))
	}
	return s, text
}

func TestAHealthyInstallationSaysWhatIsDeployedAndHowFarItHasRead(t *testing.T) {
	in := newInstalled(t)
	in.sign("eve@acme.example")
	if res := in.run(); res.Exit != monitor.ExitFindings {
		t.Fatalf("the run: exit %d, errors %q", res.Exit, res.Errors)
	}
	s, text := in.statusOf(inCloud("status")...)
	if !s.Healthy || s.Exit != 0 || s.Version != "v1.2.3" || s.State != stateURL || s.LastRun == nil || s.LastRun.Exit != monitor.ExitFindings || s.LastGoodRun == nil {
		t.Errorf("got %+v", s)
	}
	if d := s.Deployment; d.State != "ACTIVE" || d.Runtime != "go126" || d.Revision != "whosigned-00003-zel" || d.URL != "https://whosigned-abcdefghij-ew.a.run.app" ||
		d.Updated == nil || d.Source != "gs://acme-whosigned-source/source/whosigned-0123456789abcdef.zip" {
		t.Errorf("deployment: got %+v", d)
	}
	if len(s.Logs) != 1 || s.Logs[0].Size != 2 || s.Logs[0].Scanned != 2 || s.Logs[0].Entries != 2 || s.Logs[0].Unread != 0 || s.Logs[0].Status != monitor.StatusBaseline {
		t.Errorf("logs: got %+v", s.Logs)
	}
	for _, want := range []string{
		"healthy\n", "whosigned in europe-west1 of acme-security: ACTIVE", "go126", "whosigned-00003-zel", "whosigned-0123456789abcdef.zip",
		"config/whosigned/whosigned.yaml", "v1.2.3", "7 * * * * (Etc/UTC), job ENABLED", "2026-11-22T11:07:00.123456Z: answered", "exit 3 (unexpected findings)",
		"log.example  baseline  2     2        0       -    2",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

// Each row makes something of a healthy installation unhealthy.
func TestWhatIsNotHealthyIsSaidWithWhatToDoNext(t *testing.T) {
	hours := func(n int) time.Duration { return time.Duration(n) * time.Hour }
	for _, tc := range []struct {
		name    string
		do      func(in *installed)
		exit    int
		what    string // of a problem; "" is healthy
		next    string
		shown   string // beside it
		missing string // must not be said
	}{
		{name: "nothing", do: func(*installed) {}},
		{name: "a run was not started in time", do: func(in *installed) { in.skew = 105 * time.Minute },
			exit: 1, what: "the schedule allows 1h39m", next: "whosigned run --remote --project acme-security --region europe-west1"},
		{name: "a run is not late yet", do: func(in *installed) { in.skew = 98 * time.Minute }},
		{name: "a rarer schedule", do: func(in *installed) { in.skew, in.env["WHOSIGNED_EVERY"] = hours(24), "24h" }},
		{name: "Google's clock is not ours", do: func(in *installed) {
			in.edit(func(d *state.Run) { d.LastRun = d.LastRun.Add(hours(5)) })
			in.skew = hours(5)
		}},
		{name: "a run is at work", do: func(in *installed) {
			in.skew = hours(3)
			in.edit(func(d *state.Run) {
				d.Lease = &state.Lease{Run: "20261122T110700Z-0a", Expires: time.Now().Add(hours(3) + time.Minute)}
				d.Outbox = append(d.Outbox, state.Pending{Alert: "a", Class: "health", Since: time.Now().Add(hours(3)), Sinks: []string{"folder"}})
			})
		}, shown: "at work       run 20261122T110700Z-0a; its lease ends in "},
		{name: "a run was killed", do: func(in *installed) {
			in.edit(func(d *state.Run) {
				d.Lease = &state.Lease{Run: "20261122T110700Z-0a", Expires: time.Now().Add(-90 * time.Second)}
			})
		}, exit: 1, what: "run 20261122T110700Z-0a never ended: its lease ran out 1m", next: "it was killed, or out of memory"},
		{name: "a log cannot be read", do: func(in *installed) {
			in.log.Inject(tlogtest.Path("/checkpoint"), 0, tlogtest.Status(404))
			in.run()
		}, exit: 1, what: "runs do not do their job for ", next: "gcloud logging read", shown: "log.example: checkpoint: "},
		{name: "the configuration is invalid", do: func(in *installed) {
			m, err := in.monitor(in.t.Context())
			in.must(err)
			_, err = m.Refuse(in.t.Context(), "7", os.ErrInvalid)
			in.must(err)
		}, exit: 1, what: "the configuration is invalid, and nothing is watched: invalid argument", next: "gcloud logging read", missing: "problem       for"},
		{name: "a sink does not take alerts", do: func(in *installed) {
			in.must(os.RemoveAll(filepath.Join(in.dir, "mail")))
			in.write("mail", "not a folder")
			in.sign("eve@acme.example")
			in.run()
		}, exit: 1, what: "an alert is undelivered for ", next: "mend the sink", shown: "/mail: not a directory", missing: "healthy\n"},
		{name: "health", do: func(in *installed) {
			in.edit(func(d *state.Run) {
				d.Conditions = map[string]state.Condition{"quiet:x": {Text: "log.example has not grown for 25h", Since: time.Now().Add(-hours(25)), Said: time.Now().Add(-hours(1))}}
			})
		}, exit: 1, what: "log.example has not grown for 25h", next: "the alert about it", shown: "log.example has not grown for 25h"},
		{name: "trouble that has not lasted", do: func(in *installed) {
			in.edit(func(d *state.Run) {
				d.Conditions = map[string]state.Condition{"x": {Text: "sink \x1b[2Jfolder", Since: time.Now().Add(-90 * time.Second)}}
			})
		}, shown: `sink \u{001b}[2Jfolder (for 1m`},
		{name: "tampering", do: func(in *installed) {
			in.sign("someone@else.example")
			fork, err := without(in.log.Tree(), 0)
			in.must(err)
			in.log.Append([]byte("x"))
			in.must(in.log.Publish())
			in.log.Show(fork)
			in.run()
		}, exit: 4, what: "TAMPERING: incident ", next: "whosigned accept --config gs://acme-whosigned-source/config/whosigned/whosigned.yaml --state gs://acme-whosigned-state --log ", shown: "of log "},
		{name: "tampering, with the configuration inline", do: func(in *installed) {
			in.env["WHOSIGNED_CONFIG"] = "logs:\n- {}\n"
			in.sign("someone@else.example")
			in.run()
			fork, err := without(in.log.Tree(), 0)
			in.must(err)
			in.log.Show(fork)
			in.run()
		}, exit: 4, what: "TAMPERING: incident ", next: "whosigned accept --config FILE --state gs://acme-whosigned-state --log ", shown: "configuration inline, 11 bytes in WHOSIGNED_CONFIG"},
		{name: "falling behind", do: func(in *installed) {
			in.edit(func(d *state.Run) {
				last, err := result(d)
				in.must(err)
				last.Logs[0].FallingBehind, last.Logs[0].Lag = true, 90000
				d.Last = last
			})
		}, exit: 1, what: "log log.example is falling behind", next: "coverage: consistency"},
		{name: "a log's state is lost", do: func(in *installed) {
			in.edit(func(d *state.Run) { d.Logs[newID] = "https://log2.example" })
		}, exit: 1, what: "state is lost: state/" + newID + ".json is gone", next: "see the message"},
		{name: "the job is paused", do: func(in *installed) { in.job["state"], in.skew = "PAUSED", hours(9) },
			exit: 1, what: "job whosigned is paused: nothing starts the runs", next: "gcloud scheduler jobs resume whosigned --location europe-west1 --project acme-security", missing: "no run has ended"},
		{name: "the job is disabled", do: func(in *installed) { in.job["state"] = "DISABLED" }, exit: 1, what: "job whosigned is DISABLED", next: "terraform apply"},
		{name: "the job may not call the function", do: func(in *installed) {
			in.job["status"] = map[string]any{"code": 7, "message": "denied"}
		}, exit: 1, what: "did not get through to the function: PERMISSION_DENIED: denied", next: "roles/run.invoker on the Cloud Run service whosigned"},
		{name: "the call met a run at work", do: func(in *installed) { in.job["status"] = map[string]any{"code": 10} }, shown: "refused, for a run was at work"},
		{name: "no job", do: func(in *installed) { in.deny("/jobs/", 404, "NOT_FOUND", "Job not found.") },
			exit: 1, what: "whether runs are started is unknown: ", next: "see the message", shown: "there is no Cloud Scheduler job whosigned"},
		{name: "no right to see the job", do: func(in *installed) { in.deny("/jobs/", 403, "PERMISSION_DENIED", "lacks") }, exit: 1, what: "roles/cloudscheduler.viewer"},
		{name: "the deployment failed", do: func(in *installed) {
			in.cloud.state = 2
			in.messages = []map[string]any{{"severity": 1, "type": "CloudRunServiceNotFound", "message": "Cloud Run service is gone"}}
		}, exit: 1, what: "the function is FAILED: ERROR CloudRunServiceNotFound: Cloud Run service is gone", next: "gcloud functions describe whosigned --region europe-west1"},
		{name: "it is being deployed", do: func(in *installed) { in.cloud.state = 3 }, shown: "a new revision is being deployed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInstalled(t)
			in.run()
			tc.do(in)
			s, text := in.statusOf(inCloud("status")...)
			if s.Exit != tc.exit || s.Healthy != (tc.exit == 0) {
				t.Errorf("exit %d, healthy %v; want %d", s.Exit, s.Healthy, tc.exit)
			}
			if tc.what == "" && len(s.Problems) > 0 {
				t.Errorf("problems %+v, want none", s.Problems)
			}
			found := tc.what == ""
			for _, p := range s.Problems {
				found = found || strings.Contains(p.What, tc.what) && strings.Contains(p.Next, tc.next)
			}
			if !found {
				t.Errorf("problems %+v, want %q and next %q", s.Problems, tc.what, tc.next)
			}
			if !strings.Contains(text, tc.shown) || tc.missing != "" && strings.Contains(text, tc.missing) {
				t.Errorf("want %q, and not %q, in:\n%s", tc.shown, tc.missing, text)
			}
			if strings.Contains(text, "\x1b") {
				t.Errorf("a control character in:\n%q", text)
			}
		})
	}
}

// newID is a log that nobody has.
const newID = "00000000000000000000000000000000000000000000000000000000000000aa"

// deny refuses the calls whose path has a part.
func (in *installed) deny(part string, code int, status, message string) {
	in.change(func() { in.refuse = refusal(part, apiError(code, status, message)) })
}

func TestAnInstallationIsKnownByItsStateOrConfigurationAlone(t *testing.T) {
	in := newInstalled(t)
	for _, args := range [][]string{{"status", "--state", stateURL}, {"status", "--config", in.config}} {
		s, text := in.statusOf(args...)
		if s.Exit != 1 || len(s.Problems) != 1 || !strings.Contains(s.Problems[0].What, "no run has been made yet") || !strings.Contains(text, "whosigned run --") {
			t.Errorf("%v before the first run: %+v", args, s)
		}
	}
	in.run()
	for _, args := range [][]string{{"status", "--state", stateURL}, {"status", "--config", in.config}} {
		if s, _ := in.statusOf(args...); !s.Healthy || s.Deployment != nil || s.State != stateURL {
			t.Errorf("%v: got %+v", args, s)
		}
	}
	in.edit(func(d *state.Run) { d.LastRun = time.Now().Add(-3 * time.Hour) })
	if s, _ := in.statusOf("status", "--state", stateURL); s.Healthy || !strings.Contains(s.Problems[0].What, "no run has ended for 3h0m") {
		t.Errorf("3 h without a run: %+v", s.Problems)
	}
	if s, _ := in.statusOf("status", "--state", stateURL, "--every", "24h"); !s.Healthy {
		t.Errorf("with --every 24h: %+v", s.Problems)
	}
	if len(in.asked) > 0 {
		t.Errorf("Google Cloud was asked %q", in.asked)
	}
}

func TestStateThatCannotBeReadIsAProblemAndNotAnEmptyInstallation(t *testing.T) {
	in := newInstalled(t)
	for _, tc := range []struct{ name, state, want string }{
		{"no bucket", "gs://nobody-has-this", "nobody-has-this"},
		{"garbage", "file://" + in.dir + "/garbage", "run.json is corrupt"},
		{"from a newer release", "file://" + in.dir + "/newer", "upgrade whosigned"},
	} {
		in.must(os.MkdirAll(filepath.Join(in.dir, "garbage"), 0o700))
		in.write("garbage/run.json", "{")
		in.must(os.MkdirAll(filepath.Join(in.dir, "newer"), 0o700))
		in.write("newer/run.json", `{"format": 99, "min_reader": 99}`)
		in.env["WHOSIGNED_STATE"] = tc.state
		s, text := in.statusOf(inCloud("status")...)
		if s.Exit != 1 || !strings.Contains(s.Problems[0].What, tc.want) || !strings.Contains(text, "go126") {
			t.Errorf("%s: got %+v, want %q, and what is deployed:\n%s", tc.name, s.Problems, tc.want, text)
		}
	}
	delete(in.env, "WHOSIGNED_STATE")
	if code, _, errOut := in.whosigned(inCloud("status")...); code != 1 || !strings.Contains(errOut, "--state gs://BUCKET") {
		t.Errorf("without WHOSIGNED_STATE: exit status %d: %s", code, errOut)
	}
	in.run()
	if s, _ := in.statusOf(inCloud("status", "--state", stateURL)...); !s.Healthy {
		t.Errorf("with --state: %+v", s.Problems)
	}
}

func TestAnInstallationWhoseRunsAreAllKilledIsNotHealthyForALiveLease(t *testing.T) {
	in := newInstalled(t)
	in.run()
	in.edit(func(d *state.Run) {
		d.LastRun, d.LastGood = time.Now().Add(-72*time.Hour), time.Now().Add(-72*time.Hour)
		d.Lease = &state.Lease{Run: "20261122T110700Z-0a", Expires: time.Now().Add(20 * time.Minute)}
	})
	in.job["status"] = map[string]any{"code": 10} // the retry met the dead run's lease
	if code, out, _ := in.whosigned(inCloud("status")...); code == 0 || !strings.Contains(out, "no run has ended for") {
		t.Errorf("exit %d after three days without a run:\n%s", code, out)
	}
}
