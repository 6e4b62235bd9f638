package rekorv1

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// batchSize is the most that one request may ask for: rekor-server answers 422
	// to more.
	batchSize = 10
	// maxTime is the last second that RFC 3339, and so JSON, can say.
	maxTime = 253402300799
)

// Leaves reads ten at a time by POST log/entries/retrieve, an answer of at most
// [tlog.MaxChunk] bytes. Entries may come in any order. A batch that is refused,
// too large, or in which anything is missing, extra or does not fit, is halved
// down to the first leaf that fails by itself.
func (t *Tree) Leaves(ctx context.Context, from, to uint64) iter.Seq2[tlog.Leaf, error] {
	return tlog.ReadAhead(ctx, t.service.client, t.service.url, chunks(from, to), t.fetch)
}

// chunks cuts [from, to) into batches.
func chunks(from, to uint64) iter.Seq[tlog.Chunk] {
	return func(yield func(tlog.Chunk) bool) {
		for from < to {
			end := min(from+batchSize, to)
			if !yield(tlog.Chunk{From: from, To: end}) {
				return
			}
			from = end
		}
	}
}

// fetch gets one chunk for [tlog.ReadAhead]. The size that it returns is that of
// the answers, which is more than the leaves keep: it is what the next limit has
// to allow.
func (t *Tree) fetch(ctx context.Context, c tlog.Chunk, limit int64) (leaves []tlog.Leaf, size int64, err error) {
	// [next, end) is asked for; [next, bad) is not known to be had as a whole.
	next, end, bad := c.From, c.To, c.To
	for next < c.To {
		got, err := t.batch(ctx, next, end, limit-size)
		switch {
		case err == nil:
			leaves = append(leaves, got.leaves...)
			size += int64(len(got.raw))
			if next = end; next == bad {
				bad, end = c.To, c.To // what failed before does not any more
			} else {
				end = next + max((bad-next)/2, 1)
			}
		case tlog.IsTooLarge(err) && (limit < tlog.MaxChunk || size > 0 && end-next == 1):
			return leaves, size, err // ReadAhead goes on with the rest
		case !tlog.Divisible(err):
			return leaves, size, err
		case end-next > 1:
			bad = end
			end = next + (bad-next)/2
		default:
			return leaves, size, t.blame(ctx, next, len(leaves) > 0, limit-size, err)
		}
	}
	return leaves, size, nil
}

// blame is [tlog.Blame], which need not ask for others if some came.
func (t *Tree) blame(ctx context.Context, index uint64, othersCame bool, limit int64, err error) error {
	return tlog.Blame(t.retrieveURL(), index, t.state().size, err, func(other uint64) error {
		if othersCame {
			return nil
		}
		_, err := t.batch(ctx, other, other+1, limit)
		return err
	})
}

func (t *Tree) retrieveURL() string { return t.service.url + "/api/v1/log/entries/retrieve" }

// answer is what one request got.
type answer struct {
	leaves  []tlog.Leaf
	entries []served // alias raw; in the order served
	raw     []byte
}

// batch gets the leaves [from, to) with one request: all of them, and nothing else.
func (t *Tree) batch(ctx context.Context, from, to uint64, limit int64) (answer, error) {
	now := t.state()
	if now.offsetErr != nil {
		return answer{}, &tlog.Unavailable{
			What: t.retrieveURL(),
			Err:  fmt.Errorf("the place of tree %s among the global indexes is not known: %w", t.treeID, now.offsetErr),
		}
	}
	first := now.offset + from
	raw, err := t.service.client.Post(ctx, t.retrieveURL(), "application/json", query(first, now.offset+to), limit)
	if err != nil {
		return answer{}, err
	}
	entries, err := parseRetrieved(raw)
	if err != nil {
		return answer{}, &tlog.BadAnswer{Err: err, Served: raw, Malformed: true}
	}
	leaves := make([]tlog.Leaf, to-from)
	bad := func(err error) (answer, error) { return answer{}, &tlog.BadAnswer{Err: err, Served: raw} }
	for _, e := range entries {
		i := e.index - first // wraps around if it is smaller, and is too large then
		if i >= uint64(len(leaves)) {
			return bad(fmt.Errorf("an entry with logIndex %d is served, which was not asked for (want %d to %d)", e.index, first, now.offset+to-1))
		}
		if leaves[i].Claims != nil {
			return bad(fmt.Errorf("two entries with logIndex %d are served", e.index))
		}
		if leaves[i], err = t.leaf(from+i, e); err != nil {
			return bad(err)
		}
	}
	if missing := len(leaves) - len(entries); missing > 0 {
		return answer{}, &tlog.BadAnswer{Err: fmt.Errorf("%d of the %d entries from logIndex %d on are left out", missing, len(leaves), first)}
	}
	return answer{leaves, entries, raw}, nil
}

