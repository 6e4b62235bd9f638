package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Metadata is what a TUF client keeps of a repository between runs: each role's file,
// verbatim, as it was verified last. Timestamp, Snapshot and Targets are "" if none was
// verified under Root yet. It is comparable, and JSON as it stands.
type Metadata struct {
	Root      string `json:"root"`
	Timestamp string `json:"timestamp,omitempty"`
	Snapshot  string `json:"snapshot,omitempty"`
	// Targets are those that Target was verified with.
	Targets string `json:"targets,omitempty"`
	// Target is trusted_root.json, as it was when all of an update verified last.
	Target   string    `json:"trusted_root,omitempty"`
	Verified time.Time `json:"verified,omitzero"` // when that was
}

// rest are the top-level roles below the root.
func (m *Metadata) rest() map[string]*string {
	return map[string]*string{metadata.TIMESTAMP: &m.Timestamp, metadata.SNAPSHOT: &m.Snapshot, metadata.TARGETS: &m.Targets}
}

// check verifies what was saved as far as that can be done without the repository, and
// returns its root. That something has expired does not matter here.
func (m *Metadata) check() (*tufRoot, error) {
	root, err := openRoot(m.Root)
	if err != nil {
		return nil, fmt.Errorf("its root: %w", err)
	}
	for role, text := range m.rest() {
		if *text == "" {
			continue
		}
		if err := verify(root, role, *text); err != nil {
			return nil, fmt.Errorf("its %s: %w", role, err)
		}
	}
	if m.Target == "" {
		return root, nil
	}
	if _, err := ParseTrustedRoot([]byte(m.Target)); err != nil {
		return nil, fmt.Errorf("its %s: %w", targetName, err)
	}
	return root, m.checkTarget()
}

// checkTarget compares Target with its hash, if it is Targets that list it.
func (m *Metadata) checkTarget() (err error) {
	defer guard(&err)
	if m.Targets == "" {
		return nil
	}
	targets, err := metadata.Targets().FromBytes([]byte(m.Targets))
	if err != nil {
		return err
	}
	if info := targets.Signed.Targets[targetName]; info != nil {
		if err := info.VerifyLengthHashes([]byte(m.Target)); err != nil {
			return fmt.Errorf("its %s: %w", targetName, err)
		}
	}
	return nil
}

// prune drops what root's keys did not sign: a rotation of keys makes earlier metadata
// void (section 5.3.11 of the specification), so that versions that a stolen key ran up
// do not count for ever. Target stays, as the last that was verified.
func (m *Metadata) prune(root *tufRoot) {
	for role, text := range m.rest() {
		if *text != "" && verify(root, role, *text) != nil {
			*text = ""
		}
	}
}

// take reads what go-tuf's client left in its folder: it writes nothing unverified.
func (m *Metadata) take(dir string) error {
	files := m.rest()
	files[metadata.ROOT] = &m.Root
	for role, text := range files {
		data, err := os.ReadFile(file(dir, role))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		*text = string(data)
	}
	return nil
}

// expired is about the first role that is no longer valid, nil if all are.
func (r Repository) expired(m *Metadata, now time.Time) *ExpiredError {
	for _, role := range []struct{ name, text string }{
		{metadata.ROOT, m.Root}, {metadata.TIMESTAMP, m.Timestamp}, {metadata.SNAPSHOT, m.Snapshot}, {metadata.TARGETS, m.Targets},
	} {
		if h := headOf(role.text); role.text != "" && now.After(h.expires) {
			return &ExpiredError{URL: r.URL, Role: role.name, Version: h.version, Expired: h.expires}
		}
	}
	return nil
}

// Merge is the newest of what two updates of one repository verified: the newer root,
// and of each other role the higher version that is signed under it.
func (m *Metadata) Merge(other *Metadata) *Metadata {
	a, b := *m, *other
	if headOf(b.Root).version > headOf(a.Root).version {
		a, b = b, a
	}
	void := false // b is of before a rotation that made its targets void
	if root, err := openRoot(a.Root); err == nil && a.Root != b.Root {
		snapshot, targets := b.Snapshot, b.Targets
		b.prune(root)
		void = b.Snapshot != snapshot || b.Targets != targets
	}
	if newer(b.Timestamp, a.Timestamp) {
		a.Timestamp = b.Timestamp
	}
	if newer(b.Snapshot, a.Snapshot) {
		a.Snapshot = b.Snapshot
	}
	again := !newer(a.Targets, b.Targets) && b.Verified.After(a.Verified)
	if a.Target == "" || !void && b.Target != "" && (newer(b.Targets, a.Targets) || again) {
		a.Targets, a.Target, a.Verified = b.Targets, b.Target, b.Verified
	}
	return &a
}

func newer(a, b string) bool { return headOf(a).version > headOf(b).version }
