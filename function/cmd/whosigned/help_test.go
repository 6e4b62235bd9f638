package main

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whosigned/whosigned/pkg/config"
)

// knownPeerFlags and knownPeerKeys are what rekor-monitor v1.4 to v1.5 has.
var (
	knownPeerFlags = strings.Fields("config-file config once file monitor-port url interval user-agent tuf-repository tuf-root-path ca-roots ca-intermediates https-cert-chain trusted-ca")
	knownPeerKeys  = strings.Fields(`startIndex endIndex monitoredValues outputIdentities outputIdentitiesFormat logInfoFile identityMetadataFile
		githubIssue gitHubIssue emailNotificationSMTP emailNotificationMailgun emailNotificationSendGrid caRootsFile caIntermediatesFile ctShards
		serverURL interval trustedCAs certIdentities subjects fingerprints oidMatchers fulcioExtensions oidExtensions customExtensions`)
)

func TestEveryFlagAndKeyOfRekorMonitorsHasAnEquivalent(t *testing.T) {
	listed := func(rows []moved, form string) []string {
		var all []string
		for _, r := range rows {
			all = append(all, regexp.MustCompile(form).FindAllString(r.theirs+" "+r.note, -1)...)
		}
		return all
	}
	flags := listed(peerFlags, `--[a-z-]+`)
	for _, name := range knownPeerFlags {
		if !slices.Contains(flags, "--"+name) {
			t.Errorf("flag --%s is not listed", name)
		}
	}
	keys := listed(peerKeys, `[A-Za-z]+`)
	for _, name := range knownPeerKeys {
		if !slices.Contains(keys, name) {
			t.Errorf("key %s is not listed", name)
		}
	}
	for _, r := range slices.Concat(peerFlags, peerKeys, peerInputs) {
		if r.ours == "" {
			t.Errorf("%s has no equivalent", r.theirs)
		}
	}
}

func TestEveryKeyOfRekorMonitorsIsKnownToTheConfiguration(t *testing.T) {
	for _, name := range knownPeerKeys {
		text := name + ":\n"
		if slices.Contains(strings.Fields("certIdentities subjects fingerprints oidMatchers fulcioExtensions oidExtensions customExtensions"), name) {
			text = "monitoredValues:\n  " + text
		}
		cfg, err := config.Parse(filepath.Join(t.TempDir(), "c.yaml"), []byte("caRootsFile:\n"+text))
		if name == "caRootsFile" {
			cfg, err = config.Parse(filepath.Join(t.TempDir(), "c.yaml"), []byte(text))
		}
		said := ""
		if err != nil {
			said = err.Error()
		} else {
			said = strings.Join(cfg.Warnings, "\n")
		}
		if strings.Contains(said, "unknown key") {
			t.Errorf("%s: %s", name, said)
		}
	}
}

func TestEveryEquivalentExists(t *testing.T) {
	root := newRoot(&bytes.Buffer{}, &bytes.Buffer{})
	flags, commands := map[string]bool{}, map[string]bool{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		commands[c.Name()] = true
		c.Flags().VisitAll(func(f *pflag.Flag) { flags["--"+f.Name] = true })
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	text := peerIntro + peerOutro
	for _, r := range slices.Concat(peerFlags, peerKeys, peerInputs) {
		text += r.ours + "\n" + r.note + "\n"
	}
	for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(text, -1) {
		if !flags[flag] && !slices.Contains(knownPeerFlags, strings.TrimPrefix(flag, "--")) {
			t.Errorf("there is no flag %s", flag)
		}
	}
	for _, r := range slices.Concat(peerFlags, peerKeys, peerInputs) {
		for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(r.ours, -1) {
			if !flags[flag] {
				t.Errorf("%s: there is no flag %s", r.theirs, flag)
			}
		}
	}
	for _, m := range regexp.MustCompile(`whosigned (check|import|run|scan|status|[a-z-]+) `).FindAllStringSubmatch(text, -1) {
		if name := m[1]; !commands[name] && name != "looks" && name != "and" {
			t.Errorf("there is no command %s", name)
		}
	}

	// What is written like YAML has to be known to the configuration, the ellipsis and
	// upper-case placeholders aside.
	checked := 0
	for _, r := range slices.Concat(peerFlags, peerKeys, peerInputs) {
		if !regexp.MustCompile(`^[a-zA-Z]+: `).MatchString(r.ours) {
			continue
		}
		checked++
		yaml := strings.NewReplacer(", …", "", "…", "{}", "URL", `"https://tuf.example.com"`, "FILE", "f.pem", "gs://BUCKET/PREFIX", "gs://acme-state/prefix").Replace(r.ours)
		_, err := config.Parse(filepath.Join(t.TempDir(), "c.yaml"), []byte("watch: []\n"+yaml+"\n"))
		if err == nil {
			continue
		}
		for _, wrong := range []string{"unknown", "not valid YAML", "did you mean", "want "} {
			if strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: %s: %v", r.theirs, yaml, err)
				break
			}
		}
	}
	if checked < 8 {
		t.Errorf("checked %d examples, want at least 8", checked)
	}
}

func TestTheTopicIsPrinted(t *testing.T) {
	var out, errOut bytes.Buffer
	if status := execute(t.Context(), []string{"help", "from-rekor-monitor"}, &out, &errOut); status != 0 || !strings.Contains(out.String(), "--ca-intermediates FILE") {
		t.Errorf("got status %d, %q, %q; want the topic", status, out.String(), errOut.String())
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(line)); n > 101 {
			t.Errorf("a line of %d characters: %s", n, line)
		}
	}
}
