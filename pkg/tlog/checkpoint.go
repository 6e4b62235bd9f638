package tlog

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// MaxCheckpoint is the size limit, in bytes, of a signed note.
const MaxCheckpoint = 64 << 10

// maxSignatures is the limit of golang.org/x/mod/sumdb/note. Each signature that
// names one of our keys costs a pass over the note.
const maxSignatures = 100

// Checkpoint is a signed tree size and root hash, in the form of
// https://c2sp.org/tlog-checkpoint, whose signature was verified.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   Hash
	// Frozen is set by a signed extension line "Log frozen — <time>", which
	// Rekor v2's operators add to a retired shard: it promises no more growth.
	Frozen bool
	Time   time.Time // of a CT log's tree head, which signs it; zero for other logs
	Note   []byte    // verbatim
}

// Key is a log's public key, from the trusted root or the configuration.
type Key struct {
	// LogID is the log ID that the trusted root gives with the key; for a key
	// from a file SHA-256 of its SPKI (RFC 6962 section 3.2). A Rekor v2 log's ID
	// depends on its origin as well: see [OriginID].
	LogID  [32]byte
	Public crypto.PublicKey

	spki     []byte
	verifier signature.Verifier
}

// NewKey makes a Key whose LogID is SHA-256 of the key's SPKI. It fails for a key
// that Sigstore's verifiers do not support.
func NewKey(public crypto.PublicKey) (Key, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, fmt.Errorf("public key: %w", err)
	}
	v, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return Key{}, fmt.Errorf("public key: %w", err)
	}
	return Key{LogID: sha256.Sum256(spki), Public: public, spki: spki, verifier: v}, nil
}

// ParseKeyPEM reads one PEM "PUBLIC KEY" block (PKIX).
func ParseKeyPEM(text []byte) (Key, error) {
	public, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("not a PEM public key: %w", err)
	}
	return NewKey(public)
}

// PEM is the key as ParseKeyPEM reads it, without its LogID.
func (k Key) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.spki}))
}

// Same reports whether both are one public key, whatever LogID they are given.
func (k Key) Same(other Key) bool { return bytes.Equal(k.spki, other.spki) }

// Hex is the key's LogID as 64 hex digits.
func (k Key) Hex() string { return hex.EncodeToString(k.LogID[:]) }

// OriginID is the log ID of a Rekor v2 log, the C2SP signed-note key ID untruncated:
// for Ed25519 SHA-256(origin ‖ "\n" ‖ 0x01 ‖ key), for RSA SHA-256(origin ‖ "\n" ‖ 0xff ‖
// "PKIX-RSA-PKCS#1v1.5" ‖ SPKI), for ECDSA that of the SPKI alone.
func (k Key) OriginID(origin string) [32]byte {
	switch public := k.Public.(type) {
	case ed25519.PublicKey:
		return sha256.Sum256(append([]byte(origin+"\n\x01"), public...))
	case *rsa.PublicKey:
		return sha256.Sum256(append([]byte(origin+"\n\xffPKIX-RSA-PKCS#1v1.5"), k.spki...))
	}
	return sha256.Sum256(k.spki)
}

// Verify checks sig over msg: ASN.1 ECDSA or PKCS #1 v1.5 RSA over SHA-256, or
// pure Ed25519.
func (k Key) Verify(msg, sig []byte) bool {
	return k.verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(msg)) == nil
}

// noteVerifier is one key under one signature line of a note. Rekor v1 writes
// its replica's host name there and the first four bytes of the SPKI's hash;
// Rekor v2 the origin and the C2SP key ID. Both are hints, the signature decides.
type noteVerifier struct {
	name string
	hash uint32
	key  Key
}

func (v noteVerifier) Name() string                { return v.name }
func (v noteVerifier) KeyHash() uint32             { return v.hash }
func (v noteVerifier) Verify(msg, sig []byte) bool { return v.key.Verify(msg, sig) }

// keyHashes are the hints under which a note may name the key.
func (k Key) keyHashes(name string) []uint32 {
	spki := sha256.Sum256(k.spki)
	hints := []uint32{binary.BigEndian.Uint32(spki[:]), binary.BigEndian.Uint32(k.LogID[:])}
	id := k.OriginID(name)
	return append(hints, binary.BigEndian.Uint32(id[:]))
}

// OpenCheckpoint parses a signed note and verifies it under one of keys; it
// returns the key that did. It fails, and never panics, on anything unsigned,
// garbled, longer than MaxCheckpoint, or whose root for size 0 is not SHA-256 of
// the empty string. Extra signatures (witnesses) are ignored.
func OpenCheckpoint(raw []byte, keys []Key) (Checkpoint, Key, error) {
	if len(raw) > MaxCheckpoint {
		return Checkpoint{}, Key{}, fmt.Errorf("note is longer than %d bytes", MaxCheckpoint)
	}
	cut := bytes.LastIndex(raw, []byte("\n\n"))
	if cut < 0 {
		return Checkpoint{}, Key{}, errors.New("not a signed note: it has no signature block")
	}
	if bytes.Count(raw[cut+2:], []byte("\n")) > maxSignatures {
		return Checkpoint{}, Key{}, fmt.Errorf("note has more than %d signatures", maxSignatures)
	}
	for line := range strings.Lines(string(raw[cut+2:])) {
		name, hint, ok := signatureLine(line)
		if !ok {
			continue
		}
		for _, key := range keys {
			if !slices.Contains(key.keyHashes(name), hint) {
				continue
			}
			n, err := note.Open(raw, note.VerifierList(noteVerifier{name, hint, key}))
			if err != nil {
				continue
			}
			cp, err := parseCheckpoint(n.Text)
			if err != nil {
				return Checkpoint{}, Key{}, err
			}
			cp.Note = bytes.Clone(raw)
			return cp, key, nil
		}
	}
	return Checkpoint{}, Key{}, fmt.Errorf("no signature verifies under the %d trusted keys", len(keys))
}

// signatureLine reads the name and key hint of "— <name> <base64>\n".
func signatureLine(line string) (name string, hint uint32, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— ")
	if !ok {
		return "", 0, false
	}
	name, b64, ok := strings.Cut(rest, " ")
	if !ok {
		return "", 0, false
	}
	sig, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(sig) < 5 {
		return "", 0, false
	}
	return name, binary.BigEndian.Uint32(sig), true
}

func parseCheckpoint(text string) (Checkpoint, error) {
	var f formats.Checkpoint
	rest, err := f.Unmarshal([]byte(text))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%.200s", err) // it repeats a line, whatever its size
	}
	if len(f.Hash) != len(Hash{}) {
		return Checkpoint{}, fmt.Errorf("root hash of %d bytes, want %d", len(f.Hash), len(Hash{}))
	}
	cp := Checkpoint{Origin: f.Origin, Size: f.Size, Root: Hash(f.Hash)}
	if cp.Size == 0 && cp.Root != Hash(rfc6962.DefaultHasher.EmptyRoot()) {
		return Checkpoint{}, fmt.Errorf("size 0 with root %s, want SHA-256 of the empty string", cp.Root)
	}
	// A size above 2^62 would overflow proof arithmetic; no log is that large.
	if cp.Size > 1<<62 {
		return Checkpoint{}, fmt.Errorf("tree size %d is beyond any log's", cp.Size)
	}
	for line := range strings.Lines(string(rest)) {
		if strings.HasPrefix(line, "Log frozen — ") {
			cp.Frozen = true
		}
	}
	return cp, nil
}
