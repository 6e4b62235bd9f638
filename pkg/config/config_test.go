package config

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/entry"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// folder has what configurations of the tests name.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, public := range map[string]any{"rekor1.pub": ec.Public(), "rekor2.pub": ed} {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	write(t, dir, "bad.pub", "not PEM\n")
	for name, from := range map[string]string{
		"trusted_root.json": "../../testdata/trusted_root_public_good.json",
		"staging.json":      "../../testdata/trusted_root_staging.json",
	} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, string(data))
	}
	return dir
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, dir, text string) *Config {
	t.Helper()
	cfg, err := Load(t.Context(), write(t, dir, "whosigned.yaml", text))
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return cfg
}

const contract = `state: file:///var/lib/whosigned            # later also gs://bucket/prefix
trustedRoot: trusted_root.json              # or per-log keys below
logs:
  - {type: rekor-v1, url: "http://127.0.0.1:3000", key: rekor1.pub}            # a service: all its trees; key may be a list
  - {type: rekor-v2, url: "http://127.0.0.1:8001", key: rekor2.pub, origin: "127.0.0.1:8001", start: 0, coverage: full}
monitoredValues: {certIdentities: [{certSubject: 'me@example\.com', issuers: ['https://accounts\.google\.com']}], subjects: [], fingerprints: [], oidMatchers: {}}
watch:
  - name: releases
    subject: {glob: "https://github.com/acme/*"}
    issuer: {exact: "https://token.actions.githubusercontent.com"}
    expect: [{extensions: {build-signer-uri: {glob: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v*"}}}]
alerts:
  email: {via: sendgrid, from: a@b.c, to: [d@e.f]}      # key in SENDGRID_API_KEY; endpoint overridable for tests: SENDGRID_HOST
  folder: {path: ./mail}
`

