//go:build e2e && linux

package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/sunlight"
	sumdb "golang.org/x/mod/sumdb/tlog"
)

// ctServer is a CT log of either protocol, as who owns its machine has it.
type ctServer interface {
	id(testing.TB) string
	add(testing.TB, ...issued) []logged
	// snapshot remembers the log as it is now; back makes it so again.
	snapshot(testing.TB) (back func(testing.TB))
	// alter has an entry served in the place of another, and leaves all hashes as they
	// were, until undone.
	alter(t testing.TB, at, decoy logged) (undo func(testing.TB))
	restart(testing.TB)
}

func (l *rfc6962Log) snapshot(t testing.TB) func(testing.TB) {
	t.Helper()
	dump := l.dump(t, l.tree)
	return func(t testing.TB) {
		t.Helper()
		l.server.stop(t)
		l.restore(t, l.tree, dump)
		l.serve(t)
	}
}

func (l *rfc6962Log) alter(t testing.TB, at, decoy logged) func(testing.TB) {
	t.Helper()
	l.replaceLeaf(t, at.index, decoy.leaf)
	return func(t testing.TB) { t.Helper(); l.replaceLeaf(t, at.index, at.leaf) }
}

// restart stops the server and starts it again.
func (l *staticLog) restart(t testing.TB) {
	t.Helper()
	l.server.stop(t)
	l.serve(t)
}

func (l *staticLog) snapshot(t testing.TB) func(testing.TB) {
	t.Helper()
	l.server.stop(t)
	copied := copyOf(t, l.dir)
	l.serve(t)
	return func(t testing.TB) {
		t.Helper()
		l.server.stop(t)
		replaceDir(t, l.dir, copied)
		l.serve(t)
	}
}

// copyOf copies a folder. TesseraCT keeps files of gigabytes there, which are empty for
// the most part.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	command(t, nil, "cp", "--archive", "--sparse=always", dir, copied)
	return copied
}

// replaceDir puts a copy in a folder's place; "" is an empty one.
func replaceDir(t testing.TB, dir, copied string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if copied != "" {
		command(t, nil, "cp", "--archive", "--sparse=always", copied, dir)
	}
}

func (l *staticLog) alter(t testing.TB, at, decoy logged) func(testing.TB) {
	t.Helper()
	entries := l.entries(t)
	entries[at.index] = entries[decoy.index]
	var lie []byte
	for _, e := range entries {
		lie = sunlight.AppendTileLeaf(lie, e)
	}
	tile := sumdb.Tile{H: sunlight.TileHeight, L: -1, W: int(l.checkpoint(t).N)}
	path := filepath.Join(l.dir, filepath.FromSlash(sunlight.TilePath(tile)))
	truth, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, lie)
	return func(t testing.TB) { t.Helper(); writeFile(t, path, truth) }
}

// testCTTampering does to CT logs what testTampering does to Rekor's.
func (s *suite) testCTTampering(t *testing.T) {
	t.Run("rfc 6962", func(t *testing.T) {
		d := newDeployment(t)
		l := startRFC6962(t, s.trillian, d.ca)
		d.addCT(t, l.url, l.ctLog)
		s.tamperCT(t, d, l)
		before := l.treeHead(t)
		l.restart(t)
		if after := l.treeHead(t); bytes.Equal(before.TreeHeadSignature.Signature, after.TreeHeadSignature.Signature) {
			t.Error("a server that was started again has the same signature for an unchanged log: nothing was shown about one that signs anew")
		}
	})
	t.Run("static ct", func(t *testing.T) {
		d := newDeployment(t)
		l := startStatic(t, d.ca)
		d.addCT(t, l.url, l.ctLog)
		s.tamperCT(t, d, l)
	})
}

func (s *suite) tamperCT(t *testing.T, d *deployment, l ctServer) {
	m, other := s.follower(t, d), s.follower(t, d)
	mails := m.sendGrid(t)
	other.sendGrid(t)
	id := l.id(t)
	m.follow(t, d, teamRules, "{id: "+id+", start: 0}")
	other.follow(t, d, teamRules, "{id: "+id+", start: 0}")
	strangers := bystanders(t, d.ca, 40)
	add := func(n int) []logged {
		t.Helper()
		all := l.add(t, strangers[:n]...)
		strangers = strangers[n:]
		return all
	}
	bad := func() issued {
		t.Helper()
		return precertificate(t, d.ca, workflowOf(rogue))
	}
	quiet := func(what string) {
		t.Helper()
		n := len(mails.received())
		r := m.run(t, exitClean)
		checkFindings(t, r, nil)
		checkScanned(t, r, id, r.log(t, id).Size, 0, "ok")
		if text := mails.since(t, n); text != "" {
			t.Errorf("%s is news:\n%s", what, text)
		}
	}

	decoy := add(3)[0]
	m.run(t, exitClean)
	quiet("an unchanged log")
	l.restart(t)
	quiet("a server that was started again")
	older := l.snapshot(t)

	// The entry that would give the intruder away now reads like another one.
	hidden := l.add(t, bad())[0]
	add(2)
	undo := l.alter(t, hidden, decoy)
	first := m.run(t, exitTamper)
	m.checkTamper(t, first, id, hidden.index, "bad-leaf", false)
	undo(t)
	r := m.run(t, exitTamper) // it is over, but nobody has looked at it yet
	first.Findings = append(first.Findings, r.Findings...)
	checkFindings(t, first, []wanted{hidden.found(id, "yes")})
	m.accept(t, id)
	m.run(t, exitClean)
	quiet("an incident that was closed")
	checkFindings(t, other.run(t, exitFindings), []wanted{hidden.found(id, "yes")})

	// A log that shrank may be a replica that is behind; in the long run it is not.
	newest := l.snapshot(t)
	older(t)
	r = m.call(t, "run")
	if got := r.log(t, id); got.Status != "stale" || got.Scanned != 6 || got.Size != 6 || r.exit == exitTamper {
		t.Errorf("a log that just shrank: exit %d, %+v; want stale with trusted state at 6", r.exit, got)
	}
	m.ageRollback(t, id, 11*time.Minute)
	r = m.run(t, exitTamper)
	m.checkTamper(t, r, id, 6, "rollback", false)
	newest(t)
	m.run(t, exitTamper)
	m.accept(t, id)
	m.run(t, exitClean)
	quiet("a log that is as it was")

	// Another history: of the same size it is proof, of another one suspicion.
	older(t)
	add(3)
	r = m.run(t, exitTamper)
	m.checkTamper(t, r, id, 6, "fork", true)
	later := l.add(t, bad())[0]
	r = m.run(t, exitTamper)
	if got := r.log(t, id); got.Status != "tamper" || got.Scanned != 6 || got.Size != 6 {
		t.Errorf("the forked log: %+v, want trusted state as it was at 6", got)
	}
	checkFindings(t, r, []wanted{later.found(id, "yes")})
	r = other.run(t, exitTamper)
	other.checkTamper(t, r, id, 6, "inconsistent", false)
	if got := r.log(t, id); got.Size != 6 {
		t.Errorf("trusted size %d, want it to stay at 6", got.Size)
	}
	if all := strings.ToLower(strings.Join(m.mail(t), "\n")); !strings.Contains(all, "rollback") && !strings.Contains(all, "rolled back") {
		t.Error("no mail says that the log was rolled back")
	}
}
