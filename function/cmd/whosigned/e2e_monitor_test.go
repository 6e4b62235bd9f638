//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// The exit statuses of whosigned.
const (
	exitClean    = 0
	exitFailed   = 1
	exitUsage    = 2
	exitFindings = 3
	exitTamper   = 4
)

// The identity that the suite's monitors watch, and its routine.
const (
	workflow = "https://github.com/acme/app/.github/workflows/"
	release  = workflow + "release.yml@refs/tags/v1.0.0"
	rogue    = workflow + "rogue.yml@refs/heads/main"
	issuer   = "https://token.actions.githubusercontent.com"
)

// finding and result are the part of --json that is promised to other tools.
type finding struct {
	Log         string `json:"log"`
	Origin      string `json:"origin"`
	Index       uint64 `json:"index"`
	Rule        string `json:"rule"`
	Kind        string `json:"kind"`
	Subject     string `json:"subject"`
	Issuer      string `json:"issuer"`
	Fingerprint string `json:"fingerprint"`
	Trusted     string `json:"trusted"`
	Expected    bool   `json:"expected"`
	UUID        string `json:"uuid"`
	LeafHash    string `json:"leafHash"`
	Certificate string `json:"certificateId"`
	BestEffort  bool   `json:"bestEffort"`
}

type logResult struct {
	ID       string `json:"id"`
	Origin   string `json:"origin"`
	Type     string `json:"type"`
	URL      string `json:"url"`
	Coverage string `json:"coverage"`
	Size     uint64 `json:"size"`
	Scanned  uint64 `json:"scanned"`
	Entries  uint64 `json:"entries"`
	Findings int    `json:"findings"`
	Status   string `json:"status"`
	Error    string `json:"error"`
}

type result struct {
	Trust    string      `json:"trust"`
	Logs     []logResult `json:"logs"`
	Findings []finding   `json:"findings"`
	Alerts   struct {
		Pending   int `json:"pending"`
		Delivered int `json:"delivered"`
	} `json:"alerts"`

	exit   int
	stdout string
	stderr string
}

// log is what the result says of a log.
func (r result) log(t testing.TB, id string) logResult {
	t.Helper()
	i := slices.IndexFunc(r.Logs, func(l logResult) bool { return l.ID == id })
	if i < 0 {
		t.Fatalf("the result does not mention log %s:\n%s", id, r.stdout)
	}
	return r.Logs[i]
}

// monitor is a team's installation of whosigned: a folder with its configuration,
// its trusted root, its state and its mail.
type monitor struct {
	program string
	dir     string
	ca      *tlogtest.CA
	env     []string
	seen    map[string]int  // findings over all runs, by log, index and rule
	closed  map[string]bool // incidents, by ID
}

func (s *suite) monitor(t testing.TB) *monitor {
	t.Helper()
	ca, err := tlogtest.NewCA("acme.test")
	if err != nil {
		t.Fatal(err)
	}
	return &monitor{program: s.program, dir: t.TempDir(), ca: ca, seen: map[string]int{}, closed: map[string]bool{}}
}

// signer has the CA issue a certificate, as Fulcio would, to a workflow.
func (m *monitor) signer(t testing.TB, subject string) *signer { return certified(t, m.ca, subject) }

func certified(t testing.TB, ca *tlogtest.CA, subject string) *signer {
	t.Helper()
	s := newSigner(t)
	issued, err := ca.Issue(tlogtest.Identity{URI: subject, Issuer: issuer, Key: s.key, Extensions: map[int]string{9: subject}})
	if err != nil {
		t.Fatal(err)
	}
	// Fulcio's extensions are not critical, so the standard library takes it.
	if s.certificate, err = x509.ParseCertificate(issued.Certificate); err != nil {
		t.Fatal(err)
	}
	return s
}

// watched is one entry of `logs` in a configuration.
type watched struct {
	kind, url string
	keys      []keyPair
	start     string // "" is the default, head
}

func (r *rekorV1) watched(start string) watched {
	w := watched{kind: "rekor-v1", url: r.url, start: start}
	for _, tree := range r.trees {
		if !slices.Contains(w.keys, tree.key) {
			w.keys = append(w.keys, tree.key)
		}
	}
	return w
}

func (s *shard) watched(start string) watched {
	return watched{"rekor-v2", s.url, []keyPair{s.key}, start}
}

