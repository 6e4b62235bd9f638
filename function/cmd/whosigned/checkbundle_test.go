package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/rekor/pkg/generated/models"
)

// TestCheckBundleCommandLine runs testdata/checkbundle as TestCommandLine does its
// scripts, with a further command:
//
//	bundle LOG INDEX FILE  writes a bundle of an entry of a Rekor v1 log, with the
//	                       inclusion proof that the log serves now
func TestCheckBundleCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/checkbundle",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			w := &world{dir: e.WorkDir, logs: map[string]*served{}}
			e.Values[worldKey{}] = w
			e.Defer(w.close)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"logs":     positive("logs", cmdLogs),
			"status":   positive("status", cmdStatus),
			"json":     positive("json", cmdJSON),
			"examples": positive("examples", cmdExamples),
			"bundle":   positive("bundle", cmdBundle),
		},
	})
}

func cmdBundle(ts *testscript.TestScript, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: bundle LOG INDEX FILE")
	}
	b, err := bundleFrom(worldOf(ts).log(ts, args[0]).url, args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o600))
}

// bundleFrom makes a bundle of what Rekor v1 serves as an entry.
func bundleFrom(url, index string) ([]byte, error) {
	res, err := http.Get(url + "/api/v1/log/entries?logIndex=" + index)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer models.LogEntry
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&answer); err != nil {
		return nil, err
	}
	for _, e := range answer {
		p := e.Verification.InclusionProof
		var hashes []string
		for _, h := range append([]string{*p.RootHash, *e.LogID}, p.Hashes...) {
			raw, err := hex.DecodeString(h)
			if err != nil {
				return nil, err
			}
			hashes = append(hashes, base64.StdEncoding.EncodeToString(raw))
		}
		type object = map[string]any
		return json.Marshal(object{
			"mediaType":        "application/vnd.dev.sigstore.bundle.v0.3+json",
			"messageSignature": object{"messageDigest": object{"algorithm": "SHA2_256", "digest": hashes[0]}, "signature": hashes[0]},
			"verificationMaterial": object{
				"publicKey": object{"hint": "release"},
				"tlogEntries": []object{{
					"logIndex": fmt.Sprint(*e.LogIndex), "logId": object{"keyId": hashes[1]}, "kindVersion": object{"kind": "hashedrekord", "version": "0.0.1"},
					"integratedTime": fmt.Sprint(*e.IntegratedTime), "canonicalizedBody": e.Body,
					"inclusionPromise": object{"signedEntryTimestamp": e.Verification.SignedEntryTimestamp},
					"inclusionProof": object{
						"logIndex": fmt.Sprint(*p.LogIndex), "rootHash": hashes[0], "treeSize": fmt.Sprint(*p.TreeSize),
						"hashes": hashes[2:], "checkpoint": object{"envelope": p.Checkpoint},
					},
				}},
			},
		})
	}
	return nil, fmt.Errorf("no entry %s at %s", index, url)
}

func TestBundlesOfOneFileAreTakenApart(t *testing.T) {
	many := strings.Repeat("1 ", maxBundles+5)
	for name, row := range map[string]struct {
		data string
		want []string
	}{
		"nothing":     {"", []string{""}},
		"one":         {" {}\n", []string{"{}"}},
		"lines":       {"{\"a\":1}\n{\"b\":2}\n", []string{`{"a":1}`, `{"b":2}`}},
		"garbage":     {"no JSON", []string{"no JSON"}},
		"then not":    {"{}\nno JSON", []string{"{}", "\nno JSON"}},
		"cut short":   {"{}\n{", []string{"{}", "\n{"}},
		"without end": {many, append(slicesOf("1", maxBundles), strings.Repeat(" 1", 5)+" ")},
	} {
		got := splitBundles([]byte(row.data))
		if len(got) != len(row.want) {
			t.Errorf("%s: got %d, want %d: %.200q", name, len(got), len(row.want), got)
			continue
		}
		for i := range got {
			if string(got[i]) != row.want[i] {
				t.Errorf("%s: number %d is %q, want %q", name, i, got[i], row.want[i])
			}
		}
	}
}

func slicesOf(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func TestEvidenceOnATerminalIsTheSameJSON(t *testing.T) {
	want := "— origin \u202e\u0085\x7f\x1b[2J\n😀 <&> é"
	var b bytes.Buffer
	if err := printASCII(&b, want); err != nil {
		t.Fatal(err)
	}
	for _, c := range bytes.TrimSuffix(b.Bytes(), []byte("\n")) {
		if c < ' ' || c >= 0x7f {
			t.Fatalf("byte %#x in %q", c, b.String())
		}
	}
	var got string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got != want {
		t.Fatalf("got %q, want %q (%v)", got, want, err)
	}
}
