package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName   = ".lock"
	tempPrefix = ".tmp-"
)

// folder is the Store in a folder, at file:// URLs. Objects are files. A write
// goes to a temporary file that is synced and renamed, under a lock that all
// processes share; a Generation is the hash of the content, so an object that was
// changed and changed back is the same again. Names with a leading dot are the
// folder's own. Reading and listing write nothing, not even the folder itself.
type folder struct {
	root  string
	swept atomic.Bool // leftover temporary files have been removed
}

func (f *folder) path(name string) string { return filepath.Join(f.root, filepath.FromSlash(name)) }

func contentGeneration(data []byte) Generation {
	sum := sha256.Sum256(data)
	return Generation(hex.EncodeToString(sum[:]))
}

func (f *folder) Read(ctx context.Context, name string) ([]byte, Generation, error) {
	if err := checkName(name); err != nil {
		return nil, "", err
	}
	if err := ctx.Err(); err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", name, err)
	}
	file, err := os.Open(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		info, statErr := os.Lstat(f.path(name))
		switch {
		case statErr == nil && info.Mode()&fs.ModeSymlink != 0:
			// A link into a volume that is not mounted is not an absent object.
			return nil, "", fmt.Errorf("reading %s: %s is there but leads nowhere (%s)", name, f.path(name), info.Mode().Type())
		case statErr == nil:
			file, err = os.Open(f.path(name)) // another process made it just now
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", name, err)
	}
	if info.Size() > MaxObject {
		return nil, "", fmt.Errorf("reading %s: %s is larger than %d bytes, which whosigned never writes: restore it from a backup",
			name, file.Name(), MaxObject)
	}
	// The file cannot grow: what replaces it is another file.
	content := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := content.ReadFrom(io.LimitReader(file, MaxObject)); err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", name, err)
	}
	data := content.Bytes()
	return data, contentGeneration(data), nil
}

func (f *folder) Create(ctx context.Context, name string, data []byte) error {
	if err := checkWrite(name, data); err != nil {
		return err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return fmt.Errorf("creating %s: %w", name, err)
	}
	defer unlock()
	stored, _, err := f.Read(ctx, name)
	switch {
	case errors.Is(err, ErrNotExist):
		return f.write(name, data)
	case err != nil:
		return err
	case !bytes.Equal(stored, data):
		return &ExistsError{Name: name, Stored: stored}
	}
	// Who wrote it may have died before its name was durable.
	return syncFolder(filepath.Dir(f.path(name)))
}

func (f *folder) Replace(ctx context.Context, name string, data []byte, old Generation) (Generation, error) {
	if err := checkWrite(name, data); err != nil {
		return "", err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return "", fmt.Errorf("replacing %s: %w", name, err)
	}
	defer unlock()
	_, current, err := f.Read(ctx, name)
	if err != nil && !errors.Is(err, ErrNotExist) {
		return "", err
	}
	if current != old {
		return "", fmt.Errorf("replacing %s: %w", name, ErrConflict)
	}
	if err := f.write(name, data); err != nil {
		return "", err
	}
	return contentGeneration(data), nil
}

func (f *folder) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		f.list(ctx, prefix[:strings.LastIndex(prefix, "/")+1], prefix, yield)
	}
}

// list yields the objects below dir ("" or ending in a slash) that begin with
// prefix, and reports whether to go on. Files that cannot be objects, such as a
// volume's lost+found, are passed over.
func (f *folder) list(ctx context.Context, dir, prefix string, yield func(string, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield("", fmt.Errorf("listing %s: %w", prefix, err))
		return false
	}
	entries, err := os.ReadDir(f.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		yield("", fmt.Errorf("listing %s: %w", prefix, err))
		return false
	}
	for _, e := range entries {
		name := dir + e.Name()
		switch {
		case !partForm.MatchString(e.Name()):
		case e.IsDir():
			below := name + "/"
			if !strings.HasPrefix(below, prefix) && !strings.HasPrefix(prefix, below) {
				continue
			}
			if !f.list(ctx, below, prefix, yield) {
				return false
			}
		case strings.HasPrefix(name, prefix):
			if !yield(name, nil) {
				return false
			}
		}
	}
	return true
}

// lock waits until this is the only writer, in this and all processes. The
// kernel drops a dead process's lock.
func (f *folder) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := makeFolder(f.root); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(f.root, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// Polling, since a blocking flock cannot be told that ctx is done.
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			file.Close()
			return nil, fmt.Errorf("locking %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("waiting for the lock %s: %w", file.Name(), ctx.Err())
		case <-time.After(wait):
		}
	}
	f.sweep()
	return func() { file.Close() }, nil
}

// sweep removes, once, what writers left that died: the lock's holder is the
// only one that can have a temporary file in use. One that stays does no harm.
func (f *folder) sweep() {
	if f.swept.Swap(true) {
		return
	}
	left, err := filepath.Glob(filepath.Join(f.root, tempPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range left {
		_ = os.Remove(path)
	}
}

// write puts data in place, durably: the file's bytes first, then its name.
func (f *folder) write(name string, data []byte) error {
	path := f.path(name)
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	temp, err := os.CreateTemp(f.root, tempPrefix+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if closing := temp.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// makeFolder makes dir and its parents, mode 0700, their names durable.
func makeFolder(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	return syncFolder(filepath.Dir(dir))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
