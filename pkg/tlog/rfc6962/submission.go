package rfc6962

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// maxChain is more certificates than any chain has that a log accepts.
const maxChain = 64

// submission reads the extra_data that was served with an entry, when it is called.
func (l *Log) submission(index uint64, e served) func(context.Context) (tlog.Submission, error) {
	return func(context.Context) (tlog.Submission, error) {
		s, err := parseSubmission(e.leaf, e.extra)
		if err != nil {
			// What could be read is checked by whoever uses it, so garbage after it does no harm.
			return s, &tlog.Unverified{
				What:   fmt.Sprintf("the extra_data of leaf %d at %s", index, l.info.URL),
				Served: e.extra,
				Err:    err,
			}
		}
		return s, nil
	}
}

// parseSubmission reads base64 of what RFC 6962 section 4.6 has beside a leaf: the
// certificate_chain of an x509_entry, the PrecertChainEntry of a precert_entry. With an
// error it is what could be read.
func parseSubmission(leaf, extra []byte) (tlog.Submission, error) {
	var s tlog.Submission
	raw, err := base64.StdEncoding.DecodeString(string(extra))
	if err != nil {
		return s, err
	}
	const entryType = 1 + 1 + 8 // after version, leaf_type and timestamp
	if len(leaf) < entryType+2 {
		return s, fmt.Errorf("the leaf of %d bytes has no entry_type", len(leaf))
	}
	rest := cryptobyte.String(raw)
	switch kind := int(leaf[entryType])<<8 | int(leaf[entryType+1]); kind {
	case 0:
	case 1:
		var precert cryptobyte.String
		if !rest.ReadUint24LengthPrefixed(&precert) || precert.Empty() {
			return s, errors.New("it does not begin with a precertificate")
		}
		s.Precertificate = precert
	default:
		return s, fmt.Errorf("the leaf has entry_type %d, want 0 or 1", kind)
	}
	var chain cryptobyte.String
	if !rest.ReadUint24LengthPrefixed(&chain) {
		return s, errors.New("it does not end with a certificate chain")
	}
	for !chain.Empty() {
		var cert cryptobyte.String
		if !chain.ReadUint24LengthPrefixed(&cert) || cert.Empty() {
			return s, fmt.Errorf("certificate %d of the chain is cut short or empty", len(s.Chain))
		}
		if len(s.Chain) == maxChain {
			return s, fmt.Errorf("a chain of more than %d certificates", maxChain)
		}
		s.Chain = append(s.Chain, cert)
	}
	if !rest.Empty() {
		return s, fmt.Errorf("%d bytes stand after the certificate chain", len(rest))
	}
	return s, nil
}
