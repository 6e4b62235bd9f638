//go:build e2e && linux

package main_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api"
)

// testTampering changes what servers have stored, as somebody who owns the machine
// would, and expects the alarm, the evidence, and no more belief than is due.
func (s *suite) testTampering(t *testing.T) {
	t.Run("rekor v1 row altered", s.testRowAltered)
	t.Run("rekor v1 history rewritten", s.testTreeRewritten)
	t.Run("rekor v2 bundle rewritten", s.testBundleRewritten)
	t.Run("rekor v2 history rewritten", s.testShardRewritten)
	t.Run("rekor v2 snapshot restored", s.testSnapshotRestored)
}

// checkTamper is what every case expects of a pass over a log that was tampered
// with: the status, proven progress that ends before the lie, evidence, a mail.
func (m *monitor) checkTamper(t testing.TB, r result, log string, scanned uint64, kind string, proof bool) {
	t.Helper()
	if got := r.log(t, log); got.Status != "tamper" || got.Scanned > scanned {
		t.Errorf("log %s: %+v, want status tamper and scanned at most %d", log, got, scanned)
	}
	m.checkEvidence(t, log, kind, proof)
	if r.Alerts.Delivered == 0 {
		t.Errorf("nobody was told: %+v", r.Alerts)
	}
}

func (s *suite) testRowAltered(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	bad, stranger := m.signer(t, rogue), newSigner(t)
	v1 := startRekorV1(t, s.trillian)
	log := v1.id(t, v1.active())
	for range 5 {
		v1.hashedRekord(t, stranger)
	}
	m.configure(t, nil, v1.watched("0"))
	checkFindings(t, m.run(t, exitClean), nil)

	// The entry that would give the intruder away now reads like another one.
	v1.hashedRekord(t, stranger)
	hidden := v1.hashedRekord(t, bad)
	v1.hashedRekord(t, stranger)
	v1.replaceLeaf(t, hidden.index, v1.leaf(t, 0))
	first := m.run(t, exitTamper)
	m.checkTamper(t, first, log, hidden.index, "bad-leaf", false)
	again := m.run(t, exitTamper)
	if before, now := first.log(t, log).Scanned, again.log(t, log).Scanned; now < before || now > hidden.index {
		t.Errorf("scanned is %d after another pass over the lie, want between %d and %d", now, before, hidden.index)
	}

	v1.replaceLeaf(t, hidden.index, hidden.leaf)
	r := m.run(t, exitTamper) // it is over, but nobody has looked at it yet
	checkFindings(t, result{Findings: slices.Concat(first.Findings, again.Findings, r.Findings)}, []wanted{want(log, hidden.index, "hashedrekord", bad, "yes")})
	if got, want := r.log(t, log).Scanned, v1.size(t); got != want {
		t.Errorf("scanned is %d once the log serves the truth again, want %d", got, want)
	}
	m.accept(t, log)
	m.run(t, exitClean)
}

func (s *suite) testTreeRewritten(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	bad, stranger := m.signer(t, rogue), newSigner(t)
	v1 := startRekorV1(t, s.trillian)
	log := v1.id(t, v1.active())
	for range 4 {
		v1.hashedRekord(t, stranger)
	}
	before := s.dump(t, v1.active().id)
	e := v1.hashedRekord(t, bad)
	v1.hashedRekord(t, stranger)
	m.configure(t, nil, v1.watched("0"))
	checkFindings(t, m.run(t, exitFindings), []wanted{want(log, e.index, e.kind, bad, "yes")})

	// The same size again, without the entry that was seen: two signatures, two roots.
	s.restore(t, v1.active().id, before)
	v1.restart(t)
	v1.hashedRekord(t, stranger)
	v1.hashedRekord(t, stranger)
	m.checkTamper(t, m.run(t, exitTamper), log, 6, "fork", true)
	// It goes on, and what comes is still read, so nobody can blind us by being caught.
	later := v1.hashedRekord(t, bad)
	r := m.run(t, exitTamper)
	if got := r.log(t, log); got.Status != "tamper" || got.Scanned != 6 || got.Size != 6 {
		t.Errorf("the forked log: %+v, want trusted state as it was at 6", got)
	}
	checkFindings(t, r, []wanted{want(log, later.index, later.kind, bad, "yes")})
}

