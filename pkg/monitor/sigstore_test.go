package monitor_test

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust/trusttest"
)

// sigstore is a whole deployment: Rekor v1, a Rekor v2 shard, two CT logs that speak
// a protocol each, and the TUF repository that lists them with their CA.
type sigstore struct {
	*world
	tuf       *trusttest.Repo
	ct        *tlogtest.RFC6962
	static    *tlogtest.StaticCT
	ctURL     string
	staticURL string
	root      trustedRoot
	items     string // of logs, besides discover
}

// trustedRoot is trusted_root.json as a test edits it.
type trustedRoot struct {
	Rekor, CT []listedLog
	CA        *tlogtest.CA
}

type listedLog struct {
	URL   string
	Key   *tlogtest.Log
	ID    []byte // default: as Sigstore makes it
	Since string // default: the beginning of 2025
	Ended bool
	Raw   string // in place of the key's bytes
}

func (l listedLog) json(t testing.TB, rekor bool) map[string]any {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(l.Key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(spki)
	details := "PKIX_ECDSA_P256_SHA_256"
	if public, ok := l.Key.PublicKey().(ed25519.PublicKey); ok && rekor {
		_, origin, _ := strings.Cut(l.URL, "://")
		id = sha256.Sum256(append([]byte(origin+"\n\x01"), public...))
		details = "PKIX_ED25519"
	}
	if l.ID != nil {
		copy(id[:], l.ID)
	}
	validity := map[string]any{"start": cmp.Or(l.Since, "2025-01-01T00:00:00Z")}
	if l.Ended {
		validity["end"] = "2026-01-01T00:00:00Z"
	}
	raw := base64.StdEncoding.EncodeToString(spki)
	if l.Raw != "" {
		raw = l.Raw
	}
	return map[string]any{
		"baseUrl": l.URL, "hashAlgorithm": "SHA2_256", "logId": map[string]any{"keyId": base64.StdEncoding.EncodeToString(id[:])},
		"publicKey": map[string]any{"rawBytes": raw, "keyDetails": details, "validFor": validity},
	}
}

func (r trustedRoot) bytes(t testing.TB) []byte {
	t.Helper()
	root := map[string]any{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}
	var rekor, ct []any
	for _, l := range r.Rekor {
		rekor = append(rekor, l.json(t, true))
	}
	for _, l := range r.CT {
		ct = append(ct, l.json(t, false))
	}
	root["tlogs"], root["ctlogs"] = rekor, ct
	var chain []any
	for _, text := range [][]byte{r.CA.IntermediatePEM(), r.CA.RootPEM()} {
		block, _ := pem.Decode(text)
		chain = append(chain, map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(block.Bytes)})
	}
	root["certificateAuthorities"] = []any{map[string]any{
		"uri": "https://fulcio.example", "certChain": map[string]any{"certificates": chain}, "validFor": map[string]any{"start": "2020-01-01T00:00:00Z"},
	}}
	b, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newSigstore(t testing.TB) *sigstore {
	t.Helper()
	s := &sigstore{world: newWorld(t), tuf: trusttest.New(t)}
	s.now = time.Now().UTC()
	var err error
	if s.ct, err = tlogtest.NewRFC6962(ecKey(t)); err != nil {
		t.Fatal(err)
	}
	if s.static, err = tlogtest.NewStaticCT("static.ct.example", ecKey(t)); err != nil {
		t.Fatal(err)
	}
	s.ctURL, s.staticURL = s.serve(s.ct), s.serve(s.static)
	s.v2, s.v2URL = s.namedShard()
	s.root = trustedRoot{
		Rekor: []listedLog{{URL: s.v1URL, Key: s.v1.Active().Log}, {URL: s.v2URL, Key: s.v2.Log}},
		CT:    []listedLog{{URL: s.ctURL, Key: s.ct.Log}, {URL: s.staticURL, Key: s.static.Log}},
		CA:    s.ca,
	}
	s.publishRoot()
	s.write("tuf-root.json", s.tuf.InitialRoot())
	s.tune = func(m *monitor.Monitor) { m.Config = s.config() }
	return s
}

// namedShard is a Rekor v2 shard whose origin is its URL without the scheme, as all of
// Sigstore's are.
func (s *sigstore) namedShard() (*tlogtest.Tiles, string) {
	s.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	var shard http.Handler
	url := s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { shard.ServeHTTP(w, r) }))
	l, err := tlogtest.NewTiles(strings.TrimPrefix(url, "http://"), key)
	if err != nil {
		s.t.Fatal(err)
	}
	shard = l
	return l, url
}

