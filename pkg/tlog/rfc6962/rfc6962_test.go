package rfc6962

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func newKey(t testing.TB) (crypto.Signer, tlog.Key) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private, keyOf(t, private)
}

func keyOf(t testing.TB, private crypto.Signer) tlog.Key {
	t.Helper()
	key, err := tlog.NewKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// entries makes those that the tests submit: certificates and precertificates in
// turn, issued once.
var entries = sync.OnceValue(func() func(uint64) tlogtest.CTEntry {
	ca, err := tlogtest.NewCA("sigstore.example.com")
	if err != nil {
		panic(err)
	}
	id := tlogtest.Identity{Email: "someone@example.com", Issuer: "https://accounts.example.com"}
	_, final, err := ca.IssueForCT(id)
	if err != nil {
		panic(err)
	}
	_, pre, err := ca.IssuePrecertified(id)
	if err != nil {
		panic(err)
	}
	entry, err := tlogtest.SyntheticCT(final, pre)
	if err != nil {
		panic(err)
	}
	return entry
})

func data(i uint64) []byte { return entries()(i).Leaf(-1) }

// fixture is a served log with the test's entries, and our reader of it.
type fixture struct {
	*tlogtest.RFC6962
	log *Log
	url string
}

func serve(t testing.TB, n uint64) *fixture {
	t.Helper()
	private, key := newKey(t)
	server, err := tlogtest.NewRFC6962(private)
	if err != nil {
		t.Fatal(err)
	}
	server.Generate(n, entries())
	http := httptest.NewServer(server)
	t.Cleanup(http.Close)
	log, err := New(tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond}), Config{URL: http.URL + "/", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{server, log, http.URL}
}

func (f *fixture) checkpoint(t testing.TB) tlog.Checkpoint {
	t.Helper()
	cp, err := f.log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// read collects [from, to) and the error that ended it.
func read(ctx context.Context, l *Log, from, to uint64) ([]tlog.Leaf, error) {
	var leaves []tlog.Leaf
	for leaf, err := range l.Leaves(ctx, from, to) {
		if err != nil {
			return leaves, err
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

// wantLeaves compares leaves with the test's entries.
func wantLeaves(t *testing.T, got []tlog.Leaf, from, to uint64) {
	t.Helper()
	if uint64(len(got)) != to-from {
		t.Fatalf("got %d leaves, want %d", len(got), to-from)
	}
	for i, leaf := range got {
		index := from + uint64(i)
		if want := data(index); leaf.Index != index || !bytes.Equal(leaf.Data, want) || leaf.Hash != tlog.LeafHash(want) {
			t.Fatalf("place %d: got leaf %d, %x, want leaf %d, %x", i, leaf.Index, leaf.Data, index, want)
		}
		if cap(leaf.Data) != len(leaf.Data) {
			t.Fatalf("leaf %d can be appended to, into what follows it", index)
		}
	}
}

func TestNewRefusesWhatItCouldNotUse(t *testing.T) {
	_, key := newKey(t)
	for _, row := range []struct {
		cfg  Config
		want string
	}{
		{Config{URL: "ctfe.example.com", Key: key}, "want https://"},
		{Config{URL: "ftp://ctfe.example.com", Key: key}, "want https://"},
		{Config{URL: "https://[::1", Key: key}, "log URL"},
		{Config{URL: "https://ctfe.example.com"}, "no public key"},
	} {
		if _, err := New(tlog.NewClient(tlog.ClientOptions{}), row.cfg); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: got %v, want an error with %q", row.cfg, err, row.want)
		}
	}
}

func TestInfoSaysWhatWasConfigured(t *testing.T) {
	_, key := newKey(t)
	id := tlog.ID(strings.Repeat("ab", 32))
	for _, row := range []struct {
		cfg  Config
		want tlog.Info
	}{
		{
			Config{URL: "https://ctfe.sigstore.dev/2022/", Key: key},
			tlog.Info{ID: tlog.ID(key.Hex()), Type: tlog.RFC6962, Origin: "ctfe.sigstore.dev/2022", URL: "https://ctfe.sigstore.dev/2022", Active: true},
		},
		{
			Config{URL: "http://127.0.0.1:6962", Key: key, ID: id, Retired: true},
			tlog.Info{ID: id, Type: tlog.RFC6962, Origin: "127.0.0.1:6962", URL: "http://127.0.0.1:6962"},
		},
	} {
		l, err := New(tlog.NewClient(tlog.ClientOptions{}), row.cfg)
		if err != nil || l.Info() != row.want {
			t.Errorf("got %+v, %v; want %+v", l.Info(), err, row.want)
		}
	}
}

func TestCheckpointIsTheVerifiedTreeHead(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaKey, _ := newKey(t)
	for name, private := range map[string]crypto.Signer{"ECDSA": ecdsaKey, "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			server, err := tlogtest.NewRFC6962(private)
			if err != nil {
				t.Fatal(err)
			}
			http := httptest.NewServer(server)
			defer http.Close()
			// Paths may hold what an origin cannot.
			for _, path := range []string{"", "/a+b", "/a%20b"} {
				l, err := New(tlog.NewClient(tlog.ClientOptions{}), Config{URL: http.URL + path, Key: keyOf(t, private)})
				if err != nil {
					t.Fatal(err)
				}
				clear := server.Inject(nil, 0, stripped())
				for _, grow := range []uint64{0, 1, 299} {
					server.Generate(grow, entries())
					at := time.Date(2026, 11, 22, 8, 0, 0, int(123*time.Millisecond), time.UTC)
					server.SetTime(at)
					cp, err := l.Checkpoint(t.Context())
					if err != nil {
						t.Fatalf("%q: %v", path, err)
					}
					root, err := server.Tree().Root(server.Tree().Size())
					if err != nil {
						t.Fatal(err)
					}
					if cp.Size != server.Tree().Size() || cp.Root != root || !cp.Time.Equal(at) || cp.Origin != l.Info().Origin {
						t.Errorf("%q: got %+v, want size %d, root %x, time %s", path, cp, server.Tree().Size(), root, at)
					}
					if kept, err := l.Open(cp.Note); err != nil || !reflect.DeepEqual(kept, cp) {
						t.Errorf("%q: its note opens as %+v, %v; want %+v", path, kept, err, cp)
					}
				}
				clear()
			}
		})
	}
}

// stripped serves under any prefix.
func stripped() tlogtest.Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.URL.Path = r.URL.Path[strings.Index(r.URL.Path, "/ct/v1/"):]
		r.URL.RawPath = ""
		next.ServeHTTP(w, r)
	}
}

