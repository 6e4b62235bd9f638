package tiles

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"filippo.io/sunlight"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/crypto/cryptobyte"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// The entry types of RFC 6962 section 3.1.
const (
	x509Entry    = 0
	precertEntry = 1
)

const (
	maxIssuer = 32 << 10 // bytes of one issuer; Fulcio's have 600
	maxChain  = 16       // issuers of one leaf; Fulcio's have two
)

// fingerprint is the SHA-256 of an issuer's DER, and names its file.
type fingerprint [sha256.Size]byte

func dataTilePath(n uint64, p uint8) string { return "tile/data/" + layout.NWithSuffix(0, n, p) }

// signsTreeHeads reports whether RFC 6962 has tree heads signed with such a key.
func signsTreeHeads(key tlog.Key) bool {
	switch key.Public.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
		return true
	}
	return false
}

// splitDataTile reads and hashes the leaves of ch from their data tile without
// copying them: it makes the MerkleTreeLeaf of each within the tile. What cannot be
// read, from the first leaf that is wrong on, is returned as it was served. Like
// parse it stops at the last leaf that is wanted.
func (l *Log) splitDataTile(raw []byte, ch tlog.Chunk) (leaves []tlog.Leaf, served []byte, err error) {
	leaves = make([]tlog.Leaf, 0, ch.To-ch.From)
	rest := raw
	for index := ch.From - ch.From%layout.TileWidth; index < ch.To; index++ {
		if len(rest) == 0 {
			return leaves, rest, fmt.Errorf("it ends before entry %d", index)
		}
		leaf, size, err := readTileLeaf(rest)
		if err != nil {
			return leaves, rest, fmt.Errorf("entry %d: %w", index, err)
		}
		if index >= ch.From {
			data := rest[: 2+leaf.entry : 2+leaf.entry]
			// A MerkleTreeLeaf is version, leaf_type, both 0, and the TimestampedEntry,
			// behind which stand at least two bytes of lengths that have been read.
			copy(data[2:], data[:leaf.entry])
			data[0], data[1] = 0, 0
			leaves = append(leaves, tlog.Leaf{
				Index:      index,
				Data:       data,
				Hash:       tlog.LeafHash(data),
				Submission: l.submission(index, leaf.precertificate, leaf.chain),
				Beside:     size - len(data),
			})
		}
		rest = rest[size:]
	}
	return leaves, rest, nil
}

// tileLeaf is a TileLeaf (https://c2sp.org/static-ct-api, Log entries), in pieces of
// the tile that it begins.
type tileLeaf struct {
	entry          int    // how long the TimestampedEntry is
	precertificate []byte // DER; nil of an x509_entry
	chain          []byte // fingerprints
}

var errCut = errors.New("it ends before its length says")

// readTileLeaf reads the leaf that tile begins with, which is size bytes long. It
// minds lengths only: whatever else may be wrong with a leaf, the log has committed to
// it. (sunlight.ReadTileLeaf refuses other extensions than leaf_index, and allocates.)
func readTileLeaf(tile []byte) (leaf tileLeaf, size int, err error) {
	s := cryptobyte.String(tile)
	entryType, _, err := readTimestampedEntry(&s)
	if err != nil {
		return tileLeaf{}, 0, err
	}
	leaf.entry = len(tile) - len(s)
	var precertificate, chain cryptobyte.String
	if entryType == precertEntry {
		if !s.ReadUint24LengthPrefixed(&precertificate) {
			return tileLeaf{}, 0, errCut
		}
		leaf.precertificate = slices.Clip(precertificate)
	}
	if !s.ReadUint16LengthPrefixed(&chain) {
		return tileLeaf{}, 0, errCut
	}
	leaf.chain = chain
	return leaf, len(tile) - len(s), nil
}

// readTimestampedEntry takes a TimestampedEntry (RFC 6962 section 3.4) off s.
func readTimestampedEntry(s *cryptobyte.String) (entryType uint16, extensions cryptobyte.String, err error) {
	if !s.Skip(8) || !s.ReadUint16(&entryType) { // after the timestamp
		return 0, nil, errCut
	}
	switch entryType {
	case x509Entry:
	case precertEntry:
		if !s.Skip(sha256.Size) { // issuer_key_hash
			return 0, nil, errCut
		}
	default:
		return 0, nil, fmt.Errorf("its type %d is unknown, and so where it ends", entryType)
	}
	var certificate cryptobyte.String // of a precertificate its TBSCertificate
	if !s.ReadUint24LengthPrefixed(&certificate) || !s.ReadUint16LengthPrefixed(&extensions) {
		return 0, nil, errCut
	}
	return entryType, extensions, nil
}

// LeafIndex is the index that a static-ct-api log says a leaf has, in the leaf_index
// extension that it also put into the SCT. leaf is a MerkleTreeLeaf. Who holds an SCT
// asks for the entry by that index; if it is not where the leaf lies, or missing, the
// log is no good to them, though its tree may be.
func LeafIndex(leaf []byte) (uint64, error) {
	s := cryptobyte.String(leaf)
	if !s.Skip(2) {
		return 0, errors.New("not a MerkleTreeLeaf: it is too short")
	}
	_, raw, err := readTimestampedEntry(&s)
	if err != nil {
		return 0, fmt.Errorf("not a MerkleTreeLeaf: %w", err)
	}
	extensions, err := sunlight.ParseExtensions(raw)
	if err != nil {
		return 0, err
	}
	return uint64(extensions.LeafIndex), nil
}

// submission gets what was submitted with a leaf. With an error it gives what it
// could get until then.
func (l *Log) submission(index uint64, precertificate, chain []byte) func(context.Context) (tlog.Submission, error) {
	return func(ctx context.Context) (tlog.Submission, error) {
		s := tlog.Submission{Precertificate: precertificate}
		if n := len(chain); n%sha256.Size != 0 || n > maxChain*sha256.Size {
			return s, &tlog.Unverified{
				What:   fmt.Sprintf("chain of leaf %d of %s", index, l.info.URL),
				Served: chain,
				Err:    fmt.Errorf("%d bytes are no list of at most %d fingerprints", n, maxChain),
			}
		}
		for f := range slices.Chunk(chain, sha256.Size) {
			issuer, err := l.issuer(ctx, fingerprint(f))
			if err != nil {
				return s, fmt.Errorf("chain of leaf %d: %w", index, err)
			}
			s.Chain = append(s.Chain, issuer)
		}
		return s, nil
	}
}

// issuer gets the certificate with a fingerprint. One that is in the cache has it, so
// not even a call that bypasses caches asks for it again.
func (l *Log) issuer(ctx context.Context, name fingerprint) ([]byte, error) {
	if der, ok := l.issuers.get(name); ok {
		return der, nil
	}
	at := l.url("issuer/" + hex.EncodeToString(name[:]))
	der, err := l.client.Get(ctx, at, maxIssuer)
	if err == nil && sha256.Sum256(der) != name {
		der, err = l.client.Get(tlog.Fresh(ctx), at, maxIssuer)
	}
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(der); sum != name {
		return nil, &tlog.Unverified{What: "issuer " + at, Served: der, Err: fmt.Errorf("its SHA-256 is %x", sum)}
	}
	l.issuers.put(name, der)
	return der, nil
}
