package tlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// roundTrip is a network in a function, for fake time.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(code int, body string, header ...string) *http.Response {
	resp := &http.Response{
		StatusCode: code, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	for i := 0; i+1 < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

// takes answers after d, or fails when the client goes.
func takes(d time.Duration, resp func() *http.Response) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return resp(), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func ok() *http.Response { return answer(200, "ok") }

const logURL = "https://log.example/checkpoint"

func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	reset := errors.New("connection reset")
	for _, tt := range []struct {
		name   string
		served []any // status code or error, the last one for ever
		tries  uint64
		want   string // in the error; "" for none
	}{
		{"200", []any{200}, 1, ""},
		{"500 then 200", []any{500, 200}, 2, ""},
		{"429 then 200", []any{429, 200}, 2, ""},
		{"network error then 200", []any{reset, 200}, 2, ""},
		{"404", []any{404}, 1, "HTTP status 404 Not Found"},
		{"400", []any{400}, 1, "HTTP status 400"},
		{"302", []any{302}, 1, "HTTP status 302"},
		{"500 for ever", []any{500}, 4, "4 tries: HTTP status 500 Internal Server Error"},
		{"several causes", []any{reset, 503, 404}, 3, "3 tries: HTTP status 404 Not Found; before: HTTP status 503 Service Unavailable; before: connection reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n int
				c := NewClient(ClientOptions{Base: roundTrip(func(*http.Request) (*http.Response, error) {
					s := tt.served[min(n, len(tt.served)-1)]
					n++
					if err, ok := s.(error); ok {
						return nil, err
					}
					return answer(s.(int), ""), nil
				})})
				_, err := c.Get(t.Context(), logURL, 10)
				if got := c.Stats().Requests; got != tt.tries {
					t.Errorf("%d tries, want %d", got, tt.tries)
				}
				if tt.want == "" {
					if err != nil {
						t.Errorf("error %v, want none", err)
					}
					return
				}
				var unavailable *Unavailable
				if !errors.As(err, &unavailable) || unavailable.What != "GET "+logURL || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want an Unavailable of GET %s with %q", err, logURL, tt.want)
				}
			})
		})
	}
}

func TestTheLastStatusIsTheOneFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codes := []int{503, 500, 404}
		c := NewClient(ClientOptions{Base: roundTrip(func(*http.Request) (*http.Response, error) {
			code := codes[0]
			codes = codes[1:]
			return answer(code, strings.Repeat("x", 5000)), nil
		})})
		_, err := c.Get(t.Context(), logURL, 10_000)
		var status *StatusError
		if !errors.As(err, &status) || status.Code != 404 || len(status.Body) != maxErrorBody {
			t.Errorf("got %+v, want 404 with %d bytes of body", status, maxErrorBody)
		}
	})
}

func TestRetryAfterIsHonouredUpToAMinute(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		min, max     time.Duration
	}{
		{"seconds", "7", 7 * time.Second, 7 * time.Second},
		{"date", time.Date(2000, 1, 1, 0, 0, 20, 0, time.UTC).Format(http.TimeFormat), 20 * time.Second, 20 * time.Second},
		{"far too long", "86400", maxRetryAfter, maxRetryAfter},
		{"overflowing", "99999999999999999999", 0, time.Second},
		{"in the past", time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC).Format(http.TimeFormat), 0, time.Second},
		{"garbage", "soon", 0, time.Second},
		{"negative", "-5", 0, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // starts at 2000-01-01
				start, n := time.Now(), 0
				c := NewClient(ClientOptions{Base: roundTrip(func(*http.Request) (*http.Response, error) {
					if n++; n == 1 {
						return answer(429, "", "Retry-After", tt.header), nil
					}
					return ok(), nil
				})})
				if _, err := c.Get(t.Context(), logURL, 10); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(start); got < tt.min || got > tt.max {
					t.Errorf("waited %s, want %s to %s", got, tt.min, tt.max)
				}
			})
		})
	}
}

func TestRetryAfterPausesTheWholeHostAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		refused := map[string]bool{}
		c := NewClient(ClientOptions{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Host == "log.example" && !refused[r.URL.Host] {
				refused[r.URL.Host] = true
				return answer(503, "", "Retry-After", "30"), nil
			}
			return ok(), nil
		})})
		var wg sync.WaitGroup
		get := func(url string, want time.Duration) {
			wg.Go(func() {
				if _, err := c.Get(t.Context(), url, 10); err != nil {
					t.Error(err)
				}
				if got := time.Since(start); got != want {
					t.Errorf("%s came after %s, want %s", url, got, want)
				}
			})
			synctest.Wait()
		}
		get(logURL, 30*time.Second)
		get("https://LOG.example/another/log", 30*time.Second)
		get("https://other.example/", 0)
		wg.Wait()
	})
}

func TestNoWaitGoesPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: takes(0, func() *http.Response { return answer(429, "", "Retry-After", "30") })})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		for _, name := range []string{"before another try", "for a paused host"} {
			_, err := c.Get(ctx, logURL, 10)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
				t.Errorf("%s: got %v after %s, want the deadline's error at once", name, err, time.Since(start))
			}
		}
	})
}

func TestASlowAnswerIsTheLogsFailureNotTheRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Timeout: time.Second, Base: takes(time.Hour, ok)})
		_, err := c.Get(t.Context(), logURL, 10)
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "4 tries: no complete answer within 1s") {
			t.Errorf("got %v", err)
		}
	})
}

func TestCancelledRequestsEndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: takes(time.Hour, ok)})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 3 * initialInFlight { // running and queued
			wg.Go(func() {
				if _, err := c.Get(ctx, logURL, 10); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want context.Canceled", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		h, _ := c.host(logURL)
		if h.inFlight != 0 || h.queue.Len() != 0 || h.limit != initialInFlight {
			t.Errorf("left behind: %d in flight, %d queued, limit %v", h.inFlight, h.queue.Len(), h.limit)
		}
	})
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestAnswersAreLimitedAfterDecompression(t *testing.T) {
	const limit = 100_000
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	fmt.Fprint(z, strings.Repeat("\x00", 2<<20))
	z.Close()
	body := bytes.Repeat([]byte("x"), limit+1)
	for _, tt := range []struct {
		name  string
		serve http.HandlerFunc
		want  int // bytes; -1 for a TooLargeError
	}{
		{"empty", func(http.ResponseWriter, *http.Request) {}, 0},
		{"of told length, at the limit", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(limit))
			w.Write(body[:limit])
		}, limit},
		{"of told length, above", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(limit+1))
			w.Write(body)
		}, -1},
		{"chunked, at the limit", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(body[:limit])
		}, limit},
		{"chunked, one above", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(body)
		}, -1},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(body); err != nil {
					return
				}
			}
		}, -1},
		{"gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			z.Write(body[:limit])
			z.Close()
		}, limit},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := serve(t, tt.serve)
			c := NewClient(ClientOptions{})
			data, err := c.Get(t.Context(), url, limit)
			var large *TooLargeError
			switch {
			case tt.want >= 0 && (err != nil || len(data) != tt.want):
				t.Errorf("got %d bytes, error %v; want %d", len(data), err, tt.want)
			case tt.want < 0 && (!errors.As(err, &large) || large.Limit != limit):
				t.Errorf("got %d bytes, error %v; want a TooLargeError of %d", len(data), err, limit)
			}
			if s := c.Stats(); s.Bytes > limit+1 || s.Requests != 1 {
				t.Errorf("read %d bytes in %d requests, want at most %d in one", s.Bytes, s.Requests, limit+1)
			}
		})
	}
}

func TestAnAnswerCutShortIsTriedAgain(t *testing.T) {
	var n atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		if n.Add(1) == 1 {
			w.Write([]byte("01234"))
			return
		}
		w.Write([]byte("0123456789"))
	})
	c := NewClient(ClientOptions{Backoff: time.Millisecond})
	if data, err := c.Get(t.Context(), url, 100); err != nil || string(data) != "0123456789" {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Bool
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			elsewhere.Store(true)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	c := NewClient(ClientOptions{})
	_, err := c.Get(t.Context(), url, 100)
	var status *StatusError
	if !errors.As(err, &status) || status.Code != http.StatusFound {
		t.Errorf("got %v, want status 302", err)
	}
	resp, err := c.HTTP().Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound || elsewhere.Load() {
		t.Errorf("the library client got %d, redirect followed: %v", resp.StatusCode, elsewhere.Load())
	}
}

func TestPlainHTTPIsForLoopbackAndInsecureHosts(t *testing.T) {
	c := NewClient(ClientOptions{
		Insecure: []string{"Rekor.internal", "10.0.0.1:3000"},
		Base:     takes(0, ok),
	})
	for url, allowed := range map[string]bool{
		"https://rekor.example/":              true,
		"http://localhost:3000/":              true,
		"http://127.0.0.1:3000/":              true,
		"http://127.8.8.8/":                   true,
		"http://[::1]:3000/":                  true,
		"http://rekor.internal/":              true,
		"http://rekor.INTERNAL:8080/":         true,
		"http://10.0.0.1:3000/":               true,
		"http://10.0.0.1/":                    false,
		"http://rekor.example/":               false,
		"http://localhost.example/":           false,
		"http://127.0.0.1.example/":           false,
		"http://rekor.internal@evil.example/": false,
		"ftp://localhost/":                    false,
		"localhost:3000":                      false,
		"":                                    false,
		"http://%zz/":                         false,
	} {
		before := c.Stats().Requests
		_, err := c.Get(t.Context(), url, 10)
		if sent := c.Stats().Requests - before; (err == nil) != allowed || (sent == 1) != allowed {
			t.Errorf("%q: error %v, %d requests; want allowed %v", url, err, sent, allowed)
		}
	}
}

