//go:build e2e && linux

package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// sendGrid stands in for SendGrid: it takes every mail.
type sendGrid struct {
	mu     sync.Mutex
	bodies []string
}

func (s *sendGrid) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	_, err := body.ReadFrom(r.Body)
	if err != nil || r.URL.Path != "/v3/mail/send" || r.Header.Get("Authorization") != "Bearer SG.e2e" {
		http.Error(w, `{"errors":[{"message":"not for the stand-in"}]}`, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.bodies = append(s.bodies, body.String())
	s.mu.Unlock()
	w.WriteHeader(http.StatusAccepted)
}

// received is every mail so far.
func (s *sendGrid) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...)
}

// sendGrid starts the stand-in and points the monitor at it.
func (m *monitor) sendGrid(t testing.TB) *sendGrid {
	t.Helper()
	sg := &sendGrid{}
	server := httptest.NewServer(sg)
	t.Cleanup(server.Close)
	m.env = append(m.env, "SENDGRID_API_KEY=SG.e2e", "SENDGRID_HOST="+server.URL)
	return sg
}

// noise uploads entries that nobody watches for, many at a time.
func (s *shard) noise(t testing.TB, n int) {
	t.Helper()
	var wg sync.WaitGroup
	var refused atomic.Bool
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	stranger := newSigner(t)
	for range 500 { // each waits for a checkpoint, which is a second
		wg.Go(func() {
			for range work {
				if _, err := s.tryAdd(hashedRekordV2(t, stranger)); err != nil {
					t.Error(err)
					refused.Store(true)
					return
				}
			}
		})
	}
	wg.Wait()
	if refused.Load() {
		t.FailNow()
	}
}

// testWatchesEveryLog monitors a Rekor v1 and two Rekor v2 shards from their first
// entry, lets them grow, and looks at what is found, mailed and kept.
func (s *suite) testWatchesEveryLog(t *testing.T) {
	m := s.monitor(t)
	mails := m.sendGrid(t)
	v1, old, next := startRekorV1(t, s.trillian), startShard(t, "v2.2.1"), startShard(t, "v2.3.0")
	impostor, err := tlogtest.NewCA("acme.test")
	if err != nil {
		t.Fatal(err)
	}
	routine, bad, fake := m.signer(t, release), m.signer(t, rogue), certified(t, impostor, release)
	keyed, stranger := newSigner(t), newSigner(t)
	tree := v1.id(t, v1.active())

	var wants []wanted
	fingerprints := []string{keyed.fingerprint()}
	for _, e := range v1.rareKinds(t) {
		if e.fingerprint == "" {
			continue // rfc3161 has no signer that anybody could watch
		}
		fingerprints = append(fingerprints, e.fingerprint)
		wants = append(wants, wanted{log: tree, index: e.index, kind: e.kind, fingerprint: e.fingerprint})
	}
	v1.hashedRekord(t, stranger)
	for _, by := range []struct {
		signer  *signer
		trusted string
	}{{routine, "yes"}, {bad, "yes"}, {fake, "no"}, {keyed, "unknown"}} {
		for _, e := range []uploaded{v1.hashedRekord(t, by.signer), v1.attestation(t, by.signer, "dsse", "0.0.1"), v1.attestation(t, by.signer, "intoto", "0.0.2")} {
			wants = append(wants, want(tree, e.index, e.kind, by.signer, by.trusted))
		}
		for _, shard := range []*shard{old, next} {
			index, _ := shard.add(t, hashedRekordV2(t, by.signer))
			wants = append(wants, want(shard.id(t), index, "hashedrekord", by.signer, by.trusted))
		}
		index, _ := old.add(t, dsseV2(t, by.signer))
		wants = append(wants, want(old.id(t), index, "dsse", by.signer, by.trusted))
	}
	old.noise(t, 600) // more than two bundles
	index, _ := old.add(t, hashedRekordV2(t, bad))
	wants = append(wants, want(old.id(t), index, "hashedrekord", bad, "yes"))
	old.published(t, index+1)
	next.published(t, 4)

	m.configure(t, fingerprints, v1.watched("0"), old.watched("0"), next.watched("0"))
	first := m.run(t, exitFindings)
	checkFindings(t, first, wants)
	checkScanned(t, first, tree, v1.size(t), v1.size(t), "ok", "baseline")
	checkScanned(t, first, old.id(t), index+1, index+1, "ok", "baseline")
	checkScanned(t, first, next.id(t), 4, 4, "ok", "baseline")
	if first.Alerts.Pending != 0 || first.Alerts.Delivered == 0 {
		t.Errorf("alerts: %+v, want all delivered", first.Alerts)
	}
	all := strings.Join(m.mail(t), "\n")
	sent := strings.Join(mails.received(), "\n")
	for _, text := range []string{"rogue.yml", bad.fingerprint()[:16]} {
		if !strings.Contains(all, text) {
			t.Errorf("no mail in the folder names %s", text)
		}
		if !strings.Contains(sent, text) {
			t.Errorf("no mail that went to SendGrid names %s", text)
		}
	}

	mailed := len(mails.received())
	again := m.run(t, exitClean)
	checkFindings(t, again, nil)
	checkScanned(t, again, tree, v1.size(t), 0, "ok")
	checkScanned(t, again, old.id(t), index+1, 0, "ok")
	if got := len(mails.received()); got != mailed {
		t.Errorf("a pass that found nothing sent %d mails", got-mailed)
	}

	t.Run("grows", func(t *testing.T) {
		was := v1.size(t)
		e := v1.hashedRekord(t, bad)
		index, _ := next.add(t, hashedRekordV2(t, keyed))
		next.published(t, index+1)
		r := m.run(t, exitFindings)
		checkFindings(t, r, []wanted{want(tree, e.index, e.kind, bad, "yes"), want(next.id(t), index, "hashedrekord", keyed, "unknown")})
		checkScanned(t, r, tree, was+1, 1, "ok")
		checkScanned(t, r, next.id(t), 5, 1, "ok")
		checkScanned(t, r, old.id(t), old.checkpoint(t).Size, 0, "ok")
	})
	t.Run("only routine is clean", func(t *testing.T) {
		e := v1.hashedRekord(t, routine)
		r := m.run(t, exitClean)
		checkFindings(t, r, []wanted{want(tree, e.index, e.kind, routine, "yes")})
	})
	t.Run("scan leaves the state alone", func(t *testing.T) {
		before := snapshotOf(t, m.state())
		r := m.call(t, "scan", "--log", old.id(t), "--from", "0", "--to", "12")
		var inRange []wanted
		for _, w := range wants {
			if w.log == old.id(t) && w.index < 12 {
				inRange = append(inRange, w)
			}
		}
		if len(inRange) == 0 || r.exit != exitFindings {
			t.Errorf("scan: exit %d with %d findings expected\n%s", r.exit, len(inRange), r.stderr)
		}
		checkFindings(t, r, inRange)
		if after := snapshotOf(t, m.state()); after != before {
			t.Errorf("scan changed the state:\nbefore:\n%s\nafter:\n%s", before, after)
		}
	})
	t.Run("check says what will be watched", func(t *testing.T) {
		r := m.call(t, "check")
		if r.exit != exitClean {
			t.Fatalf("check: exit %d\n%s", r.exit, r.stderr)
		}
		for _, url := range []string{v1.url, old.url, next.url} {
			if !strings.Contains(r.stdout, url) {
				t.Errorf("check does not mention %s:\n%s", url, r.stdout)
			}
		}
	})
	t.Run("a bad configuration is refused", func(t *testing.T) {
		before := snapshotOf(t, m.state())
		good, err := os.ReadFile(m.config())
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, m.config(), append(good, "statte: oops\n"...))
		defer writeFile(t, m.config(), good)
		for _, name := range []string{"check", "run"} {
			r := m.call(t, name)
			if line := fmt.Sprintf("whosigned.yaml:%d", bytes.Count(good, []byte("\n"))+1); r.exit != exitUsage || !strings.Contains(r.stderr, line) || !strings.Contains(r.stderr, "statte") {
				t.Errorf("%s: exit %d, want %d and %s with the key in: %s", name, r.exit, exitUsage, line, r.stderr)
			}
		}
		if after := snapshotOf(t, m.state()); after != before {
			t.Error("a refused configuration changed the state")
		}
	})
}

