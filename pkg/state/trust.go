package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/whosigned/whosigned/pkg/trust"
)

// Trust is trust/<repository>/metadata.json: what a TUF client has verified of one
// repository. Losing it would forget which versions were seen, and so allow them to be
// rolled back.
type Trust struct {
	Header
	ID string `json:"id"` // the repository's
	trust.Metadata

	kept
}

// UnmarshalJSON keeps the fields that this release does not know.
func (t *Trust) UnmarshalJSON(b []byte) error {
	type plain Trust
	return t.decode(b, (*plain)(t))
}

// MarshalJSON writes them back.
func (t Trust) MarshalJSON() ([]byte, error) {
	type plain Trust
	return t.encode(plain(t))
}

func trustName(id string) (string, error) {
	if !partForm.MatchString(id) {
		return "", fmt.Errorf("%.100q is not the ID of a TUF repository", id)
	}
	return "trust/" + id + "/metadata.json", nil
}

// LoadTrust loads what was verified of the repository with that ID. Its error wraps
// ErrNotExist if nothing was saved yet.
func (s *State) LoadTrust(ctx context.Context, id string) (*Trust, error) {
	name, err := trustName(id)
	if err != nil {
		return nil, err
	}
	t := new(Trust)
	err = s.load(ctx, name, "", t, &t.Header)
	if err == nil && t.ID != id {
		err = &CorruptError{Name: name, Err: fmt.Errorf("it is of repository %.100q", t.ID), generation: t.generation}
	}
	if corrupt := (*CorruptError)(nil); errors.As(err, &corrupt) {
		corrupt.Remedy = "restore it from a backup, or delete it to begin again at the repository's initial root, with no memory of the versions seen"
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// maxMerges is how many other writers a SaveTrust gives way to.
const maxMerges = 10

// SaveTrust writes t as SaveRun writes run.json, but does not lose against other
// writers: what one of them saved meanwhile is merged, so that the newest that anyone
// verified is stored and in t. Its error wraps ErrConflict only after many of them.
func (s *State) SaveTrust(ctx context.Context, id string, t *Trust) error {
	name, err := trustName(id)
	if err != nil {
		return err
	}
	if t.Root == "" {
		return fmt.Errorf("%s: there is no root to save", name)
	}
	t.ID = id
	for range maxMerges {
		if err = s.save(ctx, name, t, &t.Header); !errors.Is(err, ErrConflict) {
			return err
		}
		stored, failed := s.LoadTrust(ctx, id)
		if errors.Is(failed, ErrNotExist) { // deleted meanwhile
			t.Header = Header{}
			continue
		}
		if failed != nil {
			return errors.Join(err, failed)
		}
		merged := *stored.Merge(&t.Metadata)
		same := merged == stored.Metadata
		*t = *stored
		t.Metadata = merged
		if same {
			return nil // theirs is as new
		}
	}
	return err
}
