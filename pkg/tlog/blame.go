package tlog

import (
	"errors"
	"fmt"
	"net/http"
)

// BadAnswer is an answer with status 200 that is not what was asked for.
type BadAnswer struct {
	Err    error
	Served []byte // verbatim; empty if what is wrong is that something was left out
	// Malformed: it is nothing that such a log answers, and may be anybody's on the
	// way to it.
	Malformed bool
}

func (e *BadAnswer) Error() string { return e.Err.Error() }
func (e *BadAnswer) Unwrap() error { return e.Err }

// IsTooLarge reports whether err is or wraps a *TooLargeError.
func IsTooLarge(err error) bool {
	var large *TooLargeError
	return errors.As(err, &large)
}

// Divisible reports whether what a failed request asked for may be had in part: the
// answer was a *BadAnswer, too large, or a refusal. Overload and network trouble are
// not about what was asked for.
func Divisible(err error) bool {
	var bad *BadAnswer
	var status *StatusError
	switch {
	case errors.As(err, &bad), IsTooLarge(err):
		return true
	case !errors.As(err, &status):
		return false
	}
	switch status.Code {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return false
	case http.StatusInternalServerError:
		return true
	}
	return status.Code >= 400 && status.Code < 500
}

// Blame decides what the failure of a single leaf means, err being [Divisible]: a
// *LeafError, or an *Unavailable of what was asked for. An answer that can be read
// is about the leaf. For any other, such as status 500, it must be seen that the log,
// whose tree has size leaves, gives another leaf, which get asks for: else it is the
// log that fails.
func Blame(what string, index, size uint64, err error, get func(other uint64) error) error {
	leafErr := &LeafError{Index: index, End: index + 1, Err: err}
	var bad *BadAnswer
	if errors.As(err, &bad) {
		if len(bad.Served) > 0 {
			leafErr.Served = bad.Served
		}
		if !bad.Malformed {
			return leafErr
		}
	}
	if size == 1 {
		return leafErr
	}
	tried := map[uint64]bool{index: true}
	for _, other := range []uint64{index - 1, index + 1, 0, size - 1} {
		if other >= size || tried[other] {
			continue
		}
		tried[other] = true
		if get(other) == nil {
			return leafErr
		}
	}
	return &Unavailable{What: what, Err: fmt.Errorf("neither leaf %d nor its neighbours: %w", index, err)}
}
