//go:build e2e && linux

package main_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/merkle/compact"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// What the rules for the search index name in full.
const (
	mailbox  = "Release.Bot@acme.test"
	pipeline = "https://gitlab.acme.test/acme/app//.gitlab-ci.yml@refs/heads/main"
)

// indexedRules are the team's, and some that a search index can be asked for.
const indexedRules = teamRules + `  - name: mailbox
    subject: {exact: ` + mailbox + `}
  - name: pipeline
    subject: {exact: ` + pipeline + `}
`

// sigstore is a deployment with a log of each protocol.
type sigstore struct {
	*deployment
	v1     *rekorV1
	v2     *shard
	rfc    *rfc6962Log
	static *staticLog
}

// startSigstore starts the logs of a deployment. Its CT logs take what the impostors
// issue, too.
func startSigstore(t testing.TB, tr *trillian, impostors ...*tlogtest.CA) *sigstore {
	t.Helper()
	d := newDeployment(t)
	cas := append(impostors, d.ca)
	s := &sigstore{d, startIndexed(t, tr), startShard(t, "v2.3.0"), startRFC6962(t, tr, cas...), startStatic(t, cas...)}
	d.addRekorV1(t, s.v1)
	d.addShard(t, s.v2)
	d.addCT(t, s.rfc.url, s.rfc.ctLog)
	d.addCT(t, s.static.url, s.static.ctLog)
	return s
}

// follower is a team's installation that goes by the deployment's trusted root.
func (s *suite) follower(t testing.TB, d *deployment) *monitor {
	t.Helper()
	m := s.monitor(t)
	m.ca = d.ca
	return m
}

// id is what whosigned calls the log.
func (l *ctLog) id(t testing.TB) string { return l.tlogKey(t).Hex() }

// found is the finding that a logged certificate must make.
func (l logged) found(log, trusted string) wanted {
	w := wanted{log: log, index: l.index, kind: l.kind(), subject: subjectOf(l.issued.id), issuer: l.issued.id.Issuer, trusted: trusted}
	w.expected = trusted == "yes" && w.subject == release
	if l.entry.Certificate != nil {
		w.fingerprint = fmt.Sprintf("%x", fingerprints([][]byte{l.entry.Certificate})[0])
	}
	return w
}

// use has the holders of certificates submit them to both CT logs and sign with them
// once in each Rekor. It returns what there is to be found, the Rekor v1 part by itself.
func (s *sigstore) use(t testing.TB, trusted string, all ...issued) (elsewhere, v1 []wanted) {
	t.Helper()
	for _, l := range s.rfc.add(t, all...) {
		elsewhere = append(elsewhere, l.found(s.rfc.id(t), trusted))
	}
	for _, l := range s.static.add(t, all...) {
		elsewhere = append(elsewhere, l.found(s.static.id(t), trusted))
	}
	last := uint64(0)
	for _, i := range all {
		w := wanted{kind: "hashedrekord", subject: subjectOf(i.id), issuer: i.id.Issuer, trusted: trusted, fingerprint: i.signer(t).fingerprint()}
		w.expected = trusted == "yes" && w.subject == release
		w.log = s.v2.id(t)
		w.index, _ = s.v2.add(t, hashedRekordV2(t, i.signer(t)))
		last = max(last, w.index)
		elsewhere = append(elsewhere, w)
		e := s.v1.hashedRekord(t, i.signer(t))
		s.v1.indexed(t, map[string]any{"hash": digestIn(t, e.leaf)}, e)
		w.log, w.index = s.v1.id(t, s.v1.active()), e.index
		v1 = append(v1, w)
	}
	s.v2.published(t, last+1)
	return elsewhere, v1
}

// digestIn is what a hashedrekord entry was signed over.
func digestIn(t testing.TB, leaf []byte) string {
	t.Helper()
	var e struct {
		Spec struct {
			Data struct{ Hash struct{ Value string } }
		}
	}
	if err := json.Unmarshal(leaf, &e); err != nil || e.Spec.Data.Hash.Value == "" {
		t.Fatalf("no digest in %s: %v", leaf, err)
	}
	return e.Spec.Data.Hash.Value
}

// workflowOf is the identity of a workflow as GitHub's tokens have it.
func workflowOf(subject string) tlogtest.Identity {
	return tlogtest.Identity{URI: subject, Issuer: issuer, Extensions: map[int]string{9: subject}}
}

// fromFirst is an item of logs: the discovered one at a URL is read from its first
// entry.
func fromFirst(url, more string) string { return fmt.Sprintf("{url: %q, start: 0%s}", url, more) }

// asked are the findings that the search index leads to.
func asked(all []wanted) []wanted {
	return slices.DeleteFunc(slices.Clone(all), func(w wanted) bool { return w.subject != mailbox && w.subject != pipeline })
}

