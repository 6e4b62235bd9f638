package monitor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
)

// MaxBundle is the size limit, in bytes, of a Sigstore bundle.
const MaxBundle = 16 << 20

// maxBundleEntries is sigstore-go's limit of a bundle's log entries.
const maxBundleEntries = 32

// BundleStatus is what became of a bundle, or of one entry in it.
type BundleStatus string

// The statuses, worst first: a bundle has the worst of its entries'.
const (
	// BundleTamper: the log signed it, and what it signed is not of the history that
	// this monitor saw. Evidence has the proof, or the suspicion.
	BundleTamper BundleStatus = "tamper"
	// BundleUnverified: nothing that the log signed says that the entry is in it. That
	// speaks against the bundle, which anybody can alter, and not against the log.
	BundleUnverified BundleStatus = "unverified"
	// BundleNotChecked: it could not be told; Text or Error says why.
	BundleNotChecked BundleStatus = "not-checked"
	// BundleNotWatched: this monitor has no history of the log.
	BundleNotWatched BundleStatus = "not-watched"
	// BundleInHistory: the entry lies in the history that this monitor saw.
	BundleInHistory BundleStatus = "in-history"
)

var bundleStatuses = []BundleStatus{BundleTamper, BundleUnverified, BundleNotChecked, BundleNotWatched, BundleInHistory}

// BundleCheck is what [History.CheckBundle] found. Its JSON is a stable interface.
type BundleCheck struct {
	Name    string        `json:"name"`
	Status  BundleStatus  `json:"status"`
	Error   string        `json:"error,omitempty"` // why there is no entry to check
	Entries []BundleEntry `json:"entries"`
}

// BundleEntry is one transparency log entry of a bundle.
type BundleEntry struct {
	Status BundleStatus `json:"status"`
	Text   string       `json:"text"`  // a sentence
	KeyID  string       `json:"keyId"` // of the log's key as the bundle has it, in hex
	// Index is in the log's own tree; of an entry without an inclusion proof what the
	// bundle says, which for Rekor v1 counts over all trees.
	Index    uint64    `json:"index"`
	LeafHash tlog.Hash `json:"leafHash"`
	Size     uint64    `json:"size,omitempty"` // of its checkpoint, once that is verified
	Log      tlog.ID   `json:"log,omitempty"`  // "" if it is not watched
	Origin   string    `json:"origin,omitempty"`
	URL      string    `json:"url,omitempty"`
	// Proven is the size up to which the history is proven, ProvenAt since when.
	Proven   uint64     `json:"proven,omitempty"`
	ProvenAt *time.Time `json:"provenAt,omitempty"`
	// Incidents are those of the log that no decision has closed. Proof among them
	// keeps the history from following the log.
	Incidents []string `json:"incidents,omitempty"`
	// Evidence goes with tamper: what a third party can check, given the log's key.
	Evidence *tlog.Incident `json:"evidence,omitempty"`
}

func (e BundleEntry) is(status BundleStatus, format string, args ...any) BundleEntry {
	e.Status, e.Text = status, fmt.Sprintf(format, args...)
	return e
}

// accuse is for a log that serves what it did not sign when it is asked for the entry.
func (e BundleEntry) accuse(in *tlog.Incident) BundleEntry {
	e.Evidence = in
	return e.is(BundleTamper, "it has no inclusion proof, and what the log serves in its place speaks against the log")
}

// fork is for an entry in a tree that the log signed, and that is not of the history.
func (e BundleEntry) fork(k *past, in *tlog.Incident) BundleEntry {
	e.Evidence = in
	return e.is(BundleTamper, "it is in a tree of size %d that the log signed, and that tree is not of the history; %s", e.Size, k.proven())
}

