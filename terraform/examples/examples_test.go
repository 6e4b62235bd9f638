// Package examples holds whole Terraform roots that use the module, each with a
// configuration and what that names.
package examples

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
)

func TestEveryExamplesConfigurationIsAccepted(t *testing.T) {
	roots, err := filepath.Glob("*/main.tf")
	if err != nil || len(roots) == 0 {
		t.Fatalf("examples: got %d (%v), want some", len(roots), err)
	}
	for _, root := range roots {
		path := filepath.Join(filepath.Dir(root), "whosigned.yaml")
		t.Run(path, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Parse(path, data)
			if err != nil {
				t.Fatalf("got %v, want a configuration", err)
			}
			if len(cfg.Warnings) > 0 || len(cfg.Logs) == 0 || len(cfg.Alerts.Emails) == 0 {
				t.Errorf("got %d logs, %d emails, warnings %q; want some, some and none", len(cfg.Logs), len(cfg.Alerts.Emails), cfg.Warnings)
			}
		})
	}
}
