//go:build e2e && linux

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// suite is what its parts share.
type suite struct {
	*trillian
	program string // the built whosigned
}

// TestE2E runs the built program against real log servers: Trillian on MariaDB
// with rekor-server and ct_server, two versions of rekor-tiles, and TesseraCT, all on
// loopback. .ci/servers installs them. Run one part with -run '^TestE2E$/part'.
func TestE2E(t *testing.T) {
	s := &suite{program: filepath.Join(t.TempDir(), "whosigned")}
	s.trillian = startTrillian(t)
	t.Run("servers answer", s.testServersAnswer)
	t.Run("rfc 6962", s.testRFC6962)
	t.Run("static ct", s.testStaticCT)
	t.Run("tuf", s.testTUF)
	command(t, nil, "go", "build", "-o", s.program, ".")
	t.Run("sigstore", s.testSigstore)
	t.Run("trust", s.testTrust)
	t.Run("watches every log", s.testWatchesEveryLog)
	t.Run("interrupt keeps progress", s.testInterruptKeepsProgress)
	t.Run("rotation", s.testRotation)
	t.Run("tampering", s.testTampering)
	t.Run("ct tampering", s.testCTTampering)
	t.Run("bundles", s.testBundles)
	t.Run("import", s.testImport)
}

// testServersAnswer shows by plain HTTP that the suite's own support works: the
// servers take entries of every kind and give them back, rotate, and serve what
// is tampered with. Without it a passing suite would say little.
func (s *suite) testServersAnswer(t *testing.T) {
	t.Run("rekor v1", s.testRekorV1Answers)
	t.Run("rekor v2", s.testRekorV2Answers)
	t.Run("rekor v1 index", s.testIndexAnswers)
}

func (s *suite) testRekorV1Answers(t *testing.T) {
	keyed := newSigner(t)
	v1 := startRekorV1(t, s.trillian)
	entries := v1.rareKinds(t)
	entries = append(entries, v1.hashedRekord(t, keyed), v1.attestation(t, keyed, "dsse", "0.0.1"), v1.attestation(t, keyed, "intoto", "0.0.2"))
	for i, e := range entries {
		if e.index != uint64(i) {
			t.Errorf("entry %d, a %s, has index %d", i, e.kind, e.index)
		}
		if served := v1.retrieve(t, e.index); served.body != string(e.leaf) {
			t.Errorf("entry %d, a %s, is served as %q, and was uploaded as %q", e.index, e.kind, served.body, e.leaf)
		}
	}
	size := uint64(len(entries))
	if got := v1.size(t); got != size {
		t.Errorf("the tree has %d entries, want %d", got, size)
	}

	truth := v1.retrieve(t, 3)
	v1.replaceLeaf(t, 3, entries[0].leaf)
	if lie := v1.retrieve(t, 3); lie.uuid != truth.uuid || lie.body != string(entries[0].leaf) {
		t.Errorf("an altered row is served as %s, %q", lie.uuid, lie.body)
	}
	v1.replaceLeaf(t, 3, entries[3].leaf)

	dump := s.dump(t, v1.active().id)
	first := v1.hashedRekord(t, keyed)
	s.restore(t, v1.active().id, dump)
	v1.restart(t)
	second := v1.hashedRekord(t, keyed)
	if first.index != size || second.index != size {
		t.Errorf("entries %d and %d before and after the history was rewritten, want %d both", first.index, second.index, size)
	}

	for _, key := range []*keyPair{nil, new(newKeyPair(t))} {
		old := v1.active()
		v1.rotate(t, key)
		if e := v1.hashedRekord(t, keyed); e.index != 0 || v1.active().id == old.id {
			t.Errorf("the first entry of tree %s has index %d", v1.active().id, e.index)
		}
	}
}

func (s *suite) testRekorV2Answers(t *testing.T) {
	keyed := newSigner(t)
	old, next := startShard(t, "v2.2.1"), startShard(t, "v2.3.0")
	for _, shard := range []*shard{old, next} {
		index, leaf := shard.add(t, hashedRekordV2(t, keyed))
		shard.published(t, index+1)
		bundle, err := os.ReadFile(shard.bundle(t, index))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(bundle), string(leaf)) {
			t.Errorf("%s: the entry bundle does not hold what was uploaded", shard.version)
		}
	}
	if _, err := old.tryAdd(dsseV2(t, keyed)); err != nil {
		t.Errorf("v2.2.1 refuses DSSE: %v", err)
	}
	if _, err := next.tryAdd(dsseV2(t, keyed)); err == nil {
		t.Error("v2.3.0 takes DSSE")
	}

	old.published(t, 2)
	old.freeze(t)
	frozen, err := get(old.url + "/checkpoint")
	if err != nil || !strings.Contains(string(frozen), "\nLog frozen — ") || old.checkpoint(t).Size != 2 {
		t.Errorf("a frozen shard serves %q, %v", frozen, err)
	}
	snapshot := old.snapshot(t)
	old.serve(t)
	index, _ := old.add(t, hashedRekordV2(t, keyed))
	old.published(t, index+1)
	old.server.stop(t)
	old.restore(t, snapshot)
	if again, err := get(old.url + "/checkpoint"); err != nil || string(again) != string(frozen) {
		t.Errorf("a restored snapshot serves %q, %v", again, err)
	}
	before := next.checkpoint(t)
	next.server.stop(t)
	next.restore(t, "")
	next.serve(t)
	next.noise(t, 1)
	next.published(t, 1)
	if after := next.checkpoint(t); after.Size != before.Size || string(after.Hash) == string(before.Hash) {
		t.Errorf("a rewritten history has size %d and root %x, before size %d and root %x", after.Size, after.Hash, before.Size, before.Hash)
	}
}
