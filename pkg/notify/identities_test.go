package notify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/watch"
)

// peerValues are what the rules of the findings below stand for.
var peerValues = map[string]config.PeerValue{
	"cert":      {Type: "certIdentity", Text: `@acme\.example`, Issuers: []string{"https://accounts"}},
	"any":       {Type: "certIdentity", Text: "workflow"},
	"subject":   {Type: "subject", Text: "acme"},
	"print":     {Type: "fingerprint", Text: "c0ffee"},
	"issuer":    {Type: "oidExtension", Extension: "issuer", Values: []string{"https://a", "https://b"}},
	"build":     {Type: "oidExtension", Extension: "build-signer-uri", Values: []string{"<x>"}},
	"extension": {Type: "oidExtension", Extension: "1.2.3", Values: []string{"v"}},
}

func foundIdentities() []watch.Finding {
	global := uint64(907)
	both := []watch.Extension{{OID: "1.3.6.1.4.1.57264.1.1", Value: "https://a"}, {OID: "1.3.6.1.4.1.57264.1.8", Value: "https://b"}}
	return []watch.Finding{
		{Rule: "cert", Index: 7, LogIndex: &global, UUID: "f00d", SignerType: "x509", Subject: "bob@acme.example", Subjects: []string{"bob@acme.example"}, Issuer: "https://accounts", Certificate: "pem"},
		{Rule: "any", Index: 8, SignerType: "x509", Subject: "https://x/workflow", Issuer: "https://token"},
		{Rule: "subject", Index: 9, SignerType: "pgp", Subject: "a@acme", Subjects: []string{"a@acme", "b@other", "c@acme"}},
		{Rule: "subject", Index: 9, SignerType: "pgp", Subject: "a@acme", Subjects: []string{"a@acme", "b@other", "c@acme"}}, // its subkey
		{Rule: "subject", Index: 10, SignerType: "pgp", Subject: "a@acme", Subjects: []string{"a@acme"}},
		{Rule: "print", Index: 11, SignerType: "ssh", Subject: "s", Fingerprint: "c0ffee"},
		{Rule: "issuer", Index: 12, SignerType: "x509", Subject: "s", Extensions: both},
		{Rule: "build", Index: 13, SignerType: "x509", Extensions: []watch.Extension{{OID: "1.3.6.1.4.1.57264.1.9", Value: "<x>"}}},
		{Rule: "extension", Index: 14, SignerType: "x509", Extensions: []watch.Extension{{OID: "1.2.3", Value: "v"}}},
		{Rule: "own", Index: 15, SignerType: "x509", Subject: "s", Issuer: "i", Fingerprint: "f", Certificate: "pem"},
		{Rule: "any", Index: 16, SignerType: "x509", Subject: "workflow\nforged 1", Issuer: "i\x1b[2J"},
	}
}

// The lines are those of rekor-monitor v1.5: of words, the fields that are not empty;
// of JSON, encoding/json's of its LogEntry. The last two have no like there: a rule of
// ours, and a name that would begin a line of its own.
func TestOutputIdentitiesAreRekorMonitorsLines(t *testing.T) {
	for _, tc := range []struct {
		json bool
		want string
	}{
		{false, `bob@acme.example https://accounts 907 f00d
https://x/workflow https://token 8
a@acme 9
c@acme 9
a@acme 10
c0ffee 11
12 1.3.6.1.4.1.57264.1.1 https://a
12 1.3.6.1.4.1.57264.1.8 https://b
13 1.3.6.1.4.1.57264.1.9 <x>
14 1.2.3 v
s i f 15
workflow\nforged 1 i\u{001b}[2J 16
`},
		{true, `{"MatchedIdentity":{"certSubject":"@acme\\.example","issuers":["https://accounts"],"type":"certIdentity"},"CertSubject":"bob@acme.example","Issuer":"https://accounts","Fingerprint":"","Subject":"","Index":907,"UUID":"f00d","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"certSubject":"workflow","issuers":null,"type":"certIdentity"},"CertSubject":"https://x/workflow","Issuer":"https://token","Fingerprint":"","Subject":"","Index":8,"UUID":"","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"subject":"acme","type":"subject"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"a@acme","Index":9,"UUID":"","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"subject":"acme","type":"subject"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"c@acme","Index":9,"UUID":"","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"subject":"acme","type":"subject"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"a@acme","Index":10,"UUID":"","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"fingerprint":"c0ffee","type":"fingerprint"},"CertSubject":"","Issuer":"","Fingerprint":"c0ffee","Subject":"","Index":11,"UUID":"","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"extensionValues":["https://a","https://b"],"oid":[1,3,6,1,4,1,57264,1,1],"type":"oidExtension"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"","Index":12,"UUID":"","OIDExtension":[1,3,6,1,4,1,57264,1,1],"ExtensionValue":"https://a"}
{"MatchedIdentity":{"extensionValues":["https://a","https://b"],"oid":[1,3,6,1,4,1,57264,1,8],"type":"oidExtension"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"","Index":12,"UUID":"","OIDExtension":[1,3,6,1,4,1,57264,1,8],"ExtensionValue":"https://b"}
{"MatchedIdentity":{"extensionValues":["\u003cx\u003e"],"oid":[1,3,6,1,4,1,57264,1,9],"type":"oidExtension"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"","Index":13,"UUID":"","OIDExtension":[1,3,6,1,4,1,57264,1,9],"ExtensionValue":"\u003cx\u003e"}
{"MatchedIdentity":{"extensionValues":["v"],"oid":[1,2,3],"type":"oidExtension"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"","Index":14,"UUID":"","OIDExtension":[1,2,3],"ExtensionValue":"v"}
{"MatchedIdentity":{"rule":"own","type":"rule"},"CertSubject":"s","Issuer":"i","Fingerprint":"f","Subject":"","Index":15,"UUID":"","OIDExtension":null,"ExtensionValue":""}
{"MatchedIdentity":{"certSubject":"workflow","issuers":null,"type":"certIdentity"},"CertSubject":"workflow\nforged 1","Issuer":"i\u001b[2J","Fingerprint":"","Subject":"","Index":16,"UUID":"","OIDExtension":null,"ExtensionValue":""}
`},
	} {
		path := filepath.Join(t.TempDir(), "ids")
		sink := identitiesSink(t, path, tc.json)
		a := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), Findings: foundIdentities()}
		a.Seal()
		acked, err := Deliver(t.Context(), sink, []report.Alert{a})
		if err != nil || len(acked) != 1 {
			t.Fatalf("Deliver: acknowledged %q, %v", acked, err)
		}
		if got := readFile(t, path); got != tc.want {
			t.Errorf("JSON %v: got\n%s\nwant\n%s", tc.json, got, tc.want)
		}
	}
}

