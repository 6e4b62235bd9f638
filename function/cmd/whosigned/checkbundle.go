package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/tlog"
)

func newCheckBundle() *cobra.Command {
	f := &flags{}
	evidence := ""
	c := &cobra.Command{
		Use:   "check-bundle --config FILE BUNDLE…",
		Short: "Does a Sigstore bundle's entry lie in the history that was seen, or has the log forked",
		Long: `Hold Sigstore bundles against the history that this monitor saw. A log that shows you
one history and the monitor another is caught here: your bundle is a second view of it.

For each log entry in a bundle: its inclusion proof must verify under its checkpoint,
and that under the log's key. Then the checkpoint is compared with the archived one of
its size, or the log is asked to prove that the checkpoint and the newest one in the
state are of one history. An entry without an inclusion proof (bundle v0.1) is looked
up in the log. The answer says up to which size the history is proven, and since when.
An entry newer than the last run is not checked: run, then check again.

This does not verify the artifact, its signature or who signed it: cosign verify and
sigstore-go do. It says that the entry is where the log's watchers can see it.

BUNDLE is a file (v0.1 to v0.3; several bundles one after the other, as in
"gh attestation download", are each checked), or - for standard input. The state is
only read: roles/storage.objectViewer is enough for a bucket. The logs that the bundles
name may be asked for proofs.

Evidence is JSON that a third party can check with the log's key, as in the state's
incidents/. Two signed roots of one size are proof; what a log could not prove is
suspicion. Each is written into the folder that --evidence names, or printed.

Exit status; the first that applies:
  2  the command line or the configuration is wrong
  4  evidence that an entry does not lie in the history
  1  an entry could not be checked, or nothing that a log signed says that it is there
  0  all entries lie in the history`,
		Example: `  whosigned check-bundle --config whosigned.yaml app.sigstore.json
  whosigned check-bundle --config whosigned.yaml --evidence ./evidence app.sigstore.json
  whosigned check-bundle --config whosigned.yaml --json - < app.sigstore.json | jq .bundles`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return nil
			}
			return usage(fmt.Errorf("no bundle is named: give files, or - for standard input\nsee: %s --help", c.CommandPath()))
		},
		RunE: func(c *cobra.Command, names []string) error {
			m, err := f.openSilent(c)
			if err != nil {
				return err
			}
			if m.State == nil {
				return usage(fmt.Errorf("%s: no state: is configured, and history is in it; say where it is: --state gs://BUCKET", f.config))
			}
			h, err := m.History(c.Context())
			if err != nil {
				return err
			}
			r := &bundleReport{Trust: h.Trust, TrustError: h.TrustError, Bundles: []*monitor.BundleCheck{}}
			for _, name := range names {
				r.check(c, h, name)
			}
			failed := r.save(evidence)
			if f.json {
				err = printJSON(c.OutOrStdout(), r)
			} else {
				printBundles(c.OutOrStdout(), r)
			}
			if err = errors.Join(failed, err); err != nil || r.Exit != monitor.ExitClean {
				return &exitError{max(r.Exit, monitor.ExitFailed), err}
			}
			return nil
		},
	}
	f.common(c)
	f.result(c)
	c.Flags().StringVar(&f.state, "state", "", "`URL` of the state (default what WHOSIGNED_STATE or the configuration says)")
	c.Flags().StringVar(&evidence, "evidence", "", "`FOLDER` to write evidence into (default it is printed)")
	return c
}

// bundleReport is what `whosigned check-bundle` finds out. Its JSON is a stable
// interface.
type bundleReport struct {
	Exit int `json:"exit"`
	// Trust and TrustError say how the TUF repository fared, as in a run's result.
	Trust      string                 `json:"trust,omitempty"`
	TrustError string                 `json:"trustError,omitempty"`
	Bundles    []*monitor.BundleCheck `json:"bundles"`
	// Evidence are the files written, by the incident's ID.
	Evidence map[string]string `json:"evidenceFiles,omitempty"`
}

// check checks every bundle in a file.
func (r *bundleReport) check(c *cobra.Command, h *monitor.History, name string) {
	data, err := readBundles(c.InOrStdin(), name)
	if err != nil {
		r.add(&monitor.BundleCheck{Name: name, Status: monitor.BundleNotChecked, Error: err.Error(), Entries: []monitor.BundleEntry{}})
		return
	}
	all := splitBundles(data)
	for i, one := range all {
		called := name
		if len(all) > 1 {
			called = fmt.Sprintf("%s#%d", name, i+1)
		}
		r.add(h.CheckBundle(c.Context(), called, one))
	}
}

