// Package function is what is deployed on Google Cloud: one HTTP function, Monitor,
// that makes one run for each POST / and answers with its result. Cloud Scheduler
// sends the request, once an hour and sometimes twice.
//
//	environment  what the Terraform module has set              (environment.go)
//	run          configuration, state and sinks, opened anew,
//	             then one monitor.Run                           (run.go)
//	answer       status, JSON, and one line in the log          (answer.go)
//
// It keeps its share of these promises: P3, as a sink whose secret is missing holds
// its alerts back instead of the watching; P4, as an invocation that finds another
// at work ends with 409 and touches nothing; P7, as work ends, committed, before
// the platform ends the request, and within 8 s of SIGTERM (stop.go); P10, as every
// invocation writes one line that says how it went, which alerts outside of us live on.
package function

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/whosigned/whosigned/pkg/monitor"
)

var deployed = &endpoint{getenv: os.Getenv, log: os.Stdout, stop: newStopper(os.Exit), clock: production}

func init() { functions.HTTP("Monitor", deployed.ServeHTTP) }

// endpoint answers requests.
type endpoint struct {
	getenv func(string) string
	log    io.Writer
	stop   *stopper
	clock  clock
	tune   func(*monitor.Monitor) // by tests; nil otherwise

	first sync.Once // what the first request sets up
}

// clock is how the time of a request is divided. A run begins only if it has least,
// works until margin before the end, and delivers what it has until a sixth of
// margin before it; what is left is for the last commit and the answer.
type clock struct{ least, margin time.Duration }

var production = clock{least: 180 * time.Second, margin: 60 * time.Second}

// grace is how long a run may keep and deliver what it has once it is told to end,
// and again for its last commit: together less than stopTime.
const grace = 3 * time.Second

// Limits on what a request may send. Nothing in it is needed.
const (
	maxBody  = 64 << 10
	bodyTime = 10 * time.Second
)

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	if r.URL.Path != "/" {
		refuse(w, http.StatusNotFound, "there is nothing at this path; POST / makes a run")
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "POST / makes a run; there is nothing else")
		return
	}
	e.first.Do(func() {
		limitMemory(e.getenv)
		e.stop.watch()
	})
	in := &invocation{
		endpoint: e, started: started, trigger: trigger(r.Header), version: version(e.getenv),
		logger: newLogger(e.log, slog.LevelInfo).With(traced(r.Header, e.getenv("GOOGLE_CLOUD_PROJECT"))...),
	}
	ctx, done, ok := e.stop.begin(r.Context(), func() { in.late(errStopped) })
	if !ok {
		refuse(w, http.StatusServiceUnavailable, "this instance is being stopped; send the request again")
		return
	}
	defer done()
	drain(w, r)
	o := in.run(ctx)
	in.say(o)
	o.answer(w)
}

// drain reads what the request sends: until then the server does not notice a
// client that leaves.
func drain(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	// Without deadlines the platform's own limits hold.
	_ = c.SetReadDeadline(time.Now().Add(bodyTime))
	_, _ = io.CopyN(io.Discard, r.Body, maxBody)
	_ = c.SetReadDeadline(time.Time{})
}
