package entry

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// The numbers of RFC 6962 section 3.4.
const (
	leafV1           = 0 // Version
	timestampedEntry = 0 // MerkleLeafType
	x509Entry        = 0 // LogEntryType
	precertEntry     = 1
)

// ParseCT says whom a leaf of a CT log names: leaf is a MerkleTreeLeaf, RFC 6962
// section 3.4, as it is hashed. It reads the identity from the bytes that the leaf
// commits to and from nothing else. It does not verify signatures.
//
// The entry's one Signer is a certificate (Kind "certificate") or what a log keeps of
// a precertificate (Kind "precertificate"): its TBSCertificate, without the poison, and
// its issuer's key hash. The first has no TBS; the second has no Certificate, and so
// no Fingerprint.
//
// A version, leaf type or entry type that is not known gives an *UnknownKindError.
// An entry of which only a part can be read gives both the entry and an error: match
// the one and report the other. ParseCT is safe for concurrent use. Of leaf it keeps
// only the Signer's Certificate or TBS, which lie in it: clone them to outlive it.
func ParseCT(leaf []byte) (*Entry, error) {
	s := cryptobyte.String(leaf)
	var version, leafType uint8
	var timestamp uint64
	var entryType uint16
	if !s.ReadUint8(&version) {
		return nil, errors.New("leaf is empty")
	}
	if version != leafV1 {
		return nil, &UnknownKindError{Kind: "MerkleTreeLeaf", Version: fmt.Sprintf("v%d", int(version)+1)}
	}
	if s.ReadUint8(&leafType) && leafType != timestampedEntry {
		return nil, &UnknownKindError{Kind: fmt.Sprintf("leaf type %d", leafType), Version: "v1"}
	}
	if !s.ReadUint64(&timestamp) || !s.ReadUint16(&entryType) {
		return nil, fmt.Errorf("leaf of %d bytes ends before its entry", len(leaf))
	}
	// One allocation for what almost every entry needs.
	made := &struct {
		Entry
		signers  [1]Signer
		subjects [1]string
	}{Entry: Entry{Version: "v1"}}
	e, signer := &made.Entry, &made.signers[0]
	e.Signers = made.signers[:]
	signer.Type, signer.Subjects = X509, made.subjects[:0]

	var p problems
	var ok bool
	if e.Logged, ok = unixMilli(timestamp); !ok {
		p.add("timestamp is out of range")
	}
	switch entryType {
	case x509Entry:
		e.Kind = "certificate"
		signer.setCertificate(readBody(&s, &p), &p)
	case precertEntry:
		e.Kind = "precertificate"
		if !s.CopyBytes(signer.IssuerKeyHash[:]) {
			return nil, fmt.Errorf("parsing %s v1: leaf of %d bytes ends before its TBSCertificate", e.Kind, len(leaf))
		}
		signer.setTBS(readBody(&s, &p), &p)
	default:
		return nil, &UnknownKindError{Kind: fmt.Sprintf("entry type %d", entryType), Version: "v1"}
	}
	if len(signer.Subjects) == 0 {
		signer.Subjects = nil
	}
	var extensions cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&extensions) {
		p.add("the leaf's extensions are malformed")
	} else if !s.Empty() {
		p.add(fmt.Sprintf("%d bytes after the leaf's end", len(s)))
	}
	if len(p) > 0 {
		return e, fmt.Errorf("parsing %s v1: %w", e.Kind, p)
	}
	return e, nil
}

// readBody reads a vector of at most 2^24-1 bytes; all that is left of a leaf whose
// length is beyond its end.
func readBody(s *cryptobyte.String, p *problems) (body []byte) {
	rest := *s
	if s.ReadUint24LengthPrefixed((*cryptobyte.String)(&body)) {
		return body
	}
	p.add("the leaf ends before its certificate does")
	*s = nil
	if !rest.Skip(3) {
		return nil
	}
	return rest
}

// unixMilli is the time so many milliseconds after 1970, if it can be written: a
// log may serve any number.
func unixMilli(ms uint64) (t time.Time, ok bool) {
	if ms > uint64(lastTime.UnixMilli()) {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(ms)).UTC(), true
}
