package monitor_test

import (
	"fmt"
	"slices"
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
	}
}