// CheckBundle says whether what the logs signed for a Sigstore bundle lies in the
// history that this monitor saw: the log must not show its user another one. It takes
// the forms v0.1 to v0.3 of
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto.
//
// An entry's inclusion proof must verify under its checkpoint, and that under the
// log's key, which is never the bundle's. Then the checkpoint is held against the
// archived one of its size, or the log is asked for the consistency proof between it
// and the newest one proven. An entry beyond that one is not checked: a log may show
// one extension of the history to us now, and another to everybody else. The
// artifact's signature and the signer's identity are not looked at. The state is only
// read.
func (h *History) CheckBundle(ctx context.Context, name string, data []byte) *BundleCheck {
	b := &BundleCheck{Name: name, Status: BundleNotChecked, Entries: []BundleEntry{}}
	entries, signed, err := parseBundle(data)
	if err != nil {
		b.Error = err.Error()
		return b
	}
	b.Status = BundleInHistory
	for _, t := range entries {
		e := h.checkEntry(ctx, t, signed)
		b.Entries = append(b.Entries, e)
		b.Status = worst(b.Status, e.Status)
	}
	return b
}

func worst(a, b BundleStatus) BundleStatus {
	return bundleStatuses[min(slices.Index(bundleStatuses, a), slices.Index(bundleStatuses, b))]
}

var mediaType = regexp.MustCompile(`\Aapplication/vnd\.dev\.sigstore\.bundle(\.v0\.[1-3](\.[0-9]+)?\+json|\+json;version=0\.[1-3])\z`)

// parseBundle reads a bundle's log entries, at least one, and when it says it was
// signed, zero if it does not. (sigstore-go's bundle package also parses their bodies,
// and takes no bundle whose entry has a type that it does not know, as Rekor v2's dsse.
// Here a body is bytes with a hash.)
func parseBundle(data []byte) (entries []*protorekor.TransparencyLogEntry, signed time.Time, err error) {
	if len(data) > MaxBundle {
		return nil, signed, fmt.Errorf("it is larger than %d bytes, our limit of a bundle", MaxBundle)
	}
	var b protobundle.Bundle
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &b); err != nil {
		return nil, signed, fmt.Errorf("not a Sigstore bundle: %.500s", err.Error())
	}
	entries = b.GetVerificationMaterial().GetTlogEntries()
	switch n := len(entries); {
	case b.GetMediaType() == "" && bytes.Contains(data, []byte(`"rekorBundle"`)):
		return nil, signed, errors.New("it is a bundle of cosign's old form, without a checkpoint: sign with --new-bundle-format, which cosign 3 does by itself")
	case !mediaType.MatchString(b.GetMediaType()):
		return nil, signed, fmt.Errorf("not a Sigstore bundle of v0.1 to v0.3: its mediaType is %.200q", b.GetMediaType())
	case n == 0:
		return nil, signed, errors.New("it has no transparency log entry: no log has to do with it")
	case n > maxBundleEntries:
		return nil, signed, fmt.Errorf("it has %d transparency log entries, more than our limit of %d", n, maxBundleEntries)
	}
	return entries, signedAt(&b), nil
}

// signedAt is when a bundle's certificate or its entries say that it was signed.
func signedAt(b *protobundle.Bundle) (at time.Time) {
	der := b.GetVerificationMaterial().GetCertificate().GetRawBytes()
	if chain := b.GetVerificationMaterial().GetX509CertificateChain().GetCertificates(); len(chain) > 0 {
		der = chain[0].GetRawBytes()
	}
	if c, err := x509.ParseCertificate(der); err == nil {
		return c.NotBefore
	}
	for _, t := range b.GetVerificationMaterial().GetTlogEntries() {
		if t.GetIntegratedTime() > 0 {
			at = time.Unix(t.GetIntegratedTime(), 0)
		}
	}
	return at
}

