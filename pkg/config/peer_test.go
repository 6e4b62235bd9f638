package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/entry"
)

// ruleNames are the names of the rules, one a line.
func ruleNames(cfg *Config) string {
	var all []string
	for _, line := range cfg.Rules.Describe() {
		name, _, _ := strings.Cut(line, ": ")
		all = append(all, name)
	}
	return strings.Join(all, "\n")
}

// after cuts the path off warnings.
func after(cfg *Config) string {
	return strings.ReplaceAll(strings.Join(cfg.Warnings, "\n"), cfg.Path+":", "")
}

func TestRekorMonitorsExampleWorksWithoutEditingItsRules(t *testing.T) {
	example, err := os.ReadFile("testdata/rekor-monitor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := load(t, folder(t), string(example)+someLogs)
	want := `certSubject alice@acme\.example
certSubject bob@acme\.example of https://accounts\.google\.com or https://github\.com/login
certSubject https://github\.com/acme/app/\.github/workflows/release\.yaml@.* of https://token\.actions\.githubusercontent\.com
subject carol@acme\.example
fingerprint a0b1c2d3e4f5
extension 1.3.6.1.4.1.57264.1.9 https://github.com/acme/builder/.github/workflows/container.yml@v1.4.0
extension build-config-uri https://acme.example/owner/repository/build.yml`
	if got := ruleNames(cfg); got != want {
		t.Errorf("got rules\n%s\nwant\n%s", got, want)
	}
	wantWarnings := `4: startIndex: the run is a one-off scan of entries [1000, 2001): no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove startIndex and endIndex to monitor`
	if got := after(cfg); got != wantWarnings {
		t.Errorf("got warnings\n%s\nwant\n%s", got, wantWarnings)
	}

	cert := func(subject, issuer string, extensions ...entry.Extension) entry.Signer {
		return entry.Signer{Type: entry.X509, Certificate: []byte{1}, Subjects: []string{subject}, Issuer: issuer, Extensions: extensions}
	}
	builder := entry.Extension{OID: "1.3.6.1.4.1.57264.1.9", Name: "build-signer-uri", Value: "https://github.com/acme/builder/.github/workflows/container.yml@v1.4.0"}
	config := entry.Extension{OID: "1.3.6.1.4.1.57264.1.18", Name: "build-config-uri", Value: "https://acme.example/owner/repository/build.yml"}
	other := builder
	other.Value += "1"
	workflow := "https://github.com/acme/app/.github/workflows/release.yaml@refs/tags/v1"
	for _, tc := range []struct {
		name   string
		signer entry.Signer
		want   string // the rule's beginning; "" for none
	}{
		{"a subject of any issuer", cert("alice@acme.example", "https://any.example"), `certSubject alice@`},
		{"a subject of a listed issuer", cert("bob@acme.example", "https://github.com/login/oauth"), `certSubject bob@`},
		{"a subject of another issuer", cert("bob@acme.example", "https://any.example"), ""},
		{"a workflow at any ref", cert(workflow, "https://token.actions.githubusercontent.com"), `certSubject https://github\.com/acme/app`},
		{"a key's subject", entry.Signer{Type: entry.PGP, Subjects: []string{"carol@acme.example"}}, "subject carol@"},
		{"a fingerprint", entry.Signer{Type: entry.PGP, Fingerprint: "a0b1c2d3e4f5"}, "fingerprint a0b1"},
		{"an extension by its OID", cert("x", "", builder), "extension 1.3.6.1.4.1.57264.1.9 "},
		{"another value of it", cert("x", "", other), ""},
		{"an extension by Fulcio's name", cert("x", "", config), "extension build-config-uri "},
	} {
		var got []string
		for _, f := range cfg.Rules.Match(&entry.Entry{Signers: []entry.Signer{tc.signer}}, nil) {
			got = append(got, f.Rule)
		}
		if fits := len(got) == 1 && strings.HasPrefix(got[0], tc.want); fits != (tc.want != "") || tc.want == "" && len(got) > 0 {
			t.Errorf("%s: got %q, want a rule that begins with %q", tc.name, got, tc.want)
		}
	}
}

func TestMonitoredValuesAreTakenInEverySpelling(t *testing.T) {
	for _, tc := range []struct {
		name, values string
		want         string // names of rules
		warnings     string
	}{
		{"extensions beside oidMatchers", "oidExtensions: [{objectIdentifier: [1, 2, 3], extensionValues: [a]}]\n  fulcioExtensions: {issuer: [b]}\n  customExtensions: [{objectIdentifier: 1.2.4, extensionValues: [c]}]",
			"extension 1.2.3 a\nextension 1.2.4 c\nextension issuer b", ""},
		{"extensions in oidMatchers", "oidMatchers:\n    oidExtensions: [{objectIdentifier: [1, 2, 3], extensionValues: [a]}]\n    fulcioExtensions: {issuer: [b]}\n    customExtensions: [{objectIdentifier: 1.2.4, extensionValues: [c]}]",
			"extension 1.2.3 a\nextension 1.2.4 c\nextension issuer b", ""},
		{"extensions in both", "oidMatchers: {fulcioExtensions: {issuer: [a]}}\n  fulcioExtensions: {issuer: [a, b]}", "extension issuer a\nextension issuer a or b", ""},
		{"lower case, as some releases had it", "oidMatchers:\n    oidextensions: [{objectIdentifier: [1, 2, 3], extensionValues: [a]}]\n    fulcioextensions: {issuer: [b]}\n    customextensions: [{objectIdentifier: 1.2.4, extensionValues: [c]}]",
			"extension 1.2.3 a\nextension 1.2.4 c\nextension issuer b", ""},
		{"oidMatchers as a list, as the first releases had it", "oidMatchers: [{objectIdentifier: [1, 2, 3], extensionValues: [a]}]", "extension 1.2.3 a", ""},
		{"one value for a list", "certIdentities: {certSubject: a, issuers: b}\n  subjects: c\n  fingerprints: d\n  fulcioExtensions: {issuer: e}\n  customExtensions: {objectIdentifier: 1.2.3, extensionValues: f}",
			"certSubject a of b\nsubject c\nfingerprint d\nextension 1.2.3 f\nextension issuer e", ""},
		{"unknown keys", "subjects: [a]\n  subject: [b]\n  zzzzzzzzzzzz: 1\n  sendGridAPIKey: hunter2\n  certIdentities: [{certSubject: c, note: d}]\n  oidMatchers: {more: []}\n  customExtensions: [{objectIdentifier: 1.2.3, extensionValues: [e], why: f}]",
			"certSubject c\nsubject a\nextension 1.2.3 e", `6: monitoredValues.subject: unknown key; it is ignored; did you mean "subjects"?
7: monitoredValues.zzzzzzzzzzzz: unknown key; it is ignored; known here: certIdentities, subjects, fingerprints, oidMatchers, oidExtensions, fulcioExtensions, customExtensions
8: monitoredValues.sendGridAPIKey: unknown key; it is ignored. Secrets do not belong in the configuration: remove it, ` + secretRemedy + `
9: monitoredValues.certIdentities[0].note: unknown key; it is ignored; known here: certSubject, issuers
10: monitoredValues.oidMatchers.more: unknown key; it is ignored; known here: oidExtensions, fulcioExtensions, customExtensions, oidextensions, fulcioextensions, customextensions
11: monitoredValues.customExtensions[0].why: unknown key; it is ignored; known here: objectIdentifier, extensionValues`},
		{"Fulcio's extensions without values", "fulcioExtensions: {build-signer-uri: [a], issuer: []}\n  oidMatchers:\n    fulcioExtensions:\n      build-trigger:", "extension build-signer-uri a",
			`8: monitoredValues.oidMatchers.fulcioExtensions.build-trigger: no values to match, so nothing is watched for; list them, or remove the key
5: monitoredValues.fulcioExtensions.issuer: no values to match, so nothing is watched for; list them, or remove the key`},
		{"an unknown extension", "fulcioExtensions: {build-signer: [a], 1.2.3: [b]}", "extension 1.2.3 b",
			"5: monitoredValues.fulcioExtensions.build-signer: unknown extension; it is ignored; use one of Fulcio's names, such as build-signer-uri, or customExtensions for an OID"},
	} {
		cfg := load(t, folder(t), someLogs+"monitoredValues:\n  "+tc.values+"\n")
		if got := ruleNames(cfg); got != tc.want {
			t.Errorf("%s: got rules\n%s\nwant\n%s", tc.name, got, tc.want)
		}
		if got := after(cfg); got != tc.warnings {
			t.Errorf("%s: got warnings\n%s\nwant\n%s", tc.name, got, tc.warnings)
		}
	}
}

func TestAScanIsSaidToBeOne(t *testing.T) {
	for _, tc := range []struct{ keys, want string }{
		{"startIndex: 5", "4: startIndex: the run is a one-off scan of entries [5, the log's end): no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove it to monitor"},
		{"endIndex: 5", "4: endIndex: startIndex is missing, so the scan begins at entry 0; rekor-monitor begins at its last checkpoint, and reads nothing if there is none; give startIndex to begin elsewhere\n4: endIndex: the run is a one-off scan of entries [0, 6): no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove it to monitor"},
		{"endIndex: 5\nstartIndex: 2", "5: startIndex: the run is a one-off scan of entries [2, 6): no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove startIndex and endIndex to monitor"},
	} {
		cfg := load(t, folder(t), someLogs+tc.keys+"\nwatch: [{name: a, subject: {exact: a}}]\n")
		if got := after(cfg); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.keys, got, tc.want)
		}
	}
}

