package state

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// testCheckpoint is a checkpoint whose note nobody signed: the archive keeps what
// was verified before.
func testCheckpoint(size uint64, root byte, extension string) tlog.Checkpoint {
	cp := tlog.Checkpoint{Origin: "log.example", Size: size, Root: tlog.Hash{root}}
	cp.Note = fmt.Appendf(nil, "%s\n%d\n%s\n%s\n— log.example AAAAAGFiYw==\n", cp.Origin, size, base64.StdEncoding.EncodeToString(cp.Root[:]), extension)
	return cp
}

func TestTheFirstNoteOfASizeIsKept(t *testing.T) {
	ctx := t.Context()
	s, _ := newFaulty(t)
	first, later, forged := testCheckpoint(5, 1, ""), testCheckpoint(5, 1, "Timestamp: 7\n"), testCheckpoint(5, 2, "")
	if _, err := s.Checkpoint(ctx, logA, 5); !errors.Is(err, ErrNotExist) {
		t.Errorf("Checkpoint before any: %v, want ErrNotExist", err)
	}
	for _, cp := range []tlog.Checkpoint{first, later, first} {
		if err := s.PutCheckpoint(ctx, logA, cp); err != nil {
			t.Fatal(err)
		}
	}
	err := s.PutCheckpoint(ctx, logA, forged)
	proof := (*ContradictionError)(nil)
	if !errors.As(err, &proof) || proof.Log != logA || proof.Size != 5 || string(proof.Archived) != string(first.Note) ||
		proof.ArchivedRoot != first.Root || string(proof.Seen.Note) != string(forged.Note) {
		t.Errorf("another root: %v, want a *ContradictionError with both notes", err)
	}
	if note, err := s.Checkpoint(ctx, logA, 5); err != nil || string(note) != string(first.Note) {
		t.Errorf("archived %q, %v; want the first note verbatim", note, err)
	}
	// Another log's size 5 is another matter.
	if err := s.PutCheckpoint(ctx, logB, forged); err != nil {
		t.Error(err)
	}
}

func TestTheArchiveTakesOnlyNotesThatSayWhatTheirCheckpointSays(t *testing.T) {
	s, f := newFaulty(t)
	wrong := testCheckpoint(5, 1, "")
	wrong.Size = 6
	root := testCheckpoint(5, 1, "")
	root.Root = tlog.Hash{9}
	for _, cp := range []tlog.Checkpoint{wrong, root, {Size: 5}, {Size: 5, Note: []byte("note\n")}} {
		if err := s.PutCheckpoint(t.Context(), logA, cp); err == nil {
			t.Errorf("archived %q under size %d", cp.Note, cp.Size)
		}
	}
	wantNames(t, f, "")
}

func TestATruncatedArchiveIsNoContradiction(t *testing.T) {
	cp := testCheckpoint(5, 1, "")
	for cut := range len(cp.Note) {
		s, f := newFaulty(t)
		mustCreate(t, f, "checkpoints/"+string(logA)+"/5", string(cp.Note[:cut]))
		_, readErr := s.Checkpoint(t.Context(), logA, 5)
		for call, err := range map[string]error{"Checkpoint": readErr, "PutCheckpoint": s.PutCheckpoint(t.Context(), logA, cp)} {
			if !errors.As(err, new(*CorruptError)) || !strings.Contains(err.Error(), "/5 ") {
				t.Errorf("%s, cut at %d: %v, want a *CorruptError that names the object", call, cut, err)
			}
		}
	}
}

