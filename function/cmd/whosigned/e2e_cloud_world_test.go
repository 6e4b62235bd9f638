//go:build e2e && linux

package main_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// The buckets of the installation: what an operator puts there, and the state.
const (
	sourceBucket = "acme-whosigned-source"
	stateBucket  = "acme-whosigned-state"
	configFolder = "config/whosigned/"
)

// day is an installation of whosigned as the Terraform module makes it, on
// loopback, and what the test knows about the day that it watches.
type day struct {
	*monitor // the CA; its folder holds the API key
	v1       *rekorV1
	shards   []*shard // oldest first; the last is the active one
	buckets  *buckettest.Server
	mail     *mailHost
	function *instance
	all      []*instance

	rogue, routine, impostor, key, stranger *signer

	signed  []signed
	cursors map[string]cursor
	said    []string // how this hour's requests were answered
	peak    uint64   // most memory of any instance
}

// signed is a signature that the test made as the user.
type signed struct {
	log      string
	index    uint64
	leafHash string
	expected bool
}

// cursor is how far a log's history is proven, and its leaves read.
type cursor struct{ size, scanned uint64 }

func newDay(t testing.TB, binary string, tr *trillian) *day {
	t.Helper()
	d := &day{monitor: (&suite{program: binary}).monitor(t), cursors: map[string]cursor{}}
	impostorCA, err := tlogtest.NewCA("acme.test")
	if err != nil {
		t.Fatal(err)
	}
	d.rogue, d.routine, d.impostor = d.signer(t, rogue), d.signer(t, release), certified(t, impostorCA, release)
	d.key, d.stranger = newSigner(t), newSigner(t)
	d.v1 = startRekorV1(t, tr)
	d.shards = []*shard{startShard(t, "v2.2.1")}
	d.buckets = buckettest.New(t, sourceBucket, stateBucket)
	d.mail = newMailHost(t)
	d.setKey(t, "SG.first")
	d.mail.SetKey("SG.first")
	return d
}

func (d *day) active() *shard { return d.shards[len(d.shards)-1] }

// launch starts another instance of the function; the last one is the one that
// Cloud Run sends requests to.
func (d *day) launch(t testing.TB) *instance {
	t.Helper()
	i := launch(t, d.program,
		"WHOSIGNED_CONFIG=gs://"+sourceBucket+"/"+configFolder+"whosigned.yaml", "WHOSIGNED_STATE=gs://"+stateBucket,
		"WHOSIGNED_TIMEOUT=180s", "WHOSIGNED_EVERY=60m", "GOMEMLIMIT=384MiB", "GOOGLE_CLOUD_PROJECT=e2e",
		"SENDGRID_API_KEY_FILE="+d.keyFile(), "SENDGRID_HOST=http://"+d.mail.address, "STORAGE_EMULATOR_HOST="+d.buckets.URL)
	d.function, d.all = i, append(d.all, i)
	return i
}

// slowest is the longest that an instance took to listen.
func (d *day) slowest() (longest time.Duration) {
	for _, i := range d.all {
		longest = max(longest, i.ready)
	}
	return longest
}

func (d *day) keyFile() string { return filepath.Join(d.dir, "api-key") }

// setKey writes the API key where Cloud Run mounts the secret's latest version.
func (d *day) setKey(t testing.TB, key string) {
	t.Helper()
	writeFile(t, d.keyFile(), []byte(key+"\n"))
}

// mailHost is SendGrid at an address of its own, which can be unreachable.
type mailHost struct {
	*notifytest.SendGrid
	address string
	server  *http.Server
}

func newMailHost(t testing.TB) *mailHost {
	t.Helper()
	// Nothing else here uses this address, so the port stays ours while it is closed.
	m := &mailHost{SendGrid: &notifytest.SendGrid{}, address: "127.0.0.2:0"}
	m.open(t)
	t.Cleanup(m.close)
	return m
}

func (m *mailHost) open(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	m.server = &http.Server{Handler: m.SendGrid, ReadHeaderTimeout: time.Minute}
	go m.server.Serve(l)
}

func (m *mailHost) close() { _ = m.server.Close() } // at worst it is closed already