// configure writes the configuration and the trusted root. All keys are in the
// trusted root; the configuration names those of Rekor v1 again.
func (m *monitor) configure(t testing.TB, fingerprints []string, logs ...watched) {
	t.Helper()
	var tlogs []*transparencyLog
	var items strings.Builder
	for _, w := range logs {
		fmt.Fprintf(&items, "  - type: %s\n    url: %q\n", w.kind, w.url)
		if w.start != "" {
			fmt.Fprintf(&items, "    start: %s\n", w.start)
		}
		details := commonpb.PublicKeyDetails_PKIX_ED25519
		if w.kind == "rekor-v1" {
			details = commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
			items.WriteString("    key:\n")
		}
		for _, key := range w.keys {
			if w.kind == "rekor-v1" {
				fmt.Fprintf(&items, "      - %q\n", key.public)
			}
			tlogs = append(tlogs, listed(w.url, key.spki(t), key.logID(t, w), details))
		}
	}
	writeFile(t, filepath.Join(m.dir, "trusted_root.json"), trustedRoot(t, m.ca, tlogs, nil))
	quoted, err := json.Marshal(slices.Compact(slices.Sorted(slices.Values(fingerprints))))
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, "trustedRoot: trusted_root.json", items.String(), fmt.Sprintf("monitoredValues: {fingerprints: %s}\n%s", quoted, teamRules))
}

// follow configures the monitor to watch every log of a deployment, as its TUF
// repository has them; items change single ones.
func (m *monitor) follow(t testing.TB, d *deployment, rules string, items ...string) {
	t.Helper()
	writeFile(t, filepath.Join(m.dir, "root.json"), d.InitialRoot())
	logs := "  - discover: all\n"
	for _, item := range items {
		logs += "  - " + item + "\n"
	}
	m.write(t, fmt.Sprintf("trust: {tuf: %q, root: root.json}", d.URL), logs, rules)
}

// teamRules are for the workflows of a team, of which one is its routine.
const teamRules = `watch:
  - name: workflows
    subject: {glob: "` + workflow + `*"}
    issuer: {exact: "` + issuer + `"}
    expect: [{extensions: {build-signer-uri: {glob: "` + workflow + `release.yml@refs/tags/v*"}}}]
`

// write writes the configuration: where keys come from, which logs are watched, and
// for whom.
func (m *monitor) write(t testing.TB, trust, logs, rules string) {
	t.Helper()
	writeFile(t, m.config(), fmt.Appendf(nil, `state: file://%s
%s
logs:
%s%salerts:
  email: {via: sendgrid, from: whosigned@acme.test, to: [security@acme.test]}
  folder: {path: ./mail}
`, m.state(), trust, logs, rules))
}

func (m *monitor) config() string { return filepath.Join(m.dir, "whosigned.yaml") }
func (m *monitor) state() string  { return filepath.Join(m.dir, "state") }

// spki is the public key in DER.
func (k keyPair) spki(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile(k.public)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("%s is not PEM", k.public)
	}
	return block.Bytes
}

// logID is what a trusted root calls the log: for a Rekor v2 shard with an
// Ed25519 key SHA-256 of the origin, a newline, 0x01 and the key.
func (k keyPair) logID(t testing.TB, w watched) []byte {
	t.Helper()
	named := k.spki(t)
	if w.kind == "rekor-v2" {
		const ed25519Prefix = 12 // of the SPKI, before the 32 bytes of the key
		named = append([]byte(strings.TrimPrefix(w.url, "http://")+"\n\x01"), named[ed25519Prefix:]...)
	}
	sum := sha256.Sum256(named)
	return sum[:]
}

// id is what whosigned calls the log.
func (s *shard) id(t testing.TB) string {
	return hex.EncodeToString(s.key.logID(t, s.watched("")))
}

// id is what whosigned calls the log that is a tree of r.
func (r *rekorV1) id(t testing.TB, tr tree) string {
	return hex.EncodeToString(tr.key.logID(t, r.watched(""))) + "-" + tr.id
}

// command prepares a run of the program with the monitor's configuration.
func (m *monitor) command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.program, append([]string{name, "--config", m.config()}, args...)...)
	cmd.Env = append(os.Environ(), m.env...)
	cmd.Dir = m.dir
	return cmd
}

// call runs a subcommand with --json to its end.
func (m *monitor) call(t testing.TB, name string, args ...string) result {
	t.Helper()
	cmd := m.command(t, name, append(args, "--json")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return parseResult(t, cmd.Run(), stdout.String(), stderr.String())
}

// parseResult reads what the program printed; on usage errors that is no result.
func parseResult(t testing.TB, err error, stdout, stderr string) result {
	t.Helper()
	r := result{stdout: stdout, stderr: stderr}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.exit = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	if r.exit != exitUsage {
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatalf("exit %d, and stdout is not a result: %v\nstdout: %s\nstderr: %s", r.exit, err, stdout, stderr)
		}
	}
	return r
}

