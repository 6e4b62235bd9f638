//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"github.com/whosigned/whosigned/pkg/notify/notifytest"
)

// logDocument is the part of state/<log>.json that the proof looks at.
type logDocument struct {
	ID         string `json:"id"`
	Checkpoint string `json:"checkpoint"`
	Size       uint64 `json:"size"`
	Scanned    struct {
		Size   uint64   `json:"size"`
		Hashes []string `json:"hashes"`
	} `json:"scanned"`
	Findings  string            `json:"findings"`
	Entries   uint64            `json:"entries"`
	Found     int               `json:"found"`
	Unparsed  int               `json:"unparsed"`
	Outbox    []json.RawMessage `json:"outbox"`
	Incidents []json.RawMessage `json:"incidents"`
	Gaps      []json.RawMessage `json:"gaps"`
	Holes     []json.RawMessage `json:"holes"`
}

// truth is a log as its server has it, read and verified without whosigned's code.
type truth struct {
	id     string
	leaves [][]byte
	note   []byte // the checkpoint that is served now
	verify func(note []byte) (formats.Checkpoint, error)
}

// checkState reads every leaf from the Rekor servers anew, recomputes all roots, and
// holds them against what the servers signed and what the state says.
func (d *day) checkState(t testing.TB) {
	t.Helper()
	truths := d.treesOf(t)
	for _, s := range d.shards {
		truths = append(truths, s.truth(t))
	}
	var logs []string
	entries, found := 0, map[signed]bool{}
	for _, log := range truths {
		logs = append(logs, "state/"+log.id+".json")
		entries += len(log.leaves)
		for _, s := range d.checkLog(t, log) {
			found[s] = true
		}
	}
	slices.Sort(logs)
	if got := d.documents(t)[1:]; !slices.Equal(got, logs) {
		t.Errorf("the state is of the logs %q, want %q", got, logs)
	}
	for _, s := range d.signed {
		if !found[s] {
			t.Errorf("what the test uploaded is not what the log holds there: %+v", s)
		}
	}
	if len(found) != len(d.signed) {
		t.Errorf("%d entries in the logs are signed as the user, and the test made %d", len(found), len(d.signed))
	}
	var run struct {
		Lease  any            `json:"lease"`
		Logs   map[string]any `json:"logs"`
		Outbox []any          `json:"outbox"`
		Last   struct {
			Incidents []any `json:"incidents"`
			Health    []any `json:"health"`
		} `json:"last_result"`
	}
	if err := json.Unmarshal(d.object(t, "run.json"), &run); err != nil {
		t.Fatal(err)
	}
	if run.Lease != nil || len(run.Logs) != len(truths) || len(run.Outbox)+len(run.Last.Incidents)+len(run.Last.Health) != 0 {
		t.Errorf("run.json: lease %v, %d logs, outbox %v, last result %+v; want no lease, %d logs, nothing pending, nothing wrong",
			run.Lease, len(run.Logs), run.Outbox, run.Last, len(truths))
	}
	for name := range d.objects(t, stateBucket, "incidents/") {
		t.Errorf("a false alarm: %s", name)
	}
	t.Logf("recomputed: %d logs, %d leaves, %d signatures as the user", len(truths), entries, len(found))
}