// publish puts the configuration, and what it names, into the source bucket, as
// `terraform apply` does.
func (d *day) publish(t testing.TB) {
	t.Helper()
	logs := []watched{d.v1.watched("0")}
	for _, s := range d.shards {
		logs = append(logs, s.watched("0"))
	}
	d.configure(t, nil, logs...) // for the trusted root
	root, err := os.ReadFile(filepath.Join(d.dir, "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	d.buckets.Put(sourceBucket, configFolder+"trusted_root.json", string(root))
	var yaml strings.Builder
	yaml.WriteString("trustedRoot: trusted_root.json\nlogs:\n")
	for _, w := range logs {
		fmt.Fprintf(&yaml, "  - type: %s\n    url: %q\n    start: 0\n", w.kind, w.url)
		if w.kind == "rekor-v2" {
			continue // its key is in the trusted root
		}
		yaml.WriteString("    key:\n")
		for n, key := range w.keys {
			pem, err := os.ReadFile(key.public)
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("rekor-%d.pem", n)
			d.buckets.Put(sourceBucket, configFolder+name, string(pem))
			fmt.Fprintf(&yaml, "      - %s\n", name)
		}
	}
	fmt.Fprintf(&yaml, `monitoredValues:
  fingerprints: [%q]
watch:
  - name: workflows
    subject: {glob: "%s*"}
    issuer: {exact: %q}
    expect: [{extensions: {build-signer-uri: {glob: "%srelease.yml@refs/tags/v*"}}}]
alerts:
  email: {via: sendgrid, from: whosigned@acme.test, to: [security@acme.test, "On call <oncall@acme.test>"]}
`, d.key.fingerprint(), workflow, issuer, workflow)
	d.buckets.Put(sourceBucket, configFolder+"whosigned.yaml", yaml.String())
}

// strangers are how many entries of an hour nobody watches for, in each log.
const strangers = 4

// upload adds entries: a few by strangers to every log that takes any, and one in
// Rekor v1 and one in Rekor v2 for each of as, which sign as the user.
func (d *day) upload(t testing.TB, as ...*signer) {
	t.Helper()
	shard := d.active()
	ids := [2]string{d.v1.id(t, d.v1.active()), shard.id(t)}
	var requests []*pb.CreateEntryRequest
	var by []*signer
	for range strangers {
		requests, by = append(requests, hashedRekordV2(t, d.stranger)), append(by, nil)
	}
	for _, s := range as {
		requests, by = append(requests, hashedRekordV2(t, s)), append(by, s)
	}
	entries := make([]struct {
		index uint64
		leaf  []byte
	}, len(requests))
	errs := make([]error, len(requests))
	var wg sync.WaitGroup
	for n, r := range requests {
		wg.Go(func() {
			tle, err := shard.tryAdd(r)
			entries[n].index, entries[n].leaf, errs[n] = uint64(tle.GetLogIndex()), tle.GetCanonicalizedBody(), err
		})
	}
	for range strangers - len(as)%2 {
		d.v1.hashedRekord(t, d.stranger)
	}
	for n, s := range as {
		add := d.v1.hashedRekord
		if n%2 == 1 {
			add = func(t testing.TB, s *signer) uploaded { return d.v1.attestation(t, s, "dsse", "0.0.1") }
		}
		e := add(t, s)
		d.signedAs(ids[0], e.index, e.leaf, s)
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	size := uint64(0)
	for n, e := range entries {
		size = max(size, e.index+1)
		if by[n] != nil {
			d.signedAs(ids[1], e.index, e.leaf, by[n])
		}
	}
	shard.published(t, size)
}

func (d *day) signedAs(log string, index uint64, leaf []byte, by *signer) {
	d.signed = append(d.signed, signed{log, index, hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(leaf)), by == d.routine})
}

// objects lists a bucket with the generations of what is in it.
func (d *day) objects(t testing.TB, bucket, prefix string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for token := ""; ; {
		q := url.Values{"prefix": {prefix}, "pageToken": {token}}
		body, err := get(d.buckets.URL + "/storage/v1/b/" + bucket + "/o?" + q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Items []struct{ Name, Generation string }
			Next  string `json:"nextPageToken"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Items {
			found[o.Name] = o.Generation
		}
		if token = page.Next; token == "" {
			return found
		}
	}
}

// object reads an object of the state.
func (d *day) object(t testing.TB, name string) []byte {
	t.Helper()
	return d.stored(t, stateBucket, name)
}

func (d *day) stored(t testing.TB, bucket, name string) []byte {
	t.Helper()
	body, err := get(d.buckets.URL + "/storage/v1/b/" + bucket + "/o/" + url.PathEscape(name) + "?alt=media")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// documents are the names of the objects that runs overwrite.
func (d *day) documents(t testing.TB) []string {
	t.Helper()
	names := []string{"run.json"}
	for name := range d.objects(t, stateBucket, "state/") {
		if strings.HasSuffix(name, ".json") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pass lets time pass for the function: all that its state remembers is that much
// longer ago. The clock is the only thing in this test that is simulated.
func (d *day) pass(t testing.TB, elapsed time.Duration) {
	t.Helper()
	for _, name := range d.documents(t) {
		d.edit(t, name, func(doc map[string]any) { earlier(doc, elapsed) })
	}
}

// edit changes a document of the state as somebody would who may write there.
func (d *day) edit(t testing.TB, name string, change func(map[string]any)) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(d.object(t, name)))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	change(doc)
	edited, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	d.buckets.Put(stateBucket, name, string(edited)+"\n")
}

// earlier moves every time in a JSON value into the past; the zero time stays.
func earlier(v any, by time.Duration) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = earlier(value, by)
		}
	case []any:
		for n, value := range v {
			v[n] = earlier(value, by)
		}
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil && !at.IsZero() {
			return at.Add(-by).Format(time.RFC3339Nano)
		}
	}
	return v
}

// outcome is how a run must end.
type outcome struct {
	status                       int
	outcome                      string
	failed, overdue, undelivered bool
}

// run sends the hour's request and checks the answer and the line in the log.
func (d *day) run(t testing.TB, want outcome) (answer, runLine) {
	t.Helper()
	return d.check(t, d.function, d.function.invoke(), want)
}

func (d *day) check(t testing.TB, i *instance, got answer, want outcome) (answer, runLine) {
	t.Helper()
	if got.err != nil {
		t.Fatalf("the request failed: %v", got.err)
	}
	lines := i.lines(t)
	if len(lines) != 1 {
		t.Fatalf("%d lines about a run in the log, want 1; the answer is %d %.2000s", len(lines), got.status, got.body)
	}
	line := lines[0]
	if is := (outcome{got.status, line.Outcome, line.Failed, line.Overdue, line.Undelivered}); is != want {
		t.Fatalf("the run ended as %+v, want %+v\n%s\n%.3000s", is, want, line.raw, got.body)
	}
	if line.Tamper {
		t.Fatalf("a false alarm: %s", line.raw)
	}
	d.peak = max(d.peak, i.peak(t))
	d.say("%d %s", got.status, line.Outcome)
	if line.Findings > 0 {
		d.say("(%d findings, %d expected)", line.Findings, line.Expected)
	}
	return got, line
}

func (d *day) say(format string, args ...any) { d.said = append(d.said, fmt.Sprintf(format, args...)) }

// checkCursors fails the test if what was proven of a log, or read, is less than
// it was, or if a log is gone.
func (d *day) checkCursors(t testing.TB) {
	t.Helper()
	now := map[string]cursor{}
	for _, name := range d.documents(t) {
		if name == "run.json" {
			continue
		}
		var doc logDocument
		if err := json.Unmarshal(d.object(t, name), &doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		now[doc.ID] = cursor{doc.Size, doc.Scanned.Size}
	}
	for id, before := range d.cursors {
		if c, ok := now[id]; !ok || c.size < before.size || c.scanned < before.scanned {
			t.Errorf("log %s: %+v is proven and read, and was %+v", id, c, before)
		}
	}
	d.cursors = now
}

// untouched fails the test if do changes the state, but for objects whose names
// begin with one of those given.
func (d *day) untouched(t testing.TB, except []string, do func()) {
	t.Helper()
	other := func() map[string]string {
		objects := d.objects(t, stateBucket, "")
		maps.DeleteFunc(objects, func(name, _ string) bool {
			return slices.ContainsFunc(except, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		})
		return objects
	}
	before := other()
	do()
	if after := other(); !maps.Equal(before, after) {
		t.Errorf("the state was touched:\nbefore %v\nafter %v", before, after)
	}
}