// run is one pass. It fails the test if the exit status is another than want, or
// if a finding is one that an earlier pass had.
func (m *monitor) run(t testing.TB, want int) result {
	t.Helper()
	r := m.call(t, "run")
	if r.exit != want {
		t.Fatalf("run: exit %d, want %d\nstdout: %s\nstderr: %s", r.exit, want, r.stdout, r.stderr)
	}
	m.once(t, r)
	return r
}

// once fails the test if a finding of r was reported before.
func (m *monitor) once(t testing.TB, r result) {
	t.Helper()
	for _, f := range r.Findings {
		key := fmt.Sprintf("%s %d %s %s", f.Log, f.Index, f.Rule, f.Fingerprint)
		if m.seen[key]++; m.seen[key] > 1 {
			t.Errorf("reported twice: %s", key)
		}
	}
}

// wanted is a finding that a pass must report.
type wanted struct {
	log         string
	index       uint64
	kind        string
	subject     string // "" if the suite does not say
	issuer      string
	fingerprint string
	trusted     string // "" if the suite does not say
	expected    bool
}

// want is the finding for an entry by s in a log.
func want(log string, index uint64, kind string, s *signer, trusted string) wanted {
	w := wanted{log: log, index: index, kind: kind, fingerprint: s.fingerprint(), trusted: trusted}
	if s.certificate != nil {
		w.subject, w.issuer = s.certificate.URIs[0].String(), issuer
		w.expected = trusted == "yes" && w.subject == release
	}
	return w
}

// checkFindings compares what a pass found with what was uploaded, both ways.
func checkFindings(t testing.TB, r result, want []wanted) {
	t.Helper()
	type place struct {
		log   string
		index uint64
	}
	found := map[place]finding{}
	for _, f := range r.Findings {
		at := place{f.Log, f.Index}
		if first, twice := found[at]; twice {
			t.Errorf("log %s entry %d: found by rule %q and by %q", at.log, at.index, first.Rule, f.Rule)
		}
		found[at] = f
	}
	for _, w := range want {
		at := place{w.log, w.index}
		f, ok := found[at]
		if !ok {
			t.Errorf("log %s: entry %d, a %s, is not among the findings", w.log, w.index, w.kind)
			continue
		}
		delete(found, at)
		if f.Kind != w.kind || f.Fingerprint != w.fingerprint || f.Issuer != w.issuer || f.Expected != w.expected ||
			w.subject != "" && f.Subject != w.subject || w.trusted != "" && f.Trusted != w.trusted {
			t.Errorf("log %s entry %d:\n got %+v\nwant %+v", w.log, w.index, f, w)
		}
		if f.Rule == "" || f.Origin == "" {
			t.Errorf("log %s entry %d: finding without a rule or an origin: %+v", w.log, w.index, f)
		}
	}
	for at, f := range found {
		t.Errorf("log %s entry %d: found, and should not be: %+v", at.log, at.index, f)
	}
}

// checkScanned compares how far a log was read with how far it goes.
func checkScanned(t testing.TB, r result, id string, size, entries uint64, statuses ...string) {
	t.Helper()
	l := r.log(t, id)
	if l.Size != size || l.Scanned != size || l.Entries != entries || l.Error != "" {
		t.Errorf("log %s: size %d, scanned %d, %d entries, error %q; want %d, %d, %d and none", id, l.Size, l.Scanned, l.Entries, l.Error, size, size, entries)
	}
	if !slices.Contains(statuses, l.Status) {
		t.Errorf("log %s: status %q, want one of %q", id, l.Status, statuses)
	}
}

// mail reads the folder sink.
func (m *monitor) mail(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(m.dir, "mail", "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

// evidence reads what is kept of a log's incidents.
func (m *monitor) evidence(t testing.TB, log string) []incident {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(m.state(), "incidents", log, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []incident
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var in incident
		if err := json.Unmarshal(b, &in); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		in.raw = b
		all = append(all, in)
	}
	return all
}

// incident is the part of an evidence file that the suite looks at.
type incident struct {
	ID    string   `json:"id"`
	Kind  string   `json:"kind"`
	Proof bool     `json:"proof"`
	Notes []string `json:"notes"`

	raw []byte
}

// accept closes all incidents of a log.
func (m *monitor) accept(t testing.TB, log string) {
	t.Helper()
	for _, in := range m.evidence(t, log) {
		if m.closed[in.ID] {
			continue
		}
		m.closed[in.ID] = true
		cmd := m.command(t, "accept", "--log", log, "--incident", in.ID, "--reason", "the suite did it")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("accept --incident %s: %v\n%s", in.ID, err, out)
		}
	}
}