// testSigstore monitors a whole deployment that TUF lists: first with Rekor v1 by its
// search index, then in full.
func (s *suite) testSigstore(t *testing.T) {
	impostor := newCA(t)
	d := startSigstore(t, s.trillian, impostor)
	d.v1.rareKinds(t)
	piped := tlogtest.Identity{URI: pipeline, Issuer: "https://gitlab.acme.test"}
	before, after := bystanders(t, d.ca, 1150), bystanders(t, d.ca, 1150)
	d.rfc.add(t, before...)
	d.static.add(t, before[:20]...)
	elsewhere, v1 := d.use(t, "yes", precertificate(t, d.ca, workflowOf(release)), precertificate(t, d.ca, workflowOf(rogue)),
		certificate(t, d.ca, workflowOf(rogue)), certificate(t, d.ca, tlogtest.Identity{Email: mailbox, Issuer: "https://accounts.google.com"}),
		precertificate(t, d.ca, piped))
	untrusted, v1Untrusted := d.use(t, "no", certificate(t, impostor, workflowOf(release)), precertificate(t, impostor, piped))
	elsewhere, v1 = append(elsewhere, untrusted...), append(v1, v1Untrusted...)
	d.rfc.add(t, after...)
	d.v2.noise(t, 300)
	for range 3 {
		d.v1.hashedRekord(t, newSigner(t))
	}

	others := []string{fromFirst(d.v2.url, ""), fromFirst(d.rfc.url, ""), fromFirst(d.static.url, "")}
	byIndex := append(others, fromFirst(d.v1.url, ", coverage: index"))
	m := s.follower(t, d.deployment)
	mails := m.sendGrid(t)
	m.follow(t, d.deployment, indexedRules, byIndex...)
	tree := d.v1.id(t, d.v1.active())

	t.Run("check lists what TUF does", func(t *testing.T) {
		r := m.call(t, "check")
		got := map[string]string{}
		for _, l := range r.Logs {
			got[l.URL] = fmt.Sprintf("%s %s %s %d", l.ID, l.Type, l.Coverage, l.Size)
		}
		want := map[string]string{
			d.v1.url:     fmt.Sprintf("%s rekor-v1 index %d", tree, d.v1.size(t)),
			d.v2.url:     fmt.Sprintf("%s rekor-v2 full %d", d.v2.id(t), d.v2.checkpoint(t).Size),
			d.rfc.url:    fmt.Sprintf("%s rfc6962 full %d", d.rfc.id(t), d.rfc.treeHead(t).TreeSize),
			d.static.url: fmt.Sprintf("%s static-ct full %d", d.static.id(t), d.static.checkpoint(t).N),
		}
		for url, line := range want {
			if got[url] != line {
				t.Errorf("check has %q for %s, want %q", got[url], url, line)
			}
		}
		if len(got) != len(want) || r.exit != exitClean || r.Trust != "ok" {
			t.Errorf("check: exit %d, trust %q, logs %v\n%s", r.exit, r.Trust, got, r.stderr)
		}
		if !strings.Contains(r.stdout, `coverage: index does not cover rule \"workflows\"`) {
			t.Errorf("check does not say which rule the search index cannot be asked for:\n%s", r.stdout)
		}
	})
	t.Run("a rule that the search index cannot be asked for", func(t *testing.T) {
		alone := s.follower(t, d.deployment)
		alone.sendGrid(t)
		alone.follow(t, d.deployment, teamRules, byIndex...)
		if r := alone.call(t, "check"); r.exit == exitClean || !strings.Contains(r.stdout, "can ask for none of the 1 rules") {
			t.Errorf("check: exit %d, want it refused\n%s%s", r.exit, r.stdout, r.stderr)
		}
	})

	first := m.run(t, exitFindings)
	checkFindings(t, first, append(asked(v1), elsewhere...))
	checkBestEffort(t, first, tree, v1)
	if first.Trust != "ok" {
		t.Errorf("trust %q, want ok", first.Trust)
	}
	again := m.run(t, exitClean)
	checkFindings(t, again, nil)

	saved := d.checkpoints(t)
	later, laterV1 := d.use(t, "yes", precertificate(t, d.ca, piped))
	t.Run("one signing is one item of one mail", func(t *testing.T) {
		mailed := len(mails.received())
		r := m.run(t, exitFindings)
		checkFindings(t, r, append(later, laterV1...))
		checkBestEffort(t, r, tree, laterV1)
		sent := mails.received()[mailed:]
		if len(sent) != 1 || len(r.Findings) != 4 {
			t.Fatalf("%d mails about %d findings, want one about 4", len(sent), len(r.Findings))
		}
		text := plainText(t, sent[0])
		if n := strings.Count(text, "Also in"); n != 3 {
			t.Errorf("the item names %d further logs, want 3:\n%s", n, text)
		}
		for _, f := range r.Findings {
			if f.Certificate == "" || f.Certificate != r.Findings[0].Certificate || !strings.Contains(text, f.LeafHash) {
				t.Errorf("log %s: certificate %q, want that of the others, and leaf hash %s in\n%s", f.Log, f.Certificate, f.LeafHash, text)
			}
		}
		if !strings.Contains(text, "best effort") {
			t.Errorf("the mail does not say that a search index was asked:\n%s", text)
		}
	})
	elsewhere, v1 = append(elsewhere, later...), append(v1, laterV1...)
	t.Run("goes on from rekor-monitor's checkpoints", func(t *testing.T) { s.checkImport(t, d, saved, append(later, laterV1...)) })
	t.Run("finds what rekor-monitor would", func(t *testing.T) { s.checkPeer(t, d) })
	t.Run("in full", func(t *testing.T) {
		full := s.follower(t, d.deployment)
		full.sendGrid(t)
		full.follow(t, d.deployment, indexedRules, append(others, fromFirst(d.v1.url, ""))...)
		r := full.run(t, exitFindings)
		checkFindings(t, r, slices.Concat(elsewhere, v1))
		for _, f := range r.Findings {
			if f.BestEffort {
				t.Errorf("log %s entry %d is found by best effort", f.Log, f.Index)
			}
		}
		for id, leaves := range map[string][][]byte{
			tree: d.v1.all(t), d.v2.id(t): d.v2.truth(t).leaves, d.rfc.id(t): d.rfc.leaves(t), d.static.id(t): d.static.leaves(t),
		} {
			size := uint64(len(leaves))
			checkScanned(t, r, id, size, size, "baseline", "ok")
			if got, want := full.provenRoot(t, id), rootOf(t, leaves); got != want {
				t.Errorf("log %s: proven root %s, an independent reader has %s", id, got, want)
			}
		}
		checkFindings(t, full.run(t, exitClean), nil)
	})
}

