package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

const bom = "\ufeff"

func TestAByteOrderMarkIsNoPartOfTheFirstKey(t *testing.T) {
	for name, text := range map[string]string{
		"a rekor-monitor file": "monitoredValues:\n  subjects: [a]\nlogInfoFile: x.txt\n",
		"a native file":        someLogs + "watch: [{name: subject a, subject: {exact: a}}]\n",
		"after --- as well":    "---\nmonitoredValues: {subjects: [a]}\n",
	} {
		plain, marked := load(t, folder(t), text), load(t, folder(t), bom+text)
		if got, want := ruleNames(marked), ruleNames(plain); got != want || want != "subject a" {
			t.Errorf("%s: got rules %q, want %q", name, got, want)
		}
		if strings.Contains(after(marked), "unknown key") {
			t.Errorf("%s: got warnings\n%s\nwant none of unknown keys", name, after(marked))
		}
	}
	// Whom to tell is found as well.
	alerts, err := ParseAlerts("c.yaml", []byte(bom+"alerts: {folder: {path: mail}}\nwach: 1\n"))
	if err != nil || len(alerts.Folders) != 1 {
		t.Errorf("alerts: got %+v, %v; want the folder", alerts, err)
	}
	for name, text := range map[string]string{"little-endian": "\xff\xfea\x00:\x00", "big-endian": "\xfe\xff\x00a\x00:"} {
		const want = "c.yaml: the configuration is in UTF-16; save it as UTF-8"
		if _, err := Parse("c.yaml", []byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

// The wanted rules are what gopkg.in/yaml.v2 v2.4.0, rekor-monitor's parser, makes of
// the texts.
func TestARekorMonitorFileIsReadAsByItsOwnParser(t *testing.T) {
	const twice = "this key is given at line %d too; as by rekor-monitor, "
	const over, together = twice + "that one is passed over", twice + "they are taken together"
	for _, tc := range []struct{ name, text, want, warning string }{
		{"a list twice", "monitoredValues:\n  subjects: [a]\n  fingerprints: [f]\n  subjects: [b]\n", "subject b\nfingerprint f", "4: monitoredValues.subjects: " + fmt.Sprintf(over, 2)},
		{"a list three times", "monitoredValues:\n  subjects: [a]\n  subjects: [b]\n  subjects: [c]\n", "subject c", "4: monitoredValues.subjects: " + fmt.Sprintf(over, 3)},
		{"an empty one last", "monitoredValues:\n  fingerprints: [f]\n  subjects: [a]\n  subjects:\n", "fingerprint f", "4: monitoredValues.subjects: " + fmt.Sprintf(over, 3)},
		{"a mapping twice", "monitoredValues: {subjects: [a], fingerprints: [f]}\nmonitoredValues: {subjects: [b], oidMatchers: {fulcioExtensions: {issuer: [i]}}}\n",
			"subject b\nfingerprint f\nextension issuer i", "2: monitoredValues: " + fmt.Sprintf(together, 1)},
		{"a mapping three times", "monitoredValues: {subjects: [a]}\nmonitoredValues: {fingerprints: [f]}\nmonitoredValues: {fulcioExtensions: {issuer: [i]}}\n",
			"subject a\nfingerprint f\nextension issuer i", "3: monitoredValues: " + fmt.Sprintf(together, 2)},
		{"in an item of a list", "monitoredValues:\n  certIdentities: [{certSubject: a, certSubject: b, issuers: [i], issuers: [j]}]\n", "certSubject b of j", "2: monitoredValues.certIdentities[0].certSubject: " + fmt.Sprintf(over, 2)},
		{"through an alias", "x: &x {subjects: [a]}\nmonitoredValues: *x\nmonitoredValues: {fingerprints: [f]}\n", "subject a\nfingerprint f", "3: monitoredValues: " + fmt.Sprintf(together, 2)},
		{"two documents", "monitoredValues: {subjects: [a]}\n---\nmonitoredValues: {subjects: [b]}\n", "subject a", "c.yaml: 2 YAML documents; as by rekor-monitor, only the first is read"},
		{"two documents of which one is no mapping", "monitoredValues: {subjects: [a]}\n--- text\n", "subject a", "only the first is read"},
		{"a directive", "%YAML 1.1\n---\nmonitoredValues: {subjects: [a]}\n", "subject a", ""},
		{"a directive and a mark", bom + "%YAML 1.1\n---\nmonitoredValues: {subjects: [a]}\n...\n", "subject a", ""},
		{"a key that is written out", "? monitoredValues\n: subjects: [a]\n", "subject a", ""},
	} {
		cfg, err := Parse(filepath.Join(folder(t), "c.yaml"), []byte(tc.text))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got := ruleNames(cfg); got != tc.want {
			t.Errorf("%s: got rules\n%s\nwant\n%s", tc.name, got, tc.want)
		}
		warnings := strings.Join(cfg.Warnings, "\n")
		if !strings.Contains(warnings, tc.warning) || tc.warning == "" && (strings.Contains(warnings, "given at") || strings.Contains(warnings, "documents")) {
			t.Errorf("%s: got warnings\n%s\nwant %q", tc.name, warnings, tc.warning)
		}
	}
}

func TestKeysThatAreGivenAgainWithoutEndAreRefused(t *testing.T) {
	_, err := Parse("c.yaml", []byte(strings.Repeat("monitoredValues: {subjects: [a]}\n", 1100)))
	if err == nil || !strings.Contains(err.Error(), "more than 1000 keys are given again; give each once") {
		t.Errorf("got %.200v, want that there are too many", err)
	}
}