func (s *suite) testBundleRewritten(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	bad, stranger := m.signer(t, rogue), newSigner(t)
	shard := startShard(t, "v2.3.0")
	log := shard.id(t)
	_, decoy := shard.add(t, hashedRekordV2(t, stranger))
	shard.published(t, 1)
	m.configure(t, nil, shard.watched("0"))
	m.run(t, exitClean)

	hidden, _ := shard.add(t, hashedRekordV2(t, bad))
	shard.noise(t, 4)
	shard.published(t, 6)
	shard.server.stop(t) // or it would write the file again
	path := shard.bundle(t, hidden)
	truth, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var bundle api.EntryBundle
	if err := bundle.UnmarshalText(truth); err != nil {
		t.Fatal(err)
	}
	bundle.Entries[hidden] = decoy
	var lie []byte
	for _, e := range bundle.Entries {
		lie = append(binary.BigEndian.AppendUint16(lie, uint16(len(e))), e...)
	}
	writeFile(t, path, lie)
	first := m.run(t, exitTamper)
	m.checkTamper(t, first, log, 1, "bad-leaf", false)

	writeFile(t, path, truth)
	r := m.run(t, exitTamper)
	checkFindings(t, result{Findings: append(first.Findings, r.Findings...)}, []wanted{want(log, hidden, "hashedrekord", bad, "yes")})
	checkScanned(t, r, log, 6, r.log(t, log).Entries, "tamper", "ok")
	m.accept(t, log)
	m.run(t, exitClean)
}

func (s *suite) testShardRewritten(t *testing.T) {
	for _, row := range []struct {
		name  string
		size  int // of the history that replaces one of 5
		kind  string
		proof bool
	}{
		{"same size", 5, "fork", true},
		{"grown", 9, "inconsistent", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := s.monitor(t)
			m.sendGrid(t)
			shard := startShard(t, "v2.3.0")
			shard.noise(t, 5)
			shard.published(t, 5)
			m.configure(t, nil, shard.watched("0"))
			m.run(t, exitClean)

			shard.server.stop(t)
			shard.restore(t, "")
			shard.serve(t)
			shard.noise(t, row.size)
			shard.published(t, uint64(row.size))
			r := m.run(t, exitTamper)
			m.checkTamper(t, r, shard.id(t), 5, row.kind, row.proof)
			if got := r.log(t, shard.id(t)); got.Size != 5 {
				t.Errorf("trusted size %d, want it to stay at 5", got.Size)
			}
		})
	}
}

func (s *suite) testSnapshotRestored(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	shard := startShard(t, "v2.3.0")
	log := shard.id(t)
	shard.noise(t, 3)
	shard.published(t, 3)
	shard.server.stop(t)
	old := shard.snapshot(t) // of a size at which the monitor never looked
	shard.serve(t)
	shard.noise(t, 4)
	shard.published(t, 7)
	m.configure(t, nil, shard.watched("0"))
	m.run(t, exitClean)
	shard.server.stop(t)
	newest := shard.snapshot(t)

	shard.restore(t, old)
	r := m.call(t, "run")
	if got := r.log(t, log); got.Status != "stale" || got.Scanned != 7 || got.Size != 7 {
		t.Errorf("a snapshot just restored: %+v, want stale with trusted state at 7", got)
	}
	if r.exit == exitTamper {
		t.Error("a snapshot just restored counts as tampering at once; a replica may be behind")
	}

	m.ageRollback(t, log, 11*time.Minute)
	r = m.run(t, exitTamper)
	m.checkTamper(t, r, log, 7, "rollback", false)
	if got := r.log(t, log); got.Scanned != 7 || got.Size != 7 {
		t.Errorf("the rolled back log: %+v, want trusted state at 7", got)
	}
	if all := strings.ToLower(strings.Join(m.mail(t), "\n")); !strings.Contains(all, "rollback") && !strings.Contains(all, "rolled back") {
		t.Error("no mail says that the log was rolled back")
	}

	shard.restore(t, newest)
	m.run(t, exitTamper)
	m.accept(t, log)
	r = m.run(t, exitClean)
	checkScanned(t, r, log, 7, 0, "ok")
}

// ageRollback moves the moment at which a rollback was first seen into the past,
// so that the suite need not wait for it.
func (m *monitor) ageRollback(t testing.TB, log string, by time.Duration) {
	t.Helper()
	path := filepath.Join(m.state(), "state", log+".json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	var since time.Time
	if err := json.Unmarshal(doc["rollback_since"], &since); err != nil {
		t.Fatalf("the state does not say since when the log is rolled back: %v\n%s", err, raw)
	}
	if doc["rollback_since"], err = json.Marshal(since.Add(-by)); err != nil {
		t.Fatal(err)
	}
	if raw, err = json.MarshalIndent(doc, "", "  "); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, raw)
}
