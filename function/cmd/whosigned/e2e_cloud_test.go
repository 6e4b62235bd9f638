//go:build e2e && linux

package main_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
)

// TestE2ECloud is a day of the deployed function, on loopback: the binary that the
// buildpack makes, in the environment of Cloud Run, woken as Cloud Scheduler does;
// Cloud Storage over HTTP, real Rekor servers of both versions, and a SendGrid that
// holds every request to the API's reference. In each of 24 hours strangers sign,
// and something else happens. At the end exactly the right alerts have arrived, and
// what the state says is recomputed from the logs by other means than ours.
func TestE2ECloud(t *testing.T) {
	began := time.Now()
	binary := functionBinary(t)
	d := newDay(t, binary, startTrillian(t))
	d.publish(t)
	d.launch(t)
	t.Logf("all is up after %v; the function listened %v after its start", time.Since(began).Round(time.Second), d.function.ready.Round(time.Millisecond))

	hours := []struct {
		name string
		pass func(*day, testing.TB)
	}{
		{"the first run", (*day).firstRun},
		{"a cache alters an entry of Rekor v2, once", (*day).entryAltered},
		{"signed as the user, in both logs", (*day).signedByOthers},
		{"bucket: 503 and 429", (*day).bucketBusy},
		{"bucket: answers to writes are lost", (*day).bucketForgets},
		{"bucket: bodies are cut", (*day).bucketCuts},
		{"bucket: no permission to write", (*day).bucketForbids},
		{"SendGrid: 503", (*day).mailFails},
		{"SendGrid: 500", (*day).mailFailsAgain},
		{"SendGrid: 401, the key is wrong", (*day).mailRefusesKey},
		{"SendGrid: connection refused", (*day).mailIsGone},
		{"SendGrid is back, and an answer is lost", (*day).mailIsBack},
		{"two invocations at once, twice", (*day).overlap},
		{"killed after a commit", (*day).killedAfterCommit},
		{"killed in the middle of a scan", (*day).killedInScan},
		{"killed between findings and their commit", (*day).killedBeforeCommit},
		{"Rekor v1 rotates, to another key", (*day).treeRotates},
		{"Rekor v2: a second shard, the first is frozen", (*day).shardRotates},
		{"SIGTERM in the middle of a scan", (*day).terminated},
		{"the configuration is broken", (*day).configBroken},
		{"the configuration is still broken", (*day).configStillBroken},
		{"the configuration is mended, the API key rotated", (*day).configMended},
		{"rolled back to this release", (*day).rolledBack},
		{"rolled back too far", (*day).rolledBackTooFar},
	}
	for n, hour := range hours {
		if n > 0 {
			d.pass(t, time.Hour)
		}
		hourBegan := time.Now()
		hour.pass(d, t)
		d.checkCursors(t)
		t.Logf("hour %2d  %-50s %s  [%v]", n+1, hour.name, strings.Join(d.said, ", "), time.Since(hourBegan).Round(100*time.Millisecond))
		if d.said = nil; t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("the function held %.1f MiB at most (VmHWM), and listened after %v at most, in %d processes", float64(d.peak)/(1<<20), d.slowest().Round(time.Millisecond), len(d.all))
	if d.peak > maxPeak {
		t.Errorf("the function held %d bytes, want at most %d", d.peak, maxPeak)
	}
	d.checkState(t)
	d.checkMail(t)
	t.Logf("the day took %v", time.Since(began).Round(time.Second))
}

// maxPeak is more than what prefetch may hold (48 MiB) and the program itself, and
// far below the 512 MiB that the module gives the function.
const maxPeak = 128 << 20

// How runs end.
var (
	clean        = outcome{status: 200, outcome: "clean"}
	withFindings = outcome{status: 200, outcome: "findings"}
	unusable     = outcome{status: 500, outcome: "unusable", failed: true, overdue: true}
	invalid      = outcome{status: 500, outcome: "config", failed: true}
	// undelivered is a run whose alerts nobody took.
	undelivered = outcome{status: 200, outcome: "failed", failed: true}
)

func (d *day) firstRun(t testing.TB) {
	d.upload(t, d.rogue)
	d.run(t, withFindings)
}

// entryAltered has what the user must see look like a stranger's, the first time
// that it is read. It does not hash to what the shard signed, so it is read again.
func (d *day) entryAltered(t testing.TB) {
	d.upload(t, d.rogue)
	served := d.active().alterOnce(t, func(leaf []byte) bool { return d.rogue.in(t, leaf) })
	_, line := d.run(t, withFindings)
	if !served.Load() || line.Findings != 2 {
		t.Errorf("an altered entry was served: %t; %d findings, want 2", served.Load(), line.Findings)
	}
}

func (d *day) signedByOthers(t testing.TB) {
	d.upload(t, d.rogue, d.routine, d.key, d.impostor)
	d.run(t, withFindings)
}

func (d *day) bucketBusy(t testing.TB) {
	d.upload(t, d.rogue)
	busy := firstOf(buckettest.IsWrite, buckettest.Status(http.StatusTooManyRequests, "The rate of change requests to the object exceeds the rate limit."))
	down := firstOf(buckettest.IsRead, buckettest.Status(http.StatusServiceUnavailable, "We encountered an internal error. Please try again."))
	list := firstOf(buckettest.IsList, buckettest.Status(http.StatusServiceUnavailable, "We encountered an internal error. Please try again."))
	d.fault(t, func(r *http.Request) buckettest.Fault {
		for _, choose := range []func(*http.Request) buckettest.Fault{busy, down, list} {
			if f := choose(r); f != nil {
				return f
			}
		}
		return nil
	}, func() { d.run(t, withFindings) })
}

func (d *day) bucketForgets(t testing.TB) {
	d.upload(t, d.rogue)
	d.fault(t, firstOf(buckettest.IsWrite, buckettest.Lost), func() { d.run(t, withFindings) })
}

func (d *day) bucketCuts(t testing.TB) {
	d.upload(t, d.routine)
	reads, writes := firstOf(buckettest.IsRead, buckettest.CutAnswer(100)), firstOf(buckettest.IsWrite, buckettest.CutRequest)
	d.fault(t, func(r *http.Request) buckettest.Fault {
		if f := reads(r); f != nil {
			return f
		}
		return writes(r)
	}, func() { d.run(t, clean) })
}

// bucketForbids takes away what the service account may do, and then the bucket:
// nothing is changed, the answer says what is missing where, and the hour after
// makes up for it.
func (d *day) bucketForbids(t testing.TB) {
	d.upload(t, d.rogue)
	forbidden := buckettest.Status(http.StatusForbidden, "run@acme.iam.gserviceaccount.com does not have storage.objects.create access")
	missing := buckettest.Status(http.StatusNotFound, "The specified bucket does not exist.")
	for _, row := range []struct {
		choose func(*http.Request) buckettest.Fault
		says   []string
	}{
		{func(r *http.Request) buckettest.Fault {
			if buckettest.IsWrite(r) {
				return forbidden
			}
			return nil
		}, []string{"gs://" + stateBucket + "/run.json", "storage.objects.create", "roles/storage.objectUser"}},
		{func(*http.Request) buckettest.Fault { return missing }, []string{"create the bucket " + stateBucket}},
	} {
		d.untouched(t, nil, func() {
			d.fault(t, row.choose, func() {
				a, _ := d.run(t, unusable)
				checkSays(t, a.body, row.says...)
			})
		})
	}
}

func checkSays(t testing.TB, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in: %s", w, text)
		}
	}
}

