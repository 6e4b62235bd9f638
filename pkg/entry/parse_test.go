package entry

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

func readLeaf(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// leafNames are the names of all leaves in testdata.
func leafNames(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no leaves in testdata: %v", err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".json")
	}
	return files
}

// want is a signer as the table has it: its type, subject and issuer.
type want struct {
	Type            SignerType
	subject, issuer string
}

func TestEveryKindParsesToItsSigners(t *testing.T) {
	const (
		github   = "https://token.actions.githubusercontent.com"
		workflow = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3"
		js       = "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main"
	)
	certificate := want{X509, workflow, github}
	key := want{PKIX, "", ""}
	tests := []struct {
		name, kind string
		fast       bool
		digests    int
		signers    []want
	}{
		{"hashedrekord-certificate", "hashedrekord 0.0.1", true, 1, []want{certificate}},
		{"hashedrekord-chain", "hashedrekord 0.0.1", true, 1, []want{{X509, "chain@example.com", ""}}},
		{"hashedrekord-key-rsa", "hashedrekord 0.0.1", true, 1, []want{key}},
		{"hashedrekord-key-p256", "hashedrekord 0.0.1", true, 1, []want{key}},
		{"hashedrekord-key-ed25519", "hashedrekord 0.0.1", true, 1, []want{key}},
		{"hashedrekord-0.0.2-certificate", "hashedrekord 0.0.2", true, 1, []want{certificate}},
		{"hashedrekord-0.0.2-key", "hashedrekord 0.0.2", true, 1, []want{key}},
		{"dsse-certificate", "dsse 0.0.1", true, 1, []want{certificate}},
		{"dsse-two-signers", "dsse 0.0.1", true, 1, []want{certificate, key}},
		{"dsse-0.0.2-two-signers", "dsse 0.0.2", true, 1, []want{certificate, key}},
		{"intoto-0.0.1-key", "intoto 0.0.1", true, 2, []want{key}},
		{"intoto-0.0.1-certificate", "intoto 0.0.1", true, 2, []want{certificate}},
		{"intoto-0.0.2-two-signers", "intoto 0.0.2", true, 2, []want{certificate, key}},
		{"rekord-certificate", "rekord 0.0.1", false, 1, []want{certificate}},
		{"rekord-pgp", "rekord 0.0.1", false, 1, []want{{PGP, "lhinds@protonmail.com", ""}, {PGP, "lhinds@protonmail.com", ""}}},
		{"rekord-ssh", "rekord 0.0.1", false, 1, []want{{SSH, "", ""}}},
		{"rekord-minisign", "rekord 0.0.1", false, 1, []want{{Minisign, "", ""}}},
		{"rpm", "rpm 0.0.1", false, 1, []want{{PGP, "rpm-test@rekor.dev", ""}, {PGP, "rpm-test@rekor.dev", ""}}},
		{"helm", "helm 0.0.1", false, 1, []want{{PGP, "not@real.com", ""}, {PGP, "not@real.com", ""}}},
		{"jar", "jar 0.0.1", false, 1, []want{{X509, "", ""}}},
		{"alpine", "alpine 0.0.1", false, 1, []want{key}},
		{"cose", "cose 0.0.1", false, 1, []want{key}},
		{"tuf", "tuf 0.0.1", false, 1, []want{{TUF, "", ""}, {TUF, "", ""}}},
		{"tuf-expired", "tuf 0.0.1", false, 1, slices.Repeat([]want{{TUF, "", ""}}, 5)},
		{"rfc3161", "rfc3161 0.0.1", false, 1, []want{{X509, "127.0.0.1", ""}}},
		{"public-good-hashedrekord-email", "hashedrekord 0.0.1", true, 1, []want{{X509, "a@tny.town", "https://github.com/login/oauth"}}},
		{"public-good-hashedrekord-othername", "hashedrekord 0.0.1", true, 1, []want{{X509, "foo!oidc.local", "http://oidc.local:8080"}}},
		{"public-good-intoto-email", "intoto 0.0.2", true, 2, []want{{X509, "brian@dehamer.com", "https://github.com/login/oauth"}}},
		{"public-good-intoto-key", "intoto 0.0.2", true, 2, []want{key}},
		{"public-good-intoto-provenance", "intoto 0.0.2", true, 2, []want{{X509, js, github}}},
		{"public-good-intoto-sigstore-js", "intoto 0.0.2", true, 2, []want{{X509, js, github}}},
	}
	seen := map[string]bool{}
	for _, test := range tests {
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			leaf := readLeaf(t, test.name)
			e, err := Parse(leaf)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Kind + " " + e.Version; got != test.kind {
				t.Errorf("got kind %q, want %q", got, test.kind)
			}
			if _, ok, _ := fast(leaf); ok != test.fast {
				t.Errorf("took the fast path: %v, want %v", ok, test.fast)
			}
			if len(e.Digests) != test.digests {
				t.Errorf("got digests %q, want %d", e.Digests, test.digests)
			}
			for _, d := range e.Digests {
				if !strings.HasPrefix(d, "sha256:") && !strings.HasPrefix(d, "sha512:") {
					t.Errorf("got digest %q, want it with its algorithm", d)
				}
			}
			var got []want
			for _, s := range e.Signers {
				got = append(got, want{s.Type, strings.Join(s.Subjects[:min(1, len(s.Subjects))], ""), s.Issuer})
				if s.Fingerprint == "" {
					t.Errorf("a signer has no fingerprint: %+v", s)
				}
			}
			if !reflect.DeepEqual(got, test.signers) {
				t.Errorf("got signers %v, want %v", got, test.signers)
			}
		})
	}
	for _, name := range leafNames(t) {
		if !seen[name] {
			t.Errorf("testdata/%s.json is not in the table", name)
		}
	}
}