// checkLog proves one log's state, and returns the signatures as the user that are
// in its leaves.
func (d *day) checkLog(t testing.TB, log truth) []signed {
	t.Helper()
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	roots := [][]byte{rfc6962.DefaultHasher.EmptyRoot()}
	for _, leaf := range log.leaves {
		if err := tree.Append(rfc6962.DefaultHasher.HashLeaf(leaf), nil); err != nil {
			t.Fatal(err)
		}
		root, err := tree.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
	}
	size := uint64(len(log.leaves))
	checkNote := func(what string, raw []byte, size uint64) {
		t.Helper()
		cp, err := log.verify(raw)
		if err != nil {
			t.Errorf("log %s: %s does not verify: %v\n%s", log.id, what, err, raw)
		} else if cp.Size != size || size >= uint64(len(roots)) || !bytes.Equal(cp.Hash, roots[size]) {
			t.Errorf("log %s: %s is of size %d with root %x; want size %d and the root of its leaves", log.id, what, cp.Size, cp.Hash, size)
		}
	}
	checkNote("the checkpoint served", log.note, size)

	var doc logDocument
	if err := json.Unmarshal(d.object(t, "state/"+log.id+".json"), &doc); err != nil {
		t.Fatal(err)
	}
	checkNote("the state's checkpoint", []byte(doc.Checkpoint), size)
	var edge []string
	for _, h := range tree.Hashes() {
		edge = append(edge, hex.EncodeToString(h))
	}
	if doc.ID != log.id || doc.Size != size || doc.Scanned.Size != size || !slices.Equal(doc.Scanned.Hashes, edge) {
		t.Errorf("log %s: the state says %d proven, %d read with the left edge %q; want %d of both and %q", log.id, doc.Size, doc.Scanned.Size, doc.Scanned.Hashes, size, edge)
	}
	if len(doc.Outbox)+len(doc.Incidents)+len(doc.Gaps)+len(doc.Holes)+doc.Unparsed != 0 {
		t.Errorf("log %s: outbox %s, incidents %s, gaps %s, holes %s, %d not parsed; want none", log.id, doc.Outbox, doc.Incidents, doc.Gaps, doc.Holes, doc.Unparsed)
	}
	archived := d.objects(t, stateBucket, "checkpoints/"+log.id+"/")
	for name := range archived {
		at, err := strconv.ParseUint(path.Base(name), 10, 64)
		if err != nil {
			t.Errorf("log %s: an archived checkpoint is named %s", log.id, name)
			continue
		}
		checkNote(name, d.object(t, name), at)
	}
	if _, ok := archived[fmt.Sprintf("checkpoints/%s/%d", log.id, size)]; !ok {
		t.Errorf("log %s: no checkpoint of size %d is archived", log.id, size)
	}

	// Who signed is told from the bytes of a leaf: they hold the certificate or key.
	var want []signed
	for n, leaf := range log.leaves {
		for _, s := range []*signer{d.rogue, d.routine, d.impostor, d.key} {
			if s.in(t, leaf) {
				hash := hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(leaf))
				want = append(want, signed{log.id, uint64(n), hash, s == d.routine})
			}
		}
	}
	var got []signed
	for _, f := range d.findings(t, doc.Findings) {
		got = append(got, signed{f.Log, f.Index, f.LeafHash, f.Expected})
	}
	slices.SortFunc(got, func(a, b signed) int { return int(a.index) - int(b.index) })
	if !slices.Equal(got, want) {
		t.Errorf("log %s: findings/ holds\n%+v\nand signed as the user are\n%+v", log.id, got, want)
	}
	if doc.Found != len(want) || doc.Entries != size {
		t.Errorf("log %s: the state counts %d findings in %d entries, want %d in %d", log.id, doc.Found, doc.Entries, len(want), size)
	}
	return want
}

// in says whether a leaf holds the signer's certificate or key, in the forms of
// Rekor v1 and v2.
func (s *signer) in(t testing.TB, leaf []byte) bool {
	der := s.spki
	if s.certificate != nil {
		der = s.certificate.Raw
	}
	return bytes.Contains(leaf, []byte(base64.StdEncoding.EncodeToString(der))) ||
		bytes.Contains(leaf, []byte(base64.StdEncoding.EncodeToString(s.pem(t))))
}

// findings reads a log's chain of findings objects, each checked against the hash
// in its name.
func (d *day) findings(t testing.TB, name string) (all []finding) {
	t.Helper()
	for name != "" {
		data := d.object(t, name)
		sum := sha256.Sum256(data)
		if !strings.HasSuffix(name, fmt.Sprintf("-%x.jsonl", sum[:8])) {
			t.Errorf("%s: its content has another hash: %x", name, sum[:8])
		}
		first, rest, _ := bytes.Cut(data, []byte("\n"))
		var header struct{ Previous string }
		if err := json.Unmarshal(first, &header); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for line := range bytes.Lines(rest) {
			var f finding
			if err := json.Unmarshal(line, &f); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = append(all, f)
		}
		name = header.Previous
	}
	return all
}

// treesOf reads all trees of the Rekor v1 service by its API.
func (d *day) treesOf(t testing.TB) (all []truth) {
	t.Helper()
	type shardInfo struct {
		TreeID         string `json:"treeID"`
		TreeSize       uint64 `json:"treeSize"`
		SignedTreeHead string `json:"signedTreeHead"`
	}
	body, err := get(d.v1.url + "/api/v1/log")
	if err != nil {
		t.Fatal(err)
	}
	var active shardInfo
	var inactive struct {
		Shards []shardInfo `json:"inactiveShards"`
	}
	for _, v := range []any{&active, &inactive} {
		if err := json.Unmarshal(body, v); err != nil {
			t.Fatal(err)
		}
	}
	before := uint64(0)
	for n, info := range append(inactive.Shards, active) {
		tr := d.v1.trees[n]
		if info.TreeID != tr.id {
			t.Fatalf("tree %d of the service is %s, want %s", n, info.TreeID, tr.id)
		}
		log := truth{id: d.v1.id(t, tr), note: []byte(info.SignedTreeHead), verify: tr.verifier(t)}
		for from := uint64(0); from < info.TreeSize; from += 10 {
			log.leaves = append(log.leaves, d.v1.leaves(t, before, from, min(from+10, info.TreeSize))...)
		}
		before += info.TreeSize
		all = append(all, log)
	}
	return all
}