func (r *bundleReport) add(b *monitor.BundleCheck) {
	r.Bundles = append(r.Bundles, b)
	switch b.Status {
	case monitor.BundleInHistory:
	case monitor.BundleTamper:
		r.Exit = monitor.ExitTamper
	default:
		r.Exit = max(r.Exit, monitor.ExitFailed)
	}
}

// readBundles reads a file, or stdin for -, up to a byte more than a bundle may have.
func readBundles(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	return io.ReadAll(io.LimitReader(in, monitor.MaxBundle+1))
}

// maxBundles is how many bundles a file may have; what follows counts as one more,
// which is none.
const maxBundles = 1000

// splitBundles takes a file of several JSON values apart. What is no JSON stays whole.
func splitBundles(data []byte) [][]byte {
	if len(data) > monitor.MaxBundle {
		return [][]byte{data}
	}
	var all [][]byte
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		begins := d.InputOffset()
		var one json.RawMessage
		err := d.Decode(&one)
		switch {
		case errors.Is(err, io.EOF) && len(all) > 0:
			return all
		case err != nil || len(all) == maxBundles:
			return append(all, data[begins:])
		}
		all = append(all, one)
	}
}

// save writes each incident's evidence into a folder, if one is named.
func (r *bundleReport) save(folder string) error {
	if folder == "" {
		return nil
	}
	var failed []error
	for _, b := range r.Bundles {
		for _, e := range b.Entries {
			if e.Evidence == nil {
				continue
			}
			path, err := saveEvidence(folder, e.Evidence)
			if err != nil {
				failed = append(failed, fmt.Errorf("evidence of incident %s: %w", e.Evidence.ID, err))
				continue
			}
			if r.Evidence == nil {
				r.Evidence = make(map[string]string)
			}
			r.Evidence[e.Evidence.ID] = path
		}
	}
	return errors.Join(failed...)
}

// saveEvidence writes a file named as in the state's incidents/, by its content.
func saveEvidence(folder string, in *tlog.Incident) (string, error) {
	data, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	path := filepath.Join(folder, in.ID+"-"+hex.EncodeToString(sum[:8])+".json")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, data, 0o600)
}

// bundleWords are the statuses as people read them.
var bundleWords = map[monitor.BundleStatus]string{
	monitor.BundleInHistory: "in the history", monitor.BundleTamper: "TAMPERING", monitor.BundleUnverified: "proves nothing",
	monitor.BundleNotChecked: "not checked", monitor.BundleNotWatched: "not watched",
}

func printBundles(w io.Writer, r *bundleReport) {
	p := printer{w}
	if r.Trust != "" && r.Trust != monitor.TrustOK {
		p.line("trust           %s: the last verified keys are used: %s\n", r.Trust, r.TrustError)
	}
	for _, b := range r.Bundles {
		p.line("%-14s  %s", bundleWords[b.Status], b.Name)
		if b.Error != "" {
			p.line("                %s", b.Error)
		}
		for _, e := range b.Entries {
			p.bundleEntry(e, r.Evidence)
		}
		p.line("")
	}
	p.line("This says where the entries lie. Whether the artifact's signature verifies, and who signed it, cosign verify says.")
}

func (p printer) bundleEntry(e monitor.BundleEntry, files map[string]string) {
	if e.Origin == "" {
		p.line("                entry %d", e.Index)
	} else {
		p.line("                entry %d of %s", e.Index, e.Origin)
	}
	if e.Log != "" {
		p.line("                log %s", string(e.Log))
	}
	p.line("                %s: %s", bundleWords[e.Status], e.Text)
	if len(e.Incidents) > 0 {
		p.line("                this log has open incidents: %s", strings.Join(e.Incidents, ", "))
	}
	in := e.Evidence
	if in == nil {
		return
	}
	kind := "suspicion"
	if in.Proof {
		kind = "PROOF"
	}
	p.line("                %s: %s", kind, in.Text)
	p.line("                keep the bundle and the evidence; make a run, and compare with another monitor and the log's operator")
	if path, ok := files[in.ID]; ok {
		p.line("                evidence: %s", path)
		return
	}
	p.line("                evidence:")
	if err := printASCII(p.w, in); err != nil {
		p.line("                %s", err)
	}
}

// printASCII prints JSON that shows on a terminal as what it is: everything but ASCII is
// escaped, which changes nothing of what it says.
func printASCII(w io.Writer, v any) error {
	var text bytes.Buffer
	if err := printJSON(&text, v); err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range text.String() {
		switch {
		case r < 0x7f: // below a space only newlines, which are JSON's own
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, "\\u%04x\\u%04x", high, low)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
