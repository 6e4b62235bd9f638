// Package trust reads which logs and certificate authorities exist, and with
// which keys: from a Sigstore trusted root, which a TUF repository gives out or a
// file has, or from PEM files.
//
// It keeps its share of P6 (one bad log never stops the others) and P9 (no silent
// gap): a trusted root is read log by log, and one that cannot be read is a
// warning that names it. [Repository.Refresh] believes nothing that TUF does not
// verify and never goes back behind what was verified before; when it cannot go on,
// it says why and leaves the keys as they were. [Chains.Check] is what says that a
// certificate is trusted; only a certificate that verifies at its own NotBefore,
// under an authority valid at that time, is.
package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	pbcommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pbtrust "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// MaxFile is the size limit of every file that configures trust.
const MaxFile = 4 << 20

// Root is what a Sigstore trusted root says, as far as it could be read.
type Root struct {
	Rekor    []Log // Rekor v1 services' keys and Rekor v2 shards
	CT       []Log // certificate transparency logs
	Chains   *Chains
	Warnings []string // each names the log or authority that could not be read
}

// Log is one key of one log. A service whose key was changed is listed once a key.
type Log struct {
	// Type is RekorV1 or RekorV2, as the log ID tells, and "" if it does not; nothing
	// says which protocol a CT log speaks.
	Type       tlog.Type
	URL        string // without a trailing slash
	Origin     string // the URL without its scheme: a Rekor v2 shard's origin
	Key        tlog.Key
	Start, End time.Time // of the key's validity; zero if not given
}

// Retired reports whether the log's validity ended before now.
func (l Log) Retired(now time.Time) bool { return !l.End.IsZero() && l.End.Before(now) }

// At returns the Rekor logs with the given base URL.
func (r *Root) At(base string) []Log {
	var at []Log
	for _, l := range r.Rekor {
		if strings.EqualFold(l.URL, strings.TrimRight(base, "/")) {
			at = append(at, l)
		}
	}
	return at
}

// CTAt returns the CT logs with the given base URL.
func (r *Root) CTAt(base string) []Log {
	var at []Log
	for _, l := range r.CT {
		if strings.EqualFold(l.URL, strings.TrimRight(base, "/")) {
			at = append(at, l)
		}
	}
	return at
}

// Read reads what is at a location whole: ReadFile does so for paths. It bounds
// the size; errors name the location.
type Read func(location string) ([]byte, error)

// ReadTrustedRoot reads a trusted_root.json.
func ReadTrustedRoot(location string, read Read) (*Root, error) {
	data, err := read(location)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	root, err := ParseTrustedRoot(data)
	if err != nil {
		return nil, fmt.Errorf("trusted root %s: %w", location, err)
	}
	return root, nil
}

// ReadFile reads a regular file of at most MaxFile bytes.
func ReadFile(path string) ([]byte, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() { // a pipe would hang, a device never end
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	}
	return data, nil
}

const mediaType = "application/vnd.dev.sigstore.trustedroot"

// ParseTrustedRoot reads the protojson form of a trusted root. It fails only if
// data is not one at all.
func ParseTrustedRoot(data []byte) (*Root, error) {
	var outer struct {
		MediaType              string            `json:"mediaType"`
		Tlogs                  []json.RawMessage `json:"tlogs"`
		Ctlogs                 []json.RawMessage `json:"ctlogs"`
		CertificateAuthorities []json.RawMessage `json:"certificateAuthorities"`
	}
	if err := json.Unmarshal(data, &outer); err != nil {
		return nil, fmt.Errorf("not a trusted root: %w", err)
	}
	if !strings.HasPrefix(outer.MediaType, mediaType) {
		return nil, fmt.Errorf("not a trusted root: its mediaType is %q, want %s…", outer.MediaType, mediaType)
	}
	root := &Root{Chains: &Chains{}}
	root.Rekor = root.logs("tlogs", outer.Tlogs)
	for i := range root.Rekor {
		root.Rekor[i].Type = rekorType(root.Rekor[i])
	}
	root.CT = root.logs("ctlogs", outer.Ctlogs)
	for i, raw := range outer.CertificateAuthorities {
		if err := root.Chains.add(raw); err != nil {
			root.warn("certificateAuthorities", i, raw, err)
		}
	}
	return root, nil
}

