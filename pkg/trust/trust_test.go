package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const shared = "../../testdata/"

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func pemBytes(t testing.TB, path string) []byte {
	t.Helper()
	block, _ := pem.Decode(read(t, path))
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	return block.Bytes
}

func TestReadTrustedRootListsEveryRealLog(t *testing.T) {
	type log struct {
		typ       tlog.Type
		url, ends string
	}
	for _, tc := range []struct {
		file  string
		rekor []log
		ct    int
		cas   int
	}{
		{"trusted_root_public_good.json", []log{
			{tlog.RekorV1, "https://rekor.sigstore.dev", ""},
			{tlog.RekorV2, "https://log2025-1.rekor.sigstore.dev", ""},
		}, 2, 2},
		{"trusted_root_staging.json", []log{
			{tlog.RekorV1, "https://rekor.sigstage.dev", ""},
			{tlog.RekorV2, "https://log2025-alpha1.rekor.sigstage.dev", "2025-09-04"},
			{tlog.RekorV2, "https://log2025-alpha2.rekor.sigstage.dev", "2025-09-28"},
			{tlog.RekorV2, "https://log2025-alpha3.rekor.sigstage.dev", ""},
			{tlog.RekorV2, "https://log2026-1.us-east4.rekor.sigstage.dev", ""},
		}, 5, 2},
	} {
		root, err := ReadTrustedRoot(shared+tc.file, ReadFile)
		if err != nil {
			t.Fatal(err)
		}
		if len(root.Warnings) != 0 || len(root.CT) != tc.ct || root.Chains.Len() != tc.cas || len(root.Rekor) != len(tc.rekor) {
			t.Fatalf("%s: got %d Rekor and %d CT logs, %d authorities, warnings %q", tc.file, len(root.Rekor), len(root.CT), root.Chains.Len(), root.Warnings)
		}
		want := publishedIDs(t, shared+tc.file)
		for i, l := range root.Rekor {
			if l.Type != tc.rekor[i].typ || l.URL != tc.rekor[i].url || l.Key.Hex() != want[i] || "https://"+l.Origin != l.URL {
				t.Errorf("%s: got %s %s %s, want %s %s %s", tc.file, l.Type, l.URL, l.Key.Hex(), tc.rekor[i].typ, tc.rekor[i].url, want[i])
			}
			if got := l.End.Format("2006-01-02"); tc.rekor[i].ends != "" && got != tc.rekor[i].ends || tc.rekor[i].ends == "" && !l.End.IsZero() {
				t.Errorf("%s: %s ends %s, want %q", tc.file, l.URL, got, tc.rekor[i].ends)
			}
		}
		if got := root.At(tc.rekor[1].url + "/"); len(got) != 1 || got[0].URL != tc.rekor[1].url {
			t.Errorf("At(%s/) = %v, want the one log there", tc.rekor[1].url, got)
		}
	}
}

// publishedIDs reads the log IDs without any of our code.
func publishedIDs(t *testing.T, path string) []string {
	t.Helper()
	var published struct {
		Tlogs []struct {
			LogID struct {
				KeyID []byte `json:"keyId"`
			} `json:"logId"`
		} `json:"tlogs"`
	}
	if err := json.Unmarshal(read(t, path), &published); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, l := range published.Tlogs {
		ids = append(ids, hex.EncodeToString(l.LogID.KeyID))
	}
	return ids
}

// edit changes one text of the public-good root.
func edit(t testing.TB, old, new string) []byte {
	t.Helper()
	data := read(t, shared+"trusted_root_public_good.json")
	if !bytes.Contains(data, []byte(old)) {
		t.Fatalf("the trusted root has no %q", old)
	}
	return bytes.Replace(data, []byte(old), []byte(new), 1)
}

