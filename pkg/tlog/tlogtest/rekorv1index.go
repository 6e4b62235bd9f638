package tlogtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"

	oapi "github.com/go-openapi/errors"
	"github.com/go-openapi/strfmt"
	"github.com/go-openapi/swag/conv"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/pki"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/transparency-dev/merkle/rfc6962"
)

// SearchIndex is a Rekor v1 service's search index as rekor-server v1.5.4 has it on
// MySQL: off until it is switched on, keyed by what rekor's own types say of each
// leaf, compared without regard to case, and tied to the trees by nothing.
type SearchIndex struct {
	mu       sync.Mutex
	on       bool
	old      bool
	held     bool
	indexed  map[*RekorTree]uint64 // how far each tree was indexed
	uuids    map[string][]string   // by key in lower case
	withheld map[string]bool       // leaf hashes in hex
}

// Index is the service's search index.
func (s *RekorV1) Index() *SearchIndex { return &s.index }

// On switches the index on: entries there are, and those to come, are indexed.
func (x *SearchIndex) On() { x.set(func() { x.on = true }) }

// Off makes it answer 501, as a server without one does.
func (x *SearchIndex) Off() { x.set(func() { x.on = false }) }

// BeforeSubjects makes it a server before v1.5.4, which passes over the field
// "subject" as over any other that it does not know.
func (x *SearchIndex) BeforeSubjects() { x.set(func() { x.old = true }) }

// Hold writes nothing into the index until Release, as a slow or failing index
// storage: the server answers uploads without waiting for it.
func (x *SearchIndex) Hold() { x.set(func() { x.held = true }) }

// Release indexes what was held back.
func (x *SearchIndex) Release() { x.set(func() { x.held = false }) }

// List lists a UUID under a key, whatever it names: an entry that does not exist, of
// another tree, or the same one again.
func (x *SearchIndex) List(key string, uuids ...string) {
	x.set(func() { x.write([]string{key}, uuids...) })
}

// Withhold leaves an entry out of all answers.
func (x *SearchIndex) Withhold(leaf Hash) {
	x.set(func() {
		if x.withheld == nil {
			x.withheld = make(map[string]bool)
		}
		x.withheld[hex.EncodeToString(leaf[:])] = true
	})
}

func (x *SearchIndex) set(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
}

func (x *SearchIndex) write(keys []string, uuids ...string) {
	if x.uuids == nil {
		x.uuids = make(map[string][]string)
	}
	for _, key := range keys {
		key = strings.ToLower(key)
		x.uuids[key] = append(x.uuids[key], uuids...)
	}
}

// answer answers index/retrieve.
func (x *SearchIndex) answer(r *http.Request, shards []*shard) (any, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.on {
		return disabled("Search Index")(r, shards)
	}
	var q models.SearchIndex
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&q); errors.Is(err, io.EOF) {
		return nil, oapi.Required("query", "body", "")
	} else if err != nil {
		return nil, oapi.NewParseError("query", "body", "", err)
	}
	if x.old {
		q.Subject = ""
	}
	if err := q.Validate(strfmt.Default); err != nil {
		return nil, err
	}
	if !x.held {
		if err := x.catchUp(shards); err != nil {
			return nil, err
		}
	}
	keys, err := lookupKeys(&q)
	if err != nil {
		return nil, err
	}
	return x.look(keys, q.Operator), nil
}

// catchUp indexes the true leaves that are not indexed yet.
func (x *SearchIndex) catchUp(shards []*shard) error {
	if x.indexed == nil {
		x.indexed = make(map[*RekorTree]uint64)
	}
	for _, sh := range shards {
		t := sh.served
		for size := t.Tree().Size(); x.indexed[t] < size; x.indexed[t]++ {
			leaf, err := t.Tree().Leaf(x.indexed[t])
			if err != nil {
				return err
			}
			x.write(indexKeys(leaf), t.UUID(leaf))
		}
	}
	return nil
}

// UUID is the UUID of a leaf, in full.
func (t *RekorTree) UUID(leaf []byte) string {
	return fmt.Sprintf("%016x%x", t.ID, rfc6962.DefaultHasher.HashLeaf(leaf))
}

// indexKeys are what rekor-server indexes an entry under; none for a leaf that its
// types do not take.
func indexKeys(leaf []byte) []string {
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), nil)
	if err != nil {
		return nil
	}
	e, err := types.UnmarshalEntry(proposed)
	if err != nil {
		return nil
	}
	keys, err := e.IndexKeys()
	if err != nil {
		return nil
	}
	return keys
}

// lookupKeys are what rekor-server looks up for a query, one for each field.
func lookupKeys(q *models.SearchIndex) ([]string, error) {
	var keys []string
	if q.Hash != "" {
		keys = append(keys, util.PrefixSHA(q.Hash))
	}
	if q.PublicKey != nil {
		af, err := pki.NewArtifactFactory(pki.Format(conv.Value(q.PublicKey.Format)))
		if err != nil {
			return nil, oapi.New(http.StatusBadRequest, "the PKI format requested is not supported by this server")
		}
		key, err := af.NewPublicKey(bytes.NewReader(q.PublicKey.Content))
		if err != nil {
			return nil, oapi.New(http.StatusBadRequest, "public key provided could not be parsed")
		}
		canonical, err := key.CanonicalValue()
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(canonical)
		keys = append(keys, hex.EncodeToString(sum[:]))
	}
	if q.Email != "" {
		keys = append(keys, q.Email.String())
	}
	if q.Subject != "" {
		keys = append(keys, q.Subject)
	}
	return keys, nil
}

// look is each UUID once that is listed under any key or, with operator "and",
// under all, in another order each time: rekor-server ranges over a map.
func (x *SearchIndex) look(keys []string, operator string) []string {
	count := make(map[string]int)
	found := []string{} // never null in JSON
	for _, key := range keys {
		seen := make(map[string]bool)
		for _, uuid := range x.uuids[strings.ToLower(key)] {
			if seen[uuid] || len(uuid) >= 64 && x.withheld[uuid[len(uuid)-64:]] {
				continue
			}
			seen[uuid] = true
			if count[uuid]++; count[uuid] == 1 {
				found = append(found, uuid)
			}
		}
	}
	if strings.EqualFold(operator, "and") {
		found = slices.DeleteFunc(found, func(uuid string) bool { return count[uuid] < len(keys) })
	}
	rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	return found
}
