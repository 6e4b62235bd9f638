package state

import (
	"errors"
	"fmt"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// ErrConflict is wrapped by the error of a write that lost against another
// writer's: what was read is no longer what is stored. Load again, and decide anew.
var ErrConflict = errors.New("another run has written it meanwhile")

// ExistsError says that an object exists with other content than that which was
// to be created. Nothing was written.
type ExistsError struct {
	Name   string
	Stored []byte
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s exists already, with other content", e.Name)
}

// LostError says that state which must exist is gone. It is never a reason to
// start over unasked (P9).
type LostError struct {
	Name  string  // the object that is gone
	Log   tlog.ID // the log whose state it was; "" for run.json
	Found string  // what shows that there was state: an object, or run.json's mention of the log
}

func (e *LostError) Error() string {
	return fmt.Sprintf("state is lost: %s is gone, but %s is there; %s", e.Name, e.Found, remedy(e.Log))
}

// CorruptError says that an object is there but is not what was written: cut
// short, not JSON, under another log's name. It never reads as a fresh start.
type CorruptError struct {
	Name   string
	Remedy string // what an operator can do about it
	Err    error

	generation Generation // of what was read, for Supersede
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt: %v; %s", e.Name, e.Err, e.Remedy)
}
func (e *CorruptError) Unwrap() error { return e.Err }

// FormatError says that a newer release wrote an object in a way that this one
// cannot read.
type FormatError struct {
	Name      string
	MinReader int // the oldest format whose release can read it
	Format    int // this release's
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s can be read from format %d on, and this release reads format %d: upgrade whosigned, or restore the object from before the newer release wrote it",
		e.Name, e.MinReader, e.Format)
}

// ContradictionError is proof of tampering: the log signed two roots for one
// size. The archive keeps the note that was there.
type ContradictionError struct {
	Log          tlog.ID
	Size         uint64
	Archived     []byte // the note seen first, verbatim
	ArchivedRoot tlog.Hash
	Seen         tlog.Checkpoint // the one that contradicts it
}

func (e *ContradictionError) Error() string {
	return fmt.Sprintf("log %s signed two roots for size %d: %s is archived, %s was seen now", e.Log, e.Size, e.ArchivedRoot, e.Seen.Root)
}

// LeaseError says that another run is at work.
type LeaseError struct {
	Holder  string // its run ID
	Expires time.Time
}

func (e *LeaseError) Error() string {
	return fmt.Sprintf("run %s is at work and holds the lease until %s; wait, or run again after that",
		e.Holder, e.Expires.UTC().Format(time.RFC3339))
}

// remedy is what resolves the loss of a log's state, or of run.json's.
func remedy(id tlog.ID) string {
	if id == "" {
		return "restore it from a backup, or decide for each log to take a new baseline: whosigned accept --config FILE --log ID --baseline --reason TEXT"
	}
	return fmt.Sprintf("restore it from a backup, or decide to take a new baseline: whosigned accept --config FILE --log %s --baseline --reason TEXT", id)
}