// The numbers are those of gopkg.in/yaml.v2 v2.4.0, rekor-monitor's parser.
func TestIndexesAreTheNumbersThatRekorMonitorReads(t *testing.T) {
	for _, tc := range []struct {
		written string
		want    uint64
	}{
		{"10", 10}, {"0", 0}, {"1_000", 1000}, {"010", 8}, {"0_10", 8}, {"08", 8}, {"09", 9}, {"0x10", 16}, {"0X1F", 31}, {"0o17", 15}, {"0b11", 3},
		{"+5", 5}, {"+010", 8}, {"5.0", 5}, {"1e3", 1000}, {"!!int \"5\"", 5}, {"00", 0},
	} {
		cfg := load(t, folder(t), someLogs+"startIndex: "+tc.written+"\nmonitoredValues: {subjects: [a]}\n")
		if cfg.Scan == nil || cfg.Scan.Start != tc.want {
			t.Errorf("%s: got the scan %v, want one from %d", tc.written, cfg.Scan, tc.want)
		}
		plain := strings.Trim(strings.ReplaceAll(strings.TrimPrefix(tc.written, "!!int "), "_", ""), `"`)
		said := strings.Contains(after(cfg), fmt.Sprintf("is read as %d, as by rekor-monitor; write %d", tc.want, tc.want))
		if want := plain != fmt.Sprint(tc.want); said != want {
			t.Errorf("%s: got warnings\n%s\nwant that it is said how it is read: %v", tc.written, after(cfg), want)
		}
	}
	cfg := load(t, folder(t), someLogs+"startIndex: 8\nendIndex: 010\nmonitoredValues: {subjects: [a]}\n")
	if got := cfg.Scan.String(); got != "[8, 9)" {
		t.Errorf("endIndex: got the scan %s, want [8, 9)", got)
	}
}

