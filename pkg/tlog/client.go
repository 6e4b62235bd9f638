package tlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxTries      = 4
	backoffFactor = 4
	// maxRetryAfter caps what a server can make us wait with one Retry-After.
	maxRetryAfter = time.Minute
	maxErrorBody  = 1 << 10
	maxHeader     = 64 << 10
)

// ClientOptions configures a [Client]. The zero value works.
type ClientOptions struct {
	// Version is ours, for the User-Agent. Default "devel".
	Version string
	// Timeout bounds one request, from its start to the last byte of the answer.
	// Default 30 s.
	Timeout time.Duration
	// Backoff is the wait before a second try; it grows fourfold with each
	// further one, and every wait is jittered by half. Default 250 ms, which makes
	// a request that never succeeds take about 5 s.
	Backoff time.Duration
	// Insecure lists the hosts, with or without port, that may be reached by
	// http://. Loopback always may.
	Insecure []string
	// Budget bounds the bytes that [ReadAhead] holds. Default 48 MiB of its own.
	Budget *Budget
	// Logger is told of retries and throttling, at debug level. Default: nobody.
	Logger *slog.Logger
	// Base replaces the network in tests.
	Base http.RoundTripper
}

// Client fetches from logs that may be slow, broken or hostile. Everything goes
// through one RoundTripper, which limits bytes (after decompression) and time,
// follows no redirect, refuses http:// beyond loopback, keeps connections alive
// and says honestly who asks. All logs should share one Client: it adapts
// concurrency per host, see [Client.Get].
type Client struct {
	transport *transport
	budget    *Budget
	backoff   time.Duration
	logger    *slog.Logger

	mu    sync.Mutex
	hosts map[string]*host // by scheme and host
}

// NewClient makes a Client.
func NewClient(o ClientOptions) *Client {
	t := &transport{
		base:      o.Base,
		agent:     "whosigned/" + cmp.Or(o.Version, "devel") + " (+https://github.com/whosigned/whosigned)",
		timeout:   cmp.Or(o.Timeout, 30*time.Second),
		plaintext: map[string]bool{},
	}
	for _, h := range o.Insecure {
		t.plaintext[strings.ToLower(h)] = true
	}
	if t.base == nil {
		t.base = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConns:           4 * maxInFlight,
			MaxIdleConnsPerHost:    maxInFlight,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			// What a server may push before we have read it is outside every budget.
			HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 1 << 20, MaxReceiveBufferPerConnection: 4<<20 - 1},
		}
	}
	c := &Client{
		transport: t,
		budget:    o.Budget,
		backoff:   cmp.Or(o.Backoff, 250*time.Millisecond),
		logger:    o.Logger,
		hosts:     map[string]*host{},
	}
	if c.budget == nil {
		c.budget = NewBudget(0)
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Stats counts what a Client did.
type Stats struct {
	Requests uint64 // sent, retries included
	Bytes    uint64 // of answers, decompressed
}

// Stats returns the totals so far.
func (c *Client) Stats() Stats {
	return Stats{Requests: c.transport.requests.Load(), Bytes: c.transport.bytes.Load()}
}

// HTTP is a client for libraries that want one. Its answers are limited to
// MaxChunk bytes; it neither retries nor takes part in adapting concurrency.
func (c *Client) HTTP() *http.Client {
	return &http.Client{
		Transport:     c.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Get returns the body of a 200 answer, of at most limit bytes. It tries a few
// times, waiting longer each time, after 429, 5xx and network errors only, and
// gives a server that says Retry-After the time it asks for, up to a minute. It
// never waits past the context's deadline. As many requests to one host run at
// once as that host bears: more while latency holds, half after 429 and 503.
//
// The error is an *Unavailable with the causes of all tries; the last one's
// *StatusError or *TooLargeError is what errors.As finds.
func (c *Client) Get(ctx context.Context, url string, limit int64) ([]byte, error) {
	return c.do(ctx, request{method: http.MethodGet, url: url, limit: limit})
}

// Post is Get with a body. It is repeated like Get, so the request must be one
// that only reads.
func (c *Client) Post(ctx context.Context, url, contentType string, body []byte, limit int64) ([]byte, error) {
	return c.do(ctx, request{http.MethodPost, url, contentType, body, limit})
}

// StatusError is an answer other than 200.
type StatusError struct {
	Code       int
	Body       []byte        // at most 1 KiB of it
	RetryAfter time.Duration // as asked for, uncapped; 0 if it was not
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("HTTP status %d %s", e.Code, http.StatusText(e.Code))
	if body := bytes.TrimSpace(e.Body); len(body) > 0 {
		s += fmt.Sprintf(": %.200q", body)
	}
	return s
}

// TooLargeError is an answer beyond the limit it was asked for with.
type TooLargeError struct{ Limit int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the answer is larger than the limit of %d bytes", e.Limit)
}

// tries are the errors of several tries. The last comes first for errors.As.
type tries []error

func (t tries) Unwrap() []error { return t }
func (t tries) Error() string {
	var b strings.Builder
	if len(t) > 1 {
		fmt.Fprintf(&b, "%d tries: ", len(t))
	}
	said := map[string]bool{}
	for _, err := range t {
		if s := err.Error(); !said[s] {
			if len(said) > 0 {
				b.WriteString("; before: ")
			}
			b.WriteString(s)
			said[s] = true
		}
	}
	return b.String()
}

type request struct {
	method, url, contentType string
	body                     []byte
	limit                    int64
}

func (c *Client) do(ctx context.Context, r request) ([]byte, error) {
	h, err := c.host(r.url)
	if err != nil {
		return nil, &Unavailable{What: r.method + " " + strconv.Quote(r.url), Err: err}
	}
	var failed tries
	fail := func(err error) { failed = append(tries{err}, failed...) }
	wait := c.backoff
	for {
		data, err := c.once(ctx, h, r)
		if err == nil {
			return data, nil
		}
		fail(err)
		if !temporary(err) {
			break
		}
		pause := wait/2 + rand.N(wait)
		wait *= backoffFactor
		var status *StatusError
		if errors.As(err, &status) && (status.Code == http.StatusTooManyRequests || status.RetryAfter > 0) {
			// Said to this request, meant for all.
			pause = max(pause, min(status.RetryAfter, maxRetryAfter))
			h.pause(pause)
		}
		if len(failed) == maxTries || ctx.Err() != nil {
			break
		}
		c.logger.DebugContext(ctx, "trying again", "url", r.url, "wait", pause, "err", err)
		if err := pauseFor(ctx, pause); err != nil {
			fail(err)
			break
		}
	}
	return nil, &Unavailable{What: r.method + " " + r.url, Err: failed}
}

// once makes one try, in one of the host's slots.
func (c *Client) once(ctx context.Context, h *host, r request) ([]byte, error) {
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	start := time.Now()
	data, err := c.transport.fetch(ctx, r)
	h.release(start, err, ctx.Err() != nil)
	return data, err
}

// temporary reports whether another try may help.
func temporary(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Code == http.StatusTooManyRequests || status.Code >= 500
	}
	var large *TooLargeError
	return !errors.As(err, &large) && !errors.Is(err, errPlaintext) && !errors.Is(err, context.DeadlineExceeded)
}

// pauseFor waits for d, but not at all if the context ends before that.
func pauseFor(ctx context.Context, d time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return fmt.Errorf("the time left does not allow a wait of %s: %w", d.Round(time.Millisecond), context.DeadlineExceeded)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// host returns the limiter of a URL's host.
func (c *Client) host(rawURL string) (*host, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	key := strings.ToLower(u.Scheme + "://" + u.Host)
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.hosts[key]
	if !ok {
		h = newHost()
		c.hosts[key] = h
	}
	return h, nil
}

// transport is the one RoundTripper.
type transport struct {
	base      http.RoundTripper
	agent     string
	timeout   time.Duration
	plaintext map[string]bool // hosts that may be reached by http://

	requests, bytes atomic.Uint64
}

var errPlaintext = errors.New("not https")

type limitKey struct{}

// RoundTrip implements http.RoundTripper. The limit on the answer's bytes is
// taken from the request's context, MaxChunk without one.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.allowed(req.URL); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	limit, ok := req.Context().Value(limitKey{}).(int64)
	if !ok {
		limit = MaxChunk
	}
	ctx, cancel := context.WithTimeout(req.Context(), t.timeout)
	req = req.Clone(ctx)
	req.Header.Set("User-Agent", t.agent)
	if IsFresh(ctx) {
		req.Header.Set("Cache-Control", "no-cache")
		req.Header.Set("Pragma", "no-cache")
	}
	t.requests.Add(1)
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, limit: limit, left: limit, cancel: cancel, count: &t.bytes}
	return resp, nil
}

// allowed refuses what an attacker on the path could answer.
func (t *transport) allowed(u *url.URL) error {
	host := strings.ToLower(u.Hostname())
	ip := net.ParseIP(host)
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("scheme %q: %w", u.Scheme, errPlaintext)
	case host == "localhost", ip != nil && ip.IsLoopback():
		return nil
	case t.plaintext[host], t.plaintext[strings.ToLower(u.Host)]:
		return nil
	}
	return fmt.Errorf("%w: http:// is for loopback only; use https:// or set insecure: true for %s", errPlaintext, u.Host)
}