func (s *sigstore) publishRoot() { s.tuf.SetTrustedRoot(s.root.bytes(s.t)) }

func (s *sigstore) config() *config.Config {
	s.t.Helper()
	yaml := fmt.Sprintf("state: file:///unused\ntrust: {tuf: %q, root: tuf-root.json}\nwatch: [{name: acme, subject: {glob: \"https://github.com/acme/*\"}}]\nlogs:\n  - discover: all\n", s.tuf.URL) + s.items
	cfg, err := config.Parse(filepath.Join(s.dir, "whosigned.yaml"), []byte(yaml+s.extra))
	if err != nil {
		s.t.Fatal(err)
	}
	return cfg
}

// issue makes one certificate of ours: its precertificate goes to both CT logs and what
// is signed with it to both Rekors.
func (s *sigstore) issue() {
	s.t.Helper()
	signer, entry, err := s.ca.IssuePrecertified(github(mine))
	if err != nil {
		s.t.Fatal(err)
	}
	entry.Timestamp = uint64(s.now.UnixMilli())
	s.ct.Submit(entry)
	s.static.Submit(entry)
	s.n++
	artifact := fmt.Appendf(nil, "artifact %d", s.n)
	one, err := tlogtest.HashedRekordV001(signer, artifact)
	if err != nil {
		s.t.Fatal(err)
	}
	two, err := tlogtest.HashedRekordV002(signer, artifact)
	if err != nil {
		s.t.Fatal(err)
	}
	s.v1.Active().Append(one)
	s.v2.Append(two)
	s.publish()
	if err := s.static.Publish(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sigstore) statuses(res *monitor.Result) string {
	var all []string
	for _, l := range res.Logs {
		all = append(all, fmt.Sprintf("%s %s %d/%d", l.Type, l.Status, l.Scanned, l.Size))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestEveryLogOfTheTrustedRootIsWatchedUnderTUF(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	res := s.want(monitor.ExitClean)
	if got, want := s.statuses(res), "rekor-v1 baseline 1/1\nrekor-v2 baseline 1/1\nrfc6962 baseline 1/1\nstatic-ct baseline 1/1"; got != want || res.Trust != monitor.TrustOK {
		t.Fatalf("first run, trust %q:\n%s\nwant all four at their heads:\n%s", res.Trust, got, want)
	}
	s.issue()
	before := len(s.sinks[0].got())
	res = s.want(monitor.ExitFindings)
	if got, want := s.statuses(res), "rekor-v1 ok 2/2\nrekor-v2 ok 2/2\nrfc6962 ok 2/2\nstatic-ct ok 2/2"; got != want {
		t.Fatalf("second run:\n%s\nwant\n%s", got, want)
	}
	// One signing, four logs: one mail with one item that names them all.
	var mails []string
	for _, m := range s.sinks[0].got()[before:] {
		if strings.Contains(m.Subject, "Signed as") {
			mails = append(mails, m.Text)
		}
	}
	if len(mails) != 1 {
		t.Fatalf("got %d mails about one signing, want 1: %q", len(mails), s.subjects())
	}
	if n := strings.Count(mails[0], "Also in"); n != 3 {
		t.Errorf("the item names %d further logs, want 3:\n%s", n, mails[0])
	}
	for _, f := range res.Findings {
		if f.Trusted != "yes" || f.CertificateID != res.Findings[0].CertificateID || !strings.Contains(mails[0], f.LeafHash.String()) {
			t.Errorf("%s: trusted %s (%s), certificate %.8s; want trusted, the same certificate and named in the mail", f.LogType, f.Trusted, f.TrustErr, f.CertificateID)
		}
	}
	if len(res.Findings) != 4 {
		t.Errorf("got %d findings, want 4", len(res.Findings))
	}
	run, err := state.New(s.store).LoadRun(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	types := map[tlog.Type]int{}
	for _, l := range run.Listed {
		types[l.Type]++
	}
	if len(run.Listed) != 4 || types[tlog.RFC6962] != 1 || types[tlog.StaticCT] != 1 {
		t.Errorf("got %+v, want the protocol of each log remembered", run.Listed)
	}
}

func TestALogThatTUFComesToListIsNewsAndReadFromItsFirstEntry(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)

	shard, url := s.namedShard()
	one, two := s.entry(github(mine))
	_ = one
	shard.Append(two)
	if err := shard.Publish(); err != nil {
		t.Fatal(err)
	}
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: shard.Log})
	s.root.Rekor[1].Ended = true
	s.publishRoot()
	res := s.want(monitor.ExitFindings)
	if l := logOf(t, res, shard.Origin()); l.Entries != 1 || l.Scanned != 1 {
		t.Errorf("got %+v, want the new shard read from its first entry", l)
	}
	if s.mails("the trusted root now lists a log at "+url) != 1 || s.mails("the trusted root says that the log at "+s.v2URL) != 1 {
		t.Errorf("want one notice of each: %q", s.subjects())
	}
	// Its old shard may still grow, and is read.
	s.issue()
	if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.Entries != 1 {
		t.Errorf("got %+v, want the ended shard's last entry read", l)
	}
	// A third run has no news.
	if n := s.mails("the trusted root now lists"); n != 1 {
		t.Errorf("the new log was announced %d times", n)
	}
}

func TestALogThatTheTrustedRootDropsIsReadOnUnderItsOldKey(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	s.root.CT = s.root.CT[1:] // drops the RFC 6962 log
	s.root.Rekor = s.root.Rekor[:1]
	s.publishRoot()
	s.issue()
	res := s.want(monitor.ExitFindings)
	if got, want := s.statuses(res), "rekor-v1 ok 2/2\nrekor-v2 retired 2/2\nrfc6962 retired 2/2\nstatic-ct ok 2/2"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if s.mails("the trusted root no longer lists") == 0 {
		t.Errorf("nobody was told: %q", s.subjects())
	}
}

func TestALogUnderAnotherKeyIsAnErrorUntilThatIsAccepted(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID

	other, _ := s.namedShard()
	thief := listedLog{URL: s.v2URL, Key: other.Log}
	s.root.Rekor[1] = thief
	s.publishRoot()
	s.issue()
	res := s.want(monitor.ExitFailed)
	l := logOf(t, res, s.v2.Origin())
	if l.ID != id || l.Status != monitor.StatusError || l.Scanned != 1 || !strings.Contains(l.Error, "another key") {
		t.Fatalf("got %+v, want an error about the key, and nothing read", l)
	}
	if len(res.Incidents) != 0 || s.mails("the trusted root now has another key") == 0 {
		t.Errorf("got %d incidents, mails %q", len(res.Incidents), s.subjects())
	}
	key, err := other.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	// Until the log signs with it, what it serves still verifies under the old one.
	s.decide(state.Decision{Log: id, Kind: state.AcceptKey, Key: string(key)})
	res = s.want(monitor.ExitFindings)
	if l := logOf(t, res, s.v2.Origin()); l.ID != id || l.Scanned != 2 {
		t.Errorf("got %+v, want the same log read on", l)
	}
}

func TestANewTreeOfRekorV1UnderANewKeyOfTheTrustedRootIsNoError(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	key := ecKey(t)
	s.rotate(key)
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: s.v1URL, Key: s.v1.Active().Log})
	s.publishRoot()
	s.issue()
	res := s.want(monitor.ExitFindings)
	if got := s.statuses(res); !strings.Contains(got, "rekor-v1 ok 1/1") && !strings.Contains(got, "rekor-v1 baseline 1/1") {
		t.Errorf("got\n%s\nwant the new tree read from its first entry", got)
	}
}

