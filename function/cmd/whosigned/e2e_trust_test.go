//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// rekey starts the shard's server over the same tree with another key.
func (s *shard) rekey(t testing.TB) {
	t.Helper()
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.server.stop(t)
	s.secret, s.key = secret, writeKeyPair(t, secret, public)
	s.serve(t)
}

// since is the text of all mails but the first n.
func (s *sendGrid) since(t testing.TB, n int) string {
	t.Helper()
	var all strings.Builder
	for _, body := range s.received()[n:] {
		all.WriteString(plainText(t, body))
	}
	return all.String()
}

// testTrust follows a deployment's TUF repository through what happens to one, with
// whole runs over the logs that it lists.
func (s *suite) testTrust(t *testing.T) {
	d := newDeployment(t)
	v1, old, next := startRekorV1(t, s.trillian), startShard(t, "v2.3.0"), startShard(t, "v2.3.0")
	old.noise(t, 3)
	old.published(t, 3)
	d.addRekorV1(t, v1)
	d.addShard(t, old)
	m := s.follower(t, d)
	mails := m.sendGrid(t)
	m.follow(t, d, teamRules)
	bad := m.signer(t, rogue)
	oldID := old.id(t) // whatever key it has later
	sign := func(t *testing.T, s *shard, id string, n int) (wants []wanted) {
		t.Helper()
		for range n {
			index, _ := s.add(t, hashedRekordV2(t, bad))
			wants = append(wants, want(id, index, "hashedrekord", bad, "yes"))
		}
		s.published(t, wants[n-1].index+1)
		return wants
	}
	// pass is a run, and the text of the mails that it sent.
	pass := func(t *testing.T, exit int, trust string) (result, string) {
		t.Helper()
		n := len(mails.received())
		r := m.run(t, exit)
		if r.Trust != trust {
			t.Errorf("trust %q, want %q", r.Trust, trust)
		}
		return r, mails.since(t, n)
	}
	says := func(t *testing.T, text string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("no mail says %q:\n%s", w, text)
			}
		}
	}
	first, text := pass(t, exitClean, "ok")
	checkFindings(t, first, nil)
	says(t, text, "baseline taken at size 3")
	if _, text := pass(t, exitClean, "ok"); text != "" {
		t.Errorf("a second run has news:\n%s", text)
	}

	t.Run("a shard that is added", func(t *testing.T) {
		wants := sign(t, next, next.id(t), 2)
		d.addShard(t, next)
		wants = append(wants, sign(t, old, oldID, 1)...)
		r, text := pass(t, exitFindings, "ok")
		checkFindings(t, r, wants)
		checkScanned(t, r, next.id(t), 2, 2, "ok", "baseline")
		says(t, text, "the trusted root now lists a log at "+next.url, "it is watched from its first entry on")
		if _, text := pass(t, exitClean, "ok"); text != "" {
			t.Errorf("a run without news sent\n%s", text)
		}
	})
	whole := t // the server outlives the case
	t.Run("a Rekor v1 tree under a key that is added", func(t *testing.T) {
		key := newKeyPair(whole)
		v1.rotate(whole, &key)
		d.addRekorV1(t, v1)
		e := v1.hashedRekord(t, bad)
		r, _ := pass(t, exitFindings, "ok")
		checkFindings(t, r, []wanted{want(v1.id(t, v1.active()), e.index, e.kind, bad, "yes")})
	})
	t.Run("the root is rotated", func(t *testing.T) {
		d.RotateRoot()
		d.RotateRoot()
		d.RotateKeys("timestamp", "snapshot", "targets")
		wants := sign(t, next, next.id(t), 1)
		r, _ := pass(t, exitFindings, "ok")
		checkFindings(t, r, wants)
	})
	for _, row := range []struct {
		name, status, says string
		begin              func()
		end                func()
	}{
		{"an expired timestamp", "expired", "expired", d.ExpireTimestamp, func() { d.Heal("timestamp") }},
		{"a rollback", "rejected", "the last verified keys are used", func() {
			d.Renew()
			m.run(t, exitClean)
			d.Rollback()
		}, d.Renew},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.begin()
			wants := sign(t, old, oldID, 1)
			r, text := pass(t, exitFindings, row.status)
			checkFindings(t, r, wants)
			says(t, text, "TUF repository "+d.URL, row.says)
			if r, _ := pass(t, exitClean, row.status); len(r.Findings) > 0 {
				t.Errorf("found again: %+v", r.Findings)
			}
			row.end()
			_, text = pass(t, exitClean, "ok")
			says(t, text, "TUF repository "+d.URL)
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		defer d.Inject(nil, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) })()
		wants := sign(t, old, oldID, 1)
		r, text := pass(t, exitFindings, "unreachable")
		checkFindings(t, r, wants)
		if strings.Contains(text, d.URL) {
			t.Errorf("trouble that has not lasted is news:\n%s", text)
		}
	})
	t.Run("two runs at once", func(t *testing.T) {
		wants := sign(t, next, next.id(t), 1)
		d.RotateRoot()
		asked, answer := make(chan struct{}), make(chan struct{})
		var once sync.Once
		clear := d.Inject(nil, func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			once.Do(func() { close(asked) })
			select {
			case <-answer:
			case <-r.Context().Done():
			}
			h.ServeHTTP(w, r)
		})
		defer clear()
		cmd := m.command(t, "run", "--json")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-asked
		refused, err := m.command(t, "run", "--json").CombinedOutput()
		close(answer)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(refused), "holds the lease") {
			t.Errorf("a run beside another: %v, want exit %d and who holds the lease\n%s", err, exitFailed, refused)
		}
		r := parseResult(t, cmd.Wait(), stdout.String(), stderr.String())
		m.once(t, r)
		checkFindings(t, r, wants)
		if r.exit != exitFindings || r.Trust != "ok" {
			t.Errorf("exit %d, trust %q; want %d, ok\n%s%s", r.exit, r.Trust, exitFindings, r.stdout, r.stderr)
		}
		pass(t, exitClean, "ok")
	})
	t.Run("another key", func(t *testing.T) {
		old.rekey(t)
		d.addShard(t, old)
		later := sign(t, old, oldID, 1)
		wants := sign(t, next, next.id(t), 1)
		r, text := pass(t, exitFailed, "ok")
		checkFindings(t, r, wants)
		if l := r.log(t, oldID); l.Status != "error" || !strings.Contains(l.Error, "another key") || l.Scanned != later[0].index {
			t.Errorf("the log under another key: %+v, want an error about it, and nothing read", l)
		}
		says(t, text, "the trusted root now has another key for "+old.url, "--log "+oldID+" --key new.pub")

		cmd := m.command(t, "accept", "--log", oldID, "--key", old.key.public, "--reason", "the operator announced it")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("accept --key: %v\n%s", err, out)
		}
		r, _ = pass(t, exitFindings, "ok")
		checkFindings(t, r, later)
		checkScanned(t, r, oldID, later[0].index+1, 1, "ok")
	})
	m.checkNoIncidents(t)
}
