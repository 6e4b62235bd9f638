package notify

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"os"
	"path/filepath"
	"strings"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
)

// folder writes each message as an .eml file, which mail programs open.
type folder struct {
	route
	path string
}

func openFolder(f config.Folder) (Sink, error) {
	name := f.Name
	if name == "" {
		name = "folder"
	}
	if f.Path == "" {
		return nil, errors.New("path: no folder is named")
	}
	r, err := newRoute(name, f.Classes)
	if err != nil {
		return nil, err
	}
	return &folder{route: r, path: f.Path}, nil
}

// Send writes <time>-<class>-<id>.eml, once an alert: if a file of the alert's is
// there, it is left alone. It is complete whenever it can be seen.
func (f *folder) Send(ctx context.Context, m report.Message) error {
	fail := func(down bool, err error) error {
		return &SendError{Sink: f.name, Alert: m.ID, Down: down, Err: err}
	}
	if err := check(m); err != nil {
		return fail(false, err)
	}
	if err := os.MkdirAll(f.path, 0o750); err != nil {
		return fail(true, err)
	}
	there, err := os.ReadDir(f.path)
	if err != nil {
		return fail(true, err)
	}
	ending := fmt.Sprintf("-%s-%s.eml", m.Class, m.ID)
	for _, e := range there {
		if strings.HasSuffix(e.Name(), ending) {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return fail(true, err)
	}
	from := mail.Address{Name: "whosigned", Address: "whosigned@localhost"}
	name := filepath.Join(f.path, m.Created.UTC().Format("20060102T150405Z")+ending)
	msg := compose(m, from, nil, m.Created)
	if err := writeFile(name, func(w *os.File) error { _, err := msg.WriteTo(w); return err }); err != nil {
		return fail(true, err)
	}
	return nil
}

// writeFile puts a file in place whole: written beside, synced, renamed, and the
// folder synced.
func writeFile(name string, write func(*os.File) error) (err error) {
	dir := filepath.Dir(name)
	tmp, err := os.CreateTemp(dir, ".writing-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name()) // gone already if it was renamed
		}
	}()
	if err := errors.Join(write(tmp), tmp.Chmod(0o640), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing folder %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
