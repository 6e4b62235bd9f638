package watch

import (
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// Trust says whether a finding's certificate chains to a trusted CA.
type Trust string

// The states of trust. Unknown is said when there are no CA certificates to
// check against, and of keys, which have no chain.
const (
	Trusted   Trust = "yes"
	Untrusted Trust = "no"
	Unknown   Trust = "unknown"
)

// Finding is an entry whose signer fits a rule. Its JSON is a stable interface:
// it is what `--json` prints, what findings/ keeps and what sinks are sent. Text in
// it comes from a log and must be escaped wherever it is shown.
type Finding struct {
	Rule     string    `json:"rule"`
	Matched  string    `json:"matched"` // which part of the rule fitted: "subject", "fingerprint", "extension 1.3.6.1.4.1.57264.1.9"
	Log      tlog.ID   `json:"log"`
	Origin   string    `json:"origin"`
	LogType  tlog.Type `json:"logType"`
	Index    uint64    `json:"index"`                 // the log's own
	LogIndex *uint64   `json:"globalIndex,omitempty"` // Rekor v1: over all trees
	UUID     string    `json:"uuid,omitempty"`        // Rekor v1
	LeafHash tlog.Hash `json:"leafHash"`
	Kind     string    `json:"kind"`
	Version  string    `json:"version"`

	SignerType     string      `json:"signerType"`
	Subject        string      `json:"subject"` // the one that fitted, else the first
	Subjects       []string    `json:"subjects,omitempty"`
	Issuer         string      `json:"issuer"`
	Fingerprint    string      `json:"fingerprint"`
	KeyFingerprint string      `json:"keyFingerprint,omitempty"`
	SerialNumber   string      `json:"serialNumber,omitempty"`
	Digests        []string    `json:"digests,omitempty"`
	Extensions     []Extension `json:"extensions,omitempty"`  // Fulcio's, by name
	Certificate    string      `json:"certificate,omitempty"` // PEM
	// CertificateID is the same for a certificate wherever it is found, and for its
	// precertificate: see entry.Signer.CertificateID.
	CertificateID string `json:"certificateId,omitempty"`

	Times    []Time `json:"times,omitempty"`
	Trusted  Trust  `json:"trusted"`
	TrustErr string `json:"trustError,omitempty"` // why not
	Expected bool   `json:"expected"`
	// Unproven marks a finding from leaves that did not hash into a root that the
	// log's trusted history commits to.
	Unproven bool `json:"unproven,omitempty"`
	// BestEffort marks a finding that a search index was asked for: that index may
	// leave entries out without our noticing.
	BestEffort bool   `json:"bestEffort,omitempty"`
	Link       string `json:"link,omitempty"` // where to look at the entry
	// Cut says that the entry holds more than is shown here, or more that fits: its text
	// or lists are longer than any honest one's, or its certificate is left out.
	Cut bool `json:"cut,omitempty"`
}

// Extension is a certificate extension as a finding shows it.
type Extension struct {
	OID   string `json:"oid"`
	Name  string `json:"name,omitempty"`
	Value string `json:"value"`
}

// Time is a time that bears on a finding, with what vouches for it.
type Time struct {
	Time    time.Time `json:"time"`
	What    string    `json:"what"`    // "integrated", "certificate not before", "certificate not after"
	Vouched string    `json:"vouched"` // "signed entry timestamp", "certificate", "nothing"
}