func TestWhenTUFFailsTheLastVerifiedKeysAreUsed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		harm   func(*sigstore)
		want   string
		hours  int // until it is told
		remedy string
	}{
		{"unreachable", func(s *sigstore) { s.tuf.Inject(nil, tlogtest.Status(503)) }, monitor.TrustUnreachable, 4, "check the network"},
		{"expired", func(s *sigstore) { s.tuf.ExpireTimestamp() }, monitor.TrustExpired, 1, "sign anew"},
		{"rolled back", func(s *sigstore) { s.tuf.Renew(); s.want(monitor.ExitClean); s.tuf.Rollback() }, monitor.TrustRejected, 1, "old or forged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSigstore(t)
			s.want(monitor.ExitClean)
			tc.harm(s)
			for range tc.hours {
				s.issue()
				// Each run is a fresh instance: all it knows is in the state.
				res := s.want(monitor.ExitFindings)
				if res.Trust != tc.want {
					t.Fatalf("got trust %q, want %q", res.Trust, tc.want)
				}
			}
			if s.mails("the last verified keys are used") != 1 || s.mails(tc.remedy) != 1 {
				t.Errorf("want one mail about it with what to do: %q", s.subjects())
			}
		})
	}
}

func TestWithoutAnyTrustedRootTheRunFailsAndForgetsNothing(t *testing.T) {
	s := newSigstore(t)
	s.tuf.Inject(nil, tlogtest.Status(503))
	res := s.want(monitor.ExitFailed)
	if len(res.Errors) != 1 || !strings.Contains(res.Errors[0], "not known which logs") {
		t.Errorf("got %q, want what is missing", res.Errors)
	}
}