// fetch makes one request and reads its answer whole.
func (t *transport) fetch(ctx context.Context, r request) ([]byte, error) {
	ctx = context.WithValue(ctx, limitKey{}, r.limit)
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, t.named(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		// Why the body of an error could not be read does not matter.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		return nil, &StatusError{resp.StatusCode, body, retryAfter(resp.Header)}
	}
	data, err := readBody(resp, r.limit)
	if err != nil {
		return nil, t.named(ctx, err)
	}
	return data, nil
}

// named tells our own time limit, of which ctx knows nothing, from that of ctx:
// the first is the log's failure, the second the end of the run. So it drops the
// chain in which callers would find context.DeadlineExceeded.
func (t *transport) named(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("no complete answer within %s: %v", t.timeout, err)
	}
	return err
}

// readBody reads into one allocation when the length is told, and stays within
// limit when it is not or is a lie.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, &TooLargeError{limit}
	}
	if resp.ContentLength >= 0 {
		data := make([]byte, resp.ContentLength)
		_, err := io.ReadFull(resp.Body, data)
		return data, err
	}
	data := make([]byte, 0, min(limit+1, 64<<10))
	for {
		n, err := resp.Body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			if cap(data) > len(data)+len(data)/4 {
				data = bytes.Clone(data) // callers count what they hold by its length
			}
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			// Limits are close: what is read ahead has one a little above what such answers
			// have. One byte beyond it, so that an answer of just that size ends in EOF.
			data = append(make([]byte, 0, limit+1), data...)
		}
	}
}

// retryAfter reads the header in both its forms: seconds and a date.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// limitedBody fails with a *TooLargeError at the first byte beyond the limit.
type limitedBody struct {
	io.ReadCloser
	limit, left int64
	cancel      context.CancelFunc
	count       *atomic.Uint64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, &TooLargeError{b.limit}
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.count.Add(uint64(n))
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, &TooLargeError{b.limit}
	}
	return n, err
}

func (b *limitedBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}
