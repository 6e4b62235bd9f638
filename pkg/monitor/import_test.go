package monitor_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// get is what a log serves at a URL.
func get(t testing.TB, url string) []byte {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
	return body
}

// unsigned is a note as rekor-monitor keeps those of static CT logs.
func unsigned(note []byte) []byte {
	text, _, _ := strings.Cut(string(note), "\n\n")
	return []byte(text + "\n")
}

// saved are the checkpoints that another monitor would have of the deployment now.
func (s *sigstore) saved() []monitor.ImportedCheckpoint {
	s.t.Helper()
	var info struct{ SignedTreeHead string }
	if err := json.Unmarshal(get(s.t, s.v1URL+"/api/v1/log"), &info); err != nil {
		s.t.Fatal(err)
	}
	var sth struct {
		TreeSize  uint64 `json:"tree_size"`
		Timestamp uint64
		Root      []byte `json:"sha256_root_hash"`
		Signature []byte `json:"tree_head_signature"`
	}
	if err := json.Unmarshal(get(s.t, s.ctURL+"/ct/v1/get-sth"), &sth); err != nil {
		s.t.Fatal(err)
	}
	return []monitor.ImportedCheckpoint{
		{File: "v1.txt", Note: []byte(info.SignedTreeHead)},
		{File: "v2.txt", Note: get(s.t, s.v2URL+"/checkpoint")},
		{File: "sth.json", STH: &tlog.TreeHead{Size: sth.TreeSize, Timestamp: sth.Timestamp, Root: tlog.Hash(sth.Root), Signature: sth.Signature}},
		{File: "static.txt", Note: unsigned(get(s.t, s.staticURL+"/checkpoint"))},
	}
}

func TestWatchingGoesOnFromImportedCheckpoints(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.issue()
	saved := s.saved()
	s.issue()
	imported, err := s.monitor().Import(t.Context(), saved)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range imported {
		if i.Size != 2 || i.Log == "" {
			t.Errorf("got %+v, want size 2", i)
		}
	}
	res := s.want(monitor.ExitFindings)
	if got, want := s.statuses(res), "rekor-v1 ok 3/3\nrekor-v2 ok 3/3\nrfc6962 ok 3/3\nstatic-ct ok 3/3"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if len(res.Findings) != 4 {
		t.Errorf("got %d findings, want the 4 of after the import", len(res.Findings))
	}
	if s.mails("imported from sth.json") == 0 {
		t.Errorf("where reading starts is not said: %q", s.subjects())
	}
	for _, one := range saved {
		if _, err := s.monitor().Import(t.Context(), []monitor.ImportedCheckpoint{one}); err == nil || !strings.Contains(err.Error(), one.File+": log ") || !strings.Contains(err.Error(), "has state already") {
			t.Errorf("a second import: got %v, want %s refused", err, one.File)
		}
	}
}

func TestAnImportOfWhatNoLogSignedOrNoLongerShowsWritesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		harm func(*sigstore, []monitor.ImportedCheckpoint)
		want string
	}{
		{"a forged note", func(_ *sigstore, c []monitor.ImportedCheckpoint) { c[1].Note = tlogtest.Garbled(c[1].Note) }, "v2.txt: no configured log has signed this checkpoint"},
		{"a forged tree head", func(_ *sigstore, c []monitor.ImportedCheckpoint) { c[2].STH.Size++ }, "sth.json: no configured log has signed this checkpoint"},
		{"an unsigned note of another history", func(_ *sigstore, c []monitor.ImportedCheckpoint) {
			lines := strings.Split(string(c[3].Note), "\n")
			lines[2] = "AAAA" + lines[2][4:]
			c[3].Note = []byte(strings.Join(lines, "\n"))
		}, "static.txt: log "},
		{"an unsigned note of a larger log", func(_ *sigstore, c []monitor.ImportedCheckpoint) {
			c[3].Note = []byte(strings.Replace(string(c[3].Note), "\n2\n", "\n3\n", 1))
		}, "static.txt: the checkpoint is of size 3"},
		{"one log twice", func(_ *sigstore, c []monitor.ImportedCheckpoint) { c[3] = c[1] }, "v2.txt: a second checkpoint of log"},
		{"a log that shows another history now", func(s *sigstore, _ []monitor.ImportedCheckpoint) {
			tree, err := s.ct.Tree().Rewrite(0, []byte("another"))
			if err != nil {
				s.t.Fatal(err)
			}
			s.ct.Show(tree)
		}, "sth.json: log "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSigstore(t)
			s.issue()
			s.issue()
			saved := s.saved()
			tc.harm(s, saved)
			_, err := s.monitor().Import(t.Context(), saved)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			run, err := state.New(s.store).LoadRun(t.Context())
			if err != nil || len(run.Logs) != 0 || run.Lease != nil || len(s.store.names("state/")) != 0 {
				t.Errorf("got %+v (%v), want no log imported and the lease released", run, err)
			}
			// The next run is still the first.
			s.ct.Honest()
			if got := s.statuses(s.want(monitor.ExitClean)); strings.Count(got, "baseline") != 4 {
				t.Errorf("got\n%s\nwant four baselines", got)
			}
		})
	}
}

