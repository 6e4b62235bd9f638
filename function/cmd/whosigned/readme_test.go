package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/whosigned/whosigned/pkg/config"
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
	files := map[string][]byte{"trusted_root.json": root}
	for _, name := range []string{"rekor1.pub", "rekor1-next.pub", "rekor2.pub"} {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if files[name], err = cryptoutils.MarshalPublicKeyToPEM(public); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) < 2 {
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
	}
}
