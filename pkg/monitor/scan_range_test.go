package monitor_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/monitor"
)

func TestStartIndexAndEndIndexCountOverAllTreesOfARekorV1Service(t *testing.T) {
	for _, tc := range []struct {
		start, end int // as rekor-monitor has them: end is the last that is read
		want       []string
		exit       int
	}{
		{0, 19, []string{"[0, 10) 1", "[0, 10) 1"}, monitor.ExitFindings},
		{9, 10, []string{"[9, 10) 1", "[0, 1) 0"}, monitor.ExitFindings},
		{10, 12, []string{"[0, 3) 0"}, monitor.ExitClean},
		{3, 5, []string{"[3, 6) 0"}, monitor.ExitClean},
		{15, -1, []string{"[5, 10) 1"}, monitor.ExitFindings},
		{19, 20, []string{"error"}, monitor.ExitFailed},
		{50, -1, []string{"error"}, monitor.ExitFailed},
		{20, -1, []string{"[10, 10) 0"}, monitor.ExitClean},
	} {
		w := newWorld(t)
		w.v1Only("start: 0", "v1.pub")
		w.others(9)
		w.mine()
		w.rotate(nil)
		w.others(9)
		w.mine()
		w.extra = fmt.Sprintf("startIndex: %d\n", tc.start)
		if tc.end >= 0 {
			w.extra += fmt.Sprintf("endIndex: %d\n", tc.end)
		}
		m := w.monitor()
		m.State = nil
		res, err := m.ScanConfigured(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range res.Logs {
			if l.Error != "" {
				got = append(got, "error")
				continue
			}
			got = append(got, fmt.Sprintf("[%d, %d) %d", l.Scanned-l.Entries, l.Scanned, l.Findings))
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(tc.want))) || res.Exit != tc.exit {
			t.Errorf("%d to %d: got %q, exit %d, want %q, exit %d", tc.start, tc.end, got, res.Exit, tc.want, tc.exit)
		}
		w.checksAsScanned(m, res)
	}
}

// checksAsScanned: check says the ranges that a scan reads, and its errors.
func (w *world) checksAsScanned(m *monitor.Monitor, scanned *monitor.Result) {
	w.t.Helper()
	c, err := m.Check(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var got, want []string
	for _, l := range c.Logs {
		if l.Error != "" || l.From < l.To {
			got = append(got, fmt.Sprintf("%s [%d, %d) %s", l.ID, l.From, l.To, l.Error))
		}
	}
	for _, l := range scanned.Logs {
		if l.Error != "" || l.Entries > 0 {
			want = append(want, fmt.Sprintf("%s [%d, %d) %s", l.ID, l.Scanned-l.Entries, l.Scanned, l.Error))
		}
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) || c.OK() != (scanned.Exit != monitor.ExitFailed) {
		w.t.Errorf("check says %q, OK %v; the scan %q, exit %d", got, c.OK(), want, scanned.Exit)
	}
}

func TestARangeBeyondTheLogsIsAnErrorOnceForEachService(t *testing.T) {
	for _, tc := range []struct {
		rotate bool
		extra  string
		errs   []string
	}{
		{false, "startIndex: 50\n", []string{"range [50, end) is not within the log's 6 entries", "range [50, end) is not within the log's 6 entries"}},
		{false, "startIndex: 5\nendIndex: 6\n", []string{"range [5, 7) is not within the log's 6 entries", "range [5, 7) is not within the log's 6 entries"}},
		{true, "startIndex: 50\n", []string{
			"range [50, end) is not within the log's 12 entries", "range [50, end) is not within the 12 entries of the service's 2 trees, over which startIndex and endIndex count"}},
		{true, "startIndex: 11\nendIndex: 12\n", []string{
			"range [11, 13) is not within the log's 12 entries", "range [11, 13) is not within the 12 entries of the service's 2 trees, over which startIndex and endIndex count"}},
	} {
		w := newWorld(t)
		w.others(6)
		if tc.rotate {
			w.rotate(nil)
			w.others(6)
		}
		w.extra = tc.extra
		m := w.monitor()
		m.State = nil
		res, err := m.ScanConfigured(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var errs []string
		for _, l := range res.Logs {
			errs = append(errs, l.Error)
		}
		if slices.Sort(errs); !slices.Equal(errs, slices.Sorted(slices.Values(tc.errs))) || res.Exit != monitor.ExitFailed {
			t.Errorf("%q, rotated %v: errors %q, exit %d; want %q", tc.extra, tc.rotate, errs, res.Exit, tc.errs)
		}
		w.checksAsScanned(m, res)
	}
}

// Where a service ends is not known while one of its trees cannot be had: its error is
// the only one, and what is known of the range is read.
func TestARangeIsNotHeldAgainstATreeThatCannotBeHad(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: 0", "v1.pub")
	w.others(6)
	w.rotate(ecKey(t)) // a key that is not configured
	w.others(6)
	w.extra = "startIndex: 4\nendIndex: 9\n"
	m := w.monitor()
	m.State = nil
	res, err := m.ScanConfigured(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range res.Logs {
		if strings.Contains(l.Error, "not within") || l.Error == "" && l.Entries != 2 {
			t.Errorf("%+v", l)
		}
	}
	if res.Exit != monitor.ExitFailed {
		t.Errorf("exit %d, want %d", res.Exit, monitor.ExitFailed)
	}
}
