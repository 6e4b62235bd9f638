package watch_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/entry"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// This is rekor-monitor v1.5 as its README has it, written out plainly: subjects and
// issuers are regular expressions that are searched for, fingerprints and extension
// values are compared, and each value is held against every certificate, subject and
// fingerprint of an entry.

// peerValue is one monitored value; its JSON is how the two sides are compared.
type peerValue struct {
	CertSubject string   `json:",omitempty"`
	Issuers     []string `json:",omitempty"`
	Subject     string   `json:",omitempty"`
	Fingerprint string   `json:",omitempty"`
	Extension   string   `json:",omitempty"` // Fulcio's name, or a dotted OID
	Values      []string `json:",omitempty"`
}

func (v peerValue) key() string {
	b, _ := json.Marshal(v) // strings always marshal
	return string(b)
}

// identities are what rekor-monitor takes from an entry.
type identities struct {
	subjects, fingerprints []string
	certificates           []*x509.Certificate
}

func (v peerValue) fits(t *testing.T, e *identities) bool {
	t.Helper()
	switch {
	case v.CertSubject != "":
		return slices.ContainsFunc(e.certificates, func(c *x509.Certificate) bool { return v.certificateFits(t, c) })
	case v.Subject != "":
		re := regexp.MustCompile(v.Subject)
		return slices.ContainsFunc(e.subjects, re.MatchString)
	case v.Fingerprint != "":
		return slices.Contains(e.fingerprints, v.Fingerprint)
	}
	oids := map[string][]string{
		"issuer":           {"1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"},
		"build-signer-uri": {"1.3.6.1.4.1.57264.1.9"}, "github-workflow-ref": {"1.3.6.1.4.1.57264.1.6"}, "source-repository-uri": {"1.3.6.1.4.1.57264.1.12"},
	}[v.Extension]
	if oids == nil {
		oids = []string{v.Extension}
	}
	for _, c := range e.certificates {
		for _, oid := range oids {
			if text := extensionText(c, oid, true); text != "" && slices.Contains(v.Values, text) {
				return true
			}
		}
	}
	return false
}

// certificateFits needs an issuer: without one a certificate is no identity.
func (v peerValue) certificateFits(t *testing.T, c *x509.Certificate) bool {
	t.Helper()
	issuer := extensionText(c, "1.3.6.1.4.1.57264.1.8", false)
	if issuer == "" {
		for _, x := range c.Extensions {
			if x.Id.String() == "1.3.6.1.4.1.57264.1.1" {
				issuer = string(x.Value)
				break
			}
		}
	}
	if issuer == "" {
		return false
	}
	if !slices.ContainsFunc(cryptoutils.GetSubjectAlternateNames(c), regexp.MustCompile(v.CertSubject).MatchString) {
		return false
	}
	return len(v.Issuers) == 0 || slices.ContainsFunc(v.Issuers, func(i string) bool { return regexp.MustCompile(i).MatchString(issuer) })
}

// extensionText is the DER string that an extension holds or, if raw will do, its bytes.
func extensionText(c *x509.Certificate, oid string, raw bool) string {
	for _, x := range c.Extensions {
		if x.Id.String() != oid {
			continue
		}
		var text string
		if rest, err := asn1.Unmarshal(x.Value, &text); err == nil && len(rest) == 0 {
			return text
		}
		if raw {
			return string(x.Value)
		}
		return ""
	}
	return ""
}

// read takes the identities from a leaf in the ways that rekor-monitor does: through
// rekor's own types for Rekor v1, from the verifiers for Rekor v2.
func read(leaf []byte) (*identities, error) {
	var v2 struct {
		APIVersion string `json:"apiVersion"`
		Spec       struct {
			HashedRekord struct{ Signature signatureV2 }    `json:"hashedRekordV002"`
			DSSE         struct{ Signatures []signatureV2 } `json:"dsseV002"`
		}
	}
	e := &identities{}
	if json.Unmarshal(leaf, &v2) == nil && v2.APIVersion == "0.0.2" && bytes.Contains(leaf, []byte("V002")) {
		for _, s := range append(v2.Spec.DSSE.Signatures, v2.Spec.HashedRekord.Signature) {
			if err := e.verifier(s); err != nil {
				return nil, err
			}
		}
		return e, nil
	}
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), runtime.JSONConsumer())
	if err != nil {
		return nil, err
	}
	impl, err := types.UnmarshalEntry(proposed)
	if err != nil {
		return nil, err
	}
	verifiers, err := impl.Verifiers()
	if err != nil {
		return nil, err
	}
	for _, v := range verifiers {
		e.subjects = append(e.subjects, v.Subjects()...)
		ids, err := v.Identities()
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			e.fingerprints = append(e.fingerprints, id.Fingerprint)
			if c, ok := id.Crypto.(*x509.Certificate); ok {
				e.certificates = append(e.certificates, c)
			}
		}
	}
	return e, nil
}