func (d *day) mailFails(t testing.TB) {
	d.upload(t, d.rogue)
	d.mail.Always(&notifytest.Answer{Status: http.StatusServiceUnavailable, Body: "upstream connect error"})
	d.run(t, undelivered)
}

func (d *day) mailFailsAgain(t testing.TB) {
	d.upload(t, d.rogue)
	d.mail.Always(&notifytest.Answer{Status: http.StatusInternalServerError, Body: notifytest.ErrorBody("internal error", "", "")})
	d.run(t, undelivered)
}

func (d *day) mailRefusesKey(t testing.TB) {
	d.upload(t)
	d.mail.Always(nil)
	d.setKey(t, "SG.mistyped")
	a, _ := d.run(t, undelivered)
	checkSays(t, a.body, "401", "SENDGRID_API_KEY")
}

// mailIsGone is three hours after the first mail was refused: patience is over.
func (d *day) mailIsGone(t testing.TB) {
	d.upload(t, d.key)
	d.setKey(t, "SG.first")
	d.mail.close()
	a, _ := d.run(t, outcome{status: 500, outcome: "failed", failed: true, overdue: true, undelivered: true})
	checkSays(t, a.body, "connection refused")
}

func (d *day) mailIsBack(t testing.TB) {
	d.upload(t)
	d.mail.open(t)
	before := len(d.mail.Mails())
	d.mail.Next(notifytest.Answer{Disconnect: true, Accept: true}) // it has the mail, and we do not know
	_, line := d.run(t, clean)
	sent := d.mail.Mails()[before:]
	first, alerts := map[string]bool{}, 0
	for _, m := range sent {
		if message := m.Headers["Message-ID"]; !first[message] {
			first[message] = true
			alerts += len(alertsOf(m))
		}
	}
	if line.Pending != 0 || alerts != line.Delivered || len(sent) != len(first)+1 {
		t.Errorf("%d mails, %d of them different and telling of %d alerts; %d alerts delivered and %d pending; want one mail to come again, and none pending",
			len(sent), len(first), alerts, line.Delivered, line.Pending)
	}
}