// leaves asks for the leaves [from, to) of a tree that has as many entries before it.
func (r *rekorV1) leaves(t testing.TB, before, from, to uint64) [][]byte {
	t.Helper()
	var request struct {
		Indexes []uint64 `json:"logIndexes"`
	}
	for n := from; n < to; n++ {
		request.Indexes = append(request.Indexes, before+n)
	}
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := post(r.url+"/api/v1/log/entries/retrieve", body)
	if err != nil {
		t.Fatal(err)
	}
	var entries []map[string]struct {
		Body     []byte
		LogIndex uint64
	}
	if err := json.Unmarshal(answer, &entries); err != nil {
		t.Fatal(err)
	}
	leaves := make([][]byte, to-from)
	for _, e := range entries {
		for uuid, e := range e {
			if hash := hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(e.Body)); !strings.HasSuffix(uuid, hash) {
				t.Errorf("entry %s has the leaf hash %s", uuid, hash)
			}
			leaves[e.LogIndex-before-from] = e.Body
		}
	}
	if n := slices.IndexFunc(leaves, func(b []byte) bool { return b == nil }); n >= 0 {
		t.Fatalf("entry %d is not served: %s", before+from+uint64(n), answer)
	}
	return leaves
}

// ecdsaNote verifies a Rekor v1 note: ECDSA over its text, the key named by the
// first bytes of SHA-256 of its SPKI.
type ecdsaNote struct {
	name string
	hash uint32
	key  *ecdsa.PublicKey
}

func (v ecdsaNote) Name() string    { return v.name }
func (v ecdsaNote) KeyHash() uint32 { return v.hash }
func (v ecdsaNote) Verify(msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(v.key, digest[:], sig)
}

func (tr tree) verifier(t testing.TB) func([]byte) (formats.Checkpoint, error) {
	t.Helper()
	der := tr.key.spki(t)
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the key of tree %s is a %T", tr.id, parsed)
	}
	sum := sha256.Sum256(der)
	return func(raw []byte) (cp formats.Checkpoint, err error) {
		// Every replica signs under a name of its own.
		_, signatures, _ := strings.Cut(string(raw), "\n\n— ")
		name, _, _ := strings.Cut(signatures, " ")
		n, err := note.Open(raw, note.VerifierList(ecdsaNote{name, binary.BigEndian.Uint32(sum[:]), key}))
		if err != nil {
			return cp, err
		}
		if _, err = cp.Unmarshal([]byte(n.Text)); err == nil && !strings.HasSuffix(cp.Origin, " - "+tr.id) {
			err = fmt.Errorf("it is of %q", cp.Origin)
		}
		return cp, err
	}
}