func TestTheContractsExampleLoads(t *testing.T) {
	dir := folder(t)
	cfg := load(t, dir, contract)
	if len(cfg.Warnings) != 0 {
		t.Errorf("got warnings %q, want none", cfg.Warnings)
	}
	if cfg.State != "file:///var/lib/whosigned" || cfg.Patience != 3*time.Hour || cfg.Scan != nil || cfg.Chains.Len() != 2 {
		t.Errorf("got state %q, patience %s, scan %v, %d authorities", cfg.State, cfg.Patience, cfg.Scan, cfg.Chains.Len())
	}
	if len(cfg.Logs) != 2 {
		t.Fatalf("got %d logs, want 2", len(cfg.Logs))
	}
	one, two := cfg.Logs[0], cfg.Logs[1]
	if one.Type != tlog.RekorV1 || one.URL != "http://127.0.0.1:3000" || len(one.Keys) != 1 || one.Origin != "" || !one.Start.Head || one.Coverage != Full || one.QuietAfter != 0 {
		t.Errorf("got %+v, want the Rekor v1 service with its defaults", one)
	}
	if two.Type != tlog.RekorV2 || two.Origin != "127.0.0.1:8001" || two.Start != (Start{Given: true}) || two.Keys[0].LogID != two.Keys[0].OriginID("127.0.0.1:8001") {
		t.Errorf("got %+v, want the Rekor v2 shard from 0, its ID from its origin", two)
	}
	want := []string{
		`releases: subject glob "https://github.com/acme/*", and issuer exact "https://token.actions.githubusercontent.com"; expected if extension build-signer-uri glob "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v*"`,
		`certSubject me@example\.com of https://accounts\.google\.com: subject search "me@example\\.com", and issuer search "https://accounts\\.google\\.com", of a certificate`,
	}
	if got := cfg.Rules.Describe(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got rules\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	mail := Email{Name: "email", Via: "sendgrid", From: "a@b.c", To: []string{"d@e.f"}, Where: cfg.Path + ":13"}
	if fmt.Sprint(cfg.Alerts.Emails) != fmt.Sprint([]Email{mail}) {
		t.Errorf("got %+v, want %+v", cfg.Alerts.Emails, mail)
	}
	if got := cfg.Alerts.Folders; len(got) != 1 || got[0].Path != filepath.Join(dir, "mail") || got[0].Name != "folder" {
		t.Errorf("got %+v, want the folder beside the file", got)
	}
}

func TestKeysComeFromTheTrustedRoot(t *testing.T) {
	cfg := load(t, folder(t), `
state: state
trustedRoot: trusted_root.json
quiet_after: 2h
logs:
  - {type: rekor-v1, url: https://rekor.sigstore.dev/, coverage: consistency}
  - {type: rekor-v2, url: https://LOG2025-1.rekor.sigstore.dev, quiet_after: 0s}
`)
	if cfg.State != "file://"+filepath.Join(filepath.Dir(cfg.Path), "state") {
		t.Errorf("got state %q, want the folder beside the file", cfg.State)
	}
	for i, want := range []struct {
		id, url string
		quiet   time.Duration
	}{
		{"c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d", "https://rekor.sigstore.dev", 2 * time.Hour},
		{"cf1199155bddd051268d1f16ac5c0c75c009f6fb5a63f4177f8e18d7051e3fa0", "https://log2025-1.rekor.sigstore.dev", 0},
	} {
		if l := cfg.Logs[i]; len(l.Keys) != 1 || l.Keys[0].Hex() != want.id || l.URL != want.url || l.QuietAfter != want.quiet || l.Retired {
			t.Errorf("got %+v, want %+v", l, want)
		}
	}
	retired := load(t, folder(t), `{state: s, trustedRoot: staging.json, logs: [{type: rekor-v2, url: "https://log2025-alpha1.rekor.sigstage.dev"}]}`)
	if !retired.Logs[0].Retired {
		t.Error("a shard past its validity is not retired, want that it is")
	}
	public := load(t, folder(t), `{state: s, trustedRoot: trusted_root.json, logs: [{type: rekor-v1, url: "https://rekor.sigstore.dev"}]}`)
	if got := public.Logs[0].QuietAfter; got != 24*time.Hour {
		t.Errorf("got quiet_after %s for a public log, want a day", got)
	}
}

func TestInlineKeysAnchorsAndSeveralSinks(t *testing.T) {
	dir := folder(t)
	key, err := os.ReadFile(filepath.Join(dir, "rekor2.pub"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := load(t, dir, `
state: state
logs:
  - &defaults
    type: rekor-v1
    url: http://10.0.0.1:3000
    insecure: true
    accept_lag: true
    start: 12_000
    key:
      - rekor1.pub
      - |
        `+strings.ReplaceAll(strings.TrimSpace(string(key)), "\n", "\n        ")+`
  - <<: *defaults
    url: http://10.0.0.2:3000
    start: head
watch:
  - {name: a, signer: key, fingerprint: [{exact: 00aa}, {glob: "11*"}]}
  - {name: b, extensions: {1.2.3.4: {regex: "x|y"}, issuer: {exact: i}}}
alerts:
  email:
    - {via: smtp, from: "Who <a@b.c>", to: d@e.f, host: "localhost:25", tls: none, classes: tamper}
    - {via: smtp, name: second, from: a@b.c, to: [d@e.f, g@h.i], host: "mail.example.com:587", classes: [identity, health]}
  folder: [{path: /a}, {path: b, name: b}]
patience: 90m
`)
	if l := cfg.Logs[0]; len(l.Keys) != 2 || l.Start.Index != 12000 || l.Start.Head || !l.AcceptLag || !l.Insecure {
		t.Errorf("got %+v, want two keys, start 12000", l)
	}
	if l := cfg.Logs[1]; l.URL != "http://10.0.0.2:3000" || len(l.Keys) != 2 || !l.Start.Head || !strings.HasSuffix(l.Where, "whosigned.yaml:16") {
		t.Errorf("got %+v, want the defaults with another URL and start, at line 16", l)
	}
	want := "a: fingerprint exact \"00aa\" or glob \"11*\", of a key\nb: extension 1.2.3.4 regex \"x|y\", and extension issuer exact \"i\""
	if got := strings.Join(cfg.Rules.Describe(), "\n"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	first, second := cfg.Alerts.Emails[0], cfg.Alerts.Emails[1]
	if first.TLS != "none" || fmt.Sprint(first.Classes) != "[tamper]" || second.TLS != "starttls" || second.Name != "second" || len(second.To) != 2 {
		t.Errorf("got %+v and %+v", first, second)
	}
	if cfg.Alerts.Folders[0].Path != "/a" || cfg.Alerts.Folders[1].Path != filepath.Join(dir, "b") || cfg.Patience != 90*time.Minute {
		t.Errorf("got %+v, patience %s", cfg.Alerts.Folders, cfg.Patience)
	}
}

const someLogs = `state: s
logs: [{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub}]
alerts: {folder: {path: m}}
`

// The values of rekor-monitor's README as it is now; testdata has it as it was.
const readme = someLogs + `startIndex: 1000
endIndex: 2000
monitoredValues:
  certIdentities:
    - certSubject: user@domain\.com
    - certSubject: user@domain\.com
    - certSubject: otheruser@domain\.com
      issuers:
        - https://accounts\.google\.com
        - https://github\.com/login
  subjects:
    - subject@domain\.com
  fingerprints:
    - A0B1C2D3E4F5
    - 123456
  oidMatchers:
    fulcioExtensions:
      issuer:
        - https://issuer.example.com
      build-config-uri:
        - https://example.com/owner/repository/build-config.yml
    oidExtensions:
      - objectIdentifier: [1, 3, 6, 1, 4, 1, 57264, 1, 1]
        extensionValues:
          - https://github.com/login/oauth
    customExtensions:
      - objectIdentifier: 1.3.6.1.4.1.57264.1.9
        extensionValues:
          - one
          - two
outputIdentities: identities.txt
emailNotificationSendGrid: {senderEmailAddress: a@b.c, recipientEmailAddress: d@e.f, sendGridAPIKey: hunter2}
githubIssue: {assigneeUsername: x, repositoryOwner: acme, repositoryName: alerts}
`

func TestRekorMonitorsConfigurationMeansTheSame(t *testing.T) {
	cfg := load(t, folder(t), readme)
	if cfg.Scan == nil || *cfg.Scan != (Scan{1000, 2001}) {
		t.Errorf("got scan %+v, want [1000, 2001)", cfg.Scan)
	}
	want := `certSubject user@domain\.com
certSubject otheruser@domain\.com of https://accounts\.google\.com or https://github\.com/login
subject subject@domain\.com
fingerprint A0B1C2D3E4F5
fingerprint 123456
extension 1.3.6.1.4.1.57264.1.1 https://github.com/login/oauth
extension 1.3.6.1.4.1.57264.1.9 one or two
extension issuer https://issuer.example.com
extension build-config-uri https://example.com/owner/repository/build-config.yml`
	var names []string
	for _, line := range cfg.Rules.Describe() {
		name, _, _ := strings.Cut(line, ": ")
		names = append(names, name)
	}
	if got := strings.Join(names, "\n"); got != want {
		t.Errorf("got rules\n%s\nwant\n%s", got, want)
	}

	cert := func(subject, issuer string, extensions ...entry.Extension) entry.Signer {
		return entry.Signer{Type: entry.X509, Certificate: []byte{1}, Subjects: []string{subject}, Issuer: issuer, Extensions: extensions}
	}
	for _, tc := range []struct {
		name   string
		signer entry.Signer
		want   string // names of rules, by their last word
	}{
		{"regular expressions are unanchored", cert("xuser@domain.comx", "any"), `user@domain\.com`},
		{"one subject may fit two rules", cert("otheruser@domain.com", "https://accounts.google.com.evil"), `user@domain\.com https://github\.com/login`},
		{"another issuer", cert("otheruser@domain.com", "https://token.example.com"), `user@domain\.com`},
		{"no issuer, no certificate identity", cert("user@domain.com", ""), ""},
		{"subjects of keys", entry.Signer{Type: entry.PGP, Subjects: []string{"subject@domain.com", "user@domain.com"}}, `subject@domain\.com`},
		{"subjects of certificates too", cert("subject@domain.com", ""), `subject@domain\.com`},
		{"fingerprints are equal or not", entry.Signer{Type: entry.PGP, Fingerprint: "123456"}, "123456"},
		{"not by case", entry.Signer{Type: entry.PGP, Fingerprint: "a0b1c2d3e4f5"}, ""},
		{"not part of one", entry.Signer{Type: entry.PGP, Fingerprint: "1234567"}, ""},
		{"extension values are equal or not", cert("x", "", entry.Extension{OID: "1.3.6.1.4.1.57264.1.9", Name: "build-signer-uri", Value: "two"}), "two"},
		{"not part of one", cert("x", "", entry.Extension{OID: "1.3.6.1.4.1.57264.1.9", Name: "build-signer-uri", Value: "two!"}), ""},
		{"the old issuer extension", cert("x", "", entry.Extension{OID: "1.3.6.1.4.1.57264.1.1", Name: "issuer", Value: "https://issuer.example.com"}), "https://issuer.example.com"},
		{"the new issuer extension", cert("x", "", entry.Extension{OID: "1.3.6.1.4.1.57264.1.8", Name: "issuer", Value: "https://issuer.example.com"}), "https://issuer.example.com"},
	} {
		var got []string
		for _, f := range cfg.Rules.Match(&entry.Entry{Signers: []entry.Signer{tc.signer}}, nil) {
			got = append(got, f.Rule[strings.LastIndex(f.Rule, " ")+1:])
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}

	wantWarnings := []string{
		`whosigned.yaml:4: startIndex: the run is a one-off scan of entries [1000, 2001): no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove startIndex and endIndex to monitor`,
		`whosigned.yaml:17: monitoredValues.fingerprints[0]: "A0B1C2D3E4F5" never fits: matching is case-sensitive and logs show hex in lower case; write "a0b1c2d3e4f5"`,
		`whosigned.yaml:35: emailNotificationSendGrid.sendGridAPIKey: it is used unless SENDGRID_API_KEY is set in the environment, but whoever may read this file may read it: put it there, or in a file named by SENDGRID_API_KEY_FILE`,
	}
	if len(cfg.Warnings) != len(wantWarnings) {
		t.Errorf("got %d warnings, want %d:\n%s", len(cfg.Warnings), len(wantWarnings), strings.Join(cfg.Warnings, "\n"))
	}
	for i := range min(len(cfg.Warnings), len(wantWarnings)) {
		if !strings.HasSuffix(cfg.Warnings[i], wantWarnings[i]) || strings.Contains(cfg.Warnings[i], "hunter2") {
			t.Errorf("got warning  %s\nwant its end %s", cfg.Warnings[i], wantWarnings[i])
		}
	}
}

func TestScanRanges(t *testing.T) {
	for _, tc := range []struct {
		keys string
		want Scan
	}{
		{"startIndex: 0", Scan{0, 0}},
		{"endIndex: 0", Scan{0, 1}},
		{"startIndex: 5\nendIndex: 5", Scan{5, 6}},
	} {
		cfg := load(t, folder(t), strings.Replace(someLogs, "state: s", tc.keys, 1)) // a scan needs no state
		if cfg.Scan == nil || *cfg.Scan != tc.want || cfg.State != "" {
			t.Errorf("%q: got %v, state %q; want %v and none", tc.keys, cfg.Scan, cfg.State, tc.want)
		}
	}
}

func TestWarningsSayWhatWillNotHappen(t *testing.T) {
	cfg := load(t, folder(t), `state: s
logs: [{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub}]
watch:
  - name: a
    subject: {glob: "https://github.com/acme/*"}
    expect:
      - subject: {glob: "https://github.com/acme/repo*"}
`)
	want := []string{
		`:7: watch[0].expect[0].subject.glob: the wildcard after "https://github.com/acme/repo" stands inside a path segment: "https://github.com/acme/repo-evil" would be silenced too; end the segment before it`,
		`:7: watch[0].expect[0]: a certificate is only expected if its chain is proven, and there are no CA certificates; name trust, a trustedRoot or caRootsFile`,
		`:1: alerts: nobody will be told: there is no sink; add alerts: {email: …}, alerts: {github: …} or alerts: {folder: …}`,
	}
	if len(cfg.Warnings) != len(want) {
		t.Fatalf("got %q", cfg.Warnings)
	}
	for i := range want {
		if cfg.Warnings[i] != cfg.Path+want[i] {
			t.Errorf("got  %s\nwant …%s", cfg.Warnings[i], want[i])
		}
	}
	if cfg := load(t, folder(t), strings.Replace(someLogs, "state:", "patience: 1h #", 1)); cfg.State != "" || !strings.Contains(strings.Join(cfg.Warnings, "\n"), "state: missing; say where") {
		t.Errorf("without state: state %q, warnings %q, want a warning", cfg.State, cfg.Warnings)
	}
	if cfg := load(t, folder(t), someLogs); len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "watch: nothing is watched for") {
		t.Errorf("got %q, want one warning that nothing is watched for", cfg.Warnings)
	}
}

func TestAFileThatCannotBeReadIsAnError(t *testing.T) {
	_, err := Load(t.Context(), filepath.Join(t.TempDir(), "gone.yaml"))
	var all *Error
	if !errors.As(err, &all) || !strings.Contains(err.Error(), "gone.yaml: cannot be read: ") {
		t.Errorf("got %v, want an *Error that names the file", err)
	}
}

func FuzzParseNeverPanics(f *testing.F) {
	dir := folder(f)
	for _, seed := range []string{contract, readme, "a: &a [*a]", "<<: {<<: x}", "a: !!x\n- b", "---\n---\n", "? [a]: b\n", "logs: *x", "\xff", "watch: [{subject: {exact: 1, glob: 2}}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse(filepath.Join(dir, "fuzz.yaml"), data)
		if err == nil {
			if cfg.Trust == nil && len(cfg.Logs) == 0 || cfg.Rules == nil || cfg.Chains == nil {
				t.Errorf("got an incomplete configuration %+v", cfg)
			}
			return
		}
		var all *Error
		if !errors.As(err, &all) || len(all.Problems) == 0 {
			t.Errorf("got %v, want an *Error with problems", err)
		}
	})
}

func TestThousandsOfProblemsAreCutShort(t *testing.T) {
	text := "logs: []\n"
	for i := range 4_000 {
		text += fmt.Sprintf("k%d: 1\n", i)
	}
	_, err := Parse("c.yaml", []byte(text))
	if err == nil || len(err.Error()) > 100<<10 || !strings.Contains(err.Error(), "there is more") {
		t.Errorf("an error of %d bytes: %.300s", len(fmt.Sprint(err)), err)
	}
}