func TestAShardThatCameAfterTheImportedCheckpointIsReadFromItsFirstEntry(t *testing.T) {
	s := newSigstore(t)
	old, oldURL := s.namedShard()
	next, nextURL := s.namedShard()
	s.root.Rekor = append(s.root.Rekor,
		listedLog{URL: oldURL, Key: old.Log, Since: "2024-01-01T00:00:00Z"}, listedLog{URL: nextURL, Key: next.Log, Since: "2026-01-01T00:00:00Z"})
	s.publishRoot()
	s.issue()
	for _, l := range []*tlogtest.Tiles{old, next} {
		l.Append([]byte("one"), []byte("two"), []byte("three"))
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
	}
	saved := s.saved()[1:2]
	checked, err := s.monitor().Check(t.Context(), saved...)
	if err != nil {
		t.Fatal(err)
	}
	planned := map[string]uint64{}
	for _, l := range checked.Logs {
		planned[l.URL] = l.From
	}
	if planned[s.v2URL] != 1 || planned[oldURL] != 3 || planned[nextURL] != 0 {
		t.Errorf("check plans from %v", planned)
	}
	if _, err := s.monitor().Import(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	read := map[string]uint64{}
	for _, l := range s.run().Logs {
		read[l.URL] = l.Entries
	}
	if read[oldURL] != 0 || read[nextURL] != 3 {
		t.Errorf("%d entries of the older shard were read and %d of the newer one, want 0 and all 3", read[oldURL], read[nextURL])
	}
}

func TestAnImportThatIsTooFarBehindIsRefusedInFigures(t *testing.T) {
	w := newWorld(t)
	w.others(7)
	var info struct{ SignedTreeHead string }
	if err := json.Unmarshal(get(t, w.v1URL+"/api/v1/log"), &info); err != nil {
		t.Fatal(err)
	}
	saved := monitor.ImportedCheckpoint{File: "v1.txt", Note: []byte(info.SignedTreeHead)}
	w.others(1300)
	line := fmt.Sprintf("  - {type: rekor-v1, url: %q, key: v1.pub, accept_lag: %%v}\n", w.v1URL)
	w.logs, w.tune = fmt.Sprintf(line, false), twoRunsNeeded
	const figures = "1300 entries to read need 130 requests"
	checked, err := w.monitor().Check(t.Context(), saved)
	if err != nil {
		t.Fatal(err)
	}
	if l := checked.Logs[0]; l.Imported != "v1.txt" || l.From != 7 || !strings.Contains(l.Refused, figures) || checked.OK() {
		t.Errorf("check says %+v, want it refused from 7 on", l)
	}
	if _, err := w.monitor().Import(t.Context(), []monitor.ImportedCheckpoint{saved}); err == nil || !strings.Contains(err.Error(), "v1.txt: log ") || !strings.Contains(err.Error(), figures) {
		t.Errorf("got %v, want it refused with the file, the log and figures", err)
	}
	if names := w.store.names("state/"); len(names) != 0 {
		t.Errorf("the refused import wrote %q", names)
	}
	w.logs = fmt.Sprintf(line, true)
	if imported, err := w.monitor().Import(t.Context(), []monitor.ImportedCheckpoint{saved}); err != nil || len(imported) != 1 || imported[0].Size != 7 {
		t.Errorf("with accept_lag: got %+v, %v; want it imported", imported, err)
	}
}

func TestCheckSaysWhyACheckpointCannotBeImported(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	saved := s.saved()
	saved[1].Note = tlogtest.Garbled(saved[1].Note)
	checked, err := s.monitor().Check(t.Context(), saved...)
	if err != nil || checked.OK() || !strings.Contains(checked.ImportError, "v2.txt: no configured log has signed this checkpoint") {
		t.Errorf("got %q (%v), want that nobody signed v2.txt", checked.ImportError, err)
	}
	if names := s.store.names(""); len(names) != 0 {
		t.Errorf("check wrote %q", names)
	}
}

func TestATreeThatCameAfterTheImportedCheckpointIsReadFromItsFirstEntry(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.rotate(nil) // an older tree, which the other monitor had read
	s.issue()
	saved := s.saved()[:1]
	s.issue()
	s.rotate(nil)
	s.issue()
	s.issue()
	if _, err := s.monitor().Import(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range s.want(monitor.ExitFindings).Logs {
		if l.Type == tlog.RekorV1 {
			got = append(got, fmt.Sprintf("%s %d of %d", l.Status, l.Entries, l.Size))
		}
	}
	slices.Sort(got)
	// The imported one is read on, the one before is not, and the one after from 0.
	if want := []string{"baseline 0 of 1", "baseline 2 of 2", "retired 1 of 2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