func TestWhatTUFMetadataWeKeptIsDamagedIsNotBegunAnew(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	kept := s.store.names("trust/")
	if len(kept) != 1 {
		t.Fatalf("got %q, want the TUF client's metadata kept", kept)
	}
	data, _, err := s.store.Read(t.Context(), kept[0])
	if err != nil {
		t.Fatal(err)
	}
	spoilt := strings.Replace(string(data), `2025-01-01`, `2024-01-01`, 1) // in the target, whose hash is kept
	if spoilt == string(data) {
		t.Fatalf("there is nothing to spoil in %s", data)
	}
	s.store.put(kept[0], []byte(spoilt))
	s.issue()
	res := s.run()
	if res.Exit != monitor.ExitFailed || res.Trust != monitor.TrustDamaged {
		t.Errorf("got exit %d, trust %q (%q), want a failed run that says damaged", res.Exit, res.Trust, res.Errors)
	}
	run, err := state.New(s.store).LoadRun(t.Context())
	if err != nil || len(run.Logs) != 4 {
		t.Errorf("got %d logs remembered (%v), want all 4", len(run.Logs), err)
	}
}

func TestARogueCAsCertificateInACTLogIsReportedAsUntrusted(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	rogue, err := tlogtest.NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, issue := range []func(tlogtest.Identity) (tlogtest.Signer, tlogtest.CTEntry, error){rogue.IssueForCT, rogue.IssuePrecertified} {
		_, e, err := issue(github(mine))
		if err != nil {
			t.Fatal(err)
		}
		s.ct.Submit(e)
		s.static.Submit(e)
	}
	if err := s.static.Publish(); err != nil {
		t.Fatal(err)
	}
	res := s.want(monitor.ExitFindings)
	if len(res.Findings) != 4 {
		t.Fatalf("got %d findings, want 4", len(res.Findings))
	}
	for _, f := range res.Findings {
		if f.Trusted != "no" || f.TrustErr == "" {
			t.Errorf("%s %s: trusted %s (%s), want no, and why", f.LogType, f.Kind, f.Trusted, f.TrustErr)
		}
	}
	if s.mails("untrusted chain") == 0 {
		t.Errorf("mails %q", s.subjects())
	}
}

func TestAPrecertificateOtherThanTheCommittedSaysNothingOfTheCertificate(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	s.issue()
	// Beside the leaf of ours lies another precertificate that does chain.
	_, other, err := s.ca.IssuePrecertified(github("https://github.com/acme/other/.github/workflows/x.yml@refs/heads/main"))
	if err != nil {
		t.Fatal(err)
	}
	s.ct.LieBeside(0, other.ExtraData())
	s.static.LieBeside(0, other)
	res := s.want(monitor.ExitFindings)
	for _, f := range res.Findings {
		if ct := f.LogType == tlog.RFC6962 || f.LogType == tlog.StaticCT; ct && (f.Trusted != "unknown" || !strings.Contains(f.TrustErr, "not what it committed to") || f.Subject != mine) {
			t.Errorf("%s: subject %s, trusted %s (%s); want ours, and unknown", f.LogType, f.Subject, f.Trusted, f.TrustErr)
		}
	}
	if s.mails("tell the log's operator") == 0 || s.mails("Anybody can make a certificate like this") != 0 {
		t.Errorf("mails %q; want that the logs serve it wrongly, and nothing of probes", s.subjects())
	}
}

