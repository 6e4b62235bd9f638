package config

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
)

// root is one of the trusted roots that Sigstore publishes, changed as edit says.
func trustedRoot(t *testing.T, name string, edit func(root map[string]any)) string {
	t.Helper()
	data, err := os.ReadFile("../../testdata/trusted_root_" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(root)
	}
	if data, err = json.Marshal(root); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func withRoot(root, logs string) []byte {
	return fmt.Appendf(nil, "state: s\ntrustedRoot: %s\nalerts: {folder: {path: mails}}\nwatch: [{name: me, subject: {exact: me@example.com}}]\nlogs:\n%s", root, logs)
}

// shown is a log as the tests compare it.
func shown(l Log) string {
	id := string(l.ID)
	if id != "" {
		id = " " + id[:8]
	}
	s := fmt.Sprintf("%s %s%s %s", l.Kind, l.URL, id, l.Coverage)
	if l.Type != "" {
		s = string(l.Type) + " " + s
	}
	if l.Retired {
		s += " retired"
	}
	if !l.Start.Head {
		s += fmt.Sprintf(" from %d", l.Start.Index)
	}
	if n := len(l.Keys); n != 1 {
		s += fmt.Sprintf(" %d keys", n)
	}
	return s
}

func TestDiscoverWatchesEveryLogOfTheTrustedRootAndAnItemChangesOne(t *testing.T) {
	id := func(b64 string) string {
		raw, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(raw)
	}
	staging := []string{
		"rekor-v1 rekor https://rekor.sigstage.dev index",
		"rekor-v2 rekor https://log2025-alpha1.rekor.sigstage.dev f30d5a99 full retired",
		"rekor-v2 rekor https://log2025-alpha2.rekor.sigstage.dev 29f4a249 full retired",
		"rekor-v2 rekor https://log2025-alpha3.rekor.sigstage.dev d3d3a70c full",
		"rekor-v2 rekor https://log2026-1.us-east4.rekor.sigstage.dev 3a727147 full",
		"ct https://ctfe.sigstage.dev/test 1b7c142a full retired",
		"ct https://ctfe.sigstage.dev/2022 fbe24a38 full retired",
		"ct https://ctfe.sigstage.dev/2022-2 2b30bcdc full",
		"ct https://log2026-1.ctfe.sigstage.dev 3e607153 full",
		"ct https://log2026-1.us-east4.ctfe.sigstage.dev 1638fb66 full",
	}
	change := func(at int, to ...string) []string {
		return append(append(append([]string(nil), staging[:at]...), to...), staging[at+1:]...)
	}
	for _, tc := range []struct {
		name, items string
		want        []string
	}{
		{"all", "", staging},
		{"coverage by URL", "  - {url: 'https://log2025-alpha3.rekor.sigstage.dev/', coverage: consistency}\n",
			change(3, "rekor-v2 rekor https://log2025-alpha3.rekor.sigstage.dev d3d3a70c consistency")},
		{"start by origin", "  - {origin: log2026-1.ctfe.sigstage.dev, start: 7}\n",
			change(8, "ct https://log2026-1.ctfe.sigstage.dev 3e607153 full from 7")},
		{"type and URL by ID", "  - {id: " + id("G3wUKk6ZK6ffHh/FdCRUE2wVekyzHEEIpSG4savnv0w=") + ", type: static-ct, url: 'https://mirror.example.com/test'}\n",
			change(5, "static-ct ct https://mirror.example.com/test 1b7c142a full retired")},
		{"a service by its key's ID", "  - {id: " + id("0y8wo8MtY5wrdiIFohx7sHeI5oKDpK5vQhGHI6G+pJY=") + ", coverage: full, accept_lag: true}\n",
			change(0, "rekor-v1 rekor https://rekor.sigstage.dev full")},
		{"one excluded", "  - {url: 'https://ctfe.sigstage.dev/test', exclude: true}\n", change(5)},
		{"one more", "  - {type: rfc6962, url: 'https://ct.example.com', key: KEY}\n",
			append(append([]string(nil), staging...), "rfc6962 ct https://ct.example.com 8be4f9d5 full")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := trustedRoot(t, "staging", nil)
			key, keyID := freshKey(t)
			items := strings.Replace(tc.items, "KEY", key, 1)
			cfg, err := Parse("c.yaml", withRoot(root, "  - {discover: all}\n"+items))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, l := range cfg.Logs {
				got = append(got, shown(l))
			}
			want := strings.ReplaceAll(strings.Join(tc.want, "\n"), "8be4f9d5", keyID[:8])
			if strings.Join(got, "\n") != want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
			}
			if len(cfg.Found) != len(staging) {
				t.Errorf("got %d logs of the trusted root, want all %d, the excluded ones too", len(cfg.Found), len(staging))
			}
		})
	}
}

// freshKey is a public key's file and the ID that a CT log with it has.
func freshKey(t *testing.T) (path, id string) {
	t.Helper()
	path = filepath.Join(folder(t), "rekor1.pub")
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := tlog.ParseKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return path, k.Hex()
}

