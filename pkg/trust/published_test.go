package trust_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
)

// publishedRepositories are Sigstore's, as they stood on 2026-08-21. The folder is not
// part of this repository.
const publishedRepositories = "../../../shared/fixtures"

var thatDay = time.Date(2026, 8, 21, 12, 0, 0, 0, time.UTC)

// serveFiles serves a root-signing checkout as its CDN does, with consistent snapshots.
func serveFiles(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(publishedRepositories, name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		t.Skipf("%s is not here: it has Sigstore's published TUF repositories", publishedRepositories)
	}
	files := map[string][]byte{}
	read := func(file string) []byte {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	roots, err := filepath.Glob(filepath.Join(dir, "metadata", "root_history", "*.json"))
	if err != nil || len(roots) == 0 {
		t.Fatalf("no roots in %s (%v)", dir, err)
	}
	for _, file := range roots {
		files["/"+filepath.Base(file)] = read(file)
	}
	files["/timestamp.json"] = read(filepath.Join(dir, "metadata", "timestamp.json"))
	for _, role := range []string{"snapshot", "targets"} {
		data := read(filepath.Join(dir, "metadata", role+".json"))
		files[fmt.Sprintf("/%d.%s.json", version(string(data)), role)] = data
	}
	target := read(filepath.Join(dir, "targets", "trusted_root.json"))
	sum := sha256.Sum256(target)
	files["/targets/"+hex.EncodeToString(sum[:])+".trusted_root.json"] = target

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if data, ok := files[r.URL.Path]; ok {
			_, _ = w.Write(data)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestSigstoresOwnRepositoriesGiveEveryLog(t *testing.T) {
	for _, tc := range []struct {
		name     string
		from     trust.Repository
		versions string
		rekor    string // type and host of each
		ct       string // path and whether it had retired that day
	}{
		{"public-good", trust.PublicGood(), "15 762 165 14",
			"rekor-v1 rekor.sigstore.dev, rekor-v2 log2025-1.rekor.sigstore.dev",
			"ctfe.sigstore.dev/test true, ctfe.sigstore.dev/2022 false"},
		{"staging", trust.Staging(), "14 703 25 28",
			"rekor-v1 rekor.sigstage.dev, rekor-v2 log2025-alpha1.rekor.sigstage.dev, rekor-v2 log2025-alpha2.rekor.sigstage.dev, " +
				"rekor-v2 log2025-alpha3.rekor.sigstage.dev, rekor-v2 log2026-1.us-east4.rekor.sigstage.dev",
			"ctfe.sigstage.dev/test true, ctfe.sigstage.dev/2022 true, ctfe.sigstage.dev/2022-2 false, log2026-1.ctfe.sigstage.dev false, log2026-1.us-east4.ctfe.sigstage.dev false"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.from.URL = serveFiles(t, tc.name)
			client := tlog.NewClient(tlog.ClientOptions{}).HTTP()
			m, root, err := tc.from.Refresh(t.Context(), client, nil, thatDay)
			if err != nil {
				t.Fatal(err)
			}
			if got := versions(m); got != tc.versions {
				t.Errorf("got versions %s, want %s", got, tc.versions)
			}
			var rekor, ct []string
			for _, l := range root.Rekor {
				rekor = append(rekor, fmt.Sprintf("%s %s", l.Type, l.Origin))
			}
			for _, l := range root.CT {
				if l.Type != "" {
					t.Errorf("%s has type %s, which nothing says", l.URL, l.Type)
				}
				if !strings.Contains(m.Target, base64.StdEncoding.EncodeToString(l.Key.LogID[:])) {
					t.Errorf("%s has ID %s, which is not published", l.URL, l.Key.Hex())
				}
				ct = append(ct, fmt.Sprintf("%s %v", l.Origin, l.Retired(thatDay)))
			}
			if got := strings.Join(rekor, ", "); got != tc.rekor {
				t.Errorf("got Rekor logs %s, want %s", got, tc.rekor)
			}
			if got := strings.Join(ct, ", "); got != tc.ct {
				t.Errorf("got CT logs %s, want %s", got, tc.ct)
			}
			if root.Chains.Len() == 0 || len(root.Warnings) != 0 {
				t.Errorf("got %d authorities, warnings %q; want some and none", root.Chains.Len(), root.Warnings)
			}
			var expired *trust.ExpiredError
			if _, late, err := tc.from.Refresh(t.Context(), client, m, thatDay.AddDate(0, 0, 8)); late == nil || !errors.As(err, &expired) || expired.Role != "timestamp" {
				t.Errorf("a week later: got %v, want an expired timestamp, and the keys of that day", err)
			}
		})
	}
}
