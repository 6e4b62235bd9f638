package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// What rekor-monitor left is not given up because the first try fails.
func TestAFirstImportThatFailsIsTriedAgainBeforeAnythingIsWatched(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	shard, err := tlogtest.NewTiles("v2.example", key)
	if err != nil {
		t.Fatal(err)
	}
	shard.Append([]byte("one"), []byte("two"))
	if err := shard.Publish(); err != nil {
		t.Fatal(err)
	}
	url, stop, err := tlogtest.Serve(t.Context(), shard)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	res, err := http.Get(url + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	note, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	shard.Append([]byte("three"))
	if err := shard.Publish(); err != nil {
		t.Fatal(err)
	}
	public, err := shard.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"log.pub": string(public), "logInfo.v2.txt": string(note),
		"peer.yaml": fmt.Sprintf("monitoredValues: {subjects: [a]}\nlogInfoFile: logInfo.v2.txt\nstate: state\nalerts: {folder: {path: mail}}\nlogs: [{type: rekor-v2, url: %q, key: log.pub, origin: v2.example}]\n", url),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func() (int, string) {
		var out strings.Builder
		status := execute(t.Context(), []string{"run", "--config", filepath.Join(dir, "peer.yaml")}, &out, &out)
		return status, out.String()
	}
	down := shard.Inject(tlogtest.Path("/tile/"), 0, tlogtest.Status(404))
	if status, out := run(); status != 1 || !strings.Contains(out, "logInfoFile") {
		t.Fatalf("got status %d, want 1 and why: %s", status, out)
	}
	down()
	if status, out := run(); status != 1 && status != 0 || !strings.Contains(out, "goes on at entry 2") {
		t.Errorf("got status %d, want the second run to go on from the checkpoint: %s", status, out)
	}
}