func TestAnIdleLogSignsAnewAndStaysTheSame(t *testing.T) {
	f := serve(t, 20)
	first, second := f.checkpoint(t), f.checkpoint(t)
	if bytes.Equal(first.Note, second.Note) || first.Size != second.Size || first.Root != second.Root {
		t.Errorf("got %q and %q, want the same tree under two signatures", first.Note, second.Note)
	}
}

func TestCheckpointIsUnverifiedOrUnavailable(t *testing.T) {
	stranger, _ := newKey(t)
	sth := func(change func(map[string]any)) tlogtest.Effect {
		return tlogtest.Edit(func(body []byte) []byte {
			var m map[string]any
			if err := json.Unmarshal(body, &m); err != nil {
				panic(err)
			}
			change(m)
			out, err := json.Marshal(m)
			if err != nil {
				panic(err)
			}
			return out
		})
	}
	set := func(field string, value any) tlogtest.Effect {
		return sth(func(m map[string]any) { m[field] = value })
	}
	text := func(s string) tlogtest.Effect { return tlogtest.Edit(func([]byte) []byte { return []byte(s) }) }
	other := serve(t, 21)
	for _, row := range []struct {
		name       string
		effect     tlogtest.Effect
		unverified bool
	}{
		{"another size", set("tree_size", 19), true},
		{"an absurd size", set("tree_size", uint64(1)<<63), true},
		{"size 0 with a root", set("tree_size", 0), true},
		{"another time", set("timestamp", 1_600_000_000_000), true},
		{"a time beyond all", set("timestamp", uint64(1)<<63), true},
		{"another root", set("sha256_root_hash", bytes.Repeat([]byte{7}, 32)), true},
		{"a short root", set("sha256_root_hash", []byte{7}), true},
		{"no root", sth(func(m map[string]any) { delete(m, "sha256_root_hash") }), true},
		{"no signature", sth(func(m map[string]any) { delete(m, "tree_head_signature") }), true},
		{"an empty signature", set("tree_head_signature", ""), true},
		{"a signature of nothing", set("tree_head_signature", []byte{4, 3, 0, 0}), true},
		{"another algorithm", sth(func(m map[string]any) { m["tree_head_signature"] = "BAE" + m["tree_head_signature"].(string)[3:] }), true},
		{"another log's", tlogtest.Instead(other), true},
		{"a fraction for a size", set("tree_size", 1.5), false},
		{"a size of many digits", set("tree_size", json.Number(strings.Repeat("9", 60_000))), false},
		{"a size below 0", set("tree_size", -1), false},
		{"a root that is not base64", set("sha256_root_hash", "%%"), false},
		{"an error with status 200", text(`{"error_message":"no","success":false}`), false},
		{"garbage", tlogtest.Garbage(), false},
		{"nothing", text(""), false},
		{"a list", text("[]"), false},
		{"endless", tlogtest.Oversize(-1), false},
		{"a huge field", set("more", strings.Repeat("x", tlog.MaxCheckpoint)), false},
		{"a bomb", tlogtest.GzipBomb(1 << 30), false},
		{"404", tlogtest.Status(404), false},
		{"503", tlogtest.Status(503), false},
		{"cut", tlogtest.Cut(), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := serve(t, 20)
			f.Inject(tlogtest.Path("get-sth"), 0, row.effect)
			cp, err := f.log.Checkpoint(t.Context())
			var unverified *tlog.Unverified
			var unavailable *tlog.Unavailable
			if errors.As(err, &unverified) != row.unverified || errors.As(err, &unavailable) == row.unverified {
				t.Fatalf("got %+v, %v (%T), want unverified: %t", cp, err, err, row.unverified)
			}
			if row.unverified && len(unverified.Served) == 0 {
				t.Error("what was served is not kept")
			}
			if s := err.Error(); len(s) > 1000 {
				t.Errorf("an error of %d bytes: %.1000q", len(s), s)
			}
		})
	}
	t.Run("signed by a stranger", func(t *testing.T) {
		f := serve(t, 20)
		f.SignWith(stranger)
		_, err := f.log.Checkpoint(t.Context())
		var unverified *tlog.Unverified
		if !errors.As(err, &unverified) {
			t.Errorf("got %v, want an Unverified", err)
		}
	})
}

