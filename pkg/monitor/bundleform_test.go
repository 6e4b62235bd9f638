package monitor_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

func TestBundlesOfTheTestLogsAreSigstoreBundles(t *testing.T) {
	onBoth(t, func(t *testing.T, s *signing) {
		s.others(7)
		raw, err := protojson.Marshal(s.of(3, 7))
		if err != nil {
			t.Fatal(err)
		}
		if err := new(bundle.Bundle).UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhatIsNoBundleIsSaidToBeNone(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	b := w.v1Bundle(1)
	whole, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	many := bundleOf(slices.Repeat(b.VerificationMaterial.TlogEntries, 33)...)
	tooMany, err := protojson.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		data string
		want string
	}{
		"nothing":    {"", "not a Sigstore bundle"},
		"garbage":    {"\x00\xff{", "not a Sigstore bundle"},
		"a number":   {`{"mediaType":` + strings.Repeat("1", 1<<20) + "}", "not a Sigstore bundle"},
		"a list":     {"[]", "not a Sigstore bundle"},
		"empty":      {"{}", `its mediaType is ""`},
		"cut short":  {string(whole[:len(whole)/2]), "not a Sigstore bundle"},
		"deep":       {strings.Repeat(`{"verificationMaterial":`, 50_000), "not a Sigstore bundle"},
		"huge":       {strings.Repeat(" ", monitor.MaxBundle+1), "our limit"},
		"old cosign": {`{"base64Signature":"c2ln","cert":"","rekorBundle":{"SignedEntryTimestamp":""}}`, "--new-bundle-format"},
		"v0.4":       {strings.Replace(string(whole), "v0.3", "v0.4", 1), "not a Sigstore bundle of v0.1 to v0.3"},
		"no entry":   {`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{}}`, "no transparency log entry"},
		"entries":    {string(tooMany), "33 transparency log entries"},
	} {
		got := w.checkData([]byte(row.data))
		if got.Status != monitor.BundleNotChecked || !strings.Contains(got.Error, row.want) || len(got.Entries) != 0 || len(got.Error) > 1000 {
			t.Errorf("%s: %s, %.1000q, want not checked and %q", name, got.Status, got.Error, row.want)
		}
	}
	large := w.check(bundleOf(entryOf("k", "v", nil, make([]byte, 1<<20))))
	if large.Status != monitor.BundleNotWatched || len(large.Entries[0].KeyID) != 64 || len(large.Entries[0].Text) > 1000 {
		t.Errorf("a huge key ID: %s, %d bytes of it said", large.Status, len(large.Entries[0].KeyID))
	}
	hollow := w.check(bundleOf(&protorekor.TransparencyLogEntry{}))
	if hollow.Status != monitor.BundleNotWatched {
		t.Errorf("an entry without anything: %+v", hollow)
	}
}

func TestBundleHasTheWorstStatusOfItsEntries(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	good, bad := w.v1Bundle(1), w.v1Bundle(1)
	only(bad).CanonicalizedBody[9] ^= 1
	for _, entries := range [][]*protorekor.TransparencyLogEntry{{only(good), only(bad)}, {only(bad), only(good)}} {
		if got := w.check(bundleOf(entries...)); got.Status != monitor.BundleUnverified || len(got.Entries) != 2 {
			t.Errorf("status %s of %d entries, want unverified of 2", got.Status, len(got.Entries))
		}
	}
}

// An unknown type of entry is bytes with a hash as any other.
func TestEntryOfAnyTypeIsChecked(t *testing.T) {
	w := newWorld(t)
	w.v2.Append([]byte(`{"apiVersion":"9.9.9","kind":"quantum","spec":{}}`))
	w.others(2)
	w.want(monitor.ExitClean)
	w.is(w.v2Bundle(w.v2.Tree(), 0, 3), monitor.BundleInHistory, "")
}

// publicBundles are from the test data of sigstore-go v1.3.0.
func publicBundles(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/bundles/*.sigstore.json")
	if err != nil || len(names) != 4 {
		t.Fatalf("%d bundles, want 4 (%v)", len(names), err)
	}
	all := make(map[string][]byte)
	for _, name := range names {
		if all[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestPublicBundlesAreOfALogThatIsNotWatched(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	for name, b := range publicBundles(t) {
		got := w.checkData(b)
		want, text := monitor.BundleNotWatched, "is not watched"
		if name == "public-key-validity.sigstore.json" {
			want, text = monitor.BundleNotChecked, "no transparency log entry"
		}
		said := got.Error
		for _, e := range got.Entries {
			said += e.Text
		}
		if got.Status != want || !strings.Contains(said, text) {
			t.Errorf("%s: %s (%s), want %s", name, got.Status, said, want)
		}
	}
}

// The history here is one checkpoint of the public Rekor v1, which is not asked.
func TestPublicBundlesAreHeldAgainstTheHistoryOfTheirLog(t *testing.T) {
	w := newWorld(t)
	w.write("public.pub", []byte(publicRekor))
	url := w.serve(http.NotFoundHandler())
	w.logs = fmt.Sprintf("  - {type: rekor-v1, url: %q, key: public.pub}\n", url)
	bundles := publicBundles(t)
	var b bundle.Bundle
	if err := b.UnmarshalJSON(bundles["provenance.sigstore.json"]); err != nil {
		t.Fatal(err)
	}
	e := only(b.Bundle)
	note := e.InclusionProof.Checkpoint.Envelope
	id := tlog.ID(hex.EncodeToString(e.LogId.KeyId) + "-2605736670972794746")
	ctx, s := context.Background(), state.New(w.store)
	if err := s.SaveRun(ctx, &state.Run{FirstRun: w.now, Logs: map[tlog.ID]string{id: url}}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveLog(ctx, &state.Log{ID: id, Type: tlog.RekorV1, Service: url, Checkpoint: note, Size: 27657875, CheckpointGrew: w.now}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]monitor.BundleStatus{
		"provenance.sigstore.json": monitor.BundleInHistory,
		"dsse.sigstore.json":       monitor.BundleNotChecked, // a promise alone
		"othername.sigstore.json":  monitor.BundleNotWatched, // another log's
	} {
		if got := w.checkData(bundles[name]); got.Status != want {
			j, _ := json.MarshalIndent(got, "", " ")
			t.Errorf("%s: %s, want %s: %s", name, got.Status, want, j)
		}
	}
}

// publicRekor is the key of rekor.sigstore.dev.
const publicRekor = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----
`

func TestThereIsNoHistoryBeforeTheFirstRun(t *testing.T) {
	w := newWorld(t)
	if _, err := w.monitor().History(context.Background()); err == nil || !strings.Contains(err.Error(), "no run has been made yet") {
		t.Fatalf("error %v", err)
	}
}
