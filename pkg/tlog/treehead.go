package tlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/sunlight"
	ct "github.com/google/certificate-transparency-go"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"
)

// MaxMergeDelay is for how long a CT log may keep what it promised to take out of
// its tree, and so how old its newest tree head may be: 24 h in every log's policy.
const MaxMergeDelay = 24 * time.Hour

// TreeHead is a CT log's signed tree head (RFC 6962 section 3.5).
type TreeHead struct {
	Size      uint64
	Timestamp uint64 // milliseconds since 1970
	Root      Hash
	Signature []byte // TLS DigitallySigned: hash and signature algorithm, length, signature
}

// Note is the tree head as a signed note, the form in which static CT logs publish
// theirs (https://c2sp.org/static-ct-api, Checkpoints) and in which it is kept.
// Whether its signature verifies is for [OpenTreeHead] to say.
func (h TreeHead) Note(origin string, key Key) []byte {
	hint := binary.BigEndian.AppendUint32(nil, treeHeadHint(origin, key))
	sig := binary.BigEndian.AppendUint64(hint, h.Timestamp)
	sig = append(sig, h.Signature...)
	return fmt.Appendf(nil, "%s\n%d\n%s\n\n— %s %s\n", origin, h.Size, base64.StdEncoding.EncodeToString(h.Root[:]),
		origin, base64.StdEncoding.EncodeToString(sig))
}

// treeHeadHint is the key ID of an RFC 6962 signature line. The log's ID in it is
// always the hash of the key, whatever ID a trusted root gives the log.
func treeHeadHint(name string, key Key) uint32 {
	v, err := sunlight.NewRFC6962Verifier(name, key.Public)
	if err != nil {
		return 0 // a name with spaces, which no signature line can have
	}
	return v.KeyHash()
}

// treeHeadVerifier checks an RFC 6962 signature line. (The one of sunlight v0.3.0
// passes the wrong bytes on for RSA keys.)
type treeHeadVerifier struct {
	noteVerifier
	cp Checkpoint // what the note says
	at uint64     // timestamp, set by Verify
}

// maxTimestamp is the last millisecond that RFC 3339, and so JSON, can say.
const maxTimestamp = 253402300799999

func (v *treeHeadVerifier) Verify(_, sig []byte) bool {
	var timestamp uint64
	var hashAlg, sigAlg uint8
	var signature cryptobyte.String
	s := cryptobyte.String(sig)
	if !s.ReadUint64(&timestamp) || !s.ReadUint8(&hashAlg) || hashAlg != 4 || !s.ReadUint8(&sigAlg) ||
		!s.ReadUint16LengthPrefixed(&signature) || !s.Empty() || timestamp > maxTimestamp {
		return false
	}
	switch v.key.Public.(type) {
	case *rsa.PublicKey:
		if sigAlg != 1 {
			return false
		}
	case *ecdsa.PublicKey:
		if sigAlg != 3 {
			return false
		}
	default:
		return false // RFC 6962 section 2.1.4 has no others
	}
	input, err := ct.SerializeSTHSignatureInput(ct.SignedTreeHead{
		Version: ct.V1, TreeSize: v.cp.Size, Timestamp: timestamp, SHA256RootHash: ct.SHA256Hash(v.cp.Root),
	})
	if err != nil {
		return false
	}
	v.at = timestamp
	return v.key.Verify(input, signature)
}

// OpenTreeHead is [OpenCheckpoint] for CT logs: it parses a note that an RFC 6962
// tree head was made, and verifies the tree head under one of keys. The origin is
// not signed. Checkpoint.Time is the tree head's.
func OpenTreeHead(raw []byte, keys []Key) (Checkpoint, Key, error) {
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
	cp, err := parseCheckpoint(string(raw[:cut+1]))
	if err != nil {
		return Checkpoint{}, Key{}, err
	}
	if bytes.Count(raw[:cut+1], []byte("\n")) != 3 {
		return Checkpoint{}, Key{}, errors.New("it has more than the three lines that a tree head signs")
	}
	for line := range strings.Lines(string(raw[cut+2:])) {
		name, hint, ok := signatureLine(line)
		if !ok {
			continue
		}
		for _, key := range keys {
			if hint != treeHeadHint(name, key) {
				continue
			}
			v := &treeHeadVerifier{noteVerifier: noteVerifier{name, hint, key}, cp: cp}
			if _, err := note.Open(raw, note.VerifierList(v)); err != nil {
				continue
			}
			cp.Note, cp.Time = bytes.Clone(raw), time.UnixMilli(int64(v.at)).UTC()
			return cp, key, nil
		}
	}
	return Checkpoint{}, Key{}, fmt.Errorf("no tree head signature verifies under the %d trusted keys", len(keys))
}