func TestOneBadLogOfATrustedRootIsAWarningThatNamesIt(t *testing.T) {
	const id = `wNI9atQGlz+VWfO6LRygH4QUfY/8W4RFwiT5i5WRgB0=`
	for _, tc := range []struct {
		name     string
		old, new string
		warning  []string // parts of it
		rekor    int
		cas      int
	}{
		{"newer fields are skipped", `"baseUrl": "https://rekor.sigstore.dev"`, `"baseUrl": "https://rekor.sigstore.dev", "futureField": {"name": "x"}`, nil, 2, 2},
		{"key of an unknown kind", `MFkwEwYHKoZIzj0CAQYI`, `AAAAEwYHKoZIzj0CAQYI`, []string{"tlogs[0]", `"https://rekor.sigstore.dev"`, id, "PKIX_ECDSA_P256_SHA_256", "public key"}, 1, 2},
		{"no base64", `MFkwEwYHKoZIzj0CAQYI`, `####`, []string{"tlogs[0]", id}, 1, 2},
		{"short log ID", id, `wNI9`, []string{"tlogs[0]", "log ID of 3 bytes"}, 1, 2},
		{"no URL", `"baseUrl": "https://rekor.sigstore.dev"`, `"baseUrl": "rekor"`, []string{"tlogs[0]", `baseUrl "rekor" is not a URL`}, 1, 2},
		{"unsupported hash", `"hashAlgorithm": "SHA2_256"`, `"hashAlgorithm": "SHA2_512"`, []string{"tlogs[0]", "SHA2_512"}, 1, 2},
		{"not an object", `"tlogs": [`, `"tlogs": [7, `, []string{"tlogs[0]"}, 2, 2},
		{"no certificates", `"certificateAuthorities": [`, `"certificateAuthorities": [{"uri": "https://ca.example.com"}, `, []string{"certificateAuthorities[0]", "https://ca.example.com", "no certificates"}, 2, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, err := ParseTrustedRoot(edit(t, tc.old, tc.new))
			if err != nil {
				t.Fatal(err)
			}
			if len(root.Rekor) != tc.rekor || root.Chains.Len() != tc.cas || len(root.CT) != 2 {
				t.Errorf("got %d Rekor logs, %d CT logs, %d authorities; want %d, 2, %d", len(root.Rekor), len(root.CT), root.Chains.Len(), tc.rekor, tc.cas)
			}
			all := strings.Join(root.Warnings, "\n")
			if (len(tc.warning) == 0) != (len(root.Warnings) == 0) {
				t.Fatalf("got warnings %q, want %q", all, tc.warning)
			}
			for _, part := range tc.warning {
				if !strings.Contains(all, part) {
					t.Errorf("got warning %q, want it to say %q", all, part)
				}
			}
		})
	}
}

func TestLogIDComesFromTheRoot(t *testing.T) {
	root, err := ParseTrustedRoot(edit(t, `wNI9atQGlz+VWfO6LRygH4QUfY/8W4RFwiT5i5WRgB0=`, `AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=`))
	if err != nil {
		t.Fatal(err)
	}
	if l := root.Rekor[0]; l.Key.LogID != [32]byte{} || l.Type != "" {
		t.Errorf("got log ID %s, type %q; want the root's zeros, and no type told from it", l.Key.Hex(), l.Type)
	}
}

func TestWhatIsNoTrustedRootIsAnError(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTrustedRoot(big, ReadFile); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v for a file beyond the limit, want an error that says so", err)
	}
	if _, err := ReadTrustedRoot(dir, ReadFile); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v for a folder, want an error that says so", err)
	}
	for _, data := range []string{"", "{", "[]", "{}", `{"mediaType": "application/json"}`, `{"tlogs": 7}`} {
		if _, err := ParseTrustedRoot([]byte(data)); err == nil {
			t.Errorf("%q: got no error", data)
		}
	}
}

