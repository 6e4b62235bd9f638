package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/spf13/cobra"
	formats "github.com/transparency-dev/formats/log"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// importer takes over rekor-monitor's checkpoints; *monitor.Monitor does.
type importer interface {
	Import(context.Context, []monitor.ImportedCheckpoint) ([]monitor.Imported, error)
}

// newImport makes the command; open makes the importer of a configuration.
func newImport(open func(*flags, *cobra.Command) (importer, *config.Config, error)) *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:   "import --config FILE [CHECKPOINTS…]",
		Short: "Go on from where rekor-monitor stopped",
		Long: `Take over the checkpoints that rekor-monitor saved (its --file: logInfo.v1.txt,
logInfo.v2.txt, ctLogInfo.txt, checkpoint_log.txt), so that the first run goes on where
rekor-monitor stopped instead of at the newest entry. Without CHECKPOINTS it is the
configuration's logInfoFile.

A checkpoint is taken if it is signed by a key of a configured log. Those that
rekor-monitor saved of Rekor v2 and of static CT logs have no signature: they are taken
if the log proves that what it signs now extends them. The logs must be new to the
state: what is kept of a log goes before what is imported. The files are only read.`,
		Example: `  whosigned import --config rekor-monitor.yaml logInfo.v1.txt
  whosigned import --config rekor-monitor.yaml`,
		RunE: func(c *cobra.Command, files []string) error {
			m, cfg, err := open(f, c)
			if err != nil {
				return err
			}
			if len(files) == 0 {
				if cfg.Peer.LogInfo == "" {
					return usage(fmt.Errorf("%s has no logInfoFile: name the files with rekor-monitor's checkpoints", f.config))
				}
				files = []string{cfg.Peer.LogInfo}
			}
			var saved []monitor.ImportedCheckpoint
			var errs []error
			for _, name := range files {
				one, err := readCheckpoint(name)
				saved, errs = append(saved, one), append(errs, err)
			}
			if err := errors.Join(errs...); err != nil {
				return usage(err)
			}
			imported, err := m.Import(c.Context(), saved)
			p := printer{c.OutOrStdout()}
			for _, i := range imported {
				p.line("%s: log %s goes on at entry %d (%s)", i.File, string(i.Log), i.Size, i.Origin)
			}
			return err
		},
	}
	f.common(c)
	c.Flags().StringVar(&f.state, "state", "", "`URL` of the state (default what WHOSIGNED_STATE or the configuration says)")
	return c
}

// openImporter makes the monitor of a configuration; nobody is alerted.
func openImporter(f *flags, c *cobra.Command) (importer, *config.Config, error) {
	m, err := f.openSilent(c)
	if err != nil {
		return nil, nil, err
	}
	if m.State == nil {
		return nil, nil, usage(fmt.Errorf("%s: no state: is configured; say where it is: --state gs://BUCKET", f.config))
	}
	return m, m.Config, nil
}

// firstCheckpoint is the checkpoint that rekor-monitor left where the configuration's
// logInfoFile says, from which a first run goes on. There is none once something was
// watched, and why is set if there is none although a logInfoFile is named.
func firstCheckpoint(ctx context.Context, m *monitor.Monitor) (saved []monitor.ImportedCheckpoint, why string, err error) {
	cfg, path := m.Config, m.Config.Peer.LogInfo
	if path == "" || m.State == nil || cfg.Scan != nil {
		return nil, "", nil
	}
	// An import that failed leaves a run.json that knows no log.
	doc, err := m.State.LoadRun(ctx)
	if first := errors.Is(err, state.ErrNotExist) || err == nil && len(doc.Logs) == 0 && doc.LastRun.IsZero(); !first {
		return nil, "", nil // a run says what is wrong with it
	}
	one, err := readCheckpoint(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// To rekor-monitor the same words mean a file in the working directory. Where that is
		// there, to begin elsewhere would leave out what was logged since.
		if here, err := filepath.Abs(cfg.Peer.LogInfoName); err == nil && cfg.Peer.LogInfoName != "" {
			if _, err := os.Stat(here); err == nil {
				return nil, "", fmt.Errorf("logInfoFile: no such file %s, but there is %s: paths are relative to the configuration, not to the working directory; move the file, or give its absolute path", path, here)
			}
		}
		return nil, fmt.Sprintf("logInfoFile: no such file %s, the first run begins at the head, unless start says otherwise", path), nil
	case errors.Is(err, errNoCheckpoint): // as rekor-monitor leaves it when it is stopped early
		return nil, fmt.Sprintf("logInfoFile: %s is empty, the first run begins at the head, unless start says otherwise", path), nil
	case err != nil:
		return nil, "", fmt.Errorf("logInfoFile: %w; to begin without it, remove the file", err)
	}
	return []monitor.ImportedCheckpoint{one}, "", nil
}

// startingPoint is what a first run would go on from, as check says it.
type startingPoint struct {
	File  string  `json:"file"`
	Log   tlog.ID `json:"log,omitempty"`   // that signed it
	Entry uint64  `json:"entry,omitempty"` // the index that reading goes on from
	Note  string  `json:"note,omitempty"`  // why there is none
	Error string  `json:"error,omitempty"` // why a run would fail
}

// startsFrom is what was found of the checkpoint that was given to Check; else note and
// err say why there was none.
func startsFrom(checked *monitor.Checked, note string, err error) *startingPoint {
	p := &startingPoint{Note: note, Error: checked.ImportError}
	if err != nil {
		p.Error = err.Error()
	}
	for _, l := range checked.Logs {
		if l.Imported != "" {
			p.Log, p.Entry = l.ID, l.From
		}
	}
	return p
}

var errNoCheckpoint = errors.New("no checkpoint in it")