func TestSizesAscend(t *testing.T) {
	s, f := newFaulty(t)
	want := []uint64{0, 2, 9, 10, 100, 1 << 62}
	for _, size := range slices.Backward(want) {
		if err := s.PutCheckpoint(t.Context(), logA, testCheckpoint(size, 1, "")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutCheckpoint(t.Context(), logB, testCheckpoint(3, 1, "")); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, f, "checkpoints/"+string(logA)+"/007", "")
	mustCreate(t, f, "checkpoints/"+string(logA)+"/7.bak", "")
	if got, err := s.Sizes(t.Context(), logA); err != nil || !slices.Equal(got, want) {
		t.Errorf("Sizes = %v, %v; want %v", got, err, want)
	}
}

func putFindings(t *testing.T, s *State, from, to uint64, previous string, indexes ...uint64) string {
	t.Helper()
	var found []watch.Finding
	for _, i := range indexes {
		found = append(found, watch.Finding{Log: logA, Index: i, Rule: "r", Subject: "<\u2028\x00>\n"})
	}
	name, err := s.PutFindings(t.Context(), logA, from, to, previous, found)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFindingsThatAreManyGoIntoSeveralObjects(t *testing.T) {
	s := New(&folder{root: t.TempDir()})
	before := putFindings(t, s, 0, 1, "", 0)
	var found []watch.Finding
	var want []uint64
	for i := range uint64(50) {
		found = append(found, watch.Finding{Log: logA, Index: i, Rule: strings.Repeat("r", 1<<20), Subject: "<\u2028\x00>\n"})
		want = append(want, i)
	}
	head, err := s.PutFindings(t.Context(), logA, 1, 60, before, found)
	if err != nil {
		t.Fatal(err)
	}
	got, err := walk(t, s, head)
	if err != nil || len(got) != 51 || got[50] != 0 {
		t.Fatalf("got %v, %v; want 51 findings, the one of before at the end", got, err)
	}
	slices.Sort(got[:50])
	if !slices.Equal(got[:50], want) {
		t.Errorf("got %v, want each once", got)
	}
	objects := 0
	for name, err := range s.store.List(t.Context(), "findings/") {
		data, _, readErr := s.store.Read(t.Context(), name)
		if err != nil || readErr != nil || len(data) > findingsObject+2<<20 {
			t.Errorf("%s has %d bytes (%v, %v)", name, len(data), err, readErr)
		}
		objects++
	}
	if objects != 8 {
		t.Errorf("%d objects, want 8", objects)
	}
}

func walk(t *testing.T, s *State, head string) (indexes []uint64, failed error) {
	t.Helper()
	for f, err := range s.Findings(t.Context(), head) {
		if err != nil {
			return indexes, err
		}
		if f.Subject != "<\u2028\x00>\n" || f.Log != logA {
			t.Errorf("finding %+v is not what was put", f)
		}
		indexes = append(indexes, f.Index)
	}
	return indexes, nil
}

func TestFindingsAreWalkedFromTheNewestObjectBack(t *testing.T) {
	s, f := newFaulty(t)
	head := putFindings(t, s, 0, 10, "", 3, 7)
	head = putFindings(t, s, 10, 20, head) // nothing found, nothing written
	head = putFindings(t, s, 20, 30, head, 21)
	head = putFindings(t, s, 30, 31, head, 30)
	if again := putFindings(t, s, 0, 10, "", 3, 7); !strings.HasPrefix(again, "findings/"+string(logA)+"/0-10-") {
		t.Errorf("put again as %s", again)
	}
	names := 0
	for range f.List(t.Context(), "findings/") {
		names++
	}
	if names != 3 {
		t.Errorf("%d objects, want 3", names)
	}
	want := []uint64{30, 21, 3, 7}
	if got, err := walk(t, s, head); err != nil || !slices.Equal(got, want) {
		t.Errorf("walked %v, %v; want %v", got, err, want)
	}
	if got, err := walk(t, s, ""); err != nil || got != nil {
		t.Errorf("walked %v, %v from no head; want nothing", got, err)
	}
	for range s.Findings(t.Context(), head) {
		break // must not panic
	}
}

func TestAFindingsObjectThatIsGoneOrChangedEndsTheWalkWithAnError(t *testing.T) {
	root := t.TempDir()
	s := New(&folder{root: root})
	first := putFindings(t, s, 0, 10, "", 3)
	head := putFindings(t, s, 10, 20, first, 12)
	content, err := os.ReadFile(filepath.Join(root, first))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		content []byte
		want    func(error) bool
	}{
		{"gone", nil, func(err error) bool { return errors.Is(err, ErrNotExist) }},
		{"cut short", content[:len(content)-1], func(err error) bool { return errors.As(err, new(*CorruptError)) }},
		{"a finding removed", content[:strings.Index(string(content), "\n")+1], func(err error) bool { return errors.As(err, new(*CorruptError)) }},
		{"empty", []byte{}, func(err error) bool { return errors.As(err, new(*CorruptError)) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := os.Remove(filepath.Join(root, first)); err != nil {
				t.Fatal(err)
			}
			if row.content != nil {
				if err := os.WriteFile(filepath.Join(root, first), row.content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := walk(t, s, head)
			if !slices.Equal(got, []uint64{12}) || err == nil || !row.want(err) || !strings.Contains(err.Error(), first) {
				t.Errorf("walked %v, %v; want index 12 and then an error that names %s", got, err, first)
			}
			if err := os.WriteFile(filepath.Join(root, first), content, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestFindingsOfAnotherLogAreRefused(t *testing.T) {
	ctx := t.Context()
	s, _ := newFaulty(t)
	if _, err := s.PutFindings(ctx, logB, 0, 1, "", []watch.Finding{{Log: logA}}); err == nil {
		t.Error("a finding of another log was put")
	}
	head := putFindings(t, s, 0, 1, "", 0)
	if _, err := s.PutFindings(ctx, logB, 0, 1, head, []watch.Finding{{Log: logB}}); err == nil {
		t.Error("another log's object was linked")
	}
	for _, name := range []string{"run.json", "findings/../run.json", strings.Replace(head, string(logA), "0", 1), head + "x"} {
		if _, err := s.PutFindings(ctx, logA, 1, 2, name, nil); err == nil {
			t.Errorf("%q was taken for a findings object", name)
		}
		if _, err := walk(t, s, name); err == nil {
			t.Errorf("%q was walked", name)
		}
	}
}

func TestAnAlertIsNeverSilentlyAnother(t *testing.T) {
	ctx := t.Context()
	s, f := newFaulty(t)
	for range 2 {
		if err := s.PutAlert(ctx, "identity-0a", []byte(`{"a":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutAlert(ctx, "identity-0a", []byte(`{"a":2}`)); !errors.As(err, new(*ExistsError)) {
		t.Errorf("another payload: %v, want an *ExistsError", err)
	}
	if got, err := s.Alert(ctx, "identity-0a"); err != nil || string(got) != `{"a":1}` {
		t.Errorf("Alert = %s, %v; want the first payload verbatim", got, err)
	}
	if _, err := s.Alert(ctx, "none"); !errors.Is(err, ErrNotExist) {
		t.Errorf("Alert of none: %v, want ErrNotExist", err)
	}
	mustCreate(t, f, "alerts/cut.json", `{"a":`)
	if _, err := s.Alert(ctx, "cut"); !errors.As(err, new(*CorruptError)) {
		t.Errorf("a truncated alert: %v, want a *CorruptError", err)
	}
	for _, id := range []string{"", "..", "a/b", "A", ".a", strings.Repeat("a", 129)} {
		if err := s.PutAlert(ctx, id, []byte("{}")); err == nil {
			t.Errorf("PutAlert(%q) succeeded", id)
		}
		if _, err := s.Alert(ctx, id); err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("Alert(%q): %v, want a refusal", id, err)
		}
	}
	if err := s.PutAlert(ctx, "a", []byte("text")); err == nil {
		t.Error("an alert that is not JSON was put")
	}
}

func TestEvidenceThatGrowsIsKeptBesideWhatWasThere(t *testing.T) {
	ctx := t.Context()
	root := t.TempDir()
	s := New(&folder{root: root})
	var names []string
	for _, evidence := range []string{`{"runs":1}`, `{"runs":2}`, `{"runs":1}`} {
		name, err := s.PutIncident(ctx, logA, "fork-5", []byte(evidence))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Incident(ctx, name); err != nil || string(got) != evidence {
			t.Errorf("Incident = %s, %v; want %s", got, err, evidence)
		}
		names = append(names, name)
	}
	if names[0] == names[1] || names[0] != names[2] || !strings.HasPrefix(names[0], "incidents/"+string(logA)+"/fork-5-") {
		t.Errorf("names %q; want one for each content", names)
	}
	if err := os.Truncate(filepath.Join(root, names[1]), 3); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Incident(ctx, names[1]); !errors.As(err, new(*CorruptError)) {
		t.Errorf("truncated evidence: %v, want a *CorruptError", err)
	}
}

func TestALeafThatDoesNotParseIsKeptAsItIs(t *testing.T) {
	ctx := t.Context()
	s, _ := newFaulty(t)
	leaf := []byte{0, 0xff, '{', '\n'}
	name, err := s.PutUnparsed(ctx, logB, 41, leaf)
	if err != nil || !strings.HasPrefix(name, "findings/"+string(logB)+"/unparsed/41-") {
		t.Fatalf("PutUnparsed = %q, %v", name, err)
	}
	if got, err := s.Unparsed(ctx, name); err != nil || string(got) != string(leaf) {
		t.Errorf("Unparsed = %q, %v; want %q", got, err, leaf)
	}
}

func TestDecisionsComeInTheOrderInWhichTheyWereTaken(t *testing.T) {
	ctx := t.Context()
	s, _ := newFaulty(t)
	zone := time.FixedZone("", 5*3600)
	in := []Decision{
		{Log: logA, Kind: TakeBaseline, Reason: "moved", By: "me", At: noon},
		{Log: logB, Kind: SkipTo, SkipTo: 9, Reason: "too far behind", At: noon.Add(time.Millisecond).In(zone)},
		{Log: logA, Kind: AcceptKey, Key: "PEM", Reason: "rotated", At: noon.Add(time.Second)},
		{Log: logA, Kind: CloseIncident, Incident: "fork-5", Reason: "explained", At: noon.Add(24 * time.Hour)},
	}
	for _, d := range slices.Backward(in) {
		id, err := s.PutDecision(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.PutDecision(ctx, d); err != nil || again != id {
			t.Errorf("the same decision again: %q, %v; want %q", again, err, id)
		}
	}
	got, err := s.Decisions(ctx)
	if err != nil || len(got) != len(in) {
		t.Fatalf("Decisions = %+v, %v; want %d", got, err, len(in))
	}
	for i, d := range got {
		want := in[i]
		want.ID, want.At = d.ID, want.At.UTC()
		if d != want || d.ID == "" {
			t.Errorf("decision %d is %+v, want %+v", i, d, want)
		}
	}
}

func TestADecisionThatCannotBeReadHidesNoOther(t *testing.T) {
	ctx := t.Context()
	s, f := newFaulty(t)
	id, err := s.PutDecision(ctx, Decision{Log: logA, Kind: TakeBaseline, Reason: "r", At: noon})
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, f, "decisions/0.json", "{")
	mustCreate(t, f, "decisions/z.json", `{"id":"`+id+`"}`)
	got, err := s.Decisions(ctx)
	if len(got) != 1 || got[0].ID != id || !errors.As(err, new(*CorruptError)) ||
		!strings.Contains(err.Error(), "decisions/0.json") || !strings.Contains(err.Error(), "decisions/z.json") {
		t.Errorf("Decisions = %+v, %v; want %s and an error that names the two bad ones", got, err, id)
	}
}

func TestADecisionNeedsWhatItIsAbout(t *testing.T) {
	s, f := newFaulty(t)
	for _, d := range []Decision{
		{Log: logA, Kind: TakeBaseline, At: noon},
		{Log: logA, Kind: TakeBaseline, Reason: " ", At: noon},
		{Log: logA, Kind: TakeBaseline, Reason: "r"},
		{Log: logA, Kind: AcceptKey, Reason: "r", At: noon},
		{Log: logA, Kind: CloseIncident, Reason: "r", At: noon},
		{Log: logA, Kind: "other", Reason: "r", At: noon},
		{Kind: TakeBaseline, Reason: "r", At: noon},
		{Log: logA, Kind: TakeBaseline, Reason: "r", At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if id, err := s.PutDecision(t.Context(), d); err == nil {
			t.Errorf("%+v was put as %s", d, id)
		}
	}
	wantNames(t, f, "")
}