func identitiesSink(t *testing.T, path string, json bool) Sink {
	t.Helper()
	sinks, err := Open(config.Alerts{Identities: []config.Identities{{Name: "identities", Path: path, JSON: json, Values: peerValues}}}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return sinks[0]
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOutputIdentitiesTakesFindingsAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.txt")
	sink := identitiesSink(t, path, false)
	for class, want := range map[report.Class]bool{report.ClassIdentity: true, report.ClassTamper: false, report.ClassHealth: false} {
		if got := sink.Takes(class); got != want {
			t.Errorf("class %s: taken %v, want %v", class, got, want)
		}
	}
	expected := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), Expected: 1}
	expected.Seal()
	if err := sink.Send(t.Context(), report.Email([]report.Alert{expected})); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got a file (%v), want none", err)
	}
	sinks, err := Open(config.Alerts{Folders: []config.Folder{{Path: t.TempDir()}}}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if Tells(sink) || !Tells(sinks[0]) {
		t.Errorf("a file of identities tells %v, a folder %v; want that people read the folder only", Tells(sink), Tells(sinks[0]))
	}
}

// Which log a line is from rekor-monitor does not say: it watches one. What it says
// stays where it is, and the origin is added at the end.
func TestOutputIdentitiesNamesTheLogAndMarksWhatIsUnproven(t *testing.T) {
	global := uint64(907)
	findings := []watch.Finding{
		{Rule: "print", Index: 7, LogIndex: &global, UUID: "f00d", Origin: "rekor.acme.example - 42", Fingerprint: "c0ffee"},
		{Rule: "print", Index: 8, Origin: "log2025-1.acme.example", Fingerprint: "c0ffee"},
		{Rule: "extension", Index: 9, Origin: "ct.acme\nforged 1", Unproven: true, Extensions: []watch.Extension{{OID: "1.2.3", Value: "v"}}},
		{Rule: "print", Index: 7, LogIndex: &global, UUID: "f00d", Origin: "rekor.acme.example - 42", Fingerprint: "c0ffee", Unproven: true},
	}
	const known = `,"CertSubject":"","Issuer":"","Fingerprint":"c0ffee","Subject":"","Index":`
	const matched = `{"MatchedIdentity":{"fingerprint":"c0ffee","type":"fingerprint"}` + known
	for json, want := range map[bool]string{
		false: `c0ffee 907 f00d
c0ffee 8 log2025-1.acme.example
9 1.2.3 v ct.acme\nforged 1 (unproven)
c0ffee 907 f00d (unproven)
`,
		true: matched + `907,"UUID":"f00d","OIDExtension":null,"ExtensionValue":"","Origin":"rekor.acme.example - 42"}
` + matched + `8,"UUID":"","OIDExtension":null,"ExtensionValue":"","Origin":"log2025-1.acme.example"}
{"MatchedIdentity":{"extensionValues":["v"],"oid":[1,2,3],"type":"oidExtension"},"CertSubject":"","Issuer":"","Fingerprint":"","Subject":"","Index":9,"UUID":"","OIDExtension":[1,2,3],"ExtensionValue":"v","Origin":"ct.acme\nforged 1","Unproven":true}
` + matched + `907,"UUID":"f00d","OIDExtension":null,"ExtensionValue":"","Origin":"rekor.acme.example - 42","Unproven":true}
`,
	} {
		path := filepath.Join(t.TempDir(), "ids")
		a := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), Findings: findings}
		a.Seal()
		if _, err := Deliver(t.Context(), identitiesSink(t, path, json), []report.Alert{a}); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, path); got != want {
			t.Errorf("JSON %v: got\n%s\nwant\n%s", json, got, want)
		}
	}
}

func TestOutputIdentitiesAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.txt")
	// What rekor-monitor left, its last line torn by a crash.
	if err := os.WriteFile(path, []byte("old 1\ntorn"), 0o600); err != nil {
		t.Fatal(err)
	}
	sink := identitiesSink(t, path, false)
	var alerts []report.Alert
	for i := range maxMessages + 1 { // a digest, which shows fewer
		a := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), From: uint64(i), Findings: []watch.Finding{{Rule: "print", Index: uint64(i), Fingerprint: "c0ffee"}}}
		a.Seal()
		alerts = append(alerts, a)
	}
	if acked, err := Deliver(t.Context(), sink, alerts); err != nil || len(acked) != len(alerts) {
		t.Fatalf("acknowledged %d, %v; want all %d", len(acked), err, len(alerts))
	}
	got := readFile(t, path)
	if !strings.HasPrefix(got, "old 1\ntorn\nc0ffee 0\nc0ffee 1\n") || strings.Count(got, "\n") != 2+len(alerts) {
		t.Errorf("got\n%s\nwant what was there, and a line for each finding", got)
	}
}

func TestOutputIdentitiesTakesNoAlertWithoutAllOfItsFindings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.txt")
	sink := identitiesSink(t, path, false)
	whole := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), Findings: foundIdentities()}
	part := whole
	part.Cut, part.Pointer = 3, "findings/log/0-1.jsonl"
	whole.Seal()
	part.Seal()
	acked, err := Deliver(t.Context(), sink, []report.Alert{part, whole})
	var failed *SendError
	if !slices.Equal(acked, []string{whole.ID}) || !errors.As(err, &failed) || failed.Down || failed.Delivered || !strings.Contains(err.Error(), "lacks 3 of its findings, which are in findings/log/0-1.jsonl") {
		t.Errorf("acknowledged %q, %v; want the whole one only (%s), and where the rest of the other is", acked, err, whole.ID)
	}
	if got, want := strings.Count(readFile(t, path), "\n"), 12; got != want {
		t.Errorf("got %d lines, want the %d of the whole one", got, want)
	}
	if other, err := openFolder(config.Folder{Path: t.TempDir()}); err != nil || !ListsAll(sink) || ListsAll(other) {
		t.Errorf("lists all findings: %v, a folder: %v (%v); want that only the file does", ListsAll(sink), ListsAll(other), err)
	}
}

// A scan keeps nothing that the rest could be taken from, and its result says that.
func TestOutputIdentitiesSaysInWordsOnlyHowManyAScanDidNotList(t *testing.T) {
	for json, want := range map[bool]string{
		false: "c0ffee 7\n3 more findings are not listed here\n",
		true:  `{"MatchedIdentity":{"fingerprint":"c0ffee","type":"fingerprint"},"CertSubject":"","Issuer":"","Fingerprint":"c0ffee","Subject":"","Index":7,"UUID":"","OIDExtension":null,"ExtensionValue":""}` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "ids")
		a := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), Cut: 3, Findings: []watch.Finding{{Rule: "print", Index: 7, Fingerprint: "c0ffee"}}}
		a.Seal()
		if _, err := Deliver(t.Context(), identitiesSink(t, path, json), []report.Alert{a}); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, path); got != want {
			t.Errorf("JSON %v: got\n%s\nwant\n%s", json, got, want)
		}
	}
}

func TestOutputIdentitiesIsDownWhenItsFileCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone", "ids.txt")
	a := report.Alert{Class: report.ClassIdentity, Created: time.Unix(1700000000, 0), Findings: foundIdentities()}
	a.Seal()
	acked, err := Deliver(t.Context(), identitiesSink(t, path, false), []report.Alert{a})
	var failed *SendError
	if len(acked) != 0 || !errors.As(err, &failed) || !failed.Down || !strings.Contains(err.Error(), path) {
		t.Errorf("got %q, %v; want nothing acknowledged, and that the sink is down for want of %s", acked, err, path)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path = filepath.Join(t.TempDir(), "ids.txt")
	if err := identitiesSink(t, path, false).Send(ctx, report.Email([]report.Alert{a})); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the run was ended", err)
	}
}