// checkBestEffort looks at what was found through the search index, and only that.
func checkBestEffort(t testing.TB, r result, tree string, all []wanted) {
	t.Helper()
	n := 0
	for _, f := range r.Findings {
		byIndex := f.Log == tree
		if byIndex {
			n++
		}
		if f.BestEffort != byIndex || byIndex && f.UUID[len(f.UUID)-64:] != f.LeafHash {
			t.Errorf("log %s entry %d: best effort %t, UUID %q", f.Log, f.Index, f.BestEffort, f.UUID)
		}
	}
	if n != len(asked(all)) {
		t.Errorf("%d findings through the search index, want %d", n, len(asked(all)))
	}
}

// plainText is the text of a mail as SendGrid is given it.
func plainText(t testing.TB, body string) string {
	t.Helper()
	var mail struct {
		Content []struct{ Type, Value string }
	}
	if err := json.Unmarshal([]byte(body), &mail); err != nil || len(mail.Content) == 0 || mail.Content[0].Type != "text/plain" {
		t.Fatalf("no mail: %v: %s", err, body)
	}
	return mail.Content[0].Value
}

// all reads a service that has only one tree.
func (r *rekorV1) all(t testing.TB) (leaves [][]byte) {
	t.Helper()
	size := r.size(t)
	for at := uint64(0); at < size; at += 10 {
		leaves = append(leaves, r.leaves(t, 0, at, min(at+10, size))...)
	}
	return leaves
}

func (l *rfc6962Log) leaves(t testing.TB) (all [][]byte) {
	t.Helper()
	for i, e := range l.entries(t, 0) {
		if _, err := ct.LogEntryFromLeaf(int64(i), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e.LeafInput)
	}
	return all
}

func (l *staticLog) leaves(t testing.TB) (all [][]byte) {
	t.Helper()
	for _, e := range l.entries(t) {
		all = append(all, e.MerkleTreeLeaf())
	}
	return all
}

// rootOf is the root of a tree with these leaves, in hex.
func rootOf(t testing.TB, leaves [][]byte) string {
	t.Helper()
	tree := (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0)
	for _, leaf := range leaves {
		if err := tree.Append(hasher.HashLeaf(leaf), nil); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(root)
}

// provenRoot is the root that the leaves read so far hashed into, from the state.
func (m *monitor) provenRoot(t testing.TB, log string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(m.state(), "state", log+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Checkpoint string        `json:"checkpoint"`
		Scanned    tlog.Frontier `json:"scanned"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	frontier, err := doc.Scanned.Range()
	if err != nil {
		t.Fatal(err)
	}
	root, err := tlog.Root(frontier)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(doc.Checkpoint, "\n"+base64.StdEncoding.EncodeToString(root[:])+"\n") {
		t.Errorf("log %s: root %s is not in the checkpoint\n%s", log, root, doc.Checkpoint)
	}
	return root.String()
}
