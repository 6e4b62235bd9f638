//go:build e2e && linux

package main_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
)

// held is a request that a server has got and does not answer.
type held struct {
	arrived chan struct{} // closed once it has come
	release chan struct{}
}

// hold stops the next request for entries of a shard, until it is released or
// whoever asked is gone. Later ones are answered.
func (s *shard) hold(t testing.TB) *held {
	h := &held{make(chan struct{}), make(chan struct{})}
	var taken atomic.Bool
	s.wrap(func(files http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/tile/entries/") && taken.CompareAndSwap(false, true) {
				close(h.arrived)
				select {
				case <-h.release:
				case <-r.Context().Done():
					return
				}
			}
			files.ServeHTTP(w, r)
		})
	})
	t.Cleanup(func() { s.wrap(func(files http.Handler) http.Handler { return files }) })
	return h
}

// alterOnce replaces the leaves that fit by another one in the first bundle that
// holds any, the first time that it is read. What it returns says that it was.
func (s *shard) alterOnce(t testing.TB, fits func(leaf []byte) bool) *atomic.Bool {
	var served atomic.Bool
	s.wrap(func(files http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/tile/entries/") {
				files.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			files.ServeHTTP(rec, r)
			var bundle api.EntryBundle
			if err := bundle.UnmarshalText(rec.Body.Bytes()); err != nil {
				t.Errorf("%s: %v", r.URL, err)
			}
			var altered []byte
			for _, leaf := range bundle.Entries {
				other := slices.IndexFunc(bundle.Entries, func(b []byte) bool { return !fits(b) })
				if fits(leaf) && other >= 0 {
					leaf = bundle.Entries[other]
				}
				altered = binary.BigEndian.AppendUint16(altered, uint16(len(leaf)))
				altered = append(altered, leaf...)
			}
			if bytes.Equal(altered, rec.Body.Bytes()) || !served.CompareAndSwap(false, true) {
				altered = rec.Body.Bytes()
			}
			_, _ = w.Write(altered) // who has left gets none
		})
	})
	t.Cleanup(func() { s.wrap(func(files http.Handler) http.Handler { return files }) })
	return &served
}

// wait returns once the request is there; it fails the test if the run that should
// send it ends before.
func (h *held) wait(t testing.TB, answers <-chan answer) {
	t.Helper()
	select {
	case <-h.arrived:
	case a := <-answers:
		t.Fatalf("the run ended before it read the shard's entries: %+v", a)
	case <-time.After(time.Minute):
		t.Fatal("the run does not read the shard's entries")
	}
}

// settled waits until a run that is at work has nothing more to write about a log:
// it has said how the log fared, and what it found there was delivered.
func (d *day) settled(t testing.TB, i *instance, log string) {
	t.Helper()
	tick, timeout := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for {
		output, err := os.ReadFile(i.stdout)
		if err != nil {
			t.Fatal(err)
		}
		said := false
		for line := range bytes.Lines(output[i.read:]) {
			said = said || bytes.Contains(line, []byte(`"event":"log"`)) && bytes.Contains(line, []byte(log))
		}
		var doc logDocument
		if err := json.Unmarshal(d.object(t, "state/"+log+".json"), &doc); err != nil {
			t.Fatal(err)
		}
		if said && len(doc.Outbox) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("log %s is not done after a minute; pending: %s", log, doc.Outbox)
		}
	}
}

// fault makes requests to the state bucket go wrong for the length of do, and
// fails the test unless at least once.
func (d *day) fault(t testing.TB, choose func(*http.Request) buckettest.Fault, do func()) {
	t.Helper()
	n := 0
	d.buckets.Fail(func(r *http.Request) buckettest.Fault {
		if !strings.Contains(r.URL.Path, "/b/"+stateBucket+"/") {
			return nil
		}
		f := choose(r)
		if f != nil {
			n++
		}
		return f
	})
	do()
	d.buckets.Fail(nil)
	if n == 0 {
		t.Error("no request met the fault")
	}
	d.say("(%d faults)", n)
}

// firstOf is a fault for the first of the requests of a kind for each object.
func firstOf(kind func(*http.Request) bool, f buckettest.Fault) func(*http.Request) buckettest.Fault {
	met := map[string]bool{}
	return func(r *http.Request) buckettest.Fault {
		key := r.URL.Path + "?" + r.URL.Query().Get("name")
		if !kind(r) || met[key] {
			return nil
		}
		met[key] = true
		return f
	}
}

// killOnCommit kills the function at the write of a log's state that follows one
// of its findings: the commit, which is done before or not at all.
func (d *day) killOnCommit(t testing.TB, done bool) {
	t.Helper()
	found, killed := map[string]bool{}, ""
	d.fault(t, func(r *http.Request) buckettest.Fault {
		kind, rest, _ := strings.Cut(r.URL.Query().Get("name"), "/")
		log, _, _ := strings.Cut(strings.TrimSuffix(rest, ".json"), "/")
		if kind == "findings" {
			found[log] = true
		}
		if kind != "state" || !found[log] || killed != "" {
			return nil
		}
		killed = log
		return func(w http.ResponseWriter, r *http.Request, apply http.Handler) {
			if done {
				apply.ServeHTTP(httptest.NewRecorder(), r)
			}
			d.function.end(syscall.SIGKILL)
			panic(http.ErrAbortHandler)
		}
	}, func() {
		if a := d.function.invoke(); !gone(a.err) {
			t.Fatalf("the function was to be killed, and answers %+v", a)
		}
		<-d.function.exited
	})
	before := d.cursors[killed].scanned
	d.checkCursors(t)
	if after := d.cursors[killed].scanned; (after > before) != done {
		t.Fatalf("log %s was read to %d before and to %d after a commit that was cut off, done: %t", killed, before, after, done)
	}
	d.say("killed")
}