type signatureV2 struct {
	Verifier struct {
		X509Certificate, PublicKey struct{ RawBytes []byte }
	}
}

func (e *identities) verifier(s signatureV2) error {
	der := s.Verifier.X509Certificate.RawBytes
	if len(der) > 0 {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		e.certificates = append(e.certificates, c)
		e.subjects = append(e.subjects, cryptoutils.GetSubjectAlternateNames(c)...)
	} else if der = s.Verifier.PublicKey.RawBytes; len(der) == 0 {
		return nil
	}
	sum := sha256.Sum256(der)
	e.fingerprints = append(e.fingerprints, hex.EncodeToString(sum[:]))
	return nil
}

func TestMonitoredValuesFindWhatRekorMonitorFinds(t *testing.T) {
	const seed, configurations = 4, 60
	r := rand.New(rand.NewPCG(seed, seed))
	leaves := peerLeaves(t)
	entries, want := make([]*entry.Entry, len(leaves)), make([]*identities, len(leaves))
	unread := 0
	for i, leaf := range leaves {
		var err error
		if want[i], err = read(leaf); err != nil {
			unread++ // which it says, and goes on
		}
		if entries[i], err = entry.Parse(leaf); err != nil && want[i] != nil {
			t.Fatalf("leaf %d: %v, and rekor-monitor reads it", i, err)
		}
	}
	if unread > 2 { // of tuf and rfc3161
		t.Fatalf("rekor-monitor's ways read %d of %d leaves less, want at most 2", unread, len(leaves))
	}
	hits, misses := map[string]int{}, 0
	for n := range configurations {
		values := randomValues(r, want)
		cfg := peerConfig(t, values)
		for i, e := range entries {
			if want[i] == nil {
				continue
			}
			got := map[string]bool{}
			for _, f := range cfg.Rules.Match(e, nil) {
				got[valueOf(cfg.Alerts.Identities[0].Values[f.Rule]).key()] = true
			}
			for _, v := range values {
				fits := v.fits(t, want[i])
				if fits != got[v.key()] {
					t.Errorf("configuration %d, leaf %d: found %v, rekor-monitor %v\nvalue %s\nleaf %.600s", n, i, got[v.key()], fits, v.key(), leaves[i])
				}
				if fits {
					hits[kindOf(v)]++
				} else {
					misses++
				}
				delete(got, v.key())
			}
			for key := range got {
				t.Errorf("configuration %d, leaf %d: found by %s, which was not asked for", n, i, key)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for _, kind := range []string{"certSubject", "certSubject of issuers", "subject", "fingerprint", "extension", "extension by OID"} {
		if hits[kind] < configurations {
			t.Errorf("only %d values of kind %q fitted: the test shows too little", hits[kind], kind)
		}
	}
	t.Logf("%d leaves, %d configurations: fitting %v, not fitting %d", len(leaves), configurations, hits, misses)
}

func kindOf(v peerValue) string {
	switch {
	case v.CertSubject != "" && v.Issuers != nil:
		return "certSubject of issuers"
	case v.CertSubject != "":
		return "certSubject"
	case v.Subject != "":
		return "subject"
	case v.Fingerprint != "":
		return "fingerprint"
	case strings.Contains(v.Extension, "."):
		return "extension by OID"
	}
	return "extension"
}

func valueOf(v config.PeerValue) peerValue {
	switch v.Type {
	case "certIdentity":
		return peerValue{CertSubject: v.Text, Issuers: v.Issuers}
	case "subject":
		return peerValue{Subject: v.Text}
	case "fingerprint":
		return peerValue{Fingerprint: v.Text}
	}
	return peerValue{Extension: v.Extension, Values: v.Values}
}

// peerConfig is a rekor-monitor file with the values.
func peerConfig(t *testing.T, values []peerValue) *config.Config {
	t.Helper()
	lists := map[string][]string{}
	quoted := func(list []string) string {
		var all []string
		for _, text := range list {
			all = append(all, strconv.Quote(text))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	for _, v := range values {
		switch kindOf(v) {
		case "certSubject":
			lists["certIdentities"] = append(lists["certIdentities"], "{certSubject: "+strconv.Quote(v.CertSubject)+"}")
		case "certSubject of issuers":
			lists["certIdentities"] = append(lists["certIdentities"], "{certSubject: "+strconv.Quote(v.CertSubject)+", issuers: "+quoted(v.Issuers)+"}")
		case "subject":
			lists["subjects"] = append(lists["subjects"], strconv.Quote(v.Subject))
		case "fingerprint":
			lists["fingerprints"] = append(lists["fingerprints"], strconv.Quote(v.Fingerprint))
		case "extension by OID":
			lists["custom"] = append(lists["custom"], "{objectIdentifier: "+v.Extension+", extensionValues: "+quoted(v.Values)+"}")
		case "extension":
			lists["fulcio"] = append(lists["fulcio"], v.Extension+": "+quoted(v.Values))
		}
	}
	text := "outputIdentities: found.txt\nmonitoredValues:\n"
	for _, key := range []string{"certIdentities", "subjects", "fingerprints"} {
		text += "  " + key + ": [" + strings.Join(lists[key], ", ") + "]\n"
	}
	text += "  oidMatchers:\n    fulcioExtensions: {" + strings.Join(lists["fulcio"], ", ") + "}\n    customExtensions: [" + strings.Join(lists["custom"], ", ") + "]\n"
	cfg, err := config.Parse(filepath.Join(t.TempDir(), "config.yaml"), []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return cfg
}

// randomValues are values some of which fit: taken from entries, and bent.
func randomValues(r *rand.Rand, entries []*identities) []peerValue {
	var values []peerValue
	fulcio := map[string]bool{}
	add := func(v peerValue) {
		if v.Extension != "" && !strings.Contains(v.Extension, ".") { // the keys of a mapping
			if fulcio[v.Extension] {
				return
			}
			fulcio[v.Extension] = true
		}
		if !slices.ContainsFunc(values, func(other peerValue) bool { return other.key() == v.key() }) {
			values = append(values, v)
		}
	}
	for range 12 {
		e := entries[r.IntN(len(entries))]
		if e == nil {
			continue
		}
		if len(e.subjects) > 0 {
			add(peerValue{Subject: bentPattern(r, pick(r, e.subjects))})
		}
		if len(e.fingerprints) > 0 {
			add(peerValue{Fingerprint: bent(r, pick(r, e.fingerprints))})
		}
		if len(e.certificates) == 0 {
			continue
		}
		c := pick(r, e.certificates)
		spki := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		add(peerValue{Fingerprint: hex.EncodeToString(spki[:])}) // which is not the certificate's
		if sans := cryptoutils.GetSubjectAlternateNames(c); len(sans) > 0 {
			v := peerValue{CertSubject: bentPattern(r, pick(r, sans))}
			for range r.IntN(3) {
				issuer := extensionText(pick(r, pick(r, withCertificates(entries)).certificates), "1.3.6.1.4.1.57264.1.8", false)
				if r.IntN(2) == 0 {
					issuer = extensionText(c, "1.3.6.1.4.1.57264.1.1", true)
				}
				if issuer != "" {
					v.Issuers = append(v.Issuers, bentPattern(r, issuer))
				}
			}
			add(v)
		}
		x := pick(r, c.Extensions)
		text := extensionText(c, x.Id.String(), true)
		// YAML cannot carry just any bytes.
		if text != "" && !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }) {
			add(peerValue{Extension: x.Id.String(), Values: []string{"other", bent(r, text)}})
			for name, oid := range map[string]string{"issuer": "1.3.6.1.4.1.57264.1.8", "build-signer-uri": "1.3.6.1.4.1.57264.1.9", "github-workflow-ref": "1.3.6.1.4.1.57264.1.6"} {
				if x.Id.String() == oid {
					add(peerValue{Extension: name, Values: []string{bent(r, text)}})
				}
			}
		}
	}
	return values
}

func withCertificates(entries []*identities) []*identities {
	return slices.DeleteFunc(slices.Clone(entries), func(e *identities) bool { return e == nil || len(e.certificates) == 0 })
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// bent is text as it is or almost.
func bent(r *rand.Rand, text string) string {
	switch r.IntN(6) {
	case 0:
		return strings.ToUpper(text)
	case 1:
		return text[:len(text)-1] + "!"
	case 2:
		return text + "0"
	}
	return text
}

// bentPattern is an expression that fits text, or almost.
func bentPattern(r *rand.Rand, text string) string {
	part := text[r.IntN(len(text)/2+1):]
	part = part[:max(1, r.IntN(len(part)+1))]
	switch r.IntN(9) {
	case 0:
		return "^" + regexp.QuoteMeta(text) + "$"
	case 1:
		return regexp.QuoteMeta(part)
	case 2:
		return "^" + regexp.QuoteMeta(part)
	case 3:
		return regexp.QuoteMeta(part) + "$"
	case 4:
		return "(?i)" + regexp.QuoteMeta(strings.ToUpper(text))
	case 5:
		return ".*" + regexp.QuoteMeta(part) + ".*|nobody"
	case 6:
		return regexp.QuoteMeta(strings.ToUpper(text))
	case 7:
		return "^$|[^ -~]+"
	}
	return regexp.QuoteMeta(text)
}

// peerLeaves are those of pkg/entry, with every kind and every sort of key, and some
// of certificates with every sort of name and extension.
func peerLeaves(t *testing.T) (leaves [][]byte) {
	t.Helper()
	files, err := filepath.Glob("../entry/testdata/*.json")
	if err != nil || len(files) < 20 {
		t.Fatalf("leaves of pkg/entry: got %d, %v", len(files), err)
	}
	for _, f := range files {
		leaf, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leaf)
	}
	must := func(leaf []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leaf)
	}
	ca, err := tlogtest.NewCA("acme")
	if err != nil {
		t.Fatal(err)
	}
	const google, github = "https://accounts.google.com", "https://token.actions.githubusercontent.com"
	var signers []tlogtest.Signer
	for _, id := range []tlogtest.Identity{
		{Email: "alice@acme.example", Issuer: google},
		{Email: "alice@acme.example.evil", Issuer: google + ".evil", LegacyIssuer: true},
		{Email: "alice@acme.example"}, // without an issuer
		{URI: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1", Issuer: github, Extensions: map[int]string{6: "refs/tags/v1", 9: "https://github.com/acme/build.yml", 12: "https://github.com/acme/app"}},
		{DNSName: "build.acme.example", Issuer: github, Extensions: map[int]string{6: "", 9: ""}},
		{UserName: "alice!acme", Issuer: google},
		{Email: "bob@acme.example", URI: "spiffe://acme.example/build", DNSName: "acme.example", UserName: "bob!acme", Issuer: google},
	} {
		s, err := ca.Issue(id)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	signers = append(signers, everyName(t))
	var keys [2]tlogtest.Signer
	for i := range keys {
		if keys[i], err = tlogtest.NewKeySigner(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range append(signers, keys[0]) {
		must(tlogtest.HashedRekordV001(s, []byte("artifact")))
		must(tlogtest.HashedRekordV002(s, []byte("artifact")))
		must(tlogtest.DSSEV001([]byte("{}"), s, keys[1]))
		must(tlogtest.DSSEV002([]byte("{}"), s, keys[1]))
		must(tlogtest.IntotoV002([]byte("{}"), s))
	}
	return leaves
}

// everyName signs with a certificate that has several names of each sort, and extensions
// of others than Fulcio in each encoding of text.
func everyName(t *testing.T) tlogtest.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := func(params string) []byte {
		b, err := asn1.MarshalWithParams("value of "+params, params)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	extension := func(value []byte, arcs ...int) pkix.Extension {
		return pkix.Extension{Id: append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1}, arcs...), Value: value}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		EmailAddresses: []string{"carol@acme.example", "carol@other.example"}, DNSNames: []string{"a.acme.example", "*.acme.example"},
		IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}, URIs: []*url.URL{{Scheme: "https", Host: "acme.example", Path: "/x"}},
		ExtraExtensions: []pkix.Extension{
			extension([]byte("https://raw.issuer.example"), 57264, 1, 1), extension(der("utf8"), 57264, 1, 8),
			extension(der("printable"), 99999, 1), extension(der("ia5"), 99999, 2), extension([]byte("bare text"), 99999, 3),
			extension(nil, 99999, 4), extension(der("utf8"), 57264, 1, 23), extension([]byte("\x1e\x04\x00h\x00i"), 99999, 5), // a BMPString
		},
	}
	cert, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(fmt.Errorf("certificate of every name: %w", err))
	}
	return tlogtest.Signer{Key: key, Certificate: cert}
}
