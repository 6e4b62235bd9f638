package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// How long and how often a service is asked to take one message.
const (
	maxTries   = 4
	askTimeout = 30 * time.Second
	maxWait    = 30 * time.Second // asked to wait longer: leave it to the next run
	maxAnswer  = 64 << 10         // bytes of an answer
)

// newClient makes an HTTP client that waits for a limited time and follows no
// redirects: those would take the secret elsewhere.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Timeout:       askTimeout,
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// limited cuts answers off after max bytes: libraries read all of them into memory.
type limited struct {
	http.RoundTripper
	max int64
}

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{resp.Body, l.max}
	return resp, nil
}

// limitedBody also closes what was read to its end or limit: go-github leaves
// answers other than 2xx open, which would keep their connections.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.Close()
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); err != nil {
		b.Close()
	}
	return n, err
}

// later is trouble that may pass.
type later struct {
	err  error
	wait time.Duration // that the service asks for; 0: it does not say
}

func (l *later) Error() string { return l.err.Error() }
func (l *later) Unwrap() error { return l.err }

// patiently asks until the answer is not a *later one. It gives up, and says so,
// after a few tries, when the service asks for too long a wait, and when ctx is done.
func patiently(ctx context.Context, ask func() error) (gaveUp bool, err error) {
	var causes []error
	for try := 1; ; try++ {
		err := ask()
		var passing *later
		if !errors.As(err, &passing) {
			return false, err
		}
		causes = append(causes, passing.err)
		wait := passing.wait
		if wait == 0 {
			wait = time.Second << (try - 1)
		}
		if try == maxTries || wait > maxWait {
			return true, fmt.Errorf("after %d tries, the next one to wait for %v: %w", try, wait.Round(time.Second), errors.Join(causes...))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return true, errors.Join(append(causes, context.Cause(ctx))...)
		}
	}
}

// asked reads Retry-After (seconds or a date), else X-RateLimit-Reset (Unix time, in
// seconds or, too large for that, milliseconds).
func asked(h http.Header) time.Duration {
	if s := h.Get("Retry-After"); s != "" {
		if n, err := strconv.Atoi(s); err == nil {
			return time.Duration(max(0, min(n, 1<<20))) * time.Second
		}
		if t, err := http.ParseTime(s); err == nil {
			return max(0, time.Until(t))
		}
	}
	if n, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64); err == nil {
		if n > 1<<37 { // the year 6325 in seconds, 1974 in milliseconds
			return max(0, time.Until(time.UnixMilli(min(n, 1<<50))))
		}
		return max(0, time.Until(time.Unix(n, 0)))
	}
	return 0
}

// passes says that an answer may be another one the next time.
func passes(status int) bool { return status == http.StatusTooManyRequests || status >= 500 }

// aboutMessage says that an answer is about this message: any other would meet
// the next one too.
func aboutMessage(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// checkBase refuses a base URL that would send a secret in the clear.
func checkBase(name, base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return fmt.Errorf("%s %q is not a base URL with https, or http on loopback", name, base)
	}
	return nil
}
