package state

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
)

func leafHashes(from, to int) []tlog.Hash {
	var all []tlog.Hash
	for i := from; i < to; i++ {
		all = append(all, sha256.Sum256(fmt.Append(nil, i)))
	}
	return all
}

func TestASetOfLeavesHasWhatWasAddedAndNothingElse(t *testing.T) {
	all := leafHashes(0, 1000)
	var set Leaves
	for i := 0; i < 500; i += 50 {
		before := string(set)
		// Some that are in it already, and one twice.
		next := set.With(append(all[max(0, i-20):i+50:i+50], all[i])...)
		if string(set) != before {
			t.Fatalf("With changed the set that it was called on")
		}
		set = next
	}
	if set.Len() != 500 {
		t.Errorf("%d leaves, want 500", set.Len())
	}
	if err := set.check(); err != nil {
		t.Error(err)
	}
	for i, leaf := range all {
		if got, want := set.Has(leaf), i < 500; got != want {
			t.Errorf("leaf %d is in the set: %v, want %v", i, got, want)
		}
	}
	half, kept := set.Half(), 0
	for _, leaf := range all {
		if half.Has(leaf) {
			kept++
		}
	}
	if half.Len() != 250 || kept != 250 || half.check() != nil || set.Len() != 500 {
		t.Errorf("half of 500 leaves has %d, %d of them from the set (%v)", half.Len(), kept, half.check())
	}
}

func TestWhatIsSettledStaysWithinTheLimitAndFindingsAreForgottenLast(t *testing.T) {
	all := leafHashes(0, 1000)
	for _, tc := range []struct {
		name                string
		seen, found, limit  int // settled in this order
		keptSeen, keptFound int
		forgetful           bool
	}{
		{"both fit", 200, 100, 300, 200, 100, false},
		{"one too many", 200, 101, 300, 100, 101, true},
		{"many without findings", 480, 100, 300, 120, 100, true},
		{"findings take all", 200, 300, 300, 0, 300, true},
		{"more findings than fit", 3, 301, 300, 0, 301, true},
		{"more findings than there can be", 0, 502, 250, 0, 251, false},
	} {
		var x Index
		x.Settle(all[:tc.seen], nil, tc.limit)
		x.Settle(nil, all[498:498+tc.found], tc.limit)
		if x.Seen.Len() != tc.keptSeen || x.Found.Len() != tc.keptFound || x.Forgetful != tc.forgetful {
			t.Errorf("%s: kept %d and %d, forgetful %v; want %d, %d, %v", tc.name, x.Seen.Len(), x.Found.Len(), x.Forgetful, tc.keptSeen, tc.keptFound, tc.forgetful)
		}
		kept := 0
		for _, leaf := range all {
			if x.Settled(leaf) {
				kept++
			}
		}
		if kept != x.Seen.Len()+x.Found.Len() {
			t.Errorf("%s: %d of what was settled is in sets of %d and %d", tc.name, kept, x.Seen.Len(), x.Found.Len())
		}
	}
}

func TestASetOfLeavesThatWasDamagedIsNotRead(t *testing.T) {
	set := Leaves(nil).With(leafHashes(0, 3)...)
	swapped := append(append(Leaves{}, set[leafPrefix:]...), set[:leafPrefix]...)
	for name, bad := range map[string]Leaves{"cut short": set[:20], "out of order": swapped, "twice the same": append(append(Leaves{}, set...), set[2*leafPrefix:]...)} {
		raw, err := json.Marshal(Index{Seen: bad})
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, new(Index)); err == nil {
			t.Errorf("%s: it was read", name)
		}
		for what, x := range map[string]Index{"unproven": {Unproven: bad}, "found": {Found: bad}} {
			raw, _ = json.Marshal(x)
			if err := json.Unmarshal(raw, new(Index)); err == nil {
				t.Errorf("%s, of %s ones: it was read", name, what)
			}
		}
	}
}

func TestIndexCoverageIsKeptInTheLogsDocumentWithFieldsOfNewerReleases(t *testing.T) {
	ctx := context.Background()
	s := New(&folder{root: t.TempDir()})
	l := &Log{ID: tlog.ID(strings.Repeat("ab", 32)), Index: &Index{
		Queries: map[string]uint64{`email "alice@example.com"`: 7}, Seen: Leaves(nil).With(leafHashes(0, 9)...), Earlier: 3,
	}}
	l.Index.unknown = `"newer":true`
	if err := s.SaveLog(ctx, l); err != nil {
		t.Fatal(err)
	}
	got, err := s.LoadLog(ctx, l.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Index, l.Index) {
		t.Errorf("loaded %+v, want %+v", got.Index, l.Index)
	}
	got.Index.Seen = got.Index.Seen[:17]
	if err := s.SaveLog(ctx, got); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := s.LoadLog(ctx, l.ID); !errors.As(err, &corrupt) {
		t.Errorf("a damaged set gives %v, want a *CorruptError", err)
	}
}
