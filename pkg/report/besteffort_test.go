package report

import (
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/watch"
)

func TestWhatASearchIndexFoundIsLabelledBestEffort(t *testing.T) {
	for _, found := range []bool{false, true} {
		f := finding(101)
		f.BestEffort = found
		a := Alert{Class: ClassIdentity, Created: noon, Log: logID, Findings: []watch.Finding{f}}
		a.Seal()
		m := Email([]Alert{a})
		for _, text := range []string{m.Text, strings.ReplaceAll(m.HTML, "<wbr>", "")} {
			for _, label := range []string{"there may be more that the index leaves out", "others may be left out without our noticing"} {
				if got := strings.Contains(text, label); got != found {
					t.Errorf("found through the index %v: the message says %q: %v", found, label, got)
				}
			}
		}
	}
}