// query asks for the entries with logIndex [from, to).
func query(from, to uint64) []byte {
	body := []byte(`{"logIndexes":[`)
	for i := from; i < to; i++ {
		if i > from {
			body = append(body, ',')
		}
		body = strconv.AppendUint(body, i, 10)
	}
	return append(body, `]}`...)
}

// one gets a single leaf.
func (t *Tree) one(ctx context.Context, index uint64) (answer, error) {
	got, err := t.batch(ctx, index, index+1, tlog.MaxChunk)
	if err != nil && tlog.Divisible(err) {
		err = t.blame(ctx, index, false, tlog.MaxChunk, err)
	}
	return got, err
}

// leaf checks what can be checked of one entry without the tree.
func (t *Tree) leaf(index uint64, e served) (tlog.Leaf, error) {
	data := make([]byte, base64.StdEncoding.DecodedLen(len(e.body)))
	n, err := base64.StdEncoding.Decode(data, e.body)
	if err != nil {
		return tlog.Leaf{}, fmt.Errorf("the body of the entry with logIndex %d: %w", e.index, err)
	}
	leaf := tlog.Leaf{Index: index, Data: data[:n:n], Hash: tlog.LeafHash(data[:n])}
	uuid, err := t.checkUUID(e.uuid, leaf.Hash)
	if err != nil {
		return tlog.Leaf{}, err
	}
	leaf.Claims = &tlog.Claims{UUID: uuid, GlobalIndex: e.index}
	if e.integrated <= 0 || e.integrated > maxTime {
		leaf.Claims.Vouched = func() bool { return false }
		return leaf, nil
	}
	leaf.Claims.IntegratedTime = time.Unix(e.integrated, 0).UTC()
	// The closure must not keep the answer: only the leaf and a copy of the signature.
	set, integrated := bytes.Clone(e.set), e.integrated
	leaf.Claims.Vouched = func() bool {
		return slices.ContainsFunc(t.keys, func(k tlog.Key) bool {
			return vouched(k, leaf.Data, set, leaf.Claims.GlobalIndex, integrated)
		})
	}
	return leaf, nil
}

// checkUUID compares the UUID that an entry was served under with tree ID and
// leaf hash, and returns it in full. A UUID without a tree ID, as servers gave
// before there were several trees, is taken too: the leaf hash is what counts.
func (t *Tree) checkUUID(served []byte, hash tlog.Hash) (string, error) {
	full := make([]byte, 0, len(t.prefix)+2*len(hash))
	full = hex.AppendEncode(append(full, t.prefix...), hash[:])
	if bytes.EqualFold(served, full) || bytes.EqualFold(served, full[len(t.prefix):]) {
		return string(full), nil
	}
	return "", fmt.Errorf("the entry is served under UUID %.100q, and its body hashes to %s", served, full)
}

// vouched verifies a signed entry timestamp: the signature over the canonical
// JSON (RFC 8785) of the entry without its verification and attestation. For
// these fields that is what encoding/json writes, given their order.
func vouched(key tlog.Key, body, set []byte, global uint64, integrated int64) bool {
	sig, err := base64.StdEncoding.DecodeString(string(set))
	if err != nil {
		return false
	}
	payload, err := json.Marshal(struct {
		Body           []byte `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       uint64 `json:"logIndex"`
	}{body, integrated, key.Hex(), global})
	return err == nil && key.Verify(payload, sig)
}