func (r *Root) logs(list string, raws []json.RawMessage) []Log {
	var logs []Log
	for i, raw := range raws {
		l, err := parseLog(raw)
		if err != nil {
			r.warn(list, i, raw, err)
			continue
		}
		logs = append(logs, l)
	}
	return logs
}

// warn names an instance by what can still be read of it.
func (r *Root) warn(list string, i int, raw json.RawMessage, err error) {
	var named struct {
		BaseURL string `json:"baseUrl"`
		URI     string `json:"uri"`
		LogID   struct {
			KeyID string `json:"keyId"`
		} `json:"logId"`
		PublicKey struct {
			KeyDetails string `json:"keyDetails"`
		} `json:"publicKey"`
	}
	_ = json.Unmarshal(raw, &named) // what does not fit stays empty
	name := fmt.Sprintf("%s[%d]", list, i)
	for _, part := range []struct{ label, text string }{
		{"", named.BaseURL + named.URI}, {"log ID ", named.LogID.KeyID}, {"key ", named.PublicKey.KeyDetails},
	} {
		if part.text != "" {
			name += fmt.Sprintf(", %s%q", part.label, part.text)
		}
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("%s cannot be used: %v", name, err))
}

// lenient skips fields that a newer trusted root may have.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

func parseLog(raw json.RawMessage) (Log, error) {
	var pb pbtrust.TransparencyLogInstance
	if err := lenient.Unmarshal(raw, &pb); err != nil {
		return Log{}, err
	}
	if h := pb.GetHashAlgorithm(); h != pbcommon.HashAlgorithm_SHA2_256 {
		return Log{}, fmt.Errorf("unsupported hash algorithm %s", h)
	}
	base := strings.TrimRight(pb.GetBaseUrl(), "/")
	u, err := url.Parse(base)
	if err != nil {
		return Log{}, fmt.Errorf("baseUrl: %w", err)
	}
	if u.Scheme == "" || u.Host == "" {
		return Log{}, fmt.Errorf("baseUrl %q is not a URL", pb.GetBaseUrl())
	}
	public, err := parseKey(pb.GetPublicKey())
	if err != nil {
		return Log{}, err
	}
	key, err := tlog.NewKey(public)
	if err != nil {
		return Log{}, err
	}
	// The log ID is what the root says it is: not every log's is the hash of its key.
	id := pb.GetLogId().GetKeyId()
	if len(id) != len(key.LogID) {
		return Log{}, fmt.Errorf("log ID of %d bytes, want %d", len(id), len(key.LogID))
	}
	copy(key.LogID[:], id)
	l := Log{URL: base, Origin: strings.TrimPrefix(base, u.Scheme+"://"), Key: key}
	if v := pb.GetPublicKey().GetValidFor(); v != nil {
		if v.GetStart() != nil {
			l.Start = v.GetStart().AsTime()
		}
		if v.GetEnd() != nil {
			l.End = v.GetEnd().AsTime()
		}
	}
	return l, nil
}

func parseKey(pb *pbcommon.PublicKey) (crypto.PublicKey, error) {
	raw := pb.GetRawBytes()
	if len(raw) == 0 {
		return nil, errors.New("no public key")
	}
	if pb.GetKeyDetails() == pbcommon.PublicKeyDetails_PKCS1_RSA_PKCS1V5 { //nolint:staticcheck // deprecated, and what staging has
		return x509.ParsePKCS1PublicKey(raw)
	}
	public, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return public, nil
}

// rekorType tells a Rekor v2 shard by its log ID, the C2SP signed-note key ID
// untruncated, from a Rekor v1 service, whose is the hash of its key. The ID of a v2
// shard with an ECDSA key is that hash too (rekor-tiles, pkg/note): it reads as v1.
func rekorType(l Log) tlog.Type {
	spki, err := x509.MarshalPKIXPublicKey(l.Key.Public)
	if err != nil {
		return ""
	}
	var v2 []byte
	switch public := l.Key.Public.(type) {
	case ed25519.PublicKey:
		v2 = append([]byte(l.Origin+"\n\x01"), public...)
	case *rsa.PublicKey:
		v2 = append([]byte(l.Origin+"\n\xffPKIX-RSA-PKCS#1v1.5"), spki...)
	}
	switch id := l.Key.LogID; {
	case v2 != nil && id == sha256.Sum256(v2):
		return tlog.RekorV2
	case id == sha256.Sum256(spki):
		return tlog.RekorV1
	}
	return ""
}
