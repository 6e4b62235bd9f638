package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strconv"

	"github.com/whosigned/whosigned/pkg/bucket"
)

// objects is the Store in a bucket, at gs:// URLs. A Generation is the object's
// own, in decimal: GCS never gives one out twice for a name.
type objects struct{ *bucket.Bucket }

func openObjects(ctx context.Context, location string) (*objects, error) {
	b, err := bucket.Open(ctx, location)
	if err != nil {
		return nil, err
	}
	b.Limit = MaxObject
	return &objects{b}, nil
}

func (o *objects) Read(ctx context.Context, name string) ([]byte, Generation, error) {
	if err := checkName(name); err != nil {
		return nil, "", err
	}
	data, generation, err := o.Bucket.Read(ctx, name)
	if err != nil {
		return nil, "", err
	}
	return data, Generation(strconv.FormatInt(generation, 10)), nil
}

func (o *objects) Create(ctx context.Context, name string, data []byte) error {
	if err := checkWrite(name, data); err != nil {
		return err
	}
	_, err := o.Bucket.Write(ctx, name, data, 0)
	// Who may create and not overwrite, as a run may findings and checkpoints, can
	// be refused for an object that exists, before its generation is looked at.
	if !errors.Is(err, bucket.ErrChanged) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	stored, _, readErr := o.Bucket.Read(ctx, name)
	switch {
	case errors.Is(readErr, ErrNotExist):
		return err
	case readErr != nil:
		return fmt.Errorf("%w; what is there: %w", err, readErr)
	case !bytes.Equal(stored, data):
		return &ExistsError{Name: name, Stored: stored}
	}
	return nil
}

func (o *objects) Replace(ctx context.Context, name string, data []byte, old Generation) (Generation, error) {
	if err := checkWrite(name, data); err != nil {
		return "", err
	}
	var ifGeneration int64 // 0: it must not exist
	if old != "" {
		var err error
		if ifGeneration, err = strconv.ParseInt(string(old), 10, 64); err != nil || ifGeneration <= 0 {
			return "", fmt.Errorf("replacing %s: %w: %.100q is not a generation of it", o.URL(name), ErrConflict, old)
		}
	}
	generation, err := o.Bucket.Write(ctx, name, data, ifGeneration)
	if errors.Is(err, bucket.ErrChanged) {
		return "", fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if err != nil {
		return "", err
	}
	return Generation(strconv.FormatInt(generation, 10)), nil
}

// List passes over objects that whosigned cannot have written, such as the
// placeholder that the console makes for a folder.
func (o *objects) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		for name, err := range o.Bucket.List(ctx, prefix) {
			if err == nil && checkName(name) != nil {
				continue
			}
			if !yield(name, err) {
				return
			}
		}
	}
}