func TestBothPathsGiveTheSameEntry(t *testing.T) {
	for _, name := range leafNames(t) {
		checkPaths(t, name, readLeaf(t, name))
	}
}

// checkPaths holds the fast path, the library path, and what rekor's library and
// crypto/x509 say by themselves against one another.
func checkPaths(t *testing.T, name string, leaf []byte) {
	t.Helper()
	quick, ok, quickErr := fast(leaf)
	slow, slowErr := library(leaf)
	if ok && slowErr == nil {
		if quickErr != nil {
			t.Errorf("%s: the library reads it, the fast path says %v", name, quickErr)
		} else if !reflect.DeepEqual(quick, slow) {
			t.Errorf("%s: the fast path gives\n%+v\nthe library\n%+v", name, quick, slow)
		}
	}
	e, err := Parse(leaf)
	view, viewErr := rekorView(leaf)
	if viewErr != nil {
		return
	}
	if e == nil {
		t.Errorf("%s: rekor's library reads it, Parse says %v", name, err)
		return
	}
	if err := view.check(e); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func TestALeafOfManySignersThatAreNoneTakesBoundedMemory(t *testing.T) {
	for name, signer := range map[string]string{
		"fast":    `{"signature":"","verifier":""}`,
		"library": `{"signature":"", "verifier":""}`,
	} {
		for size, want := range map[int]string{1 << 19: "parsing dsse 0.0.1", 1 << 24: "more than the 2097152 that are parsed"} {
			leaf := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"%064d"},"payloadHash":{"algorithm":"sha256","value":"%064d"},"signatures":[%s%s]}}`,
				1, 2, signer, strings.Repeat(","+signer, size/len(signer)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			e, err := Parse(leaf)
			runtime.ReadMemStats(&after)
			if e != nil || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %d bytes: got %v, %.200v; want %q", name, size, e != nil, err, want)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
				t.Errorf("%s: allocated %d MiB for a leaf of %d kB", name, got>>20, len(leaf)>>10)
			}
		}
	}
}

func TestAnyOtherSpellingTakesTheLibraryPath(t *testing.T) {
	leaf := readLeaf(t, "hashedrekord-certificate")
	var indented bytes.Buffer
	if err := json.Indent(&indented, leaf, "", " "); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		t.Helper()
		out := bytes.Replace(leaf, []byte(old), []byte(new), 1)
		if bytes.Equal(out, leaf) {
			t.Fatalf("%q is not in the leaf", old)
		}
		return out
	}
	key := bytes.TrimSuffix(readLeaf(t, "hashedrekord-key-p256"), []byte("\n"))
	from := bytes.Index(key, []byte(`"signature":`))
	foreign := string(key[from:len(key)-2]) + `,"signature":`
	want, err := Parse(leaf)
	if err != nil {
		t.Fatal(err)
	}
	for name, spelled := range map[string][]byte{
		"indented":          indented.Bytes(),
		"escaped":           replace(`"sha256"`, `"sha\u003256"`),
		"escaped slash":     replace(`/`, `\/`),
		"unknown member":    replace(`"data":{`, `"aaaa":"x","data":{`),
		"duplicate kind":    replace(`"kind":"hashedrekord"`, `"kind":"dsse","kind":"hashedrekord"`),
		"duplicate signer":  replace(`"signature":`, foreign),
		"trailing newline":  append(bytes.Clone(leaf), '\n'),
		"members reordered": replace(`"apiVersion":"0.0.1","kind":"hashedrekord"`, `"kind":"hashedrekord","apiVersion":"0.0.1"`),
	} {
		if _, ok, _ := fast(spelled); ok {
			t.Errorf("%s: took the fast path", name)
		}
		got, err := Parse(spelled)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestAChainIsKeptBehindItsFirstCertificate(t *testing.T) {
	e, err := Parse(readLeaf(t, "hashedrekord-chain"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(e.Signers[0].Chain); n != 1 {
		t.Fatalf("got %d further certificates, want 1", n)
	}
	if cert, err := x509.ParseCertificate(e.Signers[0].Chain[0]); err != nil || cert.Subject.CommonName != "root" {
		t.Errorf("got %v, %v, want the root", cert, err)
	}
}

func TestPEMIsReadAsEncodingPEMReadsIt(t *testing.T) {
	const begin, end = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"
	for _, body := range []string{"", "\n", "AAAA", "AAA=", "AA==", "AAAA\nAAAA", "AAAA\n\nAAAA", "AAAA\r\nAA==", "AA==\nAAAA", "AAA=\nAAAA", "AA\nAA",
		"AAAA\nA", "AA AA", "Proc-Type: 4\n\nAAAA", "-----END CERTIFICATE-----\nAAAA", "AAAA" + end + begin + "AAAA"} {
		text := begin + body + end
		raw, ok := canonicalPEM([]byte(text))
		if !ok {
			continue // encoding/pem is asked
		}
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(rest) != 0 || !bytes.Equal(block.Bytes, raw) {
			t.Errorf("%q: got %x, want what encoding/pem gives: %v", text, raw, block)
		}
	}
}

func TestLeavesThatCannotBeParsedAreErrors(t *testing.T) {
	leaf := string(readLeaf(t, "hashedrekord-certificate"))
	long := strings.Repeat("k", 1<<20)
	tests := map[string]struct {
		leaf          string
		kind, version string // of the UnknownKindError
	}{
		"nothing":            {leaf: ""},
		"null":               {leaf: "null", kind: "", version: ""},
		"no JSON":            {leaf: "\x00\xff"},
		"truncated":          {leaf: leaf[:len(leaf)-1]},
		"trailing":           {leaf: leaf + "{}"},
		"a list":             {leaf: "[]"},
		"deep":               {leaf: `{"spec":` + strings.Repeat("[", 1<<17)},
		"empty spec":         {leaf: `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}`},
		"null spec":          {leaf: `{"apiVersion":"0.0.1","kind":"rekord","spec":null}`},
		"wrong digest":       {leaf: strings.Replace(leaf, `"value":"`, `"value":"00`, 1)},
		"bad base64":         {leaf: strings.Replace(leaf, `"content":"`, `"content":"!`, 2)},
		"empty v2":           {leaf: `{"apiVersion":"0.0.2","kind":"dsse","spec":{"dsseV002":{}}}`},
		"v2 of another kind": {leaf: strings.Replace(string(readLeaf(t, "hashedrekord-0.0.2-key")), `"kind":"hashedrekord"`, `"kind":"dsse"`, 1)},
		"unknown kind":       {leaf: `{"apiVersion":"0.0.1","kind":"x","spec":{}}`, kind: "x", version: "0.0.1"},
		"unknown version":    {leaf: `{"apiVersion":"0.0.9","kind":"dsse","spec":{}}`, kind: "dsse", version: "0.0.9"},
		"empty version":      {leaf: `{"apiVersion":"","kind":"rpm","spec":{}}`, kind: "rpm"},
		"endless kind":       {leaf: `{"apiVersion":"1","kind":"` + long + `"}`, kind: long[:64] + "…", version: "1"},
	}
	for name, test := range tests {
		e, err := Parse([]byte(test.leaf))
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if e != nil {
			t.Errorf("%s: got %+v, want no entry", name, e)
		}
		var unknown *UnknownKindError
		if errors.As(err, &unknown) {
			if want := (UnknownKindError{test.kind, test.version}); *unknown != want {
				t.Errorf("%s: got %v, want %v", name, unknown, &want)
			}
		} else if test.kind != "" {
			t.Errorf("%s: got %v, want an UnknownKindError", name, err)
		}
	}
}

func TestAnOddCertificateIsStillASigner(t *testing.T) {
	leaf := readLeaf(t, "hashedrekord-0.0.2-certificate")
	e, err := Parse(leaf)
	if err != nil {
		t.Fatal(err)
	}
	odd := append(bytes.Clone(e.Signers[0].Certificate), "trailing"...)
	got, err := Parse(bytes.Replace(leaf, []byte(base64Of(e.Signers[0].Certificate)), []byte(base64Of(odd)), 1))
	if err == nil || !strings.Contains(err.Error(), "8 bytes after its end") {
		t.Errorf("got error %v, want one about the bytes after its end", err)
	}
	if got == nil || len(got.Signers) != 1 || !reflect.DeepEqual(got.Signers[0].Subjects, e.Signers[0].Subjects) {
		t.Errorf("got %+v, want the subjects %q with the error", got, e.Signers[0].Subjects)
	}
}

func TestParseIsSafeForConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	for _, name := range leafNames(t) {
		leaf := readLeaf(t, name)
		for range 4 {
			wg.Go(func() {
				if _, err := Parse(leaf); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wg.Wait()
}

func TestParseKeepsNoPartOfTheLeaf(t *testing.T) {
	for _, name := range leafNames(t) {
		leaf := readLeaf(t, name)
		got, err := Parse(leaf)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Parse(bytes.Clone(leaf))
		if err != nil {
			t.Fatal(err)
		}
		clear(leaf)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the entry changed with the leaf's buffer", name)
		}
	}
}

func TestBothPathsAgreeOnAnyByteAltered(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 17
	}
	for _, name := range []string{"dsse-two-signers", "intoto-0.0.1-key", "dsse-0.0.2-two-signers", "hashedrekord-key-p256"} {
		leaf := readLeaf(t, name)
		for i := 0; i < len(leaf); i += stride {
			for _, b := range []byte{'"', '\\', leaf[i] ^ 1} {
				altered := bytes.Clone(leaf)
				altered[i] = b
				checkPaths(t, name, altered)
				if t.Failed() {
					t.Fatalf("byte %d set to %q", i, b)
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range leafNames(f) {
		f.Add(readLeaf(f, name))
	}
	f.Fuzz(func(t *testing.T, leaf []byte) { checkPaths(t, "leaf", leaf) })
}
