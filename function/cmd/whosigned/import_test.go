package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	rekorutil "github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/spf13/cobra"
	formats "github.com/transparency-dev/formats/log"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// flat is how rekor-monitor puts a checkpoint into a line.
func flat(text []byte) string { return strings.ReplaceAll(string(text), "\n", `\n`) + "\n" }

// savedV1 is a line of rekor-monitor's file for Rekor v1, made by the library that
// rekor-monitor uses, and the note in it.
func savedV1(t *testing.T, key *ecdsa.PrivateKey, size uint64) (line string, note []byte) {
	t.Helper()
	root := sha256.Sum256([]byte{byte(size)})
	signed, err := rekorutil.CreateSignedCheckpoint(rekorutil.Checkpoint{Origin: "rekor.acme.example - 42", Size: size, Hash: root[:], OtherContent: []string{"Timestamp: 1700000000"}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadECDSASigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Sign("rekor.acme.example", signer, options.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	if note, err = signed.MarshalText(); err != nil {
		t.Fatal(err)
	}
	return flat(note), note
}

func newKey(t *testing.T) (*ecdsa.PrivateKey, tlog.Key) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tlog.NewKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return private, key
}

func TestRekorV1CheckpointsAreReadTheNewestLast(t *testing.T) {
	private, key := newKey(t)
	old, _ := savedV1(t, private, 7)
	newest, note := savedV1(t, private, 9)
	for name, file := range map[string]string{
		"one line": newest, "as many as older releases kept": strings.Repeat(old, 99) + newest,
		"a line without its end": old + strings.TrimSuffix(newest, "\n"), "blank lines": newest + "\n\n", "as the log serves it": string(note),
	} {
		got, sth, err := parseCheckpoint([]byte(file))
		if err != nil || sth != nil || !bytes.Equal(got, note) {
			t.Errorf("%s: got %q, %v, %v; want %q", name, got, sth, err, note)
			continue
		}
		if cp, _, err := tlog.OpenCheckpoint(got, []tlog.Key{key}); err != nil || cp.Size != 9 {
			t.Errorf("%s: opened as size %d, %v; want size 9", name, cp.Size, err)
		}
	}
}

// rekor-monitor marshals these without their signatures.
func TestRekorV2AndStaticCTCheckpointsAreReadWithoutSignature(t *testing.T) {
	root := sha256.Sum256([]byte("root"))
	body := formats.Checkpoint{Origin: "log2025-1.rekor.sigstore.dev", Size: 18250, Hash: root[:]}.Marshal()
	note, sth, err := parseCheckpoint([]byte(flat(body)))
	if err != nil || sth != nil || !bytes.Equal(note, body) {
		t.Errorf("got %q, %v, %v; want %q", note, sth, err, body)
	}
}

func TestCTTreeHeadsAreRead(t *testing.T) {
	private, key := newKey(t)
	head := ct.SignedTreeHead{TreeSize: 12, Timestamp: 1700000000000, SHA256RootHash: sha256.Sum256([]byte("root"))}
	input, err := ct.SerializeSTHSignatureInput(head)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := tls.CreateSignature(*private, tls.SHA256, input)
	if err != nil {
		t.Fatal(err)
	}
	head.TreeHeadSignature = ct.DigitallySigned(signed)
	file, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	note, sth, err := parseCheckpoint(append(file, '\n'))
	if err != nil || note != nil {
		t.Fatalf("got %q, %v; want a tree head", note, err)
	}
	cp, _, err := tlog.OpenTreeHead(sth.Note("ctfe.acme.example/2026", key), []tlog.Key{key})
	if err != nil || cp.Size != 12 || cp.Time.UnixMilli() != 1700000000000 {
		t.Errorf("opened as size %d of %v, %v; want 12", cp.Size, cp.Time, err)
	}

	for name, change := range map[string][2]string{
		"an unknown member": {`"tree_size"`, `"x":1,"tree_size"`}, "another version": {`"sth_version":0`, `"sth_version":1`},
		"an empty log": {`"tree_size":12`, `"tree_size":0`}, "a negative size": {`"tree_size":12`, `"tree_size":-1`},
		"a short root": {`"sha256_root_hash":"`, `"sha256_root_hash":"AA==","y":"`}, "a second": {"}", "}{}"}, "cut": {`"}`, ``},
	} {
		damaged := strings.Replace(string(file), change[0], change[1], 1)
		if _, sth, err := parseCheckpoint([]byte(damaged)); err == nil {
			t.Errorf("%s: got %+v, want an error for %s", name, sth, damaged)
		}
	}
	if _, sth, err := parseCheckpoint([]byte(`{"sth_version":0,"tree_size":1,"timestamp":0,"sha256_root_hash":"` + strings.Repeat("A", 43) + `=","tree_head_signature":"AAAAAA==","log_id":"` + strings.Repeat("A", 43) + `="}`)); err == nil {
		t.Errorf("a tree head as rekor-monitor's own tests write it: got %+v, want that it has no signature", sth)
	}
}

func TestWhatIsNoCheckpointIsRefused(t *testing.T) {
	private, _ := newKey(t)
	line, _ := savedV1(t, private, 9)
	root := strings.Repeat("A", 43) + "="
	for name, file := range map[string]string{
		"nothing": "", "blank lines": "\n\n", "a byte": "\x01", "words": "hello", "a line cut in its root": line[:60], "a line cut in its signature mark": line[:strings.Index(line, "— ")],
		"a newest line that is torn": line + line[:50], "no size": `origin\nx\n` + root + `\n`, "size 0": `origin\n0\n` + root + `\n`, "a short root": `origin\n1\nAAAA\n`,
		"more after an unsigned one": `origin\n1\n` + root + `\nmore\n`, "huge": "o" + strings.Repeat("x", 70000) + `\n1\n` + root + `\n`,
	} {
		if note, sth, err := parseCheckpoint([]byte(file)); err == nil {
			t.Errorf("%s: got %q, %v; want an error", name, note, sth)
		}
	}
}

func FuzzParseCheckpointNeverPanics(f *testing.F) {
	f.Add([]byte(`origin\n1\n` + strings.Repeat("A", 43) + `=\n`))
	f.Add([]byte(`{"tree_size":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		note, sth, err := parseCheckpoint(data)
		if err == nil && (len(note) > 0) == (sth != nil) {
			t.Errorf("got %q and %v, want one of them", note, sth)
		}
		if again, _, err := parseCheckpoint(note); sth == nil && len(note) > 0 && (err != nil || !bytes.Equal(again, note)) {
			t.Errorf("%q is read again as %q, %v", note, again, err)
		}
	})
}

// fakeImporter keeps what it is given.
type fakeImporter struct {
	got []monitor.ImportedCheckpoint
	err error
}

func (f *fakeImporter) Import(_ context.Context, saved []monitor.ImportedCheckpoint) ([]monitor.Imported, error) {
	f.got = saved
	if f.err != nil {
		return nil, f.err
	}
	return []monitor.Imported{{File: saved[0].File, Log: "abc", Origin: "acme\x1b[2J", Size: 9}}, nil
}

func TestImportTakesFilesOrTheConfigurationsOwn(t *testing.T) {
	dir := t.TempDir()
	private, _ := newKey(t)
	line, note := savedV1(t, private, 9)
	good, bad := filepath.Join(dir, "good.txt"), filepath.Join(dir, "bad.txt")
	for name, text := range map[string]string{good: line, bad: "torn"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, logInfo string
		args          []string
		refusal       error
		status        int
		out           string
	}{
		{"a file", "", []string{good}, nil, 0, good + ": log abc goes on at entry 9 (acme\\u{001b}[2J)\n"},
		{"the configuration's", good, nil, nil, 0, good + ": log abc goes on at entry 9 (acme\\u{001b}[2J)\n"},
		{"none", "", nil, nil, 2, ""},
		{"one of two torn", "", []string{good, bad}, nil, 2, ""},
		{"one that is not there", "", []string{filepath.Join(dir, "gone")}, nil, 2, ""},
		{"refused", "", []string{good}, errors.New("signed by no configured key"), 1, ""},
	} {
		m := &fakeImporter{err: tc.refusal}
		c := newImport(func(*flags, *cobra.Command) (importer, *config.Config, error) {
			return m, &config.Config{Peer: config.Peer{LogInfo: tc.logInfo}}, nil
		})
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs(append([]string{"--config", "c.yaml"}, tc.args...))
		status := 0
		if err := c.ExecuteContext(t.Context()); err != nil {
			var exit *exitError
			if status = classify(err); errors.As(err, &exit) {
				status = exit.status
			}
		}
		if status != tc.status || out.String() != tc.out {
			t.Errorf("%s: got status %d and %q, want %d and %q", tc.name, status, out.String(), tc.status, tc.out)
		}
		if tc.status != 2 && (len(m.got) != 1 || !bytes.Equal(m.got[0].Note, note)) {
			t.Errorf("%s: imported %+v, want the note", tc.name, m.got)
		}
		if tc.status == 2 && m.got != nil {
			t.Errorf("%s: imported %+v, want nothing", tc.name, m.got)
		}
	}
}

// beforeFirstRun is a monitor with empty state.
func beforeFirstRun(t *testing.T, peer config.Peer) *monitor.Monitor {
	t.Helper()
	kept, err := state.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &monitor.Monitor{Config: &config.Config{Peer: peer}, State: kept}
}

func TestAFirstRunGoesOnFromLogInfoFileIfItIsThere(t *testing.T) {
	dir := t.TempDir()
	private, _ := newKey(t)
	line, note := savedV1(t, private, 9)
	path := filepath.Join(dir, "logInfo.txt")
	m := beforeFirstRun(t, config.Peer{LogInfo: path})
	if saved, why, err := firstCheckpoint(t.Context(), m); saved != nil || err != nil || !strings.Contains(why, "no such file "+path) {
		t.Errorf("no file: got %v, %q, %v; want that it is not there", saved, why, err)
	}
	none := beforeFirstRun(t, config.Peer{})
	if saved, why, err := firstCheckpoint(t.Context(), none); saved != nil || why != "" || err != nil {
		t.Errorf("no logInfoFile: got %v, %q, %v; want nothing", saved, why, err)
	}
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if saved, _, err := firstCheckpoint(t.Context(), m); err != nil || len(saved) != 1 || !bytes.Equal(saved[0].Note, note) {
		t.Errorf("got %v, %v; want the note", saved, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if saved, why, err := firstCheckpoint(t.Context(), m); saved != nil || err != nil || !strings.Contains(why, path+" is empty, the first run begins at the head") {
		t.Errorf("an empty file: got %v, %q, %v; want that it is as none", saved, why, err)
	}
	if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if saved, _, err := firstCheckpoint(t.Context(), m); saved != nil || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a torn file: got %v, %v; want an error that names it", saved, err)
	}
}

// rekor-monitor's paths are relative to the working directory, ours to the configuration.
func TestALogInfoFileOfTheWorkingDirectoryIsNotPassedOver(t *testing.T) {
	beside, here := t.TempDir(), t.TempDir()
	t.Chdir(here)
	path := filepath.Join(beside, "logInfo.txt")
	m := beforeFirstRun(t, config.Peer{LogInfo: path, LogInfoName: "logInfo.txt"})
	if saved, why, err := firstCheckpoint(t.Context(), m); saved != nil || err != nil || !strings.Contains(why, "no such file "+path+", the first run begins at the head") {
		t.Errorf("in neither: got %v, %q, %v; want that it is said", saved, why, err)
	}
	if err := os.WriteFile("logInfo.txt", []byte("any"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := firstCheckpoint(t.Context(), m)
	for _, want := range []string{path, filepath.Join(here, "logInfo.txt"), "absolute path"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("in the working directory: got %v, want an error with %s", err, want)
		}
	}
	private, _ := newKey(t)
	line, _ := savedV1(t, private, 9)
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if saved, why, err := firstCheckpoint(t.Context(), m); len(saved) != 1 || why != "" || err != nil {
		t.Errorf("in both: got %v, %q, %v; want the one beside the configuration", saved, why, err)
	}
}

// The content is that of rekor-monitor's WriteIdentityMetadata.
func TestIdentityMetadataIsRekorMonitors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.json")
	for _, tc := range []struct {
		name string
		logs []monitor.LogResult
		want string // "" for no file
		scan *config.Scan
	}{
		{"Rekor v1 counts over all trees", []monitor.LogResult{{ID: "c", Type: tlog.StaticCT, URL: "u", Size: 5, Scanned: 5, Coverage: config.Full},
			{ID: "a", Type: tlog.RekorV1, URL: "r", Size: 100, Scanned: 100, Coverage: config.Full}, {ID: "b", Type: tlog.RekorV1, URL: "r", Size: 20, Scanned: 10, Coverage: config.Full},
			{ID: "d", Type: tlog.RekorV1, URL: "other", Size: 7, Scanned: 7, Coverage: config.Full}}, `{"latestIndex":109}`, nil},
		{"a log that is only proven", []monitor.LogResult{{ID: "a", Type: tlog.RekorV1, URL: "r", Size: 100, Coverage: config.Consistency}}, "", nil},
		{"a log of which only hits are read", []monitor.LogResult{{ID: "a", Type: tlog.RekorV1, URL: "r", Size: 100, Entries: 2, Coverage: config.Index},
			{ID: "c", Type: tlog.StaticCT, URL: "u", Size: 5, Scanned: 5, Coverage: config.Full}}, "", nil},
		{"a scan of such a log", []monitor.LogResult{{ID: "a", Type: tlog.RekorV1, URL: "r", Size: 100, Scanned: 20, Entries: 10, Coverage: config.Index}}, `{"latestIndex":19}`, &config.Scan{Start: 10, End: 20}},
		{"Rekor v2", []monitor.LogResult{{ID: "a", Type: tlog.RekorV2, URL: "r", Size: 100, Scanned: 100, Coverage: config.Full}}, `{"latestIndex":99}`, nil},
		{"RFC 6962", []monitor.LogResult{{ID: "a", Type: tlog.RFC6962, URL: "r", Size: 100, Scanned: 100, Coverage: config.Full}}, `{"latestIndex":100}`, nil},
		{"nothing read", []monitor.LogResult{{ID: "a", Type: tlog.RekorV2, URL: "r", Size: 100, Coverage: config.Full}}, "", nil},
		{"no log", nil, "", nil},
		{"a scan over two trees", []monitor.LogResult{{ID: "a", Type: tlog.RekorV1, URL: "r", Size: 100, Scanned: 100, Entries: 10, Coverage: config.Full},
			{ID: "b", Type: tlog.RekorV1, URL: "r", Size: 20, Scanned: 5, Entries: 5, Coverage: config.Full}}, `{"latestIndex":104}`, &config.Scan{Start: 90, End: 105}},
		{"a scan to the end of a second tree", []monitor.LogResult{{ID: "b", Type: tlog.RekorV1, URL: "r", Size: 20, Scanned: 20, Entries: 15, Coverage: config.Full}}, `{"latestIndex":119}`, &config.Scan{Start: 105}},
		{"a scan of RFC 6962", []monitor.LogResult{{ID: "a", Type: tlog.RFC6962, URL: "r", Size: 100, Scanned: 20, Entries: 20, Coverage: config.Full}}, `{"latestIndex":19}`, &config.Scan{End: 20}},
		{"a scan that broke off", []monitor.LogResult{{ID: "a", Type: tlog.RekorV2, URL: "r", Size: 100, Scanned: 20, Entries: 10, Coverage: config.Full, Error: "e"}}, "", &config.Scan{Start: 10, End: 30}},
	} {
		os.Remove(path)
		res := &monitor.Result{Logs: tc.logs}
		if err := writeIdentityMetadata(path, res, tc.scan); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		unread := len(tc.logs) > 0 && tc.logs[0].Coverage != config.Full && tc.scan == nil
		if said := strings.Contains(strings.Join(res.Warnings, "\n"), "identityMetadataFile: it is not written: r is watched with coverage"); said != unread {
			t.Errorf("%s: got warnings %q, want that it is said that nothing is written: %v", tc.name, res.Warnings, unread)
		}
		if got, err := os.ReadFile(path); string(got) != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%s: got %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
	if err := writeIdentityMetadata(filepath.Join(path, "below"), &monitor.Result{Logs: []monitor.LogResult{{ID: "a", Size: 1, Scanned: 1, Coverage: config.Full}}}, nil); err == nil {
		t.Error("a path that cannot be written: got no error")
	}
}
