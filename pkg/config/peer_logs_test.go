package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/trust"
)

// watched is what a configuration asks to be watched, before a trusted root says
// which logs there are.
func watched(cfg *Config) string {
	var all []string
	if cfg.Trust != nil {
		all = append(all, "trust")
	}
	if cfg.Discover {
		all = append(all, "all")
	}
	for _, l := range cfg.listed {
		all = append(all, fmt.Sprintf("%s %s %s %s", l.log.Type, l.log.URL, l.log.Coverage, l.log.Origin))
	}
	return strings.Join(all, "; ")
}

func TestWithoutLogsARekorMonitorFileWatchesWhatItsFlagsDefaultsMean(t *testing.T) {
	const all, v1 = "rekor-monitor's default, https://rekor.sigstore.dev, grows by more than a run can read", "rekor-v1 https://rekor.sigstore.dev "
	for _, tc := range []struct{ text, want, warning string }{
		{"monitoredValues: {subjects: [a]}", "trust; all", "1: logs: missing; " + all},
		{"outputIdentities: a.txt", "trust; " + v1 + "consistency ", "nothing is read of it, for there are no monitoredValues"},
		{"monitoredValues: {subjects: [a]}\nstartIndex: 5\nendIndex: 9", "trust; " + v1 + "full ", "the range is that of rekor-monitor's default"},
		{"monitoredValues: {subjects: [a]}\nctShards: [\"https://ct.acme.example/2026\", \"https://ct.acme.example/2025,ct.acme.example/old\"]",
			"trust; static-ct https://ct.acme.example/2026 full ; static-ct https://ct.acme.example/2025 full ct.acme.example/old", "3: ctShards: these CT logs are watched"},
		{"monitoredValues: {subjects: [a]}\nctShards: \"https://ct.acme.example/a: {b}\"", "trust; static-ct https://ct.acme.example/a:%20%7Bb%7D full ", "ctShards"},
		{"monitoredValues: {subjects: [a]}\ntrust: {tuf: staging}", "trust; all", all},
		{"monitoredValues: {subjects: [a]}\ntrustedRoot: staging.json", "all", all},
	} {
		cfg := load(t, folder(t), "# rekor-monitor\n"+tc.text+"\n")
		if got := watched(cfg); got != tc.want {
			t.Errorf("%s\ngot  %s\nwant %s", tc.text, got, tc.want)
		}
		if !strings.Contains(after(cfg), tc.warning) {
			t.Errorf("%s: got warnings\n%s\nwant one with %q", tc.text, after(cfg), tc.warning)
		}
	}
	public, staging := trust.PublicGood(), trust.Staging()
	for text, want := range map[string]string{"": public.Name, "trust: {tuf: staging}\n": staging.Name} {
		if got := load(t, folder(t), "monitoredValues: {subjects: [a]}\n"+text).Trust.Name; got != want {
			t.Errorf("%q: got the repository %s, want %s", text, got, want)
		}
	}
}

func TestWhatIsNobodysConfigurationWatchesNothing(t *testing.T) {
	for _, text := range []string{"a: b", "serverURL: https://rekor.sigstore.dev", "patience: 1h", "state: s\nmonitoredValues: {subjects: [a]}"} {
		if cfg, err := Parse(filepath.Join(folder(t), "c.yaml"), []byte(text+"\n")); err == nil || !strings.Contains(err.Error(), "no logs to watch") {
			t.Errorf("%q: got %+v, %v, want that there are no logs to watch", text, cfg, err)
		}
	}
}

func TestAShardThatCannotBeReadIsPointedAt(t *testing.T) {
	dir := folder(t)
	_, err := Parse(filepath.Join(dir, "c.yaml"), []byte("monitoredValues: {subjects: [a]}\nctShards:\n- ct.acme.example\n- \"https://a.example,b\\\"}, {x: y\"\n"))
	want := "c.yaml:2: logs[0].url: \"ct.acme.example\" is not an http:// or https:// URL"
	if err == nil || strings.ReplaceAll(err.Error(), dir+"/", "") != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestStateIsKeptBesideWhatRekorMonitorKept(t *testing.T) {
	dir := folder(t)
	for _, tc := range []struct{ text, state, logInfo, metadata string }{
		{"logInfoFile: kept/logInfo.txt", dir + "/kept/logInfo.txt.whosigned", dir + "/kept/logInfo.txt", ""},
		{"logInfoFile: /var/lib/rekor/ct.txt", "/var/lib/rekor/ct.txt.whosigned", "/var/lib/rekor/ct.txt", ""},
		{"identityMetadataFile: meta.json", dir + "/whosigned.yaml.whosigned", "", dir + "/meta.json"},
		{"logInfoFile: a.txt\nstartIndex: 1", "", dir + "/a.txt", ""},
	} {
		cfg := load(t, dir, "monitoredValues: {subjects: [a]}\n"+tc.text+"\n")
		state := strings.TrimPrefix(cfg.State, "file://")
		if want := (Peer{LogInfo: tc.logInfo, Metadata: tc.metadata}); state != tc.state || cfg.Peer != want {
			t.Errorf("%s: got state %s and %+v, want %s and %+v", tc.text, state, cfg.Peer, tc.state, want)
		}
		if said := strings.Contains(after(cfg), "what was proven is kept in the folder "); said != (tc.state != "") {
			t.Errorf("%s: got warnings\n%s\nwant that it is said where state is kept: %v", tc.text, after(cfg), tc.state != "")
		}
	}
}

func TestKeysThatRekorMonitorPassesOverAreSaid(t *testing.T) {
	cfg := load(t, folder(t), "monitoredValues: {subjects: [a]}\nserverURL: https://rekor.acme.example\ninterval: 5m\ntrustedCAs: [ca.pem]\nctShards: []\n"+
		"outputIdentitiesFormat: json\ngithubIssue: {repositoryOwner: a, repositoryName: b, githubClient: {}}\n"+strings.Replace(someLogs, "state: s\n", "", 1))
	const over = "rekor-monitor passes over this key since v1.4, and so does whosigned; "
	for _, want := range []string{
		"2: serverURL: " + over + "list the log under logs",
		"3: interval: " + over + "give it to whosigned run as --every",
		"4: trustedCAs: " + over + "use caRootsFile",
		"5: ctShards: it has no effect beside logs; list each as {type: static-ct, url: \"https://…\"}",
		"6: outputIdentitiesFormat: it has no effect without outputIdentities",
		"7: githubIssue.githubClient: it is ignored: it cannot be written in YAML",
	} {
		if !strings.Contains("\n"+after(cfg)+"\n", "\n"+want+"\n") {
			t.Errorf("got warnings\n%s\nwant %s", after(cfg), want)
		}
	}
}