func TestRequestsSayWhoAsksAndWhatIsFresh(t *testing.T) {
	var got http.Header
	var body []byte
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		body, _ = io.ReadAll(r.Body)
	})
	c := NewClient(ClientOptions{Version: "1.2.3"})
	if _, err := c.Post(Fresh(t.Context()), url, "application/json", []byte("{}"), 10); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"User-Agent":    "whosigned/1.2.3 (+https://github.com/whosigned/whosigned)",
		"Cache-Control": "no-cache", "Pragma": "no-cache", "Content-Type": "application/json",
	} {
		if got.Get(name) != want {
			t.Errorf("%s: got %q, want %q", name, got.Get(name), want)
		}
	}
	if string(body) != "{}" {
		t.Errorf("body %q, want {}", body)
	}
	if _, err := c.Get(t.Context(), url, 10); err != nil || got.Get("Cache-Control") != "" {
		t.Errorf("an ordinary request has Cache-Control %q (error %v)", got.Get("Cache-Control"), err)
	}
}

func TestARepeatedPostSendsItsBodyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		c := NewClient(ClientOptions{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(r.Body)
			if bodies = append(bodies, string(b)); len(bodies) < 3 {
				return answer(502, ""), nil
			}
			return ok(), nil
		})})
		if _, err := c.Post(t.Context(), logURL, "text/plain", []byte("q"), 10); err != nil || strings.Join(bodies, ",") != "q,q,q" {
			t.Errorf("got %q, %v", bodies, err)
		}
	})
}

// load keeps 200 requests wanted at once, for n in all, and returns the largest
// number that was let through at once.
func load(t *testing.T, c *Client, n int, inFlight *atomic.Int32) int32 {
	var peak atomic.Int32
	var left atomic.Int32
	left.Store(int32(n))
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				c.Get(t.Context(), logURL, 10)
				peak.Store(max(peak.Load(), inFlight.Load()+1))
			}
		})
	}
	wg.Wait()
	return peak.Load()
}

func TestConcurrencyFollowsWhatTheHostBears(t *testing.T) {
	for _, tt := range []struct {
		name     string
		latency  func(inFlight int32) time.Duration
		min, max int
	}{
		{"constant latency: up to the most", func(int32) time.Duration { return 50 * time.Millisecond }, 64, 64},
		// A server that does one after the other is saturated from the start, which
		// shows only when the first doublings have been answered.
		{"a serial server: no further", func(n int32) time.Duration { return time.Duration(n) * 10 * time.Millisecond }, 4, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var inFlight atomic.Int32
				c := NewClient(ClientOptions{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					defer inFlight.Add(-1)
					return takes(tt.latency(inFlight.Add(1)), ok)(r)
				})})
				load(t, c, 1000, &inFlight)
				h, _ := c.host(logURL)
				if got := h.allowed(); got < tt.min || got > tt.max {
					t.Errorf("%d may run at once, want %d to %d", got, tt.min, tt.max)
				}
			})
		})
	}
}

func TestConcurrencyStartsAtFourAndHalvesOncePerFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inFlight, peak atomic.Int32
		var code atomic.Int32
		code.Store(200)
		c := NewClient(ClientOptions{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			defer inFlight.Add(-1)
			peak.Store(max(peak.Load(), inFlight.Add(1)))
			return takes(time.Second, func() *http.Response { return answer(int(code.Load()), "") })(r)
		})})
		h, err := c.host(logURL)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { c.Get(t.Context(), logURL, 10) })
		}
		synctest.Wait()
		if got := inFlight.Load(); got != initialInFlight {
			t.Errorf("%d in flight at the start, want %d", got, initialInFlight)
		}
		time.Sleep(4500 * time.Millisecond)
		if got := h.allowed(); got != maxInFlight || peak.Load() > maxInFlight {
			t.Errorf("after four round trips %d may run, peak %d, want %d", got, peak.Load(), maxInFlight)
		}
		code.Store(429)
		time.Sleep(time.Second)
		if got := h.allowed(); got != maxInFlight/2 {
			t.Errorf("after a flight of 429s %d may run, want %d", got, maxInFlight/2)
		}
		code.Store(200)
		wg.Wait()
		if h.inFlight != 0 || h.queue.Len() != 0 {
			t.Errorf("%d in flight and %d queued at the end", h.inFlight, h.queue.Len())
		}
	})
}