// maxCheckpoints is the size limit of a file of checkpoints, of which rekor-monitor
// kept a hundred.
const maxCheckpoints = 8 << 20

// readCheckpoint reads the newest checkpoint of a file that rekor-monitor wrote. It
// checks its form, not its signature.
func readCheckpoint(name string) (monitor.ImportedCheckpoint, error) {
	saved := monitor.ImportedCheckpoint{File: name}
	f, err := os.Open(name)
	if err != nil {
		return saved, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCheckpoints+1))
	if err != nil {
		return saved, err
	}
	if len(data) > maxCheckpoints {
		return saved, fmt.Errorf("%s is larger than %d bytes; rekor-monitor writes no such files", name, maxCheckpoints)
	}
	if saved.Note, saved.STH, err = parseCheckpoint(data); err != nil {
		return saved, fmt.Errorf("%s: %w", name, err)
	}
	return saved, nil
}

// parseCheckpoint reads one of the forms that rekor-monitor's releases wrote: a JSON
// tree head; or notes, each in one line with \n for its line ends, the newest last.
// A note with its line ends, as logs serve it, will do too.
func parseCheckpoint(data []byte) (note []byte, sth *tlog.TreeHead, err error) {
	text := strings.TrimRight(string(data), " \t\r\n")
	if text == "" {
		return nil, nil, errNoCheckpoint
	}
	if strings.HasPrefix(text, "{") {
		sth, err = parseTreeHead(text)
		return nil, sth, err
	}
	if last := text[strings.LastIndexByte(text, '\n')+1:]; strings.Contains(last, `\n`) {
		text = strings.ReplaceAll(last, `\n`, "\n")
	}
	text = strings.TrimRight(text, "\n") + "\n"
	if len(text) > tlog.MaxCheckpoint {
		return nil, nil, fmt.Errorf("a note of %d bytes, more than any log's", len(text))
	}
	var cp formats.Checkpoint
	rest, err := cp.Unmarshal([]byte(text))
	signed := strings.Contains(text, "\n\n— ")
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("its last line is no checkpoint: %w", err)
	case cp.Size == 0:
		return nil, nil, errors.New("it is of an empty log, from which there is nothing to go on")
	case len(cp.Hash) != len(tlog.Hash{}):
		return nil, nil, fmt.Errorf("its root hash has %d bytes, want %d", len(cp.Hash), len(tlog.Hash{}))
	case !signed && len(bytes.TrimSpace(rest)) > 0:
		return nil, nil, fmt.Errorf("its last line is torn: %q after the root hash, and no signature", rest)
	}
	return []byte(text), nil, nil
}

// parseTreeHead reads a tree head as encoding/json writes the one of
// certificate-transparency-go.
func parseTreeHead(text string) (*tlog.TreeHead, error) {
	var sth ct.SignedTreeHead
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&sth); err != nil {
		return nil, fmt.Errorf("no signed tree head: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the signed tree head")
	}
	if sth.Version != ct.V1 {
		return nil, fmt.Errorf("a tree head of version %d, want %d", sth.Version, ct.V1)
	}
	if sth.TreeSize == 0 {
		return nil, errors.New("it is of an empty log, from which there is nothing to go on")
	}
	signature, err := tls.Marshal(tls.DigitallySigned(sth.TreeHeadSignature))
	if err != nil {
		return nil, fmt.Errorf("the tree head's signature: %w", err)
	}
	if len(sth.TreeHeadSignature.Signature) == 0 {
		return nil, errors.New("the tree head has no signature")
	}
	return &tlog.TreeHead{Size: sth.TreeSize, Timestamp: sth.Timestamp, Root: tlog.Hash(sth.SHA256RootHash), Signature: signature}, nil
}

// writeIdentityMetadata writes rekor-monitor's identityMetadataFile after a run: the
// index of the last entry that was looked at, over all trees for Rekor v1; for a log of
// RFC 6962 its size, for there rekor-monitor counts one more. It has room for one
// log: the first Rekor v1 service, else the first log. Of one that is not read in full
// nothing is written, with a warning in res: who gives the index back as startIndex would
// pass over what was not read. After a scan it is the index of the last entry of the
// range, and nothing if not all of that was read.
func writeIdentityMetadata(path string, res *monitor.Result, scan *config.Scan) error {
	var first *monitor.LogResult
	for i := range res.Logs {
		l := &res.Logs[i]
		if l.Size > 0 && (first == nil || l.Type == tlog.RekorV1 && first.Type != tlog.RekorV1) {
			first = l
		}
	}
	if path == "" || first == nil {
		return nil
	}
	if scan == nil && first.Coverage != config.Full {
		res.Warnings = append(res.Warnings, fmt.Sprintf("identityMetadataFile: it is not written: %s is watched with coverage %s, so there is no entry up to which all were read; list that log with coverage: full, or remove the key", first.URL, first.Coverage))
		return nil
	}
	looked := uint64(0)
	if scan != nil {
		looked = scan.Start
	}
	for _, l := range res.Logs {
		switch same := l.Type == tlog.RekorV1 && l.URL == first.URL; {
		case l.ID != first.ID && !same:
		case scan != nil && l.Error != "":
			return nil
		case scan != nil: // its trees follow one another
			looked += l.Entries
		default:
			looked += l.Scanned
		}
	}
	if looked == 0 {
		return nil
	}
	if first.Type != tlog.RFC6962 || scan != nil && scan.End > 0 {
		looked--
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".identity-*") // 0600, as rekor-monitor's
	if err != nil {
		return fmt.Errorf("identityMetadataFile: %w", err)
	}
	_, err = fmt.Fprintf(tmp, `{"latestIndex":%d}`, looked)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("identityMetadataFile: %w", err)
	}
	return nil
}
