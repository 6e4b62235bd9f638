package tlog_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// bundleData is the folder of real bundles in sigstore-go's module.
func bundleData(t *testing.T) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/sigstore-go").Output()
	if err != nil {
		t.Fatalf("locating the module sigstore-go: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "pkg", "testing", "data")
}

// rekorKeys reads the keys of all Rekor logs in a trusted root.
func rekorKeys(t *testing.T, path string) []tlog.Key {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromJSON(raw)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var keys []tlog.Key
	for id, log := range trusted.RekorLogs() {
		key, err := tlog.NewKey(log.PublicKey)
		if err != nil {
			t.Fatalf("%s: log %s: %v", path, id, err)
		}
		key.LogID = [32]byte(log.ID)
		keys = append(keys, key)
	}
	return keys
}

func readBundle(t *testing.T, path string) *protobundle.Bundle {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b := &protobundle.Bundle{}
	if err := protojson.Unmarshal(raw, b); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return b
}

func TestCheckpointsAndInclusionProofsOfRealLogsVerify(t *testing.T) {
	data := bundleData(t)
	publicGood := filepath.Join("..", "..", "testdata", "trusted_root_public_good.json")
	scaffolding := filepath.Join(data, "trusted-roots", "scaffolding.json")
	for _, row := range []struct {
		bundle, root, origin string
		size                 uint64
	}{
		{"sigstore.js@2.0.0-provenance.sigstore.json", publicGood, "rekor.sigstore.dev - 2605736670972794746", 27657875},
		// The host name of the replica's pod, in the origin and in the signature line.
		{"othername.sigstore.json", scaffolding, "rekor-00001-deployment-56bf7777c9-jds5x - 6364419738405537866", 4},
	} {
		t.Run(row.bundle, func(t *testing.T) {
			keys := rekorKeys(t, row.root)
			entries := readBundle(t, filepath.Join(data, "bundles", row.bundle)).GetVerificationMaterial().GetTlogEntries()
			if len(entries) == 0 {
				t.Fatal("the bundle has no log entry")
			}
			for _, e := range entries {
				p := e.GetInclusionProof()
				note := []byte(p.GetCheckpoint().GetEnvelope())
				cp, key, err := tlog.OpenCheckpoint(note, keys)
				if err != nil {
					t.Fatalf("opening the checkpoint: %v", err)
				}
				if cp.Origin != row.origin || cp.Size != row.size || !bytes.Equal(cp.Note, note) {
					t.Errorf("checkpoint of %q, size %d, want %q, size %d, with the note verbatim", cp.Origin, cp.Size, row.origin, row.size)
				}
				if got, want := key.LogID[:], e.GetLogId().GetKeyId(); !bytes.Equal(got, want) {
					t.Errorf("verified under the key of log %x, want %x", got, want)
				}
				leaf := tlog.LeafHash(e.GetCanonicalizedBody())
				index := uint64(p.GetLogIndex())
				if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, cp.Size, leaf[:], p.GetHashes(), cp.Root[:]); err != nil {
					t.Errorf("entry %d is not in the tree that the checkpoint commits to: %v", index, err)
				}
			}
		})
	}
}

func TestRealCheckpointDoesNotVerifyOnceAnythingInItChanges(t *testing.T) {
	data := bundleData(t)
	keys := rekorKeys(t, filepath.Join("..", "..", "testdata", "trusted_root_public_good.json"))
	e := readBundle(t, filepath.Join(data, "bundles", "sigstore.js@2.0.0-provenance.sigstore.json")).GetVerificationMaterial().GetTlogEntries()[0]
	note := e.GetInclusionProof().GetCheckpoint().GetEnvelope()
	for name, changed := range map[string]string{
		"origin":    strings.Replace(note, "rekor.sigstore.dev - 2605736670972794746", "rekor.sigstore.dev - 2605736670972794747", 1),
		"size":      strings.Replace(note, "\n27657875\n", "\n27657876\n", 1),
		"root":      strings.Replace(note, "\nv+7gOn", "\nv+7gOm", 1),
		"timestamp": strings.Replace(note, "Timestamp: 1692374735595899989", "Timestamp: 1692374735595899980", 1),
		"unsigned":  note[:strings.Index(note, "\n\n")+2],
		"extension": strings.Replace(note, "\n\n", "\nLog frozen — today\n\n", 1),
	} {
		if changed == note {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if cp, _, err := tlog.OpenCheckpoint([]byte(changed), keys); err == nil {
			t.Errorf("%s: a changed note verifies as %q, size %d", name, cp.Origin, cp.Size)
		}
	}
	others := rekorKeys(t, filepath.Join("..", "..", "testdata", "trusted_root_staging.json"))
	if _, _, err := tlog.OpenCheckpoint([]byte(note), others); err == nil {
		t.Error("the public-good checkpoint verifies under staging's keys")
	}
}
