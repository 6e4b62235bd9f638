package tlogtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gated is a gate before an "honest" answer of 1000 bytes.
type gated struct{ Gate }

var honest = bytes.Repeat([]byte("honest---\n"), 100)

func (g *gated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.handle(w, r, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(honest) }))
}

func TestGateEffectsDoWhatTheySay(t *testing.T) {
	for name, row := range map[string]struct {
		effect Effect
		check  func(resp *http.Response, body []byte, err error) bool
	}{
		"status": {Status(503), func(r *http.Response, _ []byte, err error) bool { return err == nil && r.StatusCode == 503 }},
		"too many requests": {TooManyRequests(7 * time.Second), func(r *http.Response, _ []byte, err error) bool {
			return err == nil && r.StatusCode == 429 && r.Header.Get("Retry-After") == "7"
		}},
		"redirect": {Redirect("http://elsewhere.example.com/"), func(r *http.Response, _ []byte, err error) bool {
			return err == nil && r.StatusCode == 302 && r.Header.Get("Location") == "http://elsewhere.example.com/"
		}},
		"truncated": {Truncate(100), func(r *http.Response, b []byte, err error) bool {
			return errors.Is(err, io.ErrUnexpectedEOF) && bytes.Equal(b, honest[:100]) && r.ContentLength == int64(len(honest))
		}},
		"truncated beyond its end": {Truncate(5000), func(_ *http.Response, b []byte, err error) bool {
			return errors.Is(err, io.ErrUnexpectedEOF) && bytes.Equal(b, honest)
		}},
		"cut": {Cut(), func(r *http.Response, _ []byte, err error) bool { return r == nil && err != nil }},
		"oversized": {Oversize(1 << 20), func(r *http.Response, b []byte, err error) bool {
			return err == nil && r.StatusCode == 200 && len(b) == 1<<20 && bytes.HasPrefix(b, honest)
		}},
		"endless": {Oversize(-1), func(_ *http.Response, b []byte, err error) bool { return err == nil && len(b) == 8<<20 }},
		"gzip bomb": {GzipBomb(16 << 20), func(r *http.Response, b []byte, err error) bool {
			z, zerr := gzip.NewReader(bytes.NewReader(b))
			if err != nil || zerr != nil || r.Header.Get("Content-Encoding") != "gzip" || len(b) > 1<<17 {
				return false
			}
			n, zerr := io.Copy(io.Discard, z)
			return zerr == nil && n == 16<<20
		}},
		"garbage": {Garbage(), func(r *http.Response, b []byte, err error) bool {
			return err == nil && r.StatusCode == 200 && len(b)%32 != 0 && len(b) > 0 && !bytes.Contains(b, honest)
		}},
		"instead": {Instead(http.NotFoundHandler()), func(r *http.Response, _ []byte, err error) bool {
			return err == nil && r.StatusCode == 404
		}},
		"edited": {Edit(bytes.ToUpper), func(_ *http.Response, b []byte, err error) bool {
			return err == nil && bytes.Equal(b, bytes.ToUpper(honest))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gated{}
			base := serve(t, g)
			g.Inject(nil, 1, row.effect)
			if resp, body, err := try(t.Context(), base); !row.check(resp, body, err) {
				t.Errorf("answer %+v with %d bytes, error %v", resp, len(body), err)
			}
			if resp, body, err := try(t.Context(), base); err != nil || resp.StatusCode != 200 || !bytes.Equal(body, honest) {
				t.Errorf("the request after it: %+v (%v)", resp, err)
			}
		})
	}
}

func TestGateTellsTimeOnTheClock(t *testing.T) {
	for name, row := range map[string]struct {
		effect Effect
		want   time.Duration
	}{
		"latency": {Latency(time.Minute), time.Minute},
		"slow":    {Slow(100, time.Second), 10 * time.Second},
		"hang":    {Hang(), time.Hour}, // until the client gives up
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &gated{}
			g.Inject(nil, 0, row.effect)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			start, w := time.Now(), httptest.NewRecorder()
			g.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
			if got := time.Since(start); got != row.want {
				t.Errorf("%s: %v, want %v", name, got, row.want)
			}
			if name != "hang" && !bytes.Equal(w.Body.Bytes(), honest) {
				t.Errorf("%s: body of %d bytes", name, w.Body.Len())
			}
		})
	}
}

func TestGateStrikesMatchingRequestsAsOftenAsTold(t *testing.T) {
	g := &gated{}
	statuses := func(path string, n int) (out []int) {
		for range n {
			w := httptest.NewRecorder()
			g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			out = append(out, w.Code)
		}
		return out
	}
	check := func(what string, got []int, want ...int) {
		t.Helper()
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: statuses %v, want %v", what, got, want)
				return
			}
		}
	}
	g.Inject(Path("/checkpoint"), 2, Status(500))
	check("other path", statuses("/tile/0/000", 1), 200)
	check("twice", statuses("/checkpoint", 3), 500, 500, 200)
	clear := g.Inject(nil, 0, Status(503))
	check("for ever", statuses("/checkpoint", 3), 503, 503, 503)
	clear()
	check("cleared", statuses("/checkpoint", 1), 200)
	g.Inject(nil, 1, Edit(func([]byte) []byte { return nil }))
	g.Inject(nil, 1, Status(404))
	check("nested", statuses("/checkpoint", 2), 404, 200)
	g.Inject(nil, 0, Status(503))
	g.ClearFaults()
	check("all cleared", statuses("/checkpoint", 1), 200)
	if got := g.Requests()["GET /checkpoint"]; got != 10 {
		t.Errorf("%d requests for the checkpoint, want 10", got)
	}
}

func TestLogAndGateMayBeUsedWhileServing(t *testing.T) {
	log, base := newTiles(t, edKey(t))
	publish(t, log, 300)
	s, rekor := newRekor(t, p256(t))
	s.Active().Tree().Generate(20, numbered)
	var wg sync.WaitGroup
	for _, url := range []string{base + "/checkpoint", base + "/tile/entries/000", base + "/tile/0/000",
		rekor + "/api/v1/log", rekor + "/api/v1/log/entries?logIndex=3"} {
		wg.Go(func() {
			for range 20 {
				if _, _, err := try(t.Context(), url); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range uint64(40) {
			log.Append(numbered(i))
			s.Append(numbered(i))
			if err := log.Publish(); err != nil {
				t.Error(err)
			}
			log.Lie(i, Lie{Data: []byte("x")})
			s.Active().Lie(i, Lie{Missing: true})
			s.Active().At(3, 4)
			log.Inject(Path("/tile"), 1, Status(500))()
			log.Honest()
			s.Active().Honest()
			log.Requests()
			if i == 20 {
				if err := s.Rotate(nil); err != nil {
					t.Error(err)
				}
			}
		}
	})
	wg.Wait()
}