func (h *History) checkEntry(ctx context.Context, t *protorekor.TransparencyLogEntry, signed time.Time) BundleEntry {
	p := t.GetInclusionProof()
	note := p.GetCheckpoint().GetEnvelope()
	e := BundleEntry{KeyID: fmt.Sprintf("%.32x", t.GetLogId().GetKeyId()), LeafHash: tlog.LeafHash(t.GetCanonicalizedBody())}
	index := t.GetLogIndex()
	if note != "" {
		index = p.GetLogIndex()
	}
	if index < 0 || t.GetLogIndex() < 0 {
		return e.is(BundleUnverified, "its log index is negative")
	}
	e.Index = uint64(index)
	ids := h.signedBy(e.KeyID, note)
	switch {
	case len(ids) == 0 && h.configured(e.KeyID):
		return e.is(BundleNotWatched, "a log with key ID %s is configured, and no run has seen it yet, or not this tree of it: run first", e.KeyID)
	case len(ids) == 0:
		return e.is(BundleNotWatched, "the log with key ID %s is not watched: this monitor has no history of it", e.KeyID)
	case note == "":
		return h.checkPromise(ctx, e, t, ids)
	}
	e.Log = ids[0]
	k, err := h.open(ctx, e.Log)
	if err != nil {
		return e.is(BundleNotChecked, "%v", err)
	}
	e = e.of(k)
	cp, err := k.log.Open([]byte(note))
	if err != nil {
		return e.is(BundleUnverified, "its checkpoint is not one that the log signed: %v", err)
	}
	if k.info.Type != tlog.RekorV1 && t.GetLogIndex() != p.GetLogIndex() {
		return e.is(BundleUnverified, "it is said to be entry %d, and its inclusion proof is for entry %d", t.GetLogIndex(), p.GetLogIndex())
	}
	if _, err := tlog.InclusionNodes(e.Index, cp.Size, e.LeafHash, p.GetHashes(), cp.Root); err != nil {
		return e.is(BundleUnverified, "the inclusion proof does not show it to be entry %d of the tree of size %d that the log signed: %v; entry, index or proof were altered", e.Index, cp.Size, err)
	}
	e.Size = cp.Size
	return h.compare(ctx, k, e, cp, signed)
}

func (e BundleEntry) of(k *past) BundleEntry {
	e.Log, e.Origin, e.URL = k.info.ID, cmp.Or(k.info.Origin, k.doc.Origin), k.info.URL
	e.Proven = k.trusted.Size
	if at := k.doc.CheckpointGrew; !at.IsZero() {
		e.ProvenAt = &at
	}
	for _, i := range k.doc.Incidents {
		if i.Closed == "" {
			e.Incidents = append(e.Incidents, i.ID)
		}
	}
	return e
}

// compare holds a checkpoint that the log signed against its history.
func (h *History) compare(ctx context.Context, k *past, e BundleEntry, cp tlog.Checkpoint, signed time.Time) BundleEntry {
	archive := &seenNotes{past: k, state: h.run.State}
	audit := tlog.Audit{Log: shown{Log: k.log, cp: cp}, Archive: archive, Again: h.run.Again}
	v, err := audit.Advance(ctx, nil)
	switch {
	case err != nil:
		return e.is(BundleNotChecked, "%v", err)
	case v.Incident != nil:
		return e.fork(k, v.Incident)
	case archive.ours:
		return e.is(BundleInHistory, "it is in the tree of size %d, whose root is the one that this monitor saw; %s", cp.Size, k.proven())
	}
	older, newer := k.trusted, shown{Log: k.log, cp: cp, due: signed.IsZero() || h.run.Now().Sub(signed).Abs() >= rollbackAfter}
	if cp.Size < k.trusted.Size {
		older, newer = cp, shown{Log: k.log, cp: k.trusted}
	}
	audit.Log, audit.Archive = newer, noArchive{}
	switch v, err = audit.Advance(ctx, &older); {
	case err != nil:
		return e.is(BundleNotChecked, "%v", err)
	case v.Incident != nil:
		return e.fork(k, v.Incident)
	case cp.Size < k.trusted.Size:
		return e.is(BundleInHistory, "it is in the tree of size %d, which the log just proved to be the beginning of the history; %s", cp.Size, k.proven())
	case e.Index >= k.trusted.Size:
		// Any fork made after the history ends extends it: a run must see this one first.
		return e.is(BundleNotChecked, "it is entry %d of the tree of size %d; the log proves that it extends the history, which reaches %d: run, then check again", e.Index, cp.Size, k.trusted.Size)
	}
	return e.is(BundleInHistory, "it is entry %d of the history, and in the tree of size %d, which the log just proved to extend the history; %s", e.Index, cp.Size, k.proven())
}