func TestItemsThatMeanNoLogOrOneTwiceArePointedAt(t *testing.T) {
	root := trustedRoot(t, "public_good", nil)
	for _, tc := range []struct{ name, items, want string }{
		{"no such ID", "  - {discover: all}\n  - {id: " + strings.Repeat("1", 64) + ", coverage: consistency}\n",
			"c.yaml:7: logs[1]: the trusted root has no such log; it lists https://rekor.sigstore.dev, https://log2025-1.rekor.sigstore.dev, https://ctfe.sigstore.dev/test, https://ctfe.sigstore.dev/2022"},
		{"a typing error", "  - {discover: all}\n  - {url: 'https://ctfe.sigstore.dev/2023', exclude: true}\n", "c.yaml:7: logs[1]: the trusted root has no such log"},
		{"changed twice", "  - {discover: all}\n  - {url: 'https://ctfe.sigstore.dev/2022', start: 1}\n  - {origin: ctfe.sigstore.dev/2022, start: 2}\n",
			"c.yaml:8: logs[2]: two items for one log: https://ctfe.sigstore.dev/2022 is changed at line 7 too; remove one"},
		{"another kind", "  - {discover: all}\n  - {url: 'https://ctfe.sigstore.dev/2022', type: rekor-v2}\n", "c.yaml:7: logs[1]: the trusted root's log at https://ctfe.sigstore.dev/2022 is not of type rekor-v2"},
		{"index of a CT log", "  - {discover: all}\n  - {url: 'https://ctfe.sigstore.dev/2022', coverage: index}\n", "c.yaml:7: logs[1]: only Rekor v1 has a search index; use coverage: full or consistency"},
		{"a CT log that is not listed", "  - {type: rfc6962, url: 'https://ct.example.com'}\n",
			"c.yaml:6: logs[0].key: missing, and the trusted root has no log at https://ct.example.com, only https://ctfe.sigstore.dev/test, https://ctfe.sigstore.dev/2022"},
		{"not beside discover", "  - {discover: all, coverage: full}\n", `c.yaml:6: logs[0].coverage: not beside discover; write an item of its own, such as {url: "https://…", coverage: …}, for each log that shall differ`},
	} {
		_, err := Parse("c.yaml", withRoot(root, tc.items))
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: got\n%v\nwant\n%s", tc.name, err, tc.want)
		}
	}
}

func TestACTLogWithoutAKeyTakesKeyAndIDFromTheTrustedRoot(t *testing.T) {
	root := trustedRoot(t, "staging", nil)
	cfg, err := Parse("c.yaml", withRoot(root, "  - {type: rfc6962, url: 'https://ctfe.sigstage.dev/test'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	// This one's ID is not the hash of its key's SPKI.
	if l := cfg.Logs[0]; shown(l) != "rfc6962 ct https://ctfe.sigstage.dev/test 1b7c142a full retired" || !l.FromRoot || l.Discovered {
		t.Errorf("got %s, from the root %v, discovered %v", shown(l), l.FromRoot, l.Discovered)
	}
}

func TestUnderTUFLogsAreKnownOnceTheTrustedRootIs(t *testing.T) {
	cfg, err := Parse("c.yaml", []byte("state: s\ntrust: {tuf: public-good}\nalerts: {folder: {path: mails}}\nwatch: [{name: all, subject: {glob: '*'}}]\n"+
		"logs:\n  - {discover: all}\n  - {url: 'https://ctfe.sigstore.dev/test', exclude: true}\n  - {url: 'https://gone.example.com', coverage: consistency}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Trust == nil || cfg.Trust.Name != "public-good" || len(cfg.Logs) != 0 {
		t.Fatalf("got trust %v and %d logs, want public-good and none yet", cfg.Trust, len(cfg.Logs))
	}
	root, err := trust.ReadTrustedRoot("../../testdata/trusted_root_public_good.json", trust.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	now, problems := cfg.Resolve(root)
	var got []string
	for _, l := range now.Logs {
		got = append(got, shown(l))
		if l.QuietAfter != 24*time.Hour {
			t.Errorf("%s: quiet after %s, want 24h for a public log", l.URL, l.QuietAfter)
		}
	}
	// No rule has a value that an index could be asked for.
	want := "rekor-v1 rekor https://rekor.sigstore.dev consistency\nrekor-v2 rekor https://log2025-1.rekor.sigstore.dev cf119915 full\nct https://ctfe.sigstore.dev/2022 dd3d306a full"
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if len(problems) != 0 || len(now.Warnings) != 1 || !strings.HasPrefix(now.Warnings[0], "c.yaml:8: logs[2]: the trusted root has no such log") {
		t.Errorf("got problems %v, warnings %q, want one warning, about the log that is gone", problems, now.Warnings)
	}
	if now.Chains.Len() == 0 || len(cfg.Logs) != 0 {
		t.Error("got no CA certificates, or the configuration itself was changed")
	}
}
