package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func newDemo() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "demo [--out DIR]",
		Short: "The whole story in seconds, offline: logs that grow, a theft, a log that lies",
		Long: `Starts a Rekor v1 service and a Rekor v2 shard in memory, with entries signed through a
CA shaped like Fulcio, and makes three real runs against them over HTTP:

  1. a baseline is taken;
  2. your release workflow signs, as it should; somebody else signs as you: an alert;
  3. the Rekor v2 log shows a second history: an alert with the proof.

The emails, the configuration and the state stay in DIR for you to look at.`,
		Example: `  whosigned demo
  whosigned demo --out ./whosigned-demo`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := newStory(c.Context(), out, c.OutOrStdout())
			if err != nil {
				return err
			}
			defer d.stop()
			return d.tell(c.Context())
		},
	}
	c.Flags().StringVar(&out, "out", "", "`DIR` to leave emails and state in; must be empty or new (default a new temporary folder)")
	return c
}

// story is the demo's world: two logs, a CA, and the configuration that watches
// them.
type story struct {
	p     printer
	dir   string
	v1    *tlogtest.RekorV1
	v2    *tlogtest.Tiles
	ca    *tlogtest.CA
	cfg   string
	stops []func() error
	n     int      // artifacts signed
	ours  []uint64 // indexes of what was signed as acme
}

const (
	acme          = "https://github.com/acme/app/.github/workflows/"
	release       = acme + "release.yml@refs/tags/v1.2.3"
	theft         = acme + "build.yml@refs/heads/dependabot-patch-1"
	actions       = "https://token.actions.githubusercontent.com"
	strangerCount = 400
)

