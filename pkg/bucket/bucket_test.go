package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/storage"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
)

func open(t testing.TB, location string) *Bucket {
	t.Helper()
	b, err := Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	b.Wait = time.Millisecond
	return b
}

func list(t *testing.T, b *Bucket, prefix string) (names []string, failed error) {
	t.Helper()
	for name, err := range b.List(t.Context(), prefix) {
		if err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

func TestAWriteTakesTheGenerationThatItAsksFor(t *testing.T) {
	ctx := t.Context()
	buckettest.New(t, "acme")
	b := open(t, "gs://acme/some/prefix")
	first, err := b.Write(ctx, "a/b.json", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write(ctx, "a/b.json", []byte("x"), 0); !errors.Is(err, ErrChanged) {
		t.Errorf("writing what exists as if it did not: %v, want ErrChanged", err)
	}
	second, err := b.Write(ctx, "a/b.json", []byte("2"), first)
	if err != nil || second == first {
		t.Errorf("generation %d, %v; want another than %d", second, err, first)
	}
	for _, stale := range []int64{first, second + 1} {
		if _, err := b.Write(ctx, "a/b.json", []byte("x"), stale); !errors.Is(err, ErrChanged) {
			t.Errorf("writing at generation %d of %d: %v, want ErrChanged", stale, second, err)
		}
	}
	if _, err := b.Write(ctx, "absent", []byte("x"), first); !errors.Is(err, ErrChanged) {
		t.Errorf("writing an absent object at a generation: %v, want ErrChanged", err)
	}
	if data, generation, err := b.Read(ctx, "a/b.json"); err != nil || string(data) != "2" || generation != second {
		t.Errorf("read %q at generation %d, %v; want 2 at %d", data, generation, err, second)
	}
	if _, _, err := b.Read(ctx, "absent"); !errors.Is(err, fs.ErrNotExist) || err.Error() != "reading gs://acme/some/prefix/absent: file does not exist" {
		t.Errorf("reading an absent object: %v, want fs.ErrNotExist and its name", err)
	}
}

func TestAListHasThePrefixOffAndEveryPage(t *testing.T) {
	s := buckettest.New(t, "acme")
	var want []string
	for i := range 21 {
		name := fmt.Sprintf("state/%02d", i)
		s.Put("acme", "one/"+name, "")
		want = append(want, name)
	}
	s.Put("acme", "one/", "") // as the console makes for a folder
	s.Put("acme", "one-more/state/x", "")
	s.Put("acme", "state/x", "")
	b := open(t, "gs://acme/one/")
	b.paging = 10
	for prefix, want := range map[string][]string{"": want, "state/": want, "state/2": {"state/20"}, "x": nil} {
		if got, err := list(t, b, prefix); err != nil || !slices.Equal(got, want) {
			t.Errorf("List(%q) = %d names, %v; want %d", prefix, len(got), err, len(want))
		}
	}
}

// A request is checked on the wire, where the server of the tests is laxer than GCS.
func TestAWriteIsOneRequestWithItsGenerationAndChecksum(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme")
	var query, agent, body string
	s.Fail(func(r *http.Request) buckettest.Fault {
		query, agent = r.URL.RawQuery, r.UserAgent()
		data, _ := io.ReadAll(r.Body)
		body = string(data)
		r.Body = io.NopCloser(bytes.NewReader(data))
		return nil
	})
	for _, tc := range []struct {
		generation int64
		name, want string
	}{
		{0, "a.json", `"contentType":"application/json"`},
		{0, "a.html", `"contentType":"text/html; charset=utf-8"`},
		{0, "unparsed", `"contentType":"application/octet-stream"`},
		{77, "absent", ""},
	} {
		_, err := b.Write(t.Context(), tc.name, []byte("123456789"), tc.generation)
		if (err != nil) != (tc.generation != 0) {
			t.Errorf("%s: %v", tc.name, err)
		}
		for _, part := range []string{"uploadType=multipart", fmt.Sprintf("ifGenerationMatch=%d&", tc.generation)} {
			if !strings.Contains(query+"&", part) {
				t.Errorf("%s: asked with %s, want %s", tc.name, query, part)
			}
		}
		// E3069283 is the check value of CRC32C: that of these nine digits.
		if !strings.Contains(body, `"crc32c":"4waSgw=="`) || !strings.Contains(body, tc.want) {
			t.Errorf("%s: wrote %s, want its checksum, and %s", tc.name, body, tc.want)
		}
	}
	if !strings.HasPrefix(agent, "whosigned/") {
		t.Errorf("User-Agent %q, want whosigned/…", agent)
	}
}

func TestWhatWasDamagedOnTheWayIsNeverRead(t *testing.T) {
	content := strings.Repeat("a line of text\n", 1000)
	for _, tc := range []struct {
		name  string
		fault buckettest.Fault
		want  string // in the error; "" for the whole content
	}{
		{"a bit flips", buckettest.Corrupt, "bad CRC"},
		{"the body is short and says so", buckettest.ShortAnswer, "bad CRC"},
		{"the connection breaks once half-way", buckettest.CutAnswer(len(content) / 2), ""},
		{"no checksum", buckettest.Without("X-Goog-Hash"), "its content is not what was stored"},
		{"no generation", buckettest.Without("X-Goog-Generation"), "the answer names no generation"},
	} {
		s := buckettest.New(t, "acme")
		s.Put("acme", "a", content)
		b := open(t, "gs://acme")
		once := tc.fault
		s.Fail(func(*http.Request) buckettest.Fault {
			fault := once
			if tc.want == "" {
				once = nil
			}
			return fault
		})
		data, _, err := b.Read(t.Context(), "a")
		switch {
		case tc.want == "" && (err != nil || string(data) != content):
			t.Errorf("%s: read %d bytes, %v; want all %d", tc.name, len(data), err, len(content))
		case tc.want != "" && (data != nil || err == nil || errors.Is(err, fs.ErrNotExist) ||
			!strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "reading gs://acme/a: ")):
			t.Errorf("%s: read %d bytes, %v; want an error with %q", tc.name, len(data), err, tc.want)
		}
	}
}

func TestAConnectionThatAlwaysBreaksIsGivenUp(t *testing.T) {
	s := buckettest.New(t, "acme")
	s.Put("acme", "a", "content")
	b := open(t, "gs://acme")
	for name, fault := range map[string]buckettest.Fault{"before the answer": buckettest.CutRequest, "before the body": buckettest.CutAnswer(0)} {
		var requests atomic.Int32
		s.Fail(func(*http.Request) buckettest.Fault { requests.Add(1); return fault })
		data, _, err := b.Read(t.Context(), "a")
		if err == nil || data != nil || requests.Load() > 2*maxRequests { // net/http makes some of them twice
			t.Errorf("%s: read %q, %v after %d requests; want an error after at most %d", name, data, err, requests.Load(), 2*maxRequests)
		}
	}
}

func TestAnObjectAboveTheLimitIsNotRead(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme")
	b.Limit = 10
	s.Put("acme", "fits", "0123456789")
	s.Put("acme", "not", "0123456789a")
	if data, _, err := b.Read(t.Context(), "fits"); err != nil || len(data) != 10 {
		t.Errorf("at the limit: %d bytes, %v", len(data), err)
	}
	if data, _, err := b.Read(t.Context(), "not"); err == nil || data != nil || !strings.Contains(err.Error(), "it has 11 bytes, more than the 10") {
		t.Errorf("above the limit: %q, %v", data, err)
	}
}

func TestAMissingBucketIsNeverAnAbsentObjectOrAnEmptyList(t *testing.T) {
	buckettest.New(t, "another")
	b := open(t, "gs://acme/p")
	_, _, reading := b.Read(t.Context(), "a")
	_, writing := b.Write(t.Context(), "a", []byte("x"), 0)
	names, listing := list(t, b, "")
	if len(names) > 0 {
		t.Errorf("listed %q", names)
	}
	for want, err := range map[string]error{"reading gs://acme/p/a": reading, "writing gs://acme/p/a": writing, "listing gs://acme/p/": listing} {
		want += ": storage: bucket doesn't exist: create the bucket acme, or correct its name"
		if err == nil || err.Error() != want || errors.Is(err, fs.ErrNotExist) || !errors.Is(err, storage.ErrBucketNotExist) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestTheBucketIsAskedForOnceAHandle(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme")
	var lists atomic.Int32
	s.Fail(func(r *http.Request) buckettest.Fault {
		if buckettest.IsList(r) {
			lists.Add(1)
		}
		return nil
	})
	for range 3 {
		if _, _, err := b.Read(t.Context(), "absent"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
	}
	if lists.Load() != 1 {
		t.Errorf("asked %d times, want once", lists.Load())
	}
	// What was read or written there is as good.
	s.Put("acme", "there", "x")
	for name, do := range map[string]func(b *Bucket) error{
		"read":  func(b *Bucket) error { _, _, err := b.Read(t.Context(), "there"); return err },
		"write": func(b *Bucket) error { _, err := b.Write(t.Context(), "new", nil, 0); return err },
	} {
		b := open(t, "gs://acme")
		if err := do(b); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Read(t.Context(), "absent"); !errors.Is(err, fs.ErrNotExist) || lists.Load() != 1 {
			t.Errorf("after a %s: %v, and the bucket was asked for again", name, err)
		}
	}
}

func TestARefusalNamesTheObjectThePermissionAndTheRemedy(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme/p")
	s.Put("acme", "p/there", "x")
	const answer = "run@acme.iam.gserviceaccount.com does not have access\nto it"
	read := func() error { _, _, err := b.Read(t.Context(), "there"); return err }
	absent := func() error { _, _, err := b.Read(t.Context(), "absent"); return err }
	write := func() error { _, err := b.Write(t.Context(), "new", nil, 0); return err }
	listing := func() error { _, err := list(t, b, "state/"); return err }
	for _, tc := range []struct {
		name   string
		status int
		on     func(*http.Request) bool
		do     func() error
		want   []string
	}{
		{"a read", 403, buckettest.IsRead, read, []string{"reading gs://acme/p/there", "storage.objects.get on bucket acme", "roles/storage.objectViewer", "unless there is no such object", "does not have access to it"}},
		{"a list", 403, buckettest.IsList, listing, []string{"listing gs://acme/p/state/", "storage.objects.list on bucket acme", "roles/storage.objectViewer"}},
		{"a write", 403, buckettest.IsWrite, write, []string{"writing gs://acme/p/new", "storage.objects.create on bucket acme", "roles/storage.objectCreator"}},
		{"the list that tells an absent object from a missing bucket", 403, buckettest.IsList, absent, []string{"reading gs://acme/p/absent", "storage.objects.list on bucket acme"}},
		{"credentials", 401, buckettest.IsRead, read, []string{"reading gs://acme/p/there", "gcloud auth application-default login"}},
	} {
		var requests int
		s.Fail(func(r *http.Request) buckettest.Fault {
			if !tc.on(r) {
				return nil
			}
			requests++
			return buckettest.Status(tc.status, answer)
		})
		b.found.Store(false)
		err := tc.do()
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) != (tc.status == 403) || requests != 1 {
			t.Errorf("%s: %v after %d requests, want a refusal after one", tc.name, err, requests)
			continue
		}
		for _, want := range append(tc.want, "run@acme.iam.gserviceaccount.com") {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: got %v, want it to say %q in one line", tc.name, err, want)
			}
		}
	}
}

func TestPassingTroubleIsWaitedOut(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme")
	s.Put("acme", "a", "x")
	var generation int64
	for name, do := range map[string]func() error{
		"read":  func() error { _, _, err := b.Read(t.Context(), "a"); return err },
		"list":  func() error { _, err := list(t, b, ""); return err },
		"write": func() (err error) { generation, err = b.Write(t.Context(), "b", []byte("x"), generation); return err },
	} {
		for _, tc := range []struct {
			fault buckettest.Fault
			times int
			fails bool
		}{
			{buckettest.Status(429, "slow down"), attempts - 1, false},
			{buckettest.Status(503, "later"), attempts - 1, false},
			{buckettest.CutRequest, 2, false},
			{buckettest.Status(429, "slow down"), attempts + 5, true},
			{buckettest.Status(503, "later"), attempts + 5, true},
		} {
			times := 0
			s.Fail(func(*http.Request) buckettest.Fault {
				if times++; times <= tc.times {
					return tc.fault
				}
				return nil
			})
			if err := do(); (err != nil) != tc.fails {
				t.Errorf("%s, %d faults: %v after %d requests", name, tc.times, err, times)
			} else if tc.fails && times != attempts {
				t.Errorf("%s: given up after %d requests, want %d", name, times, attempts)
			}
		}
	}
}

func TestAWriteWhoseAnswerIsLostIsMadeAgainAndSaysThatTheObjectChanged(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme")
	lose := true
	s.Fail(func(*http.Request) buckettest.Fault {
		if lose {
			lose = false
			return buckettest.Lost
		}
		return nil
	})
	_, err := b.Write(t.Context(), "a", []byte("mine"), 0)
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "attempt 2, after: ") {
		t.Errorf("got %v, want ErrChanged on the second attempt, and why there was one", err)
	}
	if data, _, err := b.Read(t.Context(), "a"); err != nil || string(data) != "mine" {
		t.Errorf("read %q, %v; want what was written", data, err)
	}
}

func TestAWriteThatIsCutOffLeavesNothing(t *testing.T) {
	s := buckettest.New(t, "acme")
	b := open(t, "gs://acme")
	s.Fail(func(r *http.Request) buckettest.Fault {
		if buckettest.IsWrite(r) {
			return buckettest.CutRequest
		}
		return nil
	})
	if _, err := b.Write(t.Context(), "a", make([]byte, 1<<20), 0); err == nil || errors.Is(err, ErrChanged) {
		t.Errorf("got %v, want an error that is no conflict", err)
	}
	if _, _, err := b.Read(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want nothing there", err)
	}
}

func TestACallEndsWithItsTimeOrItsContext(t *testing.T) {
	s := buckettest.New(t, "acme")
	s.Fail(func(*http.Request) buckettest.Fault { return buckettest.Silent })
	for _, tc := range []struct {
		name    string
		timeout time.Duration
		cancel  time.Duration // when the caller gives up
		is      error
		want    string
	}{
		{"its own time", 20 * time.Millisecond, time.Hour, context.DeadlineExceeded, "no answer within 20ms"},
		{"the caller's context", time.Hour, 20 * time.Millisecond, context.Canceled, "context canceled"},
	} {
		b := open(t, "gs://acme")
		b.Timeout = tc.timeout
		for call, do := range map[string]func(context.Context) error{
			"reading": func(ctx context.Context) error { _, _, err := b.Read(ctx, "a"); return err },
			"writing": func(ctx context.Context) error { _, err := b.Write(ctx, "a", []byte("x"), 0); return err },
			"listing": func(ctx context.Context) error {
				for _, err := range b.List(ctx, "") {
					return err
				}
				return nil
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			timer := time.AfterFunc(tc.cancel, cancel)
			err := do(ctx)
			timer.Stop()
			cancel()
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), call+" gs://acme/") {
				t.Errorf("%s, %s: got %v, want %q", tc.name, call, err, tc.want)
			}
		}
	}
}

func TestWithoutCredentialsTheRemedyIsSaid(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "gone.json"))
	_, err := Open(t.Context(), "gs://acme/p")
	if err == nil || !strings.HasPrefix(err.Error(), "gs://acme/p: ") || !strings.Contains(err.Error(), "gone.json") || !strings.HasSuffix(err.Error(), credentialsRemedy) {
		t.Errorf("got %v, want the location, the cause and the remedy", err)
	}
}

func TestACredentialThatIsGoneIsNoAbsentObject(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "credentials.json")
	// A workload identity's credential: the token is read for the first request.
	err := os.WriteFile(file, fmt.Appendf(nil, `{"type": "external_account", "audience": "//iam.googleapis.com/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url": "https://sts.googleapis.com/v1/token", "credential_source": {"file": %q}}`, filepath.Join(dir, "gone")), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	b := open(t, "gs://acme")
	if _, _, err := b.Read(t.Context(), "a"); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v, want an error that names the file and is not fs.ErrNotExist", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	buckettest.New(b, "acme")
	bucket := open(b, "gs://acme")
	var generation int64
	var err error
	for b.Loop() {
		if generation, err = bucket.Write(b.Context(), "a", []byte("small"), generation); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := buckettest.New(b, "acme")
	s.Put("acme", "a", "small")
	bucket := open(b, "gs://acme")
	for b.Loop() {
		if _, _, err := bucket.Read(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}