func TestRealCertificatesChain(t *testing.T) {
	public, err := ReadTrustedRoot(shared+"trusted_root_public_good.json", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	staging, err := ReadTrustedRoot(shared+"trusted_root_staging.json", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	local, err := ReadTrustedRoot("testdata/scaffolding_root.json", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		chains *Chains
		cert   string
		want   bool
	}{
		{"public good", public.Chains, "testdata/public_good.pem", true},
		{"public good under staging", staging.Chains, "testdata/public_good.pem", false},
		{"OtherName in a critical extension", local.Chains, "testdata/othername.pem", true},
		{"OtherName under public good", public.Chains, "testdata/othername.pem", false},
	} {
		trusted, known, err := tc.chains.Check(pemBytes(t, tc.cert), nil)
		if trusted != tc.want || !known || (err == nil) != tc.want {
			t.Errorf("%s: got trusted %v, known %v, %v; want trusted %v, known, an error if not", tc.name, trusted, known, err, tc.want)
		}
	}
	if trusted, known, err := new(Chains).Check(pemBytes(t, "testdata/public_good.pem"), nil); trusted || known || err != nil {
		t.Errorf("no authorities: got %v %v %v, want neither trusted nor known", trusted, known, err)
	}
	if trusted, known, err := public.Chains.Check([]byte("garbage"), nil); trusted || !known || err == nil {
		t.Errorf("garbage: got %v %v %v, want an error", trusted, known, err)
	}
}

// issuer is a CA in tests.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// issue makes a certificate under parent, or a root if there is none.
func issue(t testing.TB, parent *issuer, ca bool, from, to time.Time, edit func(*x509.Certificate)) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(from.Unix()), Subject: pkix.Name{CommonName: from.String()}, NotBefore: from, NotAfter: to,
		BasicConstraintsValid: true, IsCA: ca,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		template.EmailAddresses = []string{"me@example.com"}
	}
	if edit != nil {
		edit(template)
	}
	if parent == nil {
		parent = &issuer{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func write(t testing.TB, certs ...*issuer) string {
	t.Helper()
	var out bytes.Buffer
	for _, c := range certs {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString("\n")
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckVerifiesAtNotBefore(t *testing.T) {
	year := 365 * 24 * time.Hour
	root := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	link := issue(t, root, true, noon.Add(-year/2), noon.Add(year/2), nil)
	other := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	leaf := func(ca *issuer, from time.Time, edit func(*x509.Certificate)) []byte {
		return issue(t, ca, false, from, from.Add(10*time.Minute), edit).cert.Raw
	}
	otherName := func(c *x509.Certificate) {
		ext, err := cryptoutils.MarshalOtherNameSAN("bob!example.com", true)
		if err != nil {
			t.Fatal(err)
		}
		c.EmailAddresses, c.ExtraExtensions = nil, []pkix.Extension{*ext}
	}
	unknownCritical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	}
	full, err := ReadChains(write(t, root), write(t, link), ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	rootOnly, err := ReadChains(write(t, other, root), "", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	limited := &Chains{authorities: []authority{full.authorities[0]}}
	limited.authorities[0].start, limited.authorities[0].end = noon, noon.Add(time.Hour)
	twice := &Chains{authorities: []authority{limited.authorities[0], full.authorities[0]}}

	for _, tc := range []struct {
		name   string
		chains *Chains
		cert   []byte
		served [][]byte
		want   bool
	}{
		{"long expired, valid then", full, leaf(link, noon, nil), nil, true},
		{"from another CA", full, leaf(other, noon, nil), nil, false},
		{"served with another root", full, leaf(other, noon, nil), [][]byte{other.cert.Raw}, false},
		{"intermediate not known", rootOnly, leaf(link, noon, nil), nil, false},
		{"intermediate served", rootOnly, leaf(link, noon, nil), [][]byte{[]byte("garbage"), link.cert.Raw}, true},
		{"intermediate served too late", rootOnly, leaf(link, noon, nil), append(make([][]byte, maxServed), link.cert.Raw), false},
		{"before the intermediate was valid", full, leaf(link, noon.Add(-year*3/4), nil), nil, false},
		{"before the authority", limited, leaf(link, noon.Add(-time.Second), nil), nil, false},
		{"at the authority's start", limited, leaf(link, noon, nil), nil, true},
		{"at the authority's end", limited, leaf(link, noon.Add(time.Hour), nil), nil, true},
		{"after the authority", limited, leaf(link, noon.Add(time.Hour+time.Second), nil), nil, false},
		{"under the second authority", twice, leaf(link, noon.Add(2*time.Hour), nil), nil, true},
		{"OtherName", full, leaf(link, noon, otherName), nil, true},
		{"another critical extension", full, leaf(link, noon, unknownCritical), nil, false},
		{"not for code signing", full, leaf(link, noon, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, false},
		{"for anything", full, leaf(link, noon, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), nil, true},
	} {
		trusted, known, err := tc.chains.Check(tc.cert, tc.served)
		if trusted != tc.want || !known || (err == nil) != tc.want {
			t.Errorf("%s: got trusted %v, known %v, %v; want trusted %v", tc.name, trusted, known, err, tc.want)
		}
	}
}

func TestReadChainsNamesTheFileThatIsWrong(t *testing.T) {
	good := write(t, issue(t, nil, true, noon, noon.Add(time.Hour), nil))
	empty := filepath.Join(t.TempDir(), "empty.pem")
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	for path, text := range map[string]string{empty: "", garbage: "not PEM\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ roots, intermediates, want string }{
		{"missing.pem", "", "missing.pem"}, {good, "gone.pem", "gone.pem"}, {empty, "", empty}, {good, garbage, garbage},
	} {
		if _, err := ReadChains(tc.roots, tc.intermediates, ReadFile); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("ReadChains(%q, %q): got %v, want an error that names %s", tc.roots, tc.intermediates, err, tc.want)
		}
	}
}

func FuzzParseTrustedRootNeverPanics(f *testing.F) {
	f.Add(read(f, shared+"trusted_root_public_good.json"))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[null,{}],"ctlogs":[{"publicKey":{"validFor":{}}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := ParseTrustedRoot(data)
		if err != nil {
			return
		}
		for _, l := range append(root.Rekor, root.CT...) {
			if l.URL == "" || l.Key.Public == nil {
				t.Errorf("got a log without URL or key: %+v", l)
			}
		}
	})
}

func TestAShardIsToldByItsIDWhateverItsKey(t *testing.T) {
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const origin = "rekor.example.com/shard"
	for _, tc := range []struct {
		name   string
		public crypto.PublicKey
		id     func(spki []byte) [32]byte
		want   tlog.Type
	}{
		{"Ed25519 with its origin", edKey, func([]byte) [32]byte { return sha256.Sum256(append([]byte(origin+"\n\x01"), edKey...)) }, tlog.RekorV2},
		{"Ed25519 with another origin", edKey, func([]byte) [32]byte { return sha256.Sum256(append([]byte("other\n\x01"), edKey...)) }, ""},
		{"Ed25519 alone", edKey, func(spki []byte) [32]byte { return sha256.Sum256(spki) }, tlog.RekorV1},
		{"RSA with its origin", &rsaKey.PublicKey, func(spki []byte) [32]byte {
			return sha256.Sum256(append([]byte(origin+"\n\xffPKIX-RSA-PKCS#1v1.5"), spki...))
		}, tlog.RekorV2},
		{"RSA alone", &rsaKey.PublicKey, func(spki []byte) [32]byte { return sha256.Sum256(spki) }, tlog.RekorV1},
		{"ECDSA alone", &ecdsaKey.PublicKey, func(spki []byte) [32]byte { return sha256.Sum256(spki) }, tlog.RekorV1},
		{"nothing", &ecdsaKey.PublicKey, func([]byte) [32]byte { return sha256.Sum256(nil) }, ""},
	} {
		spki, err := x509.MarshalPKIXPublicKey(tc.public)
		if err != nil {
			t.Fatal(err)
		}
		id := tc.id(spki)
		data, err := json.Marshal(map[string]any{"mediaType": mediaType, "tlogs": []any{map[string]any{
			"baseUrl": "https://" + origin + "/", "hashAlgorithm": "SHA2_256", "publicKey": map[string]any{"rawBytes": spki}, "logId": map[string]any{"keyId": id[:]},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		root, err := ParseTrustedRoot(data)
		if err != nil || len(root.Rekor) != 1 {
			t.Fatalf("%s: got %+v, %v", tc.name, root, err)
		}
		if l := root.Rekor[0]; l.Type != tc.want || l.Key.LogID != id || l.Origin != origin {
			t.Errorf("%s: got type %q, log ID %s, origin %s; want %q, the ID given, %s", tc.name, l.Type, l.Key.Hex(), l.Origin, tc.want, origin)
		}
	}
}
