//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/transparency-dev/tessera/api/layout"
)

// monitored is a value of rekor-monitor's monitoredValues, and the rule that it is
// here.
type monitored struct {
	rule string
	fits func(*identity) bool
}

// identity is what rekor-monitor makes of one signer of an entry.
type identity struct {
	subjects    []string
	fingerprint string
	certificate *x509.Certificate // nil for a key
}

func certSubject(subject string, issuers ...string) monitored {
	rule := "certSubject " + subject
	if len(issuers) > 0 {
		rule += " of " + strings.Join(issuers, " or ")
	}
	return monitored{rule, func(i *identity) bool {
		if i.certificate == nil {
			return false
		}
		issuer := i.extension("1.3.6.1.4.1.57264.1.8")
		if issuer == "" {
			issuer = i.extension("1.3.6.1.4.1.57264.1.1")
		}
		return issuer != "" && slices.ContainsFunc(cryptoutils.GetSubjectAlternateNames(i.certificate), regexp.MustCompile(subject).MatchString) &&
			(len(issuers) == 0 || slices.ContainsFunc(issuers, func(re string) bool { return regexp.MustCompile(re).MatchString(issuer) }))
	}}
}

func anySubject(re string) monitored {
	return monitored{"subject " + re, func(i *identity) bool { return slices.ContainsFunc(i.subjects, regexp.MustCompile(re).MatchString) }}
}

func fingerprintIs(sum string) monitored {
	return monitored{"fingerprint " + sum, func(i *identity) bool { return i.fingerprint == sum }}
}

func extensionIs(name, oid string, values ...string) monitored {
	return monitored{"extension " + name + " " + strings.Join(values, " or "), func(i *identity) bool {
		text := i.extension(oid)
		return text != "" && slices.Contains(values, text)
	}}
}

// extension is the text of a certificate's extension; "" if there is none.
func (i *identity) extension(oid string) string {
	if i.certificate == nil {
		return ""
	}
	for _, e := range i.certificate.Extensions {
		if e.Id.String() == oid {
			var text string
			if rest, err := asn1.Unmarshal(e.Value, &text); err == nil && len(rest) == 0 {
				return text
			}
			return string(e.Value)
		}
	}
	return ""
}

// identitiesV1 takes them from a Rekor v1 entry by rekor's own library, as rekor-monitor
// does.
func identitiesV1(t testing.TB, leaf []byte) (all []*identity) {
	t.Helper()
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), runtime.JSONConsumer())
	if err != nil {
		t.Fatal(err)
	}
	e, err := types.UnmarshalEntry(proposed)
	if err != nil {
		t.Fatal(err)
	}
	verifiers, err := e.Verifiers()
	if err != nil {
		return nil // rfc3161 has none
	}
	for _, v := range verifiers {
		ids, err := v.Identities()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			certificate, _ := id.Crypto.(*x509.Certificate)
			all = append(all, &identity{v.Subjects(), id.Fingerprint, certificate})
		}
	}
	return all
}

