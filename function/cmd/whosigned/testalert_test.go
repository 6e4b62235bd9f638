package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
)

// mails is the text of all that was sent to the folder.
func (in *installed) mails() string {
	in.t.Helper()
	names, err := filepath.Glob(filepath.Join(in.dir, "mail", "*.eml"))
	in.must(err)
	var all strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(name)
		in.must(err)
		text, err := mailText(name)
		in.must(err)
		all.WriteString(string(data) + text)
	}
	return all.String()
}

func TestATestAlertIsSentByTheNextRunAndOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		args func(in *installed) []string
		want []string
	}{
		{"by configuration", func(in *installed) []string { return []string{"--config", in.config} }, []string{"sends the test alert to folder\n", "to make that run now: whosigned run --config "}},
		{"by state", func(*installed) []string { return []string{"--state", stateURL} }, []string{"to every sink that it is configured with", "whosigned run --remote --project PROJECT --region REGION"}},
		{"by project", func(*installed) []string { return inCloud() }, []string{"in " + stateURL, "whosigned run --remote --project acme-security --region europe-west1\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInstalled(t)
			status, out, errOut := in.whosigned(append([]string{"test-alert", "--reason", "does it <still> arrive?"}, tc.args(in)...)...)
			if status != monitor.ExitClean {
				t.Fatalf("exit status %d: %s", status, errOut)
			}
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("want %q in %s", want, out)
				}
			}
			decisions, err := in.state.Decisions(t.Context())
			in.must(err)
			if len(decisions) != 1 || decisions[0].Kind != state.TestAlert || decisions[0].By != who() || !strings.Contains(out, decisions[0].ID) {
				t.Errorf("decisions %+v; said: %s", decisions, out)
			}
			in.run()
			if n := strings.Count(in.mails(), "asked for a test alert through every sink: does it <still> arrive?"); n != 1 {
				t.Errorf("sent %d times in the first run, want once", n)
			}
			in.run()
			if n := strings.Count(in.mails(), "asked for a test alert through every sink: does it <still> arrive?"); n != 1 {
				t.Errorf("sent %d times in two runs, want once", n)
			}
		})
	}
}
