package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	formats "github.com/transparency-dev/formats/log"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// What is in this file is written once and never changed. Where a name ends in a
// content hash, the first 8 bytes of SHA-256 in hex, reading checks it.

// PutCheckpoint archives the first note seen at a size, verbatim. Another note
// with the same root is no news, and the first one stays. Another root is a
// *ContradictionError, proof of tampering if both notes were verified.
func (s *State) PutCheckpoint(ctx context.Context, id tlog.ID, cp tlog.Checkpoint) error {
	name, err := checkpointName(id, cp.Size)
	if err != nil {
		return err
	}
	if size, root, err := readNote(cp.Note); err != nil {
		return fmt.Errorf("archiving %s: %w", name, err)
	} else if size != cp.Size || root != cp.Root {
		return fmt.Errorf("archiving %s: the note says size %d and root %s, the checkpoint size %d and root %s", name, size, root, cp.Size, cp.Root)
	}
	err = s.create(ctx, name, cp.Note)
	exists := (*ExistsError)(nil)
	if !errors.As(err, &exists) {
		return err
	}
	root, err := archivedRoot(name, cp.Size, exists.Stored)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return &ContradictionError{Log: id, Size: cp.Size, Archived: exists.Stored, ArchivedRoot: root, Seen: cp}
	}
	return nil
}

// Checkpoint returns the archived note of a size, verbatim; its signature is as
// good as it was when it was archived. The error wraps ErrNotExist if none was.
func (s *State) Checkpoint(ctx context.Context, id tlog.ID, size uint64) ([]byte, error) {
	name, err := checkpointName(id, size)
	if err != nil {
		return nil, err
	}
	note, _, err := s.store.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := archivedRoot(name, size, note); err != nil {
		return nil, err
	}
	return note, nil
}

// Sizes returns the sizes at which a checkpoint is archived, ascending.
func (s *State) Sizes(ctx context.Context, id tlog.ID) ([]uint64, error) {
	if _, err := tlog.ParseID(string(id)); err != nil {
		return nil, err
	}
	prefix := "checkpoints/" + string(id) + "/"
	var sizes []uint64
	for name, err := range s.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		text := strings.TrimPrefix(name, prefix)
		size, err := strconv.ParseUint(text, 10, 64)
		if err != nil || strconv.FormatUint(size, 10) != text {
			continue // not ours: no release writes such a name
		}
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	return sizes, nil
}

func checkpointName(id tlog.ID, size uint64) (string, error) {
	if _, err := tlog.ParseID(string(id)); err != nil {
		return "", err
	}
	return "checkpoints/" + string(id) + "/" + strconv.FormatUint(size, 10), nil
}

func archivedRoot(name string, size uint64, note []byte) (tlog.Hash, error) {
	got, root, err := readNote(note)
	if err == nil && got != size {
		err = fmt.Errorf("it is a checkpoint of size %d", got)
	}
	if err != nil {
		return tlog.Hash{}, &CorruptError{Name: name, Err: err,
			Remedy: "restore it from a backup; without one, delete it, and the log's next checkpoint of that size takes its place"}
	}
	return root, nil
}

// readNote reads what a note says, without its signatures.
func readNote(note []byte) (size uint64, root tlog.Hash, err error) {
	cut := bytes.LastIndex(note, []byte("\n\n— "))
	if cut < 0 || !bytes.HasSuffix(note, []byte("\n")) {
		return 0, tlog.Hash{}, errors.New("not a whole signed note")
	}
	var cp formats.Checkpoint
	if _, err := cp.Unmarshal(note[:cut+1]); err != nil {
		return 0, tlog.Hash{}, err
	}
	if len(cp.Hash) != len(tlog.Hash{}) {
		return 0, tlog.Hash{}, fmt.Errorf("a root hash of %d bytes", len(cp.Hash))
	}
	return cp.Size, tlog.Hash(cp.Hash), nil
}

// findingsHeader is the first line of a findings object; findings follow, one a line.
type findingsHeader struct {
	Log      tlog.ID `json:"log"`
	From     uint64  `json:"from"`
	To       uint64  `json:"to"`
	Previous string  `json:"previous"` // the findings object before, "" for the first
}