func (k *past) proven() string {
	text := fmt.Sprintf("that is proven up to size %d", k.trusted.Size)
	if at := k.doc.CheckpointGrew; !at.IsZero() {
		text += " since " + at.UTC().Format(time.RFC3339)
	}
	return text
}

// checkPromise is for an entry without an inclusion proof, as bundles of v0.1 may have
// it: the leaf at its index is read from the log, as far as the history is proven.
func (h *History) checkPromise(ctx context.Context, e BundleEntry, t *protorekor.TransparencyLogEntry, ids []tlog.ID) BundleEntry {
	k, index, err := h.at(ctx, ids, e.Index)
	if err != nil {
		return e.is(BundleNotChecked, "it has no inclusion proof, and where in the log it is cannot be told: %v", err)
	}
	e = e.of(k)
	e.Index = index
	if index >= k.trusted.Size {
		return e.is(BundleNotChecked, "it has no inclusion proof, and its index %d is beyond the history, %s: run first", index, k.proven())
	}
	audit := &tlog.Audit{Log: k.log, Archive: noArchive{}, Again: h.run.Again}
	has, before, incident, err := k.leafHash(ctx, audit, index)
	if incident != nil {
		return e.accuse(incident)
	}
	if err != nil {
		return e.is(BundleNotChecked, "it has no inclusion proof, and the log's entry at its index cannot be read: %v", err)
	}
	if has == e.LeafHash {
		return e.is(BundleInHistory, "it has no inclusion proof; the log just proved it to be entry %d of the history, %s", index, k.proven())
	}
	promise := k.promised(e.KeyID, t)
	if promise == nil {
		return e.is(BundleUnverified, "it has no inclusion proof, nor a promise that the log signed, and entry %d of the history is another one", index)
	}
	other, index, err := h.elsewhere(ctx, ids, e.LeafHash)
	if err != nil {
		return e.is(BundleNotChecked, "it has no inclusion proof, entry %d of the history is another one, and whether it is elsewhere in the log cannot be told: %v", before.Size, err)
	}
	if other != nil {
		e = e.of(other)
		e.Index = index
		return e.is(BundleInHistory, "it has no inclusion proof, and is not where its promise says; the log just proved it to be entry %d of the history, %s", index, other.proven())
	}
	return e.accuse(k.broken(ctx, audit, before, has, e.LeafHash, promise))
}

// elsewhere asks a Rekor v1 service for an entry by its leaf hash, and returns the log
// whose history has it; nil if the service does not have it. A promise may name another
// index when trees have just rotated: entries are counted over all of them.
func (h *History) elsewhere(ctx context.Context, ids []tlog.ID, leaf tlog.Hash) (*past, uint64, error) {
	ctx = tlog.Fresh(ctx)
	for _, id := range ids {
		k, err := h.open(ctx, id)
		if err != nil {
			return nil, 0, err
		}
		tree, ok := k.log.(*rekorv1.Tree)
		if !ok {
			continue
		}
		e := tree.Entries(ctx, []tlog.Hash{leaf})[0]
		if errors.Is(e.Err, rekorv1.ErrNoEntry) {
			continue
		}
		if e.Err != nil {
			return nil, 0, e.Err
		}
		if e.Leaf.Index >= k.trusted.Size {
			return nil, 0, fmt.Errorf("the service has it as entry %d, beyond the history; run first", e.Leaf.Index)
		}
		older, newer := tlog.Checkpoint{Size: e.Size, Root: e.Root}, k.trusted
		if older.Size > newer.Size {
			older, newer = newer, older
		}
		audit := tlog.Audit{Log: k.log, Archive: noArchive{}, Again: h.run.Again}
		switch same, err := audit.Extends(ctx, older, newer); {
		case err != nil:
			return nil, 0, err
		case same:
			return k, e.Leaf.Index, nil
		}
	}
	return nil, 0, nil
}

