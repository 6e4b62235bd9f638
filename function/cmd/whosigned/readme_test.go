package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/trust/trusttest"
)

// What the README tells people to write has to work.
func TestEveryConfigurationInTheREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile("../../../testdata/trusted_root_public_good.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	published, err := trust.ParseTrustedRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"tuf-root.json": trusttest.New(t).InitialRoot()}
	for _, name := range []string{"rekor1.pub", "rekor1-next.pub", "rekor2.pub", "ct2026.pub", "ct-partner.pub"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if files[name], err = cryptoutils.MarshalPublicKeyToPEM(key.Public()); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) < 3 {
		t.Fatalf("found %d configurations, want at least 2", len(blocks))
	}
	for _, b := range blocks {
		cfg, err := config.Parse(filepath.Join(dir, "whosigned.yaml"), b[1])
		if err != nil {
			t.Errorf("%v\n%s", err, b[1])
			continue
		}
		if len(cfg.Warnings) > 0 {
			t.Errorf("warnings %q\n%s", cfg.Warnings, b[1])
		}
		if cfg.Trust == nil || cfg.Trust.Name != "public-good" {
			continue
		}
		// As a run has it, under the trusted root that Sigstore publishes.
		resolved, problems := cfg.Resolve(published)
		coverage := map[string]config.Coverage{}
		for _, l := range resolved.Logs {
			coverage[l.URL] = l.Coverage
		}
		if len(problems) > 0 || coverage["https://rekor.sigstore.dev"] != config.Index || coverage["https://log2025-1.rekor.sigstore.dev"] != config.Full || coverage["https://ctfe.sigstore.dev/2022"] != config.Full {
			t.Errorf("got %v, problems %v; want Rekor v2 and CT in full, and Rekor v1 by its index\n%s", coverage, problems, b[1])
		}
	}
}