// PutFindings writes what was found in [from, to), in several objects if it is much, and
// returns the name of the last, for Log.Findings. previous is what Log.Findings named so far; without findings
// nothing is written and it is returned. The same findings get the same name.
func (s *State) PutFindings(ctx context.Context, id tlog.ID, from, to uint64, previous string, found []watch.Finding) (string, error) {
	if _, err := tlog.ParseID(string(id)); err != nil {
		return "", err
	}
	if previous != "" {
		if of, err := findingsLog(previous); err != nil {
			return "", err
		} else if of != id {
			return "", fmt.Errorf("findings of log %s: the object before, %s, is of another log", id, previous)
		}
	}
	if len(found) == 0 {
		return previous, nil
	}
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	for i, f := range found {
		if b.Len() == 0 {
			if err := lines.Encode(findingsHeader{Log: id, From: from, To: to, Previous: previous}); err != nil {
				return "", fmt.Errorf("findings of log %s: %w", id, err)
			}
		}
		if f.Log != id {
			return "", fmt.Errorf("findings of log %s: the finding at index %d is of log %q", id, f.Index, f.Log)
		}
		if err := lines.Encode(f); err != nil {
			return "", fmt.Errorf("findings of log %s: index %d: %w", id, f.Index, err)
		}
		if b.Len() < findingsObject && i < len(found)-1 {
			continue
		}
		var err error
		if previous, err = s.createHashed(ctx, fmt.Sprintf("findings/%s/%d-%d-", id, from, to), ".jsonl", b.Bytes()); err != nil {
			return "", err
		}
		b.Reset()
	}
	return previous, nil
}

// findingsObject is about how large an object with findings becomes: what does not fit
// goes into further ones.
const findingsObject = 8 << 20

// Findings walks all findings of a log, from the newest findings object, head,
// back to the first; those of one object come in the order in which they were
// put. An empty head has none. The walk ends after an error.
//
// It always ends: an object's name holds the hash of its content, and its content
// the name before, so no chain of names can close.
func (s *State) Findings(ctx context.Context, head string) iter.Seq2[watch.Finding, error] {
	return func(yield func(watch.Finding, error) bool) {
		for name := head; name != ""; {
			header, lines, err := s.findings(ctx, name)
			if err != nil {
				yield(watch.Finding{}, err)
				return
			}
			for line := range bytes.Lines(lines) {
				var f watch.Finding
				if err := json.Unmarshal(line, &f); err != nil {
					yield(watch.Finding{}, corruptArchive(name, err))
					return
				}
				if !yield(f, nil) {
					return
				}
			}
			name = header.Previous
		}
	}
}

// findings reads one findings object.
func (s *State) findings(ctx context.Context, name string) (header findingsHeader, lines []byte, err error) {
	id, err := findingsLog(name)
	if err != nil {
		return header, nil, err
	}
	data, err := s.readHashed(ctx, name)
	if err != nil {
		return header, nil, err
	}
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	if err := json.Unmarshal(first, &header); err != nil {
		return header, nil, corruptArchive(name, err)
	}
	if header.Log != id {
		return header, nil, corruptArchive(name, fmt.Errorf("it has the findings of log %q", header.Log))
	}
	return header, rest, nil
}

var findingsForm = regexp.MustCompile(`\Afindings/([0-9a-f-]+)/[0-9]+-[0-9]+-[0-9a-f]{16}\.jsonl\z`)

// findingsLog is the log that a findings object's name names.
func findingsLog(name string) (tlog.ID, error) {
	m := findingsForm.FindStringSubmatch(name)
	if m == nil {
		return "", fmt.Errorf("%.200q does not name a findings object", name)
	}
	return tlog.ParseID(m[1])
}

// PutUnparsed keeps a leaf that could not be parsed, and returns its name.
func (s *State) PutUnparsed(ctx context.Context, id tlog.ID, index uint64, leaf []byte) (string, error) {
	if _, err := tlog.ParseID(string(id)); err != nil {
		return "", err
	}
	return s.createHashed(ctx, fmt.Sprintf("findings/%s/unparsed/%d-", id, index), "", leaf)
}

// Unparsed returns a leaf that PutUnparsed kept.
func (s *State) Unparsed(ctx context.Context, name string) ([]byte, error) {
	return s.readHashed(ctx, name)
}

// PutIncident writes evidence of an incident, JSON, and returns the object's
// name, for Incident.Evidence. Evidence may grow from run to run: its content's
// hash is in the name, so what was put earlier stays beside it.
func (s *State) PutIncident(ctx context.Context, id tlog.ID, incident string, evidence []byte) (string, error) {
	if _, err := tlog.ParseID(string(id)); err != nil {
		return "", err
	}
	if err := checkPart("incident", incident, evidence); err != nil {
		return "", err
	}
	return s.createHashed(ctx, fmt.Sprintf("incidents/%s/%s-", id, incident), ".json", evidence)
}

