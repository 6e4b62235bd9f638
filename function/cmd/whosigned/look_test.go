package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/watch"
)

func TestWhatAScanFoundIsWrittenLogByLogAndWhatItDoesNotListIsAnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ids.txt")
	alerts := config.Alerts{Folders: []config.Folder{{Path: filepath.Join(dir, "mail")}}, Identities: []config.Identities{{Path: path}}}
	sinks, err := notify.Open(alerts, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor.Monitor{Config: &config.Config{Path: "c.yaml", Alerts: alerts}, Sinks: sinks}
	res := &monitor.Result{
		Finished: time.Unix(1700000000, 0),
		Logs: []monitor.LogResult{
			{ID: "a", Origin: "a.example", Entries: 5, Scanned: 10, Findings: 2, Expected: 1},
			{ID: "b", Origin: "b.example", Entries: 5, Scanned: 10},
			{ID: "c", Origin: "c.example", Entries: 5, Scanned: 10, Findings: 1},
		},
		Findings: []watch.Finding{
			{Rule: "r", Log: "a", Origin: "a.example", Index: 6, Subject: "x"}, {Rule: "r", Log: "a", Origin: "a.example", Index: 7, Subject: "routine", Expected: true},
			{Rule: "r", Log: "c", Origin: "c.example", Index: 8, Subject: "y"},
		},
	}
	if err := writeIdentities(t.Context(), m, res); err != nil {
		t.Errorf("got %v, want all written", err)
	}
	const want = "x 6 a.example\ny 8 c.example\n"
	if got, err := os.ReadFile(path); string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "mail")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder of mail: %v; want that nobody is alerted", err)
	}

	res.Logs[2].Findings = 4001
	if err := writeIdentities(t.Context(), m, res); err == nil || !strings.Contains(err.Error(), "outputIdentities: 4000 findings are not in it") {
		t.Errorf("got %v, want that 4000 findings are not listed", err)
	}
	if got, err := os.ReadFile(path); string(got) != want+want+"4000 more findings are not listed here\n" {
		t.Errorf("got %q, %v; want that the file says so", got, err)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	failing(res, writeIdentities(t.Context(), m, res))
	if res.Exit != monitor.ExitFailed || !res.Failed || !strings.Contains(strings.Join(res.Errors, "\n"), path) {
		t.Errorf("a file that cannot be written: got exit %d, failed %v, %q; want a run that failed for it", res.Exit, res.Failed, res.Errors)
	}
}