func TestAnAcceptedKeySignsForTheSameLog(t *testing.T) {
	f := serve(t, 20)
	private, key := newKey(t)
	f.SignWith(private)
	old := f.log.keys[0]
	l, err := New(f.log.client, Config{URL: f.url, Key: old, Accepted: []tlog.Key{key}})
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := l.Checkpoint(t.Context()); err != nil || cp.Size != 20 || l.Info().ID != tlog.ID(old.Hex()) {
		t.Errorf("got %+v, %v under ID %s, want size 20 under %s", cp, err, l.Info().ID, old.Hex())
	}
}

func TestFreshReadingBypassesCaches(t *testing.T) {
	f := serve(t, 30)
	cp := f.checkpoint(t)
	var mu sync.Mutex
	stale := map[string]bool{}
	f.Inject(nil, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		stale[r.URL.Path] = r.Header.Get("Cache-Control") != "no-cache"
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	ctx := tlog.Fresh(t.Context())
	if _, err := f.log.Checkpoint(ctx); err != nil {
		t.Error(err)
	}
	if _, err := f.log.LeafHash(ctx, 5, cp); err != nil {
		t.Error(err)
	}
	if _, err := f.log.Frontier(ctx, 5, cp); err != nil {
		t.Error(err)
	}
	if _, err := read(ctx, f.log, 0, 30); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"get-sth", "get-sth-consistency", "get-entries", "get-entry-and-proof"} {
		if s, ok := stale["/ct/v1/"+name]; !ok || s {
			t.Errorf("%s: asked for %t, may be cached %t", name, ok, s)
		}
	}
}

func ExampleNew() {
	key, err := tlog.ParseKeyPEM([]byte(`-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiPSlFi0CmFTfEjCUqF9HuCEcYXNK
AaYalIJmBZ8yyezPjTqhxrKBpMnaocVtLJBI1eM3uXnQzQGAJdJ4gs9Fyw==
-----END PUBLIC KEY-----`))
	if err != nil {
		fmt.Println(err)
		return
	}
	log, err := New(tlog.NewClient(tlog.ClientOptions{}), Config{URL: "https://ctfe.sigstore.dev/2022", Key: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(log.Info().Origin, log.Info().ID)
	// Output: ctfe.sigstore.dev/2022 dd3d306ac6c7113263191e1c99673702a24a5eb8de3cadff878a72802f29ee8e
}