// snapshotOf lists the files below a folder with their contents.
func snapshotOf(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pace shows a shard's bundles to readers one after the other, and nothing past
// the first few until the test says so.
type pace struct{ bundles [7]chan struct{} }

func (s *shard) pace() *pace {
	p := &pace{}
	for i := range p.bundles {
		p.bundles[i] = make(chan struct{})
	}
	s.wrap(func(files http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name, ok := strings.CutPrefix(r.URL.Path, "/tile/entries/"); ok {
				name, _, _ = strings.Cut(name, ".")
				if i, err := strconv.Atoi(name); err == nil && i < len(p.bundles) {
					select {
					case <-p.bundles[i]:
					case <-r.Context().Done():
						return
					}
				}
			}
			files.ServeHTTP(w, r)
		})
	})
	return p
}

// testInterruptKeepsProgress presses Ctrl-C in the middle of a scan.
func (s *suite) testInterruptKeepsProgress(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	bad := m.signer(t, rogue)
	shard := startShard(t, "v2.3.0")
	var wants []wanted
	for range 2 {
		for range 2 {
			index, _ := shard.add(t, hashedRekordV2(t, bad))
			wants = append(wants, want(shard.id(t), index, "hashedrekord", bad, "yes"))
		}
		shard.noise(t, 3*256)
	}
	size := wants[len(wants)-1].index + 1 + 3*256
	shard.published(t, size)
	pace := shard.pace()

	m.configure(t, nil, shard.watched("0"))
	cmd := m.command(t, "run", "--json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	// The last one is for time to read those before.
	const shown = 3
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := range shown {
		close(pace.bundles[i])
		select {
		case err := <-exited:
			t.Fatalf("the run ended before it was interrupted: %v\n%s", err, stderr.String())
		case <-tick.C:
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	interrupted := parseResult(t, <-exited, stdout.String(), stderr.String())
	if interrupted.exit != exitFailed {
		t.Errorf("an interrupted run: exit %d, want %d\n%s", interrupted.exit, exitFailed, interrupted.stderr)
	}
	m.once(t, interrupted)
	saved := m.scanned(t, shard.id(t))
	if saved == 0 || saved > shown*256 {
		t.Errorf("scanned is %d after the interrupt, want some of the %d that were shown", saved, shown*256)
	}

	for _, bundle := range pace.bundles[shown:] {
		close(bundle)
	}
	rest := m.run(t, exitFindings)
	if got := rest.log(t, shard.id(t)); got.Entries != size-saved || got.Scanned != size {
		t.Errorf("the run after the interrupt: %+v, want the other %d entries of %d read", got, size-saved, size)
	}
	rest.Findings = append(rest.Findings, interrupted.Findings...)
	checkFindings(t, rest, wants)
}

// scanned reads from the state how far a log was read.
func (m *monitor) scanned(t testing.TB, log string) uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.state(), "state", log+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Scanned struct {
			Size uint64 `json:"size"`
		} `json:"scanned"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Scanned.Size
}