// Names are made of values with words between them, and so may be those of others.
func TestDifferentValuesOfOneNameAreRulesOfTheirOwn(t *testing.T) {
	cfg := load(t, folder(t), someLogs+`outputIdentities: a.txt
watch: [{name: "subject z", subject: {exact: y}}]
monitoredValues:
  certIdentities:
  - {certSubject: x of y}
  - {certSubject: x, issuers: [y]}
  - {certSubject: x, issuers: [a or b]}
  - {certSubject: x, issuers: [a, b]}
  - {certSubject: x, issuers: [a, b]}
  - {certSubject: x, issuers: [a or b, c]}
  - {certSubject: x, issuers: [a, b or c]}
  - {certSubject: x, issuers: [d, b, c]}
  - {certSubject: x, issuers: [a, b, c]}
  - {certSubject: x of y}
  - {certSubject: x of y (2)}
  fulcioExtensions: {github-workflow-name: [Build or Test]}
  oidMatchers: {fulcioExtensions: {github-workflow-name: [Build, Test]}}
`)
	want := `subject z
certSubject x of y
certSubject x of y (2)
certSubject x of a or b
certSubject x of a or b (2)
certSubject x of a or b or c
certSubject x of a or b or c (2)
certSubject x of d or b or c
certSubject x of a or b or c (3)
certSubject x of y (2) (2)
extension github-workflow-name Build or Test
extension github-workflow-name Build or Test (2)`
	if got := ruleNames(cfg); got != want {
		t.Errorf("got rules\n%s\nwant\n%s", got, want)
	}
	for _, tc := range []struct {
		signer entry.Signer
		want   string
	}{
		{entry.Signer{Type: entry.X509, Certificate: []byte{1}, Subjects: []string{"x"}, Issuer: "y"}, "certSubject x of y (2)"},
		{entry.Signer{Type: entry.X509, Certificate: []byte{1}, Subjects: []string{"x"}, Issuer: "d"}, "certSubject x of d or b or c"},
		{entry.Signer{Type: entry.X509, Certificate: []byte{1}, Extensions: []entry.Extension{{OID: "1.3.6.1.4.1.57264.1.4", Name: "github-workflow-name", Value: "Test"}}}, "extension github-workflow-name Build or Test"},
	} {
		var got []string
		for _, f := range cfg.Rules.Match(&entry.Entry{Signers: []entry.Signer{tc.signer}}, nil) {
			got = append(got, f.Rule)
		}
		if len(got) != 1 || got[0] != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.signer, got, tc.want)
		}
	}
	values := cfg.Alerts.Identities[0].Values
	if v := values["certSubject x of y (2)"]; v.Text != "x" || len(v.Issuers) != 1 || v.Issuers[0] != "y" {
		t.Errorf("outputIdentities: got %+v, want x of the issuer y", v)
	}
}

func TestATrustedRootWithTwoLogsAtAShardsURLIsRefused(t *testing.T) {
	dir := folder(t)
	root, err := os.ReadFile(filepath.Join(dir, "staging.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "two.json", strings.Replace(string(root), "log2025-alpha3.", "log2025-alpha2.", 1))
	for file, want := range map[string]string{
		"staging.json": "",
		"two.json": "c.yaml:3: logs[0].key: missing, and the trusted root has several logs at https://log2025-alpha2.rekor.sigstage.dev, " +
			"with IDs 29f4a2497da244bca12bad925152f8eef55caaa471fd101ec292899bc21d653a and d3d3a70ca130eff8696626153e84d1cd16e0947934b3296c528bde8274549496; give the key of the log you mean",
	} {
		_, err := Parse(filepath.Join(dir, "c.yaml"), []byte("state: s\ntrustedRoot: "+file+"\nlogs: [{type: rekor-v2, url: \"https://log2025-alpha2.rekor.sigstage.dev\"}]\n"))
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), dir+"/", "")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}