// truth reads a shard's leaves from its files, with tessera's parser.
func (s *shard) truth(t testing.TB) truth {
	t.Helper()
	raw, err := get(s.url + "/" + layout.CheckpointPath)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(s.secret.Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	nv, err := rekornote.NewNoteVerifier(s.origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	log := truth{id: s.id(t), note: raw, verify: func(raw []byte) (formats.Checkpoint, error) {
		cp, _, _, err := formats.ParseCheckpoint(raw, s.origin, nv)
		if err != nil {
			return formats.Checkpoint{}, err
		}
		return *cp, nil
	}}
	size := s.checkpoint(t).Size
	for at := uint64(0); at < size; at += layout.EntryBundleWidth {
		data, err := os.ReadFile(s.bundle(t, at))
		if err != nil {
			t.Fatal(err)
		}
		var bundle api.EntryBundle
		if err := bundle.UnmarshalText(data); err != nil {
			t.Fatal(err)
		}
		log.leaves = append(log.leaves, bundle.Entries...)
	}
	log.leaves = log.leaves[:size]
	return log
}

// told is what must be said to people about health: a condition or log, where it
// stands, and words that are in the text.
type told struct{ key, state, words string }

// health is what the day's trouble calls for. Short trouble is none: SendGrid was
// down for less than its condition takes to be opened, and could not have said so.
func (d *day) health(t testing.TB) []told {
	log := func(id string) string { return "log:" + id }
	tree, next := log(d.v1.id(t, d.v1.trees[0])), log(d.v1.id(t, d.v1.trees[1]))
	shard, second := log(d.shards[0].id(t)), log(d.shards[1].id(t))
	return []told{
		{tree, "notice", "baseline taken at size 4;"},
		{tree, "notice", "the origin line of its checkpoints changed"},
		{tree, "notice", "read to its last one"},
		{next, "notice", "its entries are read from the first"},
		{shard, "notice", "baseline taken at size 5;"},
		{shard, "notice", "read to its last one"},
		{second, "notice", "its entries are read from the first"},
		{"config:", "opened", "whosigned.yaml:1: statte"},
		{"config:", "closed", "whosigned.yaml:1: statte"},
		// SendGrid is down for as long as the configuration's patience.
		{"sink:email", "opened", "does not take alerts"},
		{"sink:email", "closed", "does not take alerts"},
	}
}

// checkMail compares the mails that SendGrid took with what was signed: each
// signature as the user in an alert of its own ID, at least once, but for the
// expected ones; and of the rest what the day's trouble calls for.
func (d *day) checkMail(t testing.TB) {
	t.Helper()
	sent := map[string]int{}       // mails by alert
	alertOf := map[string]string{} // alert by leaf hash
	first := map[string]notifytest.Mail{}
	want := d.health(t)
	for _, m := range d.mail.Mails() {
		message := m.Headers["Message-ID"]
		if !slices.Equal(m.To, []string{"security@acme.test", "oncall@acme.test"}) || m.From != "whosigned@acme.test" {
			t.Errorf("mail %s went from %s to %q", message, m.From, m.To)
		}
		if before, again := first[message]; again && (m.Text != before.Text || m.Subject != before.Subject) {
			t.Errorf("mail %s was repeated as another one: %q, before %q", message, m.Subject, before.Subject)
		}
		first[message] = m
		for _, id := range alertsOf(m) {
			if sent[id]++; sent[id] == 1 {
				want = d.checkAlert(t, m, id, alertOf, want)
			}
		}
	}
	for _, s := range d.signed {
		if alert := alertOf[s.leafHash]; s.expected != (alert == "") {
			t.Errorf("entry %d of log %s, expected %t, is in the alert %q", s.index, s.log, s.expected, alert)
		}
		delete(alertOf, s.leafHash)
	}
	for leaf, alert := range alertOf {
		t.Errorf("alert %s is about leaf %s, which nobody signed as the user", alert, leaf)
	}
	for _, w := range want {
		t.Errorf("nobody was told: %+v", w)
	}
	// SendGrid took a mail and its answer was lost, so that one came again. A run that
	// is overtaken while it delivers may repeat one too.
	repeated := len(d.mail.Mails()) - len(first)
	if repeated < 1 {
		t.Errorf("%d mails, and none was repeated after its answer was lost", len(first))
	}
	t.Logf("%d alerts arrived in %d mails, %d of them twice", len(sent), len(first), repeated)
}

// alertsOf are the alerts that a mail tells of: those about one certificate come
// together.
func alertsOf(m notifytest.Mail) []string {
	return strings.Split(m.Headers["X-Whosigned-Alert"], ", ")
}

// checkAlert looks at the first mail that tells of an alert. It notes which leaves the
// alert is about, and returns what is still wanted of health.
func (d *day) checkAlert(t testing.TB, m notifytest.Mail, id string, alertOf map[string]string, want []told) []told {
	t.Helper()
	var alert struct {
		ID       string
		Class    string
		Log      string
		Findings []finding
		Incident any
		Health   []struct{ Key, State, Text string }
	}
	if err := json.Unmarshal(d.object(t, "alerts/"+id+".json"), &alert); err != nil {
		t.Fatalf("alert %s: %v", id, err)
	}
	if alert.ID != id || alert.Class != m.CustomArgs["alert_class"] || alert.Incident != nil {
		t.Errorf("alert %s of class %s was mailed as one of %s: %s", alert.ID, alert.Class, m.CustomArgs["alert_class"], m.Subject)
	}
	for _, f := range alert.Findings {
		if other := alertOf[f.LeafHash]; other != "" {
			t.Errorf("entry %d of log %s is in the alerts %s and %s", f.Index, f.Log, other, id)
		}
		alertOf[f.LeafHash] = id
		for _, text := range []string{m.Text, m.HTML} {
			if !strings.Contains(text, f.LeafHash) {
				t.Errorf("the mail of alert %s does not name leaf %s", id, f.LeafHash)
			}
		}
	}
	for _, h := range alert.Health {
		n := slices.IndexFunc(want, func(w told) bool {
			return strings.HasPrefix(h.Key, w.key) && h.State == w.state && strings.Contains(h.Text, w.words)
		})
		if n < 0 {
			t.Errorf("alert %s says what nothing calls for: %+v", id, h)
			continue
		}
		want = slices.Delete(want, n, n+1)
	}
	return want
}
