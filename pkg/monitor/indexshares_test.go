package monitor

import (
	"slices"
	"testing"
)

func TestHalfOfAShareIsEachValuesOwn(t *testing.T) {
	for _, tc := range []struct {
		all   int
		shut  []int
		wants []int // how often each value asks, in turn
		gets  []int
	}{
		{100, nil, []int{1000}, []int{100}},
		{100, nil, []int{1000, 1000}, []int{75, 25}},
		{100, nil, []int{0, 1000}, []int{0, 75}},
		{100, nil, []int{1000, 3, 1000}, []int{68, 3, 16}},
		{100, []int{0}, []int{1000, 1000}, []int{50, 25}},
		{2, nil, []int{5, 5, 5}, []int{2, 0, 0}},
	} {
		s := newShares(tc.all, len(tc.wants))
		for _, value := range tc.shut {
			s.shut(value)
		}
		got := make([]int, len(tc.wants))
		for value, n := range tc.wants {
			for range n {
				if s.take(value) {
					got[value]++
				}
			}
		}
		if !slices.Equal(got, tc.gets) {
			t.Errorf("of %d, of which %v are shut out, %v get %v, want %v", tc.all, tc.shut, tc.wants, got, tc.gets)
		}
	}
}
