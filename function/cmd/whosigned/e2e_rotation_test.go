//go:build e2e && linux

package main_test

import (
	"path/filepath"
	"testing"
)

// testRotation retires logs between passes. What an old log still got is read to
// its end, its successor from 0, nothing twice, and nobody cries tamper.
func (s *suite) testRotation(t *testing.T) {
	t.Run("rekor v1", s.testTreeRotates)
	t.Run("rekor v2", s.testShardRotates)
}

func (s *suite) testTreeRotates(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	bad := m.signer(t, rogue)
	v1 := startRekorV1(t, s.trillian)
	upload := func(n int) (wants []wanted) {
		for range n {
			e := v1.hashedRekord(t, bad)
			wants = append(wants, want(v1.id(t, v1.active()), e.index, e.kind, bad, "yes"))
		}
		return wants
	}
	// Reading begins at the head: only the first tree's early entries are not ours
	// to read, every later tree is.
	upload(3)
	m.configure(t, nil, v1.watched(""))
	checkFindings(t, m.run(t, exitClean), nil)
	checkFindings(t, m.run(t, exitClean), nil)

	newKey, whole := newKeyPair(t), t // the server outlives the rows
	for _, row := range []struct {
		name string
		key  *keyPair
	}{{"same key", nil}, {"new key", &newKey}} {
		t.Run(row.name, func(t *testing.T) {
			was := v1.active()
			size := v1.size(t)
			wants := upload(2) // the last that the old tree gets
			v1.rotate(whole, row.key)
			wants = append(wants, upload(4)...)
			m.configure(t, nil, v1.watched(""))

			r := m.run(t, exitFindings)
			checkFindings(t, r, wants)
			old, next := r.log(t, v1.id(t, was)), r.log(t, v1.id(t, v1.active()))
			if old.Size != size+2 || old.Scanned != size+2 || old.Entries != 2 || old.Error != "" {
				t.Errorf("the old tree: %+v, want it read to its end at %d", old, size+2)
			}
			if next.Size != 4 || next.Scanned != 4 || next.Entries != 4 || next.Error != "" {
				t.Errorf("the new tree: %+v, want all of its 4 entries read", next)
			}
			if got, want := len(r.Logs), len(v1.trees); got != want {
				t.Errorf("%d logs in the result, want %d", got, want)
			}

			checkFindings(t, m.run(t, exitClean), nil)
			wants = upload(1)
			checkFindings(t, m.run(t, exitFindings), wants)
		})
	}
	m.checkNoIncidents(t)
}

func (s *suite) testShardRotates(t *testing.T) {
	m := s.monitor(t)
	m.sendGrid(t)
	bad := m.signer(t, rogue)
	old, next := startShard(t, "v2.2.1"), startShard(t, "v2.3.0")
	upload := func(s *shard, n int) (wants []wanted) {
		for range n {
			index, _ := s.add(t, hashedRekordV2(t, bad))
			wants = append(wants, want(s.id(t), index, "hashedrekord", bad, "yes"))
		}
		s.published(t, wants[len(wants)-1].index+1)
		return wants
	}
	wants := upload(old, 3)
	m.configure(t, nil, old.watched("0"))
	checkFindings(t, m.run(t, exitFindings), wants)

	// The last entries of the old shard came after that pass, past a bundle's edge.
	last := upload(old, 2)
	old.noise(t, 300)
	last = append(last, upload(old, 1)...)
	size := last[len(last)-1].index + 1
	old.freeze(t)
	wants = append(last, upload(next, 2)...)
	m.configure(t, nil, old.watched("0"), next.watched("0"))
	r := m.run(t, exitFindings)
	checkFindings(t, r, wants)
	checkScanned(t, r, old.id(t), size, size-3, "ok", "frozen", "retired")
	checkScanned(t, r, next.id(t), 2, 2, "ok", "baseline")

	r = m.run(t, exitClean)
	checkFindings(t, r, nil)
	checkScanned(t, r, old.id(t), size, 0, "retired", "frozen")
	m.checkNoIncidents(t)

	t.Run("growth after the frozen line is proof", func(t *testing.T) {
		old.serve(t) // the operator's own server signs on, over the line
		index, _ := old.add(t, hashedRekordV2(t, bad))
		old.published(t, index+1)
		r := m.run(t, exitTamper)
		if got := r.log(t, old.id(t)); got.Status != "tamper" || got.Scanned != size {
			t.Errorf("the frozen shard: %+v, want tamper, and scanned to stay at %d", got, size)
		}
		if got := r.log(t, next.id(t)); got.Status != "ok" {
			t.Errorf("the other shard: %+v, want ok", got)
		}
		m.checkEvidence(t, old.id(t), "frozen-growth", true)
	})
}

// checkNoIncidents fails the test if any evidence of tampering was written.
func (m *monitor) checkNoIncidents(t testing.TB) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.state(), "incidents", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("a false alarm: %q", found)
	}
}

// checkEvidence fails the test unless there is evidence of an incident of the
// given kind, with the notes it is about.
func (m *monitor) checkEvidence(t testing.TB, log, kind string, proof bool) {
	t.Helper()
	all := m.evidence(t, log)
	for _, in := range all {
		if in.Kind == kind && in.Proof == proof && (len(in.Notes) > 0 || !proof) {
			return
		}
	}
	t.Errorf("log %s: no evidence of kind %q, proof %t, among %d incidents", log, kind, proof, len(all))
	for _, in := range all {
		t.Logf("%s", in.raw)
	}
}