func TestGarbageBesideALeafDoesNotHideWhatIsThere(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	_, e, err := s.ca.IssuePrecertified(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	s.ct.Submit(e)
	s.ct.LieBeside(0, append(e.ExtraData(), 0))
	if f := s.want(monitor.ExitFindings).Findings; len(f) != 1 || f[0].Trusted != "yes" {
		t.Errorf("got %+v, want one finding, trusted", f)
	}
}

func TestEntriesLargerThanAnyFindingAreToldAndReadingGoesOn(t *testing.T) {
	const name = "https://github.com/acme/x"
	uri := asn1.RawValue{Class: 2, Tag: 6, Bytes: append([]byte(name), make([]byte, 200<<10)...)}
	for what, der := range map[string][]byte{
		"a long name": ofNames(t, 0, uri),
		"many names":  ofNames(t, 200<<10, asn1.RawValue{Class: 2, Tag: 6, Bytes: []byte(name)}),
	} {
		t.Run(what, func(t *testing.T) {
			s := newSigstore(t)
			s.want(monitor.ExitClean)
			for range 20 {
				s.ct.Submit(tlogtest.CTEntry{Timestamp: uint64(s.now.UnixMilli()), Certificate: der})
			}
			s.issue()
			res := s.want(monitor.ExitFindings)
			var l monitor.LogResult
			for _, one := range res.Logs {
				if one.Type == tlog.RFC6962 {
					l = one
				}
			}
			if l.Error != "" || l.Scanned != 21 || l.Findings != 21 || l.Unparsed != 20 {
				t.Errorf("got %+v, want all 21 read and found, 20 of them kept whole", l)
			}
			kept := 0
			for _, o := range s.store.names("findings/" + string(l.ID) + "/unparsed/") {
				if len(s.store.objects[o].data) > 100<<10 {
					kept++
				}
			}
			if kept == 0 {
				t.Errorf("no leaf is kept whole")
			}
			for _, f := range res.Findings {
				if f.LogType == tlog.RFC6962 && (!strings.HasPrefix(f.Subject, "https://github.com/acme/") || f.Cut != (f.Index < 20) || f.Size() > 128<<10) {
					t.Errorf("index %d: %.60q, cut %v, %d bytes", f.Index, f.Subject, f.Cut, f.Size())
				}
			}
		})
	}
}

func TestAnOldTreeHeadIsAHealthCondition(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	s.ct.SetTime(s.now.Add(-25 * time.Hour))
	s.want(monitor.ExitClean)
	if s.mails("has to sign one every 24h0m0s") != 1 {
		t.Errorf("nobody was told: %q", s.subjects())
	}
}

func TestMalformedCTLeavesAreMatchedAsFarAsTheyGoAndReported(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	_, whole, err := s.ca.IssueForCT(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	misplaced := whole.Leaf(7)
	trailing := append(whole.Leaf(-1), "trailing"...)
	garbage := tlogtest.CTEntry{Certificate: []byte("no certificate")}.Leaf(-1)
	s.ct.Append(trailing, garbage)
	s.static.Append(misplaced)
	if err := s.static.Publish(); err != nil {
		t.Fatal(err)
	}
	res := s.want(monitor.ExitFindings)
	for _, l := range res.Logs {
		if want := map[tlog.Type][3]int{tlog.RFC6962: {2, 1, 2}, tlog.StaticCT: {1, 1, 1}}[l.Type]; [3]int{int(l.Scanned), l.Findings, l.Unparsed} != want {
			t.Errorf("%s: scanned, found, unparsed %d %d %d, want %v", l.Type, l.Scanned, l.Findings, l.Unparsed, want)
		}
	}
	if s.mails("it commits to index 7") != 1 {
		t.Errorf("the wrong index is not reported: %q", s.subjects())
	}
}

func TestALogOfTheTrustedRootWhoseKeyIsUnknownIsAHealthCondition(t *testing.T) {
	s := newSigstore(t)
	s.root.CT[1].Raw = "AAAA"
	s.publishRoot()
	s.issue()
	res := s.want(monitor.ExitClean)
	if len(res.Logs) != 3 {
		t.Errorf("got %d logs, want the other 3", len(res.Logs))
	}
	if s.mails("what is logged there is not seen") != 1 || s.mails(s.staticURL) == 0 {
		t.Errorf("nobody was told which log is not watched: %q", s.subjects())
	}
}
