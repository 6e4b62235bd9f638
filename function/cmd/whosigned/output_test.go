package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// says checks which lines are among those printed, and which texts are nowhere.
func says(t *testing.T, printed string, lines []string, nowhere ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+printed, "\n"+line+"\n") {
			t.Errorf("line %q is missing in\n%s", line, printed)
		}
	}
	for _, text := range nowhere {
		if strings.Contains(printed, text) {
			t.Errorf("%q is in\n%s", text, printed)
		}
	}
}

func TestCheckPrintsTheWarningsThatReadingTheConfigurationDidNot(t *testing.T) {
	var b bytes.Buffer
	printChecked(&b, &monitor.Checked{
		Warnings:   []string{"c.yaml:3: startIndex: said already", "no sink takes alerts of class health", "coverage: index does not cover rule \"a\"\x1b[2J"},
		Configured: 1,
	})
	says(t, b.String(), []string{"warning        no sink takes alerts of class health", `warning        coverage: index does not cover rule "a"\u{001b}[2J`}, "startIndex")
}

func TestCheckPrintsWhatTheSearchIndexAnswered(t *testing.T) {
	var b bytes.Buffer
	printChecked(&b, &monitor.Checked{Logs: []monitor.LogPlan{{
		URL: "https://rekor.example", Coverage: config.Index, Size: 9, Index: &monitor.IndexPlan{Values: 3, Asked: `email "a@b.c"`, Listed: 2, Warning: "no subjects"},
	}}})
	says(t, b.String(), []string{`  index        is asked for 3 values; for email "a@b.c" it lists 2 entries of this log`, "  warning      no subjects"})
}

func TestCheckSaysWhichLogsAScanHasNoPartIn(t *testing.T) {
	var b bytes.Buffer
	printChecked(&b, &monitor.Checked{Scan: &config.Scan{Start: 4, End: 6}, Logs: []monitor.LogPlan{{URL: "a", Size: 4}, {URL: "b", Size: 9, From: 0, To: 2}}})
	says(t, b.String(), []string{"  size         4; none of its entries are among those of the SCAN", "  size         9; SCAN of entries [0, 2)"})
}

func TestALogReadByItsSearchIndexIsNotSaidToBeReadUpToAnIndex(t *testing.T) {
	var b bytes.Buffer
	printResult(&b, &monitor.Result{Logs: []monitor.LogResult{{
		ID: "x", Origin: "rekor.example", Type: "rekor-v1", Coverage: config.Index, Status: monitor.StatusOK, Size: 28, Entries: 1, Findings: 1, Notes: []string{"not covered"},
	}}})
	says(t, b.String(), []string{"          rekor-v1 · size 28 · by its search index, best effort · 1 new · 1 found, 0 of them expected", "          note: not covered"}, "read up to")

	b.Reset()
	full := logStatus{Origin: "full.example", Coverage: string(config.Full), Size: 28, Scanned: 7}
	index := logStatus{Origin: "index.example", Coverage: string(config.Index), Size: 28, Scanned: 7}
	if err := printStatus(&b, &status{Logs: []logStatus{full, index}}); err != nil {
		t.Fatal(err)
	}
	says(t, b.String(), []string{"full.example           28    7        0       -    0", "index.example          28    index    0       -    0"})
}

func TestStatusCountsNothingUnreadOfALogThatIsNotReadInFull(t *testing.T) {
	for coverage, want := range map[config.Coverage]uint64{config.Full: 21, config.Index: 0, config.Consistency: 0} {
		var row logStatus
		new(status).log(&row, &state.Log{Coverage: string(coverage), Size: 28, Scanned: &tlog.Frontier{Size: 7}})
		if row.Unread != want {
			t.Errorf("coverage %s: %d unread, want %d", coverage, row.Unread, want)
		}
	}
}

func TestFindingsSayWhoSignedAndHowTheyWereFound(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    watch.Finding
		want []string
	}{
		{"a certificate", watch.Finding{SignerType: "x509", Subject: "a@b.c", Fingerprint: "c0ffee", KeyFingerprint: "beef"}, []string{"FOUND: rule r: signed as a@b.c", "  x509 c0ffee"}},
		{"a precertificate", watch.Finding{SignerType: "x509", Subject: "a@b.c", KeyFingerprint: "beef"}, []string{"FOUND: rule r: signed as a@b.c", "  x509 key beef"}},
		{"a precertificate without a subject", watch.Finding{SignerType: "x509", KeyFingerprint: "beef"}, []string{"FOUND: rule r: signed as x509 key beef", "  x509 key beef"}},
		{"a key", watch.Finding{SignerType: "ssh", Fingerprint: "c0ffee"}, []string{"FOUND: rule r: signed as ssh key c0ffee", "  ssh c0ffee"}},
		{"no signer", watch.Finding{}, []string{"FOUND: rule r: signed as nobody that the entry names"}},
		{"by the index", watch.Finding{Subject: "a@b.c", BestEffort: true}, []string{"FOUND (by the search index, best effort): rule r: signed as a@b.c"}},
		{"unproven, by the index", watch.Finding{Subject: "a@b.c", BestEffort: true, Unproven: true}, []string{"FOUND (unproven) (by the search index, best effort): rule r: signed as a@b.c"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			tc.f.Rule = "r"
			printResult(&b, &monitor.Result{Findings: []watch.Finding{tc.f}})
			says(t, b.String(), tc.want, "x509 \n", "  \n")
		})
	}
}
