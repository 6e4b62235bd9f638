package tlog_test

import (
	"reflect"
	"testing"

	"github.com/transparency-dev/merkle/compact"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestProofsGiveTheLeftEdgeInEveryTree(t *testing.T) {
	const n = 70
	tree := &tlogtest.Tree{}
	tree.Generate(n, func(i uint64) []byte { return []byte{byte(i)} })
	r, err := tlog.NewRange(0, nil)
	must(t, err)
	for size := uint64(1); size <= n; size++ {
		last := size - 1
		leaf := tlog.LeafHash([]byte{byte(last)})
		must(t, r.Append(leaf[:], nil))
		want := tlog.Save(r)
		for of := size; of <= n; of++ {
			hashes, err := tree.InclusionProof(last, of)
			must(t, err)
			root, err := tree.Root(of)
			must(t, err)
			nodes, err := tlog.InclusionNodes(last, of, leaf, hashes, root)
			if err != nil {
				t.Fatalf("leaf %d of %d: %v", last, of, err)
			}
			edge, err := nodes.Edge(size)
			if err != nil || !reflect.DeepEqual(tlog.Save(edge), want) {
				t.Fatalf("leaf %d of %d: got %v, %v; want %v", last, of, edge, err, want)
			}
			root[0]++
			if nodes, err := tlog.InclusionNodes(last, of, leaf, hashes, root); err == nil {
				t.Fatalf("leaf %d of %d, another root: got %v, want an error", last, of, nodes)
			}
		}
		if last == 0 {
			continue
		}
		hashes, err := tree.ConsistencyProof(last, size)
		must(t, err)
		nodes, err := tlog.AppendNodes(last, hashes)
		if got := nodes[compact.NewNodeID(0, last)]; err != nil || got != leaf {
			t.Fatalf("%d to %d: got leaf hash %s, %v; want %s", last, size, got, err, leaf)
		}
		edge, err := nodes.Edge(size)
		if powerOfTwo := last&(last-1) == 0; powerOfTwo {
			if err == nil {
				t.Fatalf("%d to %d: got the edge %v out of a proof that has none", last, size, edge)
			}
		} else if err != nil || !reflect.DeepEqual(tlog.Save(edge), want) {
			t.Fatalf("%d to %d: got %v, %v; want %v", last, size, edge, err, want)
		}
	}
}

func TestProofsOfAWrongShapeGiveNoNodes(t *testing.T) {
	hash := make([]byte, 32)
	for name, hashes := range map[string][][]byte{
		"too few":       {hash, hash},
		"too many":      {hash, hash, hash, hash},
		"one too short": {hash, hash[:31], hash},
		"none":          nil,
	} {
		if nodes, err := tlog.AppendNodes(6, hashes); err == nil {
			t.Errorf("%s: got %v, want an error", name, nodes)
		}
	}
	if nodes, err := tlog.AppendNodes(6, [][]byte{hash, hash, hash}); err != nil || len(nodes) != 3 {
		t.Errorf("of the right shape: got %v, %v", nodes, err)
	}
}