// overlap has a second instance run while the first is at work: with its lease
// alive, and once it is over, as if the first had been suspended meanwhile.
func (d *day) overlap(t testing.TB) {
	busy := outcome{status: http.StatusConflict, outcome: "busy"}
	first := d.function
	second := d.launch(t)

	d.upload(t, d.rogue)
	h := d.active().hold(t)
	answers := first.start()
	h.wait(t, answers)
	d.check(t, second, second.invoke(), busy)
	close(h.release)
	d.check(t, first, <-answers, withFindings)

	d.upload(t, d.rogue)
	h = d.active().hold(t)
	answers = first.start()
	h.wait(t, answers)
	d.settled(t, first, d.v1.id(t, d.v1.active()))
	d.upload(t, d.key)
	d.edit(t, "run.json", func(doc map[string]any) { earlier(doc["lease"], time.Hour) })
	d.check(t, second, second.invoke(), withFindings)
	d.checkCursors(t)
	var state []string
	for _, name := range d.documents(t) {
		state = append(state, name+string(d.object(t, name)))
	}
	close(h.release)
	a, _ := d.check(t, first, <-answers, outcome{status: 200, outcome: "failed", failed: true})
	checkSays(t, a.body, "another run has written it meanwhile")
	for n, name := range d.documents(t) {
		if now := name + string(d.object(t, name)); now != state[n] {
			t.Errorf("the run that lost its lease wrote over the other's:\nbefore %s\nafter %s", state[n], now)
		}
	}
	first.end(syscall.SIGTERM)
}

// retried is Scheduler's second try: the lease of the killed run is still alive.
func (d *day) retried(t testing.TB) {
	t.Helper()
	d.launch(t)
	d.pass(t, 5*time.Minute)
	d.run(t, outcome{status: http.StatusConflict, outcome: "busy"})
}

// killedAfterCommit kills the function once a log's findings are committed, and
// before anybody was told of them.
func (d *day) killedAfterCommit(t testing.TB) {
	d.upload(t, d.rogue)
	mails := len(d.mail.Mails())
	d.killOnCommit(t, true)
	if got := len(d.mail.Mails()); got != mails {
		t.Fatalf("%d mails before the commit was acknowledged", got-mails)
	}
	d.retried(t)
}

func (d *day) killedInScan(t testing.TB) {
	d.upload(t, d.rogue)
	h := d.active().hold(t)
	answers := d.function.start()
	h.wait(t, answers)
	d.function.end(syscall.SIGKILL)
	if a := <-answers; !gone(a.err) {
		t.Fatalf("a function that was killed answers %+v", a)
	}
	d.say("killed")
	d.retried(t)
}

func (d *day) killedBeforeCommit(t testing.TB) {
	d.upload(t, d.rogue, d.routine)
	d.killOnCommit(t, false)
	d.retried(t)
}

func (d *day) treeRotates(t testing.TB) {
	d.upload(t, d.rogue) // the last that the old tree gets
	key := newKeyPair(t)
	d.v1.rotate(t, &key)
	d.upload(t, d.rogue, d.key)
	d.publish(t)
	d.run(t, withFindings)
}

func (d *day) shardRotates(t testing.TB) {
	d.upload(t, d.rogue) // the last that the old shard gets
	d.active().freeze(t)
	d.shards = append(d.shards, startShard(t, "v2.3.0"))
	d.upload(t, d.rogue)
	d.publish(t)
	d.run(t, withFindings)
}

