package config

import (
	"errors"
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
	for _, text := range []string{"a: b", "serverURL: https://rekor.sigstore.dev", "patience: 1h", "state: s\nalerts: {folder: {path: m}}",
		"watch: [{name: a, subject: {exact: a}}]\nstate: s\nmonitoredValues: {subjects: [a]}"} {
		if cfg, err := Parse(filepath.Join(folder(t), "c.yaml"), []byte(text+"\n")); err == nil || !strings.Contains(err.Error(), "no logs to watch") {
			t.Errorf("%q: got %+v, %v, want that there are no logs to watch", text, cfg, err)
		}
	}
}

// Our warnings advise to add state, alerts and trust. What is watched must not hang on
// whether that was done.
func TestARekorMonitorFileKeepsItsDefaultLogsWhenStateAlertsOrTrustAreAdded(t *testing.T) {
	const v1 = "rekor-v1 https://rekor.sigstore.dev "
	const state, alerts, tuf = "state: s\n", "alerts: {folder: {path: mail}}\n", "trust: {tuf: staging}\n"
	for _, tc := range []struct{ text, want string }{
		{"monitoredValues: {subjects: [a]}\n", "trust; all"},
		{"identityMetadataFile: m.json\n", "trust; " + v1 + "consistency "},
		{"monitoredValues: {subjects: [a]}\nstartIndex: 5\n", "trust; " + v1 + "full "},
		{"monitoredValues: {subjects: [a]}\nctShards: [\"https://ct.acme.example/2026\"]\n", "trust; static-ct https://ct.acme.example/2026 full "},
	} {
		for _, added := range []string{"", state, alerts, tuf, state + alerts + tuf} {
			dir := folder(t)
			cfg := load(t, dir, tc.text+added)
			if got := watched(cfg); got != tc.want {
				t.Errorf("%s: got %s, want %s", tc.text+added, got, tc.want)
			}
			wantState := "file://" + dir + "/whosigned.yaml.whosigned"
			if strings.Contains(added, state) {
				wantState = "file://" + dir + "/s"
			} else if cfg.Scan != nil {
				wantState = ""
			}
			if cfg.State != wantState {
				t.Errorf("%s: got state %q, want %q", tc.text+added, cfg.State, wantState)
			}
			if said := strings.Contains(after(cfg), "nobody will be told"); said == strings.Contains(added, alerts) {
				t.Errorf("%s: got warnings\n%s\nwant that nobody will be told only without alerts", tc.text+added, after(cfg))
			}
		}
	}
	// Its alerts are known whatever else is wrong with it.
	_, err := Parse(filepath.Join(folder(t), "c.yaml"), []byte("monitoredValues: {subjects: [\"(\"]}\n"+alerts))
	var invalid *Error
	if !errors.As(err, &invalid) || len(invalid.Alerts.Folders) != 1 {
		t.Errorf("got %v with alerts %+v, want an *Error with the folder", err, invalid)
	}
}

func TestAFileThatCouldNotBeWrittenIsPointedAtBeforeThereIsAnythingToWrite(t *testing.T) {
	dir := folder(t)
	for _, tc := range []struct{ text, want string }{
		{"outputIdentities: gone/ids.txt", `c.yaml:2: outputIdentities: "gone/ids.txt" cannot be written: stat gone: no such file or directory; make its folder, or name another file`},
		{"identityMetadataFile: gone/m.json", `c.yaml:2: identityMetadataFile: "gone/m.json" cannot be written: stat gone: no such file or directory; make its folder, or name another file`},
		{"outputIdentities: bad.pub/ids.txt", `c.yaml:2: outputIdentities: "bad.pub/ids.txt" cannot be written: bad.pub is no folder; make its folder, or name another file`},
		{"outputIdentities: .", `c.yaml:2: outputIdentities: "." is a folder; name a file`},
		{"identityMetadataFile: gs://acme/m.json", `c.yaml:2: identityMetadataFile: "gs://acme/m.json" is an object of a bucket; name a file`},
		{"logInfoFile: gs://acme/l.txt", `c.yaml:2: logInfoFile: "gs://acme/l.txt" is an object of a bucket; name a file`},
		{"logInfoFile: gone/l.txt", "nothing wrong"}, // state is kept there, and its folder made
	} {
		_, err := Parse(filepath.Join(dir, "c.yaml"), []byte("monitoredValues: {subjects: [a]}\n"+tc.text+"\n"))
		got := "nothing wrong"
		if err != nil {
			got = strings.ReplaceAll(err.Error(), dir+"/", "")
		}
		if got != tc.want {
			t.Errorf("%s\ngot  %s\nwant %s", tc.text, got, tc.want)
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
		want := Peer{LogInfo: tc.logInfo, Metadata: tc.metadata}
		if _, name, ok := strings.Cut(tc.text, "logInfoFile: "); ok {
			want.LogInfoName, _, _ = strings.Cut(name, "\n")
		}
		if state != tc.state || cfg.Peer != want {
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
