package tlog

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
)

// failed is how a [Client] tells of an error.
func failed(err error) error {
	return &Unavailable{What: "POST " + logURL, Err: tries{err, errors.New("connection reset")}}
}

func TestAFailureIsDivisibleIfItIsAboutWhatWasAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"something else is served", &BadAnswer{Err: errors.New("two entries")}, true},
		{"so it is below other errors", fmt.Errorf("leaf 5: %w", &BadAnswer{Err: errors.New("two entries")}), true},
		{"too large", failed(&TooLargeError{MaxChunk}), true},
		{"refused as wrong", failed(&StatusError{Code: http.StatusBadRequest}), true},
		{"refused as too much", failed(&StatusError{Code: http.StatusUnprocessableEntity}), true},
		{"not there", failed(&StatusError{Code: http.StatusNotFound}), true},
		{"the server stumbles over it", failed(&StatusError{Code: http.StatusInternalServerError}), true},
		{"too many requests", failed(&StatusError{Code: http.StatusTooManyRequests}), false},
		{"too slow a request", failed(&StatusError{Code: http.StatusRequestTimeout}), false},
		{"a redirect", failed(&StatusError{Code: http.StatusFound}), false},
		{"nobody behind the proxy", failed(&StatusError{Code: http.StatusBadGateway}), false},
		{"overload", failed(&StatusError{Code: http.StatusServiceUnavailable}), false},
		{"network trouble", failed(errors.New("connection refused")), false},
	} {
		if got := Divisible(tt.err); got != tt.want {
			t.Errorf("%s: got divisible %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestALeafIsBlamedIfTheAnswerIsAboutItOrTheLogGivesAnother(t *testing.T) {
	odd := errors.New("it is odd")
	bad := func(served string, malformed bool) error {
		return &BadAnswer{Err: odd, Served: []byte(served), Malformed: malformed}
	}
	for _, tt := range []struct {
		name        string
		err         error
		index, size uint64
		gives       []uint64 // the leaves that the log gives
		asked       []uint64 // want
		leaf        bool     // want a LeafError
		served      string
	}{
		{"another leaf is served", bad("[7]", false), 5, 9, nil, nil, true, "[7]"},
		{"it is left out", bad("", false), 5, 9, nil, nil, true, ""},
		{"garbage, and its neighbour can be had", bad("?", true), 5, 9, []uint64{4}, []uint64{4}, true, "?"},
		{"garbage everywhere", bad("?", true), 5, 9, nil, []uint64{4, 6, 0, 8}, false, ""},
		{"nothing, and its neighbour can be had", bad("", true), 5, 9, []uint64{4}, []uint64{4}, true, ""},
		{"an error, and the next can be had", failed(odd), 5, 9, []uint64{6, 0}, []uint64{4, 6}, true, ""},
		{"an error, and only the first can be had", failed(odd), 5, 9, []uint64{0}, []uint64{4, 6, 0}, true, ""},
		{"an error, and only the last can be had", failed(odd), 5, 9, []uint64{8}, []uint64{4, 6, 0, 8}, true, ""},
		{"an error everywhere", failed(odd), 5, 9, nil, []uint64{4, 6, 0, 8}, false, ""},
		{"an error everywhere, about the first", failed(odd), 0, 9, nil, []uint64{1, 8}, false, ""},
		{"an error everywhere, about the last", failed(odd), 8, 9, nil, []uint64{7, 0}, false, ""},
		{"an error everywhere, and there are two", failed(odd), 1, 2, nil, []uint64{0}, false, ""},
		{"there is no other", failed(odd), 0, 1, nil, nil, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked []uint64
			got := Blame("leaf at "+logURL, tt.index, tt.size, tt.err, func(other uint64) error {
				asked = append(asked, other)
				if slices.Contains(tt.gives, other) {
					return nil
				}
				return tt.err
			})
			if !slices.Equal(asked, tt.asked) {
				t.Errorf("asked for %v, want %v", asked, tt.asked)
			}
			if !errors.Is(got, odd) {
				t.Errorf("got %v, which does not say why", got)
			}
			if !tt.leaf {
				var leafErr *LeafError
				want := fmt.Sprintf("leaf at %s: neither leaf %d nor its neighbours: %v", logURL, tt.index, tt.err)
				if un, ok := got.(*Unavailable); !ok || un.Error() != want || errors.As(got, &leafErr) {
					t.Errorf("got %v (%T), want an Unavailable that says %q", got, got, want)
				}
				return
			}
			leafErr, ok := got.(*LeafError)
			if !ok || leafErr.Index != tt.index || leafErr.End != tt.index+1 || string(leafErr.Served) != tt.served || (leafErr.Served != nil) != (tt.served != "") {
				t.Errorf("got %v (%+v), want a LeafError for %d with %q served", got, got, tt.index, tt.served)
			}
		})
	}
}
