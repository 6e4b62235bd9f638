package notify

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
)

func mailFolder(t *testing.T, path string) Sink {
	t.Helper()
	sinks, err := Open(config.Alerts{Folders: []config.Folder{{Path: path}}}, env())
	if err != nil {
		t.Fatal(err)
	}
	return sinks[0]
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestFolderHoldsOneMailAnAlert(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "mail")
	sink := mailFolder(t, dir)
	hostile := alert(report.ClassIdentity, 1)
	hostile.Findings[0].Subject = "x\r\nBcc: evil@evil.example\r\n\r\n.\r\n--boundary ünï\u202e"
	hostile.Seal()
	later := hostile
	later.Created = noon.AddDate(0, 0, 1) // the same alert, made again by another run
	later.Seal()
	for _, a := range []report.Alert{hostile, hostile, later} {
		if acked, err := Deliver(t.Context(), sink, []report.Alert{a}); err != nil || len(acked) != 1 {
			t.Fatalf("acked %v, %v", acked, err)
		}
	}
	got := names(t, dir)
	want := "20261122T120000Z-identity-" + hostile.ID + ".eml"
	if len(got) != 1 || got[0] != want {
		t.Fatalf("folder holds %v, want %s", got, want)
	}
	data, err := os.ReadFile(filepath.Join(dir, want))
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, data, report.Email([]report.Alert{hostile}))
}

func TestFolderThatCannotBeWrittenIsDown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	acked, err := Deliver(t.Context(), mailFolder(t, file), alerts(3))
	var failed *SendError
	if !errors.As(err, &failed) || !failed.Down || len(acked) != 0 {
		t.Errorf("acked %v, %v", acked, err)
	}
}

func TestFolderIsLeftWithoutHalfAMail(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.eml")
	full := errors.New("disk full")
	err := writeFile(name, func(f *os.File) error {
		if _, err := f.WriteString("half"); err != nil {
			return err
		}
		return full
	})
	if got := names(t, dir); !errors.Is(err, full) || len(got) != 0 {
		t.Errorf("folder holds %v, %v", got, err)
	}
}
