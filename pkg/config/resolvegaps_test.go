package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust"
)

func TestAServiceIsRetiredOnceAllOfItsKeysAre(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ended [2]bool // the keys of the service, in the root's order
		want  string
	}{
		{"neither key ended", [2]bool{false, false}, "rekor-v1 rekor https://rekor.sigstage.dev index 2 keys"},
		{"the first ended", [2]bool{true, false}, "rekor-v1 rekor https://rekor.sigstage.dev index 2 keys"},
		{"the second ended", [2]bool{false, true}, "rekor-v1 rekor https://rekor.sigstage.dev index 2 keys"},
		{"both ended", [2]bool{true, true}, "rekor-v1 rekor https://rekor.sigstage.dev index retired 2 keys"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := trustedRoot(t, "staging", func(root map[string]any) {
				var keys []any
				for _, ended := range tc.ended {
					l := maps.Clone(root["tlogs"].([]any)[0].(map[string]any))
					l["logId"], l["publicKey"] = anotherKey(t, ended)
					keys = append(keys, l)
				}
				root["tlogs"] = keys
			})
			cfg, err := Parse("c.yaml", withRoot(root, "  - {discover: all}\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(cfg.Logs[0]); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// anotherKey is a key of a log as the trusted root has it, and the ID that goes with it.
func anotherKey(t *testing.T, ended bool) (id, key map[string]any) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	validity := map[string]any{"start": "2020-01-01T00:00:00Z"}
	if ended {
		validity["end"] = "2021-01-01T00:00:00Z"
	}
	sum := sha256.Sum256(der)
	return map[string]any{"keyId": base64.StdEncoding.EncodeToString(sum[:])},
		map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(der), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": validity}
}

func TestOnlyHostsOfItemsThatSaySoMayBeAskedOverHTTP(t *testing.T) {
	root := trustedRoot(t, "staging", nil)
	key, _ := freshKey(t)
	const ended = "1b7c142a" // begins the ID of a CT log there
	for _, tc := range []struct {
		name, items string
		want        []string
	}{
		{"loopback", "  - {type: rfc6962, url: 'http://127.0.0.1:1', key: KEY}\n", nil},
		{"said not to be", "  - {type: rfc6962, url: 'https://ct.example.com', key: KEY, insecure: false}\n", nil},
		{"by hand", "  - {type: rfc6962, url: 'http://ct.example.com/2026', key: KEY, insecure: true}\n", []string{"ct.example.com"}},
		{"a discovered log's mirror", "  - {id: ID, url: 'http://mirror.example.com:8080/test', insecure: true}\n", []string{"mirror.example.com:8080"}},
	} {
		items := strings.NewReplacer("KEY", key, "ID", wholeID(t, root, ended)).Replace(tc.items)
		cfg, err := Parse("c.yaml", withRoot(root, "  - {discover: all}\n"+items))
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := cfg.InsecureHosts(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// wholeID is the ID of the trusted root's log whose ID begins so.
func wholeID(t *testing.T, file, prefix string) string {
	t.Helper()
	root, err := trust.ReadTrustedRoot(file, trust.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(root.CT, func(l trust.Log) bool { return strings.HasPrefix(l.Key.Hex(), prefix) })
	if i < 0 {
		t.Fatalf("no log %s in %s", prefix, file)
	}
	return root.CT[i].Key.Hex()
}

func TestUnderTUFTheConfigurationsOwnCAsReplaceThoseOfTheTrustedRoot(t *testing.T) {
	root, err := trust.ReadTrustedRoot("../../testdata/trusted_root_public_good.json", trust.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := tlogtest.NewCA("own.example")
	if err != nil {
		t.Fatal(err)
	}
	own := write(t, t.TempDir(), "own.pem", string(ca.RootPEM()))
	for line, wantOwn := range map[string]bool{"": false, "caRootsFile: " + own + "\n": true} {
		cfg, err := Parse("c.yaml", []byte("state: s\ntrust: {tuf: public-good}\n"+line+
			"alerts: {folder: {path: mails}}\nwatch: [{name: me, subject: {exact: me@example.com}}]\nlogs:\n  - {discover: all}\n"))
		if err != nil {
			t.Fatal(err)
		}
		now, _ := cfg.Resolve(root)
		want := root.Chains
		if wantOwn {
			want = cfg.Chains
		}
		if now.Chains != want || want.Len() == 0 {
			t.Errorf("with %q: got %d authorities, the trusted root's: %v; want %d", line, now.Chains.Len(), now.Chains == root.Chains, want.Len())
		}
	}
}
