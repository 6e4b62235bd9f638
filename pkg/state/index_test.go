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
	only := set.Only(all[400:600]...)
	if only.Len() != 100 || !only.Has(all[400]) || only.Has(all[399]) || only.check() != nil {
		t.Errorf("Only leaves %d of 200 of which 100 are in the set", only.Len())
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
		raw, _ = json.Marshal(Index{Unproven: bad})
		if err := json.Unmarshal(raw, new(Index)); err == nil {
			t.Errorf("%s, of unproven ones: it was read", name)
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
