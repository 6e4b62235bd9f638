package rekorv1

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// canned is a tree whose entries were rendered beforehand, as rekor-server
// renders them, so that a benchmark measures us and not the server.
func canned(t testing.TB, leaves [][]byte) *Tree {
	t.Helper()
	_, key := newKey(t)
	tree := &Tree{treeID: "1193050959916656506", prefix: "108e9186e8c5677a", keys: []tlog.Key{key}}
	tree.now = state{size: uint64(len(leaves)), offset: 1000}
	entries := make([][]byte, len(leaves))
	for i, leaf := range leaves {
		entries[i] = rendered(tree, uint64(i), leaf)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := [][]byte{}
		for _, global := range asked(t, r) {
			list = append(list, entries[global-tree.now.offset])
		}
		_, _ = fmt.Fprintf(w, "[%s]\n", bytes.Join(list, []byte(",")))
	}))
	t.Cleanup(server.Close)
	tree.service = New(tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond}), Config{URL: server.URL})
	return tree
}

// rendered is an entry as large as in a tree of 2 billion.
func rendered(tree *Tree, index uint64, leaf []byte) []byte {
	hash := `"` + strings.Repeat("0f", 32) + `"`
	return fmt.Appendf(nil, `{"%s%s":{"body":"%s","integratedTime":1700000000,"logID":"%s","logIndex":%d,`+
		`"verification":{"inclusionProof":{"checkpoint":"rekor.sigstore.dev - %s\n2000000000\n%s\n\n— rekor.sigstore.dev %s\n",`+
		`"hashes":[%s],"logIndex":%d,"rootHash":%s,"treeSize":2000000000},"signedEntryTimestamp":"%s"}}}`,
		tree.prefix, tlog.LeafHash(leaf), base64.StdEncoding.EncodeToString(leaf), tree.keys[0].Hex(), tree.now.offset+index,
		tree.treeID, strings.Repeat("A", 43)+"=", strings.Repeat("B", 104),
		strings.Repeat(hash+",", 22)+hash, index, hash, strings.Repeat("C", 96))
}

// typical are leaves of the size that public Rekor's have.
func typical(n int) [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	leaves := make([][]byte, n)
	for i := range leaves {
		leaves[i] = make([]byte, 3000)
		for j := range leaves[i] {
			leaves[i][j] = byte(random.Uint32())
		}
	}
	return leaves
}

// answerOf is what the service answers to [from, to).
func answerOf(t testing.TB, tree *Tree, from, to uint64) []byte {
	t.Helper()
	raw, err := tree.service.client.Post(t.Context(), tree.retrieveURL(), "application/json",
		query(tree.now.offset+from, tree.now.offset+to), tlog.MaxChunk)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// BenchmarkAnswer is what one answer of ten entries costs: ours is all that
// Leaves does with it; floor finds each body, decodes and hashes it, no more.
func BenchmarkAnswer(b *testing.B) {
	tree := canned(b, typical(10))
	raw := answerOf(b, tree, 0, 10)
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			entries, err := parseRetrieved(raw)
			if err != nil || len(entries) != 10 {
				b.Fatal(len(entries), err)
			}
			for i, e := range entries {
				if _, err := tree.leaf(uint64(i), e); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("parse-only", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := parseRetrieved(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			var list []map[string]struct {
				Body           string `json:"body"`
				LogIndex       uint64 `json:"logIndex"`
				IntegratedTime int64  `json:"integratedTime"`
				Verification   struct {
					Set string `json:"signedEntryTimestamp"`
				} `json:"verification"`
			}
			if err := json.Unmarshal(raw, &list); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			floor(b, raw)
		}
	})
}

func floor(b *testing.B, raw []byte) {
	n := 0
	for rest := raw; ; n++ {
		_, after, ok := bytes.Cut(rest, []byte(`"body":"`))
		if !ok {
			break
		}
		body, after, _ := bytes.Cut(after, []byte(`"`))
		data := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
		size, err := base64.StdEncoding.Decode(data, body)
		if err != nil {
			b.Fatal(err)
		}
		tlog.LeafHash(data[:size])
		rest = after
	}
	if n != 10 {
		b.Fatal(n)
	}
}

// BenchmarkLeaves reads 5000 leaves over loopback HTTP; floor makes the same
// requests, 8 at a time, and only decodes and hashes.
func BenchmarkLeaves(b *testing.B) {
	const n = 5000
	tree := canned(b, typical(n))
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if leaves, err := read(tree, b.Context(), 0, n); err != nil || len(leaves) != n {
				b.Fatal(len(leaves), err)
			}
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
	b.Run("floor", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			floorLeaves(b.Context(), b, tree, n)
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
}

func floorLeaves(ctx context.Context, b *testing.B, tree *Tree, n uint64) {
	work := make(chan uint64)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for from := range work {
				raw, err := tree.service.client.Post(ctx, tree.retrieveURL(), "application/json",
					query(tree.now.offset+from, tree.now.offset+from+10), tlog.MaxChunk)
				if err != nil {
					b.Error(err)
					continue
				}
				floor(b, raw)
			}
		})
	}
	for from := uint64(0); from < n; from += 10 {
		work <- from
	}
	close(work)
	wg.Wait()
}
