package function

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
)

// kind says how an invocation ended; the first that applies.
type kind string

const (
	invalid  kind = "config"   // the configuration cannot be used
	unusable kind = "unusable" // the state cannot
	busy     kind = "busy"     // another run is at work
	tamper   kind = "tamper"
	failed   kind = "failed"
	findings kind = "findings"
	clean    kind = "clean"
)

// outcome is what became of an invocation.
type outcome struct {
	kind  kind
	res   *monitor.Result // nil if there was no run
	err   error           // nil if the result says it all
	stack []byte          // of a panic
}

func finished(res *monitor.Result) outcome {
	kinds := map[int]kind{monitor.ExitClean: clean, monitor.ExitFindings: findings, monitor.ExitTamper: tamper}
	return outcome{kind: cmp.Or(kinds[res.Exit], failed), res: res}
}

// couldNotBegin sorts out the errors of monitor.Run.
func couldNotBegin(ctx context.Context, err error) outcome {
	var lease *state.LeaseError
	switch {
	case errors.As(err, &lease), errors.Is(err, state.ErrConflict):
		return outcome{kind: busy, err: err}
	case ctx.Err() != nil:
		return outcome{kind: failed, err: fmt.Errorf("interrupted before the run began (%w): %w", context.Cause(ctx), err)}
	}
	return outcome{kind: unusable, err: err}
}

// panicked is the outcome of a bug. The process goes on: what it keeps between runs
// cannot be half-changed, as there is nothing. The lease is left to expire instead of
// released, since logs of that run may still be at work. A panic that a log meets is
// that log's failure; one in another goroutine of the run still ends the process.
func panicked(p any, stack []byte) outcome {
	return outcome{kind: failed, stack: stack, err: fmt.Errorf("panic: %s; the lease is left to expire, and the run after that goes on from what was committed. "+
		"This is a bug in whosigned: please report it with the stack in the log", clip(fmt.Sprint(p), 1000))}
}

// status is the HTTP status of the design: Scheduler, and whoever looks at it, shall
// see trouble that has lasted, not that which passes.
func (o outcome) status() int {
	switch {
	case o.kind == busy:
		return http.StatusConflict
	case o.err != nil, o.res.Overdue:
		return http.StatusInternalServerError
	}
	return http.StatusOK
}

// failure is the answer of an invocation that made no run.
type failure struct {
	Error   string `json:"error"`
	Outcome kind   `json:"outcome,omitempty"`
}

func (o outcome) answer(w http.ResponseWriter) {
	if o.err != nil {
		send(w, o.status(), failure{clip(o.err.Error(), maxLine), o.kind})
		return
	}
	// A response of more than 32 MB is refused. All findings are in findings/.
	res := *o.res
	for len(indented(res)) > maxAnswer && len(res.Findings) > 0 {
		half := len(res.Findings) / 2
		res.FindingsCut += len(res.Findings) - half
		res.Findings = res.Findings[:half]
	}
	send(w, o.status(), res)
}

const maxAnswer = 16 << 20

func refuse(w http.ResponseWriter, status int, text string) {
	send(w, status, failure{Error: text})
}

// send writes an answer to its end: the process may exit once it is written.
func send(w http.ResponseWriter, status int, v any) {
	body := indented(v)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// A client that has left gets no answer, and the log line says it all.
	_, _ = w.Write(body)
	_ = http.NewResponseController(w).Flush()
}

// indented is JSON as `whosigned run --json` prints it.
func indented(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Appendf(nil, "{\"error\": %q}\n", err.Error())
	}
	return b.Bytes()
}