// identitiesV2 takes them from a Rekor v2 hashedrekord.
func identitiesV2(t testing.TB, leaf []byte) []*identity {
	t.Helper()
	var e struct {
		Spec struct {
			HashedRekordV002 struct {
				Signature struct {
					Verifier struct {
						X509Certificate, PublicKey struct{ RawBytes []byte }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(leaf, &e); err != nil {
		t.Fatal(err)
	}
	v := e.Spec.HashedRekordV002.Signature.Verifier
	if der := v.PublicKey.RawBytes; len(der) > 0 {
		return []*identity{{fingerprint: sumOf(der)}}
	}
	certificate, err := x509.ParseCertificate(v.X509Certificate.RawBytes)
	if err != nil {
		t.Fatal(err)
	}
	return []*identity{{cryptoutils.GetSubjectAlternateNames(certificate), sumOf(certificate.Raw), certificate}}
}

func sumOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// checkPeer watches both Rekors with one configuration of rekor-monitor. What is found
// must be what its documentation says, over every entry that the logs have.
func (s *suite) checkPeer(t *testing.T, d *sigstore) {
	v1, v2 := d.v1.all(t), d.v2.truth(t).leaves
	own, pgp := "", ""
	for _, leaf := range v1 {
		for _, i := range identitiesV1(t, leaf) {
			if i.certificate != nil && slices.Contains(i.subjects, rogue) {
				own = i.fingerprint
			} else if i.certificate == nil && len(i.subjects) > 0 {
				pgp = i.subjects[0]
			}
		}
	}
	if own == "" || pgp == "" {
		t.Fatalf("fingerprint %q, PGP subject %q: the log lacks what is to be watched for", own, pgp)
	}
	config := fmt.Sprintf(`monitoredValues:
  certIdentities:
    - certSubject: acme/app/.*rogue
    - certSubject: (?i)release\.bot@
      issuers: [^https://accounts, 'never\.test']
    - certSubject: acme
      issuers: ['gitlab']
  subjects: [%q, 'gitlab-ci\.yml']
  fingerprints: [%s]
  oidMatchers:
    fulcioExtensions:
      build-signer-uri: [%s]
    oidExtensions:
      - objectIdentifier: 1.3.6.1.4.1.57264.1.1
        extensionValues: [https://gitlab.acme.test]
    customExtensions:
      - objectIdentifier: 1.3.6.1.4.1.57264.1.8
        extensionValues: [https://accounts.google.com, https://nobody.test]
`, regexp.QuoteMeta(pgp), own, rogue)
	values := []monitored{
		certSubject(`acme/app/.*rogue`), certSubject(`(?i)release\.bot@`, `^https://accounts`, `never\.test`), certSubject(`acme`, `gitlab`),
		anySubject(regexp.QuoteMeta(pgp)), anySubject(`gitlab-ci\.yml`), fingerprintIs(own),
		extensionIs("build-signer-uri", "1.3.6.1.4.1.57264.1.9", rogue),
		extensionIs("1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.1", "https://gitlab.acme.test"),
		extensionIs("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.8", "https://accounts.google.com", "https://nobody.test"),
	}

	m := s.follower(t, d.deployment)
	m.sendGrid(t)
	m.follow(t, d.deployment, config, fromFirst(d.v1.url, ""), fromFirst(d.v2.url, ""),
		fmt.Sprintf("{url: %q, exclude: true}", d.rfc.url), fmt.Sprintf("{url: %q, exclude: true}", d.static.url))
	var got []string
	r := m.run(t, exitFindings)
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%s %d %s", f.Log, f.Index, f.Rule))
	}
	var want []string
	byRule := map[string]int{}
	hold := func(log string, leaves [][]byte, identities func(testing.TB, []byte) []*identity) {
		for n, leaf := range leaves {
			all := identities(t, leaf)
			for _, v := range values {
				if slices.ContainsFunc(all, v.fits) {
					byRule[v.rule]++
					want = append(want, fmt.Sprintf("%s %d %s", log, n, v.rule))
				}
			}
		}
	}
	hold(d.v1.id(t, d.v1.active()), v1, identitiesV1)
	hold(d.v2.id(t), v2, identitiesV2)
	slices.Sort(want)
	slices.Sort(got)
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("not found: %s", w)
		}
	}
	for _, g := range slices.Compact(got) {
		if !slices.Contains(want, g) {
			t.Errorf("found, and rekor-monitor would not: %s", g)
		}
	}
	for _, v := range values {
		if byRule[v.rule] == 0 {
			t.Errorf("nothing fits %s: it shows nothing", v.rule)
		}
	}
	if len(r.Logs) != 2 {
		t.Errorf("%d logs are watched, want the two that are not excluded", len(r.Logs))
	}
}

// checkpoints are files of what the logs sign now, in the forms of rekor-monitor.
func (d *sigstore) checkpoints(t testing.TB) (files []string) {
	t.Helper()
	dir := t.TempDir()
	save := func(name string, content []byte) {
		files = append(files, filepath.Join(dir, name))
		writeFile(t, files[len(files)-1], content)
	}
	flat := func(note []byte) []byte { return []byte(strings.ReplaceAll(string(note), "\n", `\n`) + "\n") }
	answer, err := get(d.v1.url + "/api/v1/log")
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ SignedTreeHead string }
	if err := json.Unmarshal(answer, &info); err != nil {
		t.Fatal(err)
	}
	save("logInfo.v1.txt", flat([]byte(info.SignedTreeHead)))
	// It keeps these two without their signatures.
	save("logInfo.v2.txt", flat(d.v2.checkpoint(t).Marshal()))
	note, err := get(d.static.url + "/" + layout.CheckpointPath)
	if err != nil {
		t.Fatal(err)
	}
	body, _, _ := bytes.Cut(note, []byte("\n\n"))
	save("checkpoint_log.txt", flat(append(body, '\n')))
	sth, err := json.Marshal(d.rfc.treeHead(t))
	if err != nil {
		t.Fatal(err)
	}
	save("ctLogInfo.txt", append(sth, '\n'))
	return files
}

// checkImport goes on from where rekor-monitor stopped: all that is found came later.
func (s *suite) checkImport(t *testing.T, d *sigstore, files []string, later []wanted) {
	m := s.follower(t, d.deployment)
	m.sendGrid(t)
	m.follow(t, d.deployment, indexedRules)
	out, err := m.command(t, "import", files...).CombinedOutput()
	if err != nil || strings.Count(string(out), " goes on at entry ") != len(files) {
		t.Fatalf("import: %v; want all of %q taken\n%s", err, files, out)
	}
	r := m.run(t, exitFindings)
	checkFindings(t, r, later)
	for _, w := range later {
		l := r.log(t, w.log)
		if !strings.Contains(string(out), fmt.Sprintf("%s goes on at entry %d ", l.ID, l.Size-l.Entries)) || l.Scanned != l.Size || l.Entries == 0 {
			t.Errorf("log %s: %+v; want it read from where it was imported:\n%s", l.ID, l, out)
		}
	}
	checkFindings(t, m.run(t, exitClean), nil)
}
