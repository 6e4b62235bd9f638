// Package examples holds whole Terraform roots that use the module, each with a
// configuration and what that names.
package examples

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/trust"
)

func TestEveryExamplesConfigurationIsAccepted(t *testing.T) {
	roots, err := filepath.Glob("*/main.tf")
	if err != nil || len(roots) == 0 {
		t.Fatalf("examples: got %d (%v), want some", len(roots), err)
	}
	for _, root := range roots {
		path := filepath.Join(filepath.Dir(root), "whosigned.yaml")
		t.Run(path, func(t *testing.T) {
			cfg := parse(t, path)
			if len(cfg.Warnings) > 0 {
				t.Errorf("warnings: got %q, want none", cfg.Warnings)
			}
			if cfg.Trust != nil {
				cfg = resolve(t, cfg)
			}
			if len(cfg.Logs) == 0 || len(cfg.Alerts.Emails) == 0 {
				t.Errorf("got %d logs and %d emails, want some and some", len(cfg.Logs), len(cfg.Alerts.Emails))
			}
		})
	}
}

func TestPublicGoodReadsRekorV2AndCTInFullAndRekorV1ByIndex(t *testing.T) {
	const path = "public-good/whosigned.yaml"
	cfg := resolve(t, parse(t, path))
	var got []string
	for _, l := range cfg.Logs {
		got = append(got, fmt.Sprintf("%s %s %s retired=%v", l.Kind, l.URL, l.Coverage, l.Retired))
	}
	want := []string{
		"rekor https://rekor.sigstore.dev index retired=false",
		"rekor https://log2025-1.rekor.sigstore.dev full retired=false",
		"ct https://ctfe.sigstore.dev/test full retired=true",
		"ct https://ctfe.sigstore.dev/2022 full retired=false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("logs: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if cfg.Chains.Len() == 0 {
		t.Error("CA certificates: got none, want those of the trusted root, or nothing is expected")
	}
	// What the search index cannot be asked for is said, and nothing else.
	if len(cfg.Warnings) != 1 || !strings.HasSuffix(cfg.Warnings[0], `coverage: index does not cover rule "workflows": subject glob "https://github.com/acme/*": the search index is asked for exact texts only`) {
		t.Errorf("warnings: got %q, want one, about the glob", cfg.Warnings)
	}
}

func TestTheREADMENamesEachHostThatPublicGoodTalksTo(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, hosts, found := strings.Cut(string(readme), "\n## Hosts it talks to\n")
	if hosts, _, _ = strings.Cut(hosts, "\n## "); !found || hosts == "" {
		t.Fatal("terraform/README.md: got no section Hosts it talks to, want one")
	}
	cfg := resolve(t, parse(t, "public-good/whosigned.yaml"))
	urls := []string{cfg.Trust.URL}
	for _, l := range cfg.Logs {
		urls = append(urls, l.URL)
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if want := "`" + u.Hostname() + "`"; !strings.Contains(hosts, want) {
			t.Errorf("Hosts it talks to: got no %s, want it named", want)
		}
	}
}

func parse(t *testing.T, path string) *config.Config {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(path, data)
	if err != nil {
		t.Fatalf("%s: got %v, want a configuration", path, err)
	}
	return cfg
}

// resolve is what the configuration is under the trusted root that Sigstore's public
// instance publishes.
func resolve(t *testing.T, cfg *config.Config) *config.Config {
	t.Helper()
	if cfg.Trust == nil || cfg.Trust.Name != "public-good" {
		t.Fatalf("trust: got %+v, want public-good", cfg.Trust)
	}
	root, err := trust.ReadTrustedRoot("../../testdata/trusted_root_public_good.json", trust.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	resolved, problems := cfg.Resolve(root)
	if len(problems) > 0 {
		t.Fatalf("%s under the published trusted root: got %v, want no problem", cfg.Path, problems)
	}
	return resolved
}
