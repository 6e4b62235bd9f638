package trust_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/whosigned/whosigned/pkg/trust"
)

// A release has a newer root built in, which revokes keys; its first update does not get
// as far as asking the repository. What those keys signed must not stay beside that root:
// the next run would take it for damaged.
func TestWhatANewerInitialRootRevokesIsNotKeptByAnUpdateThatDoesNotBegin(t *testing.T) {
	w := newWorld(t)
	saved := w.fresh(nil)
	w.repo.RotateKeys(metadata.TIMESTAMP, metadata.TARGETS)
	w.from.Root = w.repo.RootVersion(2)
	folder := os.TempDir()
	t.Setenv("TMPDIR", filepath.Join(folder, "gone")) // the client has no folder to work in
	got, root, err := w.refresh(saved, time.Now())
	if err == nil || root == nil {
		t.Fatalf("got %v, %v; want the trusted root of before and an error", root, err)
	}
	if versions(got) != "2 0 2 0" || got.Target != saved.Target {
		t.Errorf("kept versions %s, want 2 0 2 0 and the target: the keys of the others are revoked", versions(got))
	}
	t.Setenv("TMPDIR", folder)
	if _, _, err := w.refresh(got, time.Now()); err != nil {
		damaged := errors.As(err, new(*trust.DamagedError))
		t.Errorf("the next update: %v (damaged: %v), want none", err, damaged)
	}
}