// terminated stops the instance as Cloud Run does; the next one goes on at once,
// as the lease was released.
func (d *day) terminated(t testing.TB) {
	d.active().noise(t, 300) // more than a bundle
	d.upload(t, d.rogue)
	h := d.active().hold(t)
	answers := d.function.start()
	h.wait(t, answers)
	took, err := d.function.end(syscall.SIGTERM)
	if err != nil || took > 8*time.Second {
		t.Errorf("SIGTERM: the process ended with %v after %v, want status 0 within 8 s", err, took)
	}
	lines := d.function.lines(t)
	if a := <-answers; len(lines) != 1 || a.err != nil || a.status != http.StatusOK || !lines[0].Failed || lines[0].Outcome != "failed" {
		t.Errorf("SIGTERM: answer %+v, lines about the run %+v; want a run that failed", a, lines)
	}
	d.say("ended %v after SIGTERM", took.Round(10*time.Millisecond))
	d.checkCursors(t)
	d.launch(t)
	d.run(t, withFindings)
}

func (d *day) configBroken(t testing.TB) {
	d.upload(t, d.rogue)
	d.publish(t)
	const name = configFolder + "whosigned.yaml"
	d.buckets.Put(sourceBucket, name, "statte: oops\n"+string(d.stored(t, sourceBucket, name)))
	mails := len(d.mail.Mails())
	d.untouched(t, []string{"run.json", "alerts/"}, func() {
		a, _ := d.run(t, invalid)
		checkSays(t, a.body, "whosigned.yaml:1", "statte")
	})
	if sent := len(d.mail.Mails()) - mails; sent != 1 {
		t.Errorf("%d mails say that the configuration is broken, want 1", sent)
	}
}

func (d *day) configStillBroken(t testing.TB) {
	d.upload(t)
	mails := len(d.mail.Mails())
	d.untouched(t, []string{"run.json"}, func() { d.run(t, invalid) })
	if sent := len(d.mail.Mails()) - mails; sent != 0 {
		t.Errorf("%d more mails say that the same configuration is broken, want none", sent)
	}
}

func (d *day) configMended(t testing.TB) {
	d.upload(t)
	d.publish(t)
	d.setKey(t, "SG.second")
	d.mail.SetKey("SG.second")
	d.run(t, withFindings)
}

// rolledBack leaves the state as a newer release would, which wrote fields that
// this one does not know but can do without.
func (d *day) rolledBack(t testing.TB) {
	d.upload(t, d.rogue)
	newer := map[string]any{"since": "format 2", "list": []any{"a", "b"}}
	for _, name := range d.documents(t) {
		d.edit(t, name, func(doc map[string]any) {
			doc["format"], doc["min_reader"], doc["from_a_newer_release"] = 2, 1, newer
		})
	}
	d.run(t, withFindings)
	for _, name := range d.documents(t) {
		checkSays(t, string(d.object(t, name)), `"from_a_newer_release"`, `"format 2"`)
	}
}

// rolledBackTooFar leaves what only a newer release can read, in run.json and then
// in one log's state, and puts back what it was, as the bucket's versions would.
func (d *day) rolledBackTooFar(t testing.TB) {
	d.upload(t, d.rogue)
	tooNew := func(doc map[string]any) { doc["format"], doc["min_reader"] = 2, 2 }
	run := string(d.object(t, "run.json"))
	d.edit(t, "run.json", tooNew)
	d.untouched(t, nil, func() {
		a, _ := d.run(t, unusable)
		checkSays(t, a.body, "run.json can be read from format 2 on", "upgrade whosigned")
	})
	d.buckets.Put(stateBucket, "run.json", run)

	name := "state/" + d.active().id(t) + ".json"
	log := string(d.object(t, name))
	d.edit(t, name, tooNew)
	edited := string(d.object(t, name))
	a, line := d.run(t, undelivered) // the other logs are watched all the same
	checkSays(t, a.body, name+" can be read from format 2 on", "upgrade whosigned")
	if line.Findings != 1 || string(d.object(t, name)) != edited {
		t.Errorf("%d findings in the other logs, want 1; the log that cannot be read:\n%s", line.Findings, d.object(t, name))
	}
	d.buckets.Put(stateBucket, name, log)

	if _, line := d.run(t, withFindings); line.Pending != 0 || line.Findings != 1 {
		t.Errorf("%d alerts are pending at the end of the day, and %d findings in the log that can be read again; want 0 and 1", line.Pending, line.Findings)
	}
}