// leafHash reads one leaf and proves it, with the left edge before it.
func (k *past) leafHash(ctx context.Context, audit *tlog.Audit, index uint64) (tlog.Hash, tlog.Frontier, *tlog.Incident, error) {
	var leaf oneLeaf
	// A log knows how far its leaves go once it has served a checkpoint.
	if _, err := k.log.Checkpoint(ctx); err != nil {
		return leaf.hash, tlog.Frontier{}, nil, err
	}
	before, incident, err := audit.Frontier(ctx, index, k.trusted)
	if err != nil || incident != nil {
		return leaf.hash, before, incident, err
	}
	reader := audit.Reader(ctx, k.trusted, before, index+1)
	defer reader.Close()
	slice, err := reader.Next(&leaf)
	switch {
	case err != nil:
	case slice.Stuck != nil:
		err = slice.Stuck
	default:
		err = slice.Err
	}
	return leaf.hash, before, slice.Incident, err
}

// oneLeaf remembers the hash of the leaf that it was shown last.
type oneLeaf struct{ hash tlog.Hash }

func (l *oneLeaf) Visit(leaf tlog.Leaf) bool { l.hash = leaf.Hash; return true }
func (l *oneLeaf) Reset()                    {}

// promised returns what Rekor v1 signed as its promise to include an entry, with the
// signature; nil if its key did not sign it.
func (k *past) promised(keyID string, t *protorekor.TransparencyLogEntry) []byte {
	p := struct {
		Body           []byte `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       int64  `json:"logIndex"`
	}{t.GetCanonicalizedBody(), t.GetIntegratedTime(), keyID, t.GetLogIndex()}
	set := t.GetInclusionPromise().GetSignedEntryTimestamp()
	payload, err := json.Marshal(p) // which is its canonical form (RFC 8785)
	if err != nil || !slices.ContainsFunc(k.keys, func(key tlog.Key) bool { return key.Hex() == keyID && key.Verify(payload, set) }) {
		return nil
	}
	signed, err := json.Marshal(map[string][]byte{"payload": payload, "signature": set})
	if err != nil {
		return nil // of bytes: not reachable
	}
	return signed
}

// broken is the suspicion that the log did not keep its promise: the history has
// another leaf where it promised an entry.
func (k *past) broken(ctx context.Context, audit *tlog.Audit, before tlog.Frontier, has, want tlog.Hash, promise []byte) *tlog.Incident {
	in := tlog.NewBadCheckpoint(k.info.ID, tlog.BadLeaf, &tlog.Unverified{
		What: fmt.Sprintf("the promise (signed entry timestamp) that entry %d is the one with leaf hash %s", before.Size, want), Served: promise,
		Err: fmt.Errorf("in the tree of size %d that the log signed it is the one with leaf hash %s", k.trusted.Size, has),
	})
	in.Notes = []string{string(k.trusted.Note)}
	leaf := tlog.LeafEvidence{Index: before.Size, ServedHash: &want, Before: &before}
	if p, _, err := audit.Hole(ctx, k.trusted, before); err != nil {
		leaf.Error = err.Error()
	} else {
		leaf.ProvenHash, leaf.Proof = &p.Hash, p.Consistency
	}
	in.Leaves = []tlog.LeafEvidence{leaf}
	return in
}