// Incident returns evidence that PutIncident wrote under a name.
func (s *State) Incident(ctx context.Context, name string) ([]byte, error) {
	return s.readHashed(ctx, name)
}

// CopyIncidents puts every incident object that is not in to there, too.
func (s *State) CopyIncidents(ctx context.Context, to *State) error {
	there := make(map[string]bool)
	for name, err := range to.store.List(ctx, "incidents/") {
		if err != nil {
			return err
		}
		there[name] = true
	}
	var failed []error
	for name, err := range s.store.List(ctx, "incidents/") {
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		if there[name] {
			continue
		}
		evidence, err := s.readHashed(ctx, name)
		if err == nil {
			err = to.create(ctx, name, evidence)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

// PutAlert writes an alert's payload, JSON. The ID must follow from all that the
// alert says: the same payload again is success, another one under the same ID an
// *ExistsError, since to keep either silently would lose the other.
func (s *State) PutAlert(ctx context.Context, id string, payload []byte) error {
	if err := checkPart("alert", id, payload); err != nil {
		return err
	}
	return s.create(ctx, "alerts/"+id+".json", payload)
}

// Alert returns an alert's payload.
func (s *State) Alert(ctx context.Context, id string) ([]byte, error) {
	if err := checkPart("alert", id, nil); err != nil {
		return nil, err
	}
	name := "alerts/" + id + ".json"
	payload, _, err := s.store.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	if !json.Valid(payload) {
		return nil, corruptArchive(name, errors.New("it is not JSON"))
	}
	return payload, nil
}

// checkPart checks an ID that goes into a name, and JSON that goes there unless nil.
func checkPart(what, id string, payload []byte) error {
	if len(id) > 128 || !partForm.MatchString(id) {
		return fmt.Errorf("%.200q is not an ID of an %s: want at most 128 of [a-z0-9._-], no dot first", id, what)
	}
	if payload != nil && !json.Valid(payload) {
		return fmt.Errorf("%s %s: its payload is not JSON", what, id)
	}
	return nil
}

// create writes an object that never changes. A write that failed is read back,
// since it may have happened.
func (s *State) create(ctx context.Context, name string, data []byte) error {
	err := s.store.Create(ctx, name, data)
	if err == nil || errors.As(err, new(*ExistsError)) {
		return err
	}
	if stored, _, readErr := s.readBack(ctx, name); readErr == nil && bytes.Equal(stored, data) {
		return nil
	}
	return err
}

// createHashed creates an object with its content's hash in its name.
func (s *State) createHashed(ctx context.Context, stem, suffix string, data []byte) (string, error) {
	name := stem + contentHash(data) + suffix
	return name, s.create(ctx, name, data)
}

// readHashed reads such an object.
func (s *State) readHashed(ctx context.Context, name string) ([]byte, error) {
	data, _, err := s.store.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	stem, _, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ".json")
	if !strings.HasSuffix(stem, "-"+contentHash(data)) {
		return nil, corruptArchive(name, errors.New("its content does not have the hash in its name"))
	}
	return data, nil
}

func contentHash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

func corruptArchive(name string, err error) error {
	return &CorruptError{Name: name, Err: err, Remedy: "restore it from a backup"}
}

// Signing is where a certificate that was alerted was found first.
type Signing struct {
	Log   tlog.ID   `json:"log"`
	Index uint64    `json:"index"`
	At    time.Time `json:"at"`
}

var signingName = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// PutSigning records the first alert about a certificate, by its CertificateID (see
// package entry), unless one is recorded, and returns the one that is.
func (s *State) PutSigning(ctx context.Context, certificate string, sig Signing) (Signing, error) {
	if !signingName.MatchString(certificate) {
		return sig, fmt.Errorf("%q is no certificate ID", certificate)
	}
	data, err := json.MarshalIndent(sig, "", "  ")
	if err != nil {
		return sig, err
	}
	name := "signings/" + certificate + ".json"
	err = s.create(ctx, name, append(data, '\n'))
	exists := (*ExistsError)(nil)
	if !errors.As(err, &exists) {
		return sig, err
	}
	var first Signing
	if err := json.Unmarshal(exists.Stored, &first); err != nil {
		return sig, corruptArchive(name, err)
	}
	return first, nil
}