func newStory(ctx context.Context, dir string, out io.Writer) (*story, error) {
	dir, err := demoFolder(dir)
	if err != nil {
		return nil, err
	}
	s := &story{p: printer{out}, dir: dir}
	if err := s.serve(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func demoFolder(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "whosigned-demo-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", usage(err)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return "", usage(fmt.Errorf("--out %s is not empty: give a new folder", dir))
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", usage(err)
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// serve starts the logs and writes the configuration that watches them.
func (s *story) serve(ctx context.Context) error {
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if s.ca, err = tlogtest.NewCA("sigstore.example"); err != nil {
		return err
	}
	if s.v1, err = tlogtest.NewRekorV1(ecKey); err != nil {
		return err
	}
	if s.v2, err = tlogtest.NewTiles("log2026-1.rekor.example", edKey); err != nil {
		return err
	}
	if err := s.strangers(strangerCount); err != nil {
		return err
	}
	v1URL, stop, err := tlogtest.Serve(ctx, s.v1)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, stop)
	v2URL, stop, err := tlogtest.Serve(ctx, s.v2)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, stop)
	return s.configure(v1URL, v2URL)
}

func (s *story) stop() error {
	var errs []error
	for _, stop := range s.stops {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}

func (s *story) configure(v1URL, v2URL string) error {
	v1Key, err := s.v1.Active().PublicKeyPEM()
	if err != nil {
		return err
	}
	v2Key, err := s.v2.PublicKeyPEM()
	if err != nil {
		return err
	}
	s.cfg = filepath.Join(s.dir, "whosigned.yaml")
	yaml := fmt.Sprintf(`# What the demo ran with. A real one has trust: {tuf: public-good}.
state: ./state
caRootsFile: ca-root.pem
caIntermediatesFile: ca-intermediate.pem
logs:
  - {type: rekor-v1, url: "%s", key: rekor1.pub}
  - {type: rekor-v2, url: "%s", key: rekor2.pub, origin: log2026-1.rekor.example}
watch:
  - name: acme
    subject: {glob: "https://github.com/acme/*"}
    issuer: {exact: "%s"}
    # Our release workflow, on tags: routine, recorded, not alerted.
    expect: [{extensions: {build-signer-uri: {glob: "%srelease.yml@refs/tags/v*"}}}]
alerts:
  folder: {path: ./mail}
`, v1URL, v2URL, actions, acme)
	for name, data := range map[string][]byte{
		"rekor1.pub": v1Key, "rekor2.pub": v2Key, "ca-root.pem": s.ca.RootPEM(), "ca-intermediate.pem": s.ca.IntermediatePEM(),
		"whosigned.yaml": []byte(yaml),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// github is the identity that Fulcio certifies for a GitHub workflow.
func github(workflow string) tlogtest.Identity {
	repository, _, _ := strings.Cut(workflow, "/.github/")
	_, ref, _ := strings.Cut(workflow, "@")
	return tlogtest.Identity{URI: workflow, Issuer: actions, Extensions: map[int]string{
		9: workflow, 11: "github-hosted", 12: repository, 14: ref, 18: workflow, 20: "push", 21: repository + "/actions/runs/1/attempts/1",
	}}
}

// sign makes an artifact's entry in each log, signed by a GitHub workflow.
func (s *story) sign(workflow string) error {
	signer, err := s.ca.Issue(github(workflow))
	if err != nil {
		return err
	}
	s.n++
	s.ours = append(s.ours, s.v2.Tree().Size())
	artifact := fmt.Appendf(nil, "artifact %d", s.n)
	one, err := tlogtest.HashedRekordV001(signer, artifact)
	if err != nil {
		return err
	}
	two, err := tlogtest.HashedRekordV002(signer, artifact)
	if err != nil {
		return err
	}
	s.v1.Active().Append(one)
	s.v2.Append(two)
	return nil
}

// strangers fills both logs with what others sign all day.
func (s *story) strangers(n uint64) error {
	signer, err := s.ca.Issue(github("https://github.com/someone/else/.github/workflows/ci.yml@refs/heads/main"))
	if err != nil {
		return err
	}
	one, err := tlogtest.Synthetic(tlogtest.HashedRekordV001, signer)
	if err != nil {
		return err
	}
	two, err := tlogtest.Synthetic(tlogtest.HashedRekordV002, signer)
	if err != nil {
		return err
	}
	first := s.v2.Tree().Size()
	for i := first; i < first+n; i++ {
		s.v1.Active().Append(one(i))
		s.v2.Append(two(i))
	}
	return s.v2.Publish()
}

// tell makes the three runs.
func (s *story) tell(ctx context.Context) error {
	s.p.line("A Rekor v1 service and a Rekor v2 shard run on loopback, with %d entries each.", strangerCount)
	s.p.line("We are acme. Our release workflow signs at %s\n", release)

	s.p.line("── Run 1: the first. What the logs hold now is the baseline.")
	if err := s.pass(ctx, monitor.ExitClean); err != nil {
		return err
	}

	s.p.line("── An hour later: %d entries more, our release among them, and one that we did not make.", strangerCount)
	err := errors.Join(s.strangers(strangerCount/2), s.sign(release), s.sign(theft), s.strangers(strangerCount/2))
	if err != nil {
		return err
	}
	if err := s.pass(ctx, monitor.ExitFindings); err != nil {
		return err
	}

	s.p.line("── Another hour: the Rekor v2 log signs another history, one without these two entries.")
	if err := s.fork(); err != nil {
		return err
	}
	if err := s.pass(ctx, monitor.ExitTamper); err != nil {
		return err
	}
	s.p.line("Everything is in %s: whosigned.yaml, mail/ (open the .eml files), state/.", s.dir)
	s.p.line("Next: whosigned check --config FILE for your own logs; the README has a configuration to start from.")
	return nil
}

// fork shows and signs a tree of the same size that lacks the entries made as us.
func (s *story) fork() error {
	fork, err := without(s.v2.Tree(), s.ours...)
	if err != nil {
		return err
	}
	s.v2.Show(fork)
	return nil
}

// without is a tree of the same size without some entries; the first ones, once
// more, make up for them at the end.
func without(t *tlogtest.Tree, indexes ...uint64) (*tlogtest.Tree, error) {
	fork, err := t.Fork(slices.Min(indexes))
	if err != nil {
		return nil, err
	}
	for i := fork.Size(); fork.Size() < t.Size(); i++ {
		if slices.Contains(indexes, i) {
			continue
		}
		leaf, err := t.Leaf(i % t.Size())
		if err != nil {
			return nil, err
		}
		fork.Append(leaf)
	}
	return fork, nil
}

// pass makes one run and shows what it says and sends.
func (s *story) pass(ctx context.Context, want int) error {
	cfg, err := config.Load(ctx, s.cfg)
	if err != nil {
		return err
	}
	st, err := state.Open(ctx, cfg.State)
	if err != nil {
		return err
	}
	sinks, err := notify.Open(cfg.Alerts, os.Getenv)
	if err != nil {
		return err
	}
	before, err := s.mails()
	if err != nil {
		return err
	}
	m := &monitor.Monitor{Config: cfg, State: st, Sinks: sinks, Client: tlog.NewClient(tlog.ClientOptions{Version: version()}), Version: version(),
		Again: []time.Duration{50 * time.Millisecond}}
	res, err := m.Run(ctx)
	if err != nil {
		return err
	}
	printResult(s.p.w, res)
	after, err := s.mails()
	if err != nil {
		return err
	}
	for _, name := range after {
		if !slices.Contains(before, name) {
			s.p.line("mail/%s", name)
			s.p.line("  Subject: %s", subject(filepath.Join(s.dir, "mail", name)))
		}
	}
	s.p.line("")
	if res.Exit != want {
		return fmt.Errorf("the demo expected exit status %d, and got %d: please report this", want, res.Exit)
	}
	return nil
}

func (s *story) mails() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "mail"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".eml") {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// subject reads a message's subject.
func subject(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	m, err := mail.ReadMessage(f)
	if err != nil {
		return err.Error()
	}
	text, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		return err.Error()
	}
	return text
}
