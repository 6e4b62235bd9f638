package state

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFolderKeepsTheContractOfAStore(t *testing.T) {
	testStore(t, func(t *testing.T) func() Store {
		root := filepath.Join(t.TempDir(), "not", "there", "yet")
		return func() Store { return &folder{root: root} }
	})
}

func TestMain(m *testing.M) {
	// A child process of the tests below: it writes until it is done or killed.
	if root := os.Getenv("WHOSIGNED_TEST_FOLDER"); root != "" {
		if err := child(&folder{root: root}, os.Getenv("WHOSIGNED_TEST_TASK")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(s Store, task string) error {
	ctx := context.Background()
	if task == "count" {
		return increment(ctx, s, "count", 25)
	}
	for i := 0; ; i++ { // fill an object with one letter, for ever
		_, gen, err := s.Read(ctx, "filled")
		if err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
		if _, err := s.Replace(ctx, "filled", filled(i), gen); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func filled(i int) []byte { return bytes.Repeat([]byte{'a' + byte(i%26)}, 1<<20) }

func childProcess(t *testing.T, root, task string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "WHOSIGNED_TEST_FOLDER="+root, "WHOSIGNED_TEST_TASK="+task)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestFolderCountsEveryIncrementOfSeveralProcesses(t *testing.T) {
	root := t.TempDir()
	together(4, func(int) {
		if err := childProcess(t, root, "count").Run(); err != nil {
			t.Error(err)
		}
	})
	wantContent(t, &folder{root: root}, "count", "100")
}

func TestFolderSurvivesAKilledWriter(t *testing.T) {
	root := t.TempDir()
	for kill := range 8 {
		cmd := childProcess(t, root, "fill")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range kill + 1 {
			if !lines.Scan() {
				t.Fatal("the writer stopped by itself")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed

		s := &folder{root: root}
		data, gen, err := s.Read(t.Context(), "filled")
		if err != nil || len(data) != 1<<20 || bytes.Count(data, data[:1]) != len(data) {
			t.Fatalf("after kill %d: %d bytes, %v; want one of the contents, whole", kill, len(data), err)
		}
		if _, err := s.Replace(t.Context(), "filled", filled(kill), gen); err != nil {
			t.Fatalf("after kill %d: %v", kill, err)
		}
	}
	wantNames(t, &folder{root: root}, "", "filled")
}

func TestFolderRemovesWhatDeadWritersLeft(t *testing.T) {
	root := t.TempDir()
	left := filepath.Join(root, tempPrefix+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &folder{root: root}
	wantNames(t, s, "")
	mustCreate(t, s, "a", "1")
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
	wantNames(t, s, "", "a")
}

func TestFolderIsReadableByItsOwnerOnly(t *testing.T) {
	root := filepath.Join(t.TempDir(), "state")
	s := &folder{root: root}
	mustCreate(t, s, "a/b/c", "secret")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFolderReadingNeverWrites(t *testing.T) {
	root := filepath.Join(t.TempDir(), "absent")
	st, err := Open(t.Context(), "file://"+root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.LoadRun(t.Context()); !errors.Is(err, ErrNotExist) {
		t.Errorf("LoadRun: %v, want ErrNotExist", err)
	}
	if _, err := st.Decisions(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s was made by reading (%v)", root, err)
	}
}

func TestFolderErrorsThatAreNotAbsence(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(path string) error
	}{
		{"a folder in an object's place", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"a link to nothing", func(path string) error { return os.Symlink("nowhere", path) }},
		{"a file beyond the limit", func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, MaxObject+1)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := &folder{root: t.TempDir()}
			if err := row.make(filepath.Join(s.root, "run.json")); err != nil {
				t.Fatal(err)
			}
			_, _, readErr := s.Read(t.Context(), "run.json")
			_, replaceErr := s.Replace(t.Context(), "run.json", nil, "")
			_, loadErr := New(s).LoadRun(t.Context())
			for call, err := range map[string]error{"Read": readErr, "Replace": replaceErr, "LoadRun": loadErr,
				"Create": s.Create(t.Context(), "run.json", nil)} {
				if err == nil || errors.Is(err, ErrNotExist) || !strings.Contains(err.Error(), "run.json") {
					t.Errorf("%s: %v, want an error that names run.json and is not ErrNotExist", call, err)
				}
			}
		})
	}
}

func TestFolderPassesOverWhatCannotBeAnObject(t *testing.T) {
	s := &folder{root: t.TempDir()}
	for _, name := range []string{"lost+found", ".git", "My Folder"} {
		if err := os.Mkdir(filepath.Join(s.root, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.root, name, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, s, "a", "1")
	wantNames(t, s, "", "a")
}

func TestFolderWaitingForTheLockEndsWithItsContext(t *testing.T) {
	s := &folder{root: t.TempDir()}
	mustCreate(t, s, "a", "1")
	held, err := os.OpenFile(filepath.Join(s.root, lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Create(ctx, "b", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create while another holds the lock: %v, want context.DeadlineExceeded", err)
	}
	wantContent(t, s, "a", "1") // reading needs no lock
	wantNames(t, s, "", "a")
}

func TestOpenRefusesWhatIsNotAFolderURL(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, location := range []string{"", "state", "/var/lib/whosigned", "file://relative/path", "file:relative", "file://", "file:///a?b", "file:///a#b",
		"http://localhost/", "gs://Bucket/prefix", "gs://", "file:///%zz", "file://" + file, "file://" + file + "/below"} {
		if _, err := Open(t.Context(), location); err == nil || !strings.Contains(err.Error(), strconv.Quote(location)) {
			t.Errorf("Open(%q): %v, want an error that names it", location, err)
		}
	}
}

func TestOpenFollowsALinkAndDecodesItsURL(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "real place"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real place", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/real%20place", "/link"} {
		st, err := Open(t.Context(), "file://"+dir+path)
		if err != nil {
			t.Fatal(err)
		}
		mustCreate(t, st.store, "state/a", "1")
		wantNames(t, st.store, "state/", "state/a")
		if _, err := os.Stat(filepath.Join(dir, "real place", "state", "a")); err != nil {
			t.Error(err)
		}
	}
}
