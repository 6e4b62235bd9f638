package tlogtest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Gate stands before a served log: it counts what is asked and, on demand, makes
// requests go wrong. Its methods may be called while the log is serving.
type Gate struct {
	mu     sync.Mutex
	counts map[string]int
	faults []*fault
}

// Match tells which requests an effect is for; nil means all.
type Match func(*http.Request) bool

// Effect answers a request in the place of a log, or changes what next, the log
// itself, answers.
type Effect func(w http.ResponseWriter, r *http.Request, next http.Handler)

type fault struct {
	match  Match
	effect Effect
	left   int // how often it still strikes; negative: for ever
}

// Inject makes the next times requests that match go wrong, or all of them if
// times is 0, until clear is called. Faults that match the same request are nested,
// the first one injected outermost.
func (g *Gate) Inject(match Match, times int, effect Effect) (clear func()) {
	if times <= 0 {
		times = -1
	}
	f := &fault{match: match, effect: effect, left: times}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = append(g.faults, f)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		f.left = 0
	}
}

// ClearFaults ends all injected faults.
func (g *Gate) ClearFaults() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = nil
}

// Requests says how often each request came: "GET /checkpoint", "POST
// /api/v1/log/entries/retrieve". Those that went wrong count too.
func (g *Gate) Requests() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.counts)
}

// handle counts a request and leads it through the faults that match to log.
func (g *Gate) handle(w http.ResponseWriter, r *http.Request, log http.Handler) {
	g.mu.Lock()
	if g.counts == nil {
		g.counts = make(map[string]int)
	}
	g.counts[r.Method+" "+r.URL.RequestURI()]++
	var effects []Effect
	kept := g.faults[:0:0]
	for _, f := range g.faults {
		if f.left != 0 && (f.match == nil || f.match(r)) {
			effects = append(effects, f.effect)
			f.left--
		}
		if f.left != 0 {
			kept = append(kept, f)
		}
	}
	g.faults = kept
	g.mu.Unlock()

	h := log
	for i := len(effects) - 1; i >= 0; i-- {
		effect, next := effects[i], h
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { effect(w, r, next) })
	}
	h.ServeHTTP(w, r)
}

// Path matches requests whose path contains part: "/checkpoint",
// "/tile/entries/", "/log/proof".
func Path(part string) Match {
	return func(r *http.Request) bool { return strings.Contains(r.URL.Path, part) }
}

// Status answers with an HTTP status and no more.
func Status(code int) Effect {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, http.StatusText(code), code)
	}
}

// TooManyRequests answers 429 with Retry-After in whole seconds.
func TooManyRequests(after time.Duration) Effect {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", strconv.Itoa(int(after/time.Second)))
		http.Error(w, "too many requests", http.StatusTooManyRequests)
	}
}

// Redirect answers 302 to a URL.
func Redirect(url string) Effect {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, url, http.StatusFound)
	}
}

// Instead answers from another log: one replica of several, or a view for one
// request only.
func Instead(other http.Handler) Effect {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) { other.ServeHTTP(w, r) }
}

// Latency waits before the log answers, or until the client has gone.
func Latency(d time.Duration) Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if pause(r, d) {
			next.ServeHTTP(w, r)
		}
	}
}

// Hang never answers; it ends when the client goes.
func Hang() Effect {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }
}

// Slow sends what the log answers chunk bytes at a time, waiting between them.
func Slow(chunk int, wait time.Duration) Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := answerOf(next, r)
		a.sendHeader(w)
		for body := a.body.Bytes(); len(body) > 0; {
			n := min(max(chunk, 1), len(body))
			if _, err := w.Write(body[:n]); err != nil {
				return
			}
			body = body[n:]
			if http.NewResponseController(w).Flush() != nil || !pause(r, wait) {
				return
			}
		}
	}
}

// Truncate announces the whole length of what the log answers, sends its first n
// bytes, and cuts the connection.
func Truncate(n int) Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := answerOf(next, r)
		// net/http closes a connection on which less was written than announced.
		w.Header().Set("Content-Length", strconv.Itoa(max(a.body.Len(), n+1)))
		a.sendHeader(w)
		_, _ = w.Write(a.body.Bytes()[:min(n, a.body.Len())])
	}
}

// Cut closes the connection without an answer.
func Cut() Effect {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, fmt.Sprintf("cannot cut this connection: %v", err), http.StatusInternalServerError)
			return
		}
		_ = conn.Close()
	}
}

// Oversize answers 200 with n bytes, the log's answer first; a negative n has no end.
func Oversize(n int64) Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := answerOf(next, r)
		a.sendHeader(w)
		body := io.MultiReader(&a.body, endless{'x'})
		if n >= 0 {
			body = io.LimitReader(body, n)
		}
		_, _ = io.Copy(w, body)
	}
}

// GzipBomb answers 200 with a gzip stream that decompresses to n zero bytes, a
// thousandth of that on the wire.
func GzipBomb(n int64) Effect {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/octet-stream")
		z := gzip.NewWriter(w)
		if _, err := io.CopyN(z, endless{0}, n); err != nil {
			return
		}
		_ = z.Close()
	}
}

// Garbage answers 200 with bytes that mean nothing in any protocol.
func Garbage() Effect {
	return Edit(func([]byte) []byte {
		b := make([]byte, 4097) // no multiple of a hash's size
		for i := range b {
			b[i] = byte(i*i*7 + i>>3)
		}
		return b
	})
}

// Edit changes the body of what the log answers.
func Edit(f func(body []byte) []byte) Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := answerOf(next, r)
		body := f(bytes.Clone(a.body.Bytes()))
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		a.sendHeader(w)
		_, _ = w.Write(body)
	}
}

// pause reports whether the client is still there after d.
func pause(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// answer is a response kept in memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func answerOf(h http.Handler, r *http.Request) *answer {
	a := &answer{header: make(http.Header), status: http.StatusOK}
	h.ServeHTTP(a, r)
	return a
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// sendHeader sends status and header but for the length, which an effect changes.
func (a *answer) sendHeader(w http.ResponseWriter) {
	for name, values := range a.header {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(a.status)
}

// endless reads as one byte for ever.
type endless struct{ b byte }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.b
	}
	return len(p), nil
}
