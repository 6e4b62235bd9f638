package state

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"regexp"
)

// MaxObject is the largest object, in bytes, that is written or read. What
// could not be read back is not written.
const MaxObject = 64 << 20

// ErrNotExist is wrapped by the error of Read for an object that is not there.
var ErrNotExist = fs.ErrNotExist

// Generation names one version of an object's content, in a form that only the
// store that gave it out understands. The zero Generation says that there is no
// object.
type Generation string

// Store keeps named objects: a folder, or a bucket. It is the seam where tests
// inject faults. All methods may be called at once, also by other processes.
//
// A name is a path of [a-z0-9._-] components, none of which begins with a dot;
// any other is refused. A write that returns nil is durable, and is seen by every
// Read that begins later. A write that returns an error may have happened all the
// same, whatever the error; a reader sees the object as it was before or after,
// never anything between.
type Store interface {
	// Read returns an object and its generation, or an error that wraps
	// ErrNotExist if, and only if, the store answered that there is none.
	Read(ctx context.Context, name string) ([]byte, Generation, error)
	// Create writes an object that does not exist yet. One that exists with the
	// same content is success, with other content an *ExistsError.
	Create(ctx context.Context, name string, data []byte) error
	// Replace writes an object if its generation is still the given one (zero: if
	// it does not exist), and returns the new generation. Otherwise it changes
	// nothing and its error wraps ErrConflict.
	Replace(ctx context.Context, name string, data []byte, old Generation) (Generation, error)
	// List yields the name of every object that begins with prefix, once, in any
	// order. It stops after an error. A prefix without objects, in a store that was
	// never written to, is an empty list.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

var (
	nameForm   = regexp.MustCompile(`\A[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*\z`)
	prefixForm = regexp.MustCompile(`\A([a-z0-9_-][a-z0-9._-]*/)*([a-z0-9_-][a-z0-9._-]*)?\z`)
	partForm   = regexp.MustCompile(`\A[a-z0-9_-][a-z0-9._-]*\z`)
)

// maxName is below the limits of object stores (1024) and file names (255 a
// component) for every name that this package makes.
const maxName = 512

func checkName(name string) error {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return fmt.Errorf("%.100q is not an object name: want at most %d bytes, components of [a-z0-9._-] joined by /", name, maxName)
	}
	return nil
}

func checkPrefix(prefix string) error {
	if len(prefix) > maxName || !prefixForm.MatchString(prefix) {
		return fmt.Errorf("%.100q is not the beginning of an object name", prefix)
	}
	return nil
}

func checkWrite(name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(data) > MaxObject {
		return fmt.Errorf("%s would be %d bytes, more than the %d that can be read back", name, len(data), MaxObject)
	}
	return nil
}
