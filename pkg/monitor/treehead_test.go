package monitor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/tlog"
)

func TestATreeHeadOfTheFutureIsAHealthCondition(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	s.ct.SetTime(s.now.Add(50 * time.Minute)) // clocks differ
	s.want(monitor.ExitClean)
	if n := s.mails("which is in the future"); n != 0 {
		t.Errorf("50 minutes ahead: got %d mails, want none: %q", n, s.subjects())
	}
	ahead := s.now.Add(70 * time.Minute)
	s.ct.SetTime(ahead)
	s.want(monitor.ExitClean)
	if n := s.mails("says that it was signed at " + ahead.Format(time.RFC3339) + ", which is in the future"); n != 1 {
		t.Errorf("70 minutes ahead: got %d mails, want 1: %q", n, s.subjects())
	}
	// An hour later it is 10 minutes ahead.
	if res := s.want(monitor.ExitClean); len(res.Health) != 0 {
		t.Errorf("got %+v, want the condition over", res.Health)
	}
}

func TestOnlyALogThatStillTakesEntriesHasToSignItsTreeHeadAnew(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*sigstore)
		want   int // CT logs whose tree head is too old
	}{
		{"listed", func(*sigstore) {}, 2},
		{"past the end of its validity", func(s *sigstore) { s.root.CT[0].Ended, s.root.CT[1].Ended = true, true }, 0},
		{"no longer listed", func(s *sigstore) { s.root.CT = nil }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSigstore(t)
			s.issue()
			s.want(monitor.ExitClean)
			tc.change(s)
			s.publishRoot()
			old := s.now.Add(-tlog.MaxMergeDelay - time.Minute)
			s.ct.SetTime(old)
			s.static.SetTime(old)
			if err := s.static.Publish(); err != nil {
				t.Fatal(err)
			}
			res := s.want(monitor.ExitClean)
			looked, got := 0, 0
			for _, l := range res.Logs {
				if (l.Type == tlog.RFC6962 || l.Type == tlog.StaticCT) && l.Error == "" && l.Size == 1 {
					looked++
				}
			}
			for _, h := range res.Health {
				if strings.HasSuffix(h.Key, ":old-tree-head") && h.Said {
					got++
				}
			}
			if looked != 2 || got != tc.want {
				t.Errorf("%d CT logs looked at, %d with too old a tree head; want 2, and %d: %+v", looked, got, tc.want, res.Health)
			}
		})
	}
}
