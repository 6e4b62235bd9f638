package tlogtest

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	oapi "github.com/go-openapi/errors"
	"github.com/go-openapi/strfmt"
	"github.com/go-openapi/swag/conv"
	"github.com/sigstore/rekor/pkg/generated/models"
)

// maxQueries is how many entries one request may ask for.
const maxQueries = 10

// errNotFound becomes 404, or an entry left out with status 200.
var errNotFound = errors.New("not found")

// ServeHTTP serves the service's REST API, through the gate.
func (s *RekorV1) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handle(w, r, s.mux) }

// routes is the REST API, with rekor-server's answers for what is not enabled.
func (s *RekorV1) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(*http.Request, []*shard) (any, error){
		"GET /api/v1/log":                   logInfo,
		"GET /api/v1/log/proof":             consistency,
		"GET /api/v1/log/publicKey":         publicKey,
		"GET /api/v1/log/entries":           byIndex,
		"GET /api/v1/log/entries/{uuid}":    byUUID,
		"POST /api/v1/log/entries/retrieve": retrieve,
		"POST /api/v1/log/entries":          disabled("Create Entry"),
		"POST /api/v1/index/retrieve":       s.index.answer,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			shards, err := s.shards()
			var body any
			if err == nil {
				body, err = answer(r, shards)
			}
			respond(w, r, body, err)
		})
	}
	return mux
}

func respond(w http.ResponseWriter, r *http.Request, body any, err error) {
	if r.Method == http.MethodGet {
		w.Header().Set("Cache-Control", "no-cache, no-store, no-transform, must-revalidate, private, max-age=0")
	}
	if errors.Is(err, errNotFound) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if err != nil {
		oapi.ServeError(w, r, err)
		return
	}
	if pem, ok := body.(string); ok {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = io.WriteString(w, pem)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // fails only if the client has gone
}

func disabled(what string) func(*http.Request, []*shard) (any, error) {
	return func(*http.Request, []*shard) (any, error) {
		return nil, oapi.New(http.StatusNotImplemented, "%s API not enabled in this Rekor instance", what)
	}
}

func active(shards []*shard) *shard { return shards[len(shards)-1] }

// byTreeID is the tree that a query parameter names, the active one if none.
func byTreeID(r *http.Request, shards []*shard) (*shard, error) {
	id := r.URL.Query().Get("treeID")
	if id == "" {
		return active(shards), nil
	}
	for _, sh := range shards {
		if sh.id == id {
			return sh, nil
		}
	}
	return nil, oapi.New(http.StatusBadRequest, "no log range found for tree ID %s", id)
}

func logInfo(r *http.Request, shards []*shard) (any, error) {
	var info models.LogInfo
	for _, sh := range shards {
		if sh.hidden && !sh.active {
			continue
		}
		root, err := sh.tree.Root(sh.size)
		if err != nil {
			return nil, err
		}
		note, err := sh.signedNote(r.Context())
		if err != nil {
			return nil, err
		}
		rootHash, size, id := hex.EncodeToString(root[:]), int64(sh.size), sh.id
		if sh.active {
			info.RootHash, info.TreeSize, info.TreeID, info.SignedTreeHead = &rootHash, &size, &id, &note
			continue
		}
		info.InactiveShards = append(info.InactiveShards, &models.InactiveShardLogInfo{
			RootHash: &rootHash, TreeSize: &size, TreeID: &id, SignedTreeHead: &note,
		})
	}
	return &info, nil
}

func consistency(r *http.Request, shards []*shard) (any, error) {
	first, err := sizeParam(r, "firstSize", "1")
	if err != nil {
		return nil, err
	}
	last, err := sizeParam(r, "lastSize", "")
	if err != nil {
		return nil, err
	}
	if first > last {
		return nil, oapi.New(http.StatusBadRequest, "firstSize(%d) must be less than lastSize(%d)", first, last)
	}
	sh, err := byTreeID(r, shards)
	if err != nil {
		return nil, err
	}
	if uint64(last) > sh.size {
		return nil, oapi.New(http.StatusBadRequest,
			"the tree size requested(%d) was greater than what is currently observable(%d)", last, sh.size)
	}
	hashes, err := sh.tree.ConsistencyProof(uint64(first), uint64(last))
	if err != nil {
		return nil, err
	}
	root, err := sh.tree.Root(sh.size) // of the tree of the moment, not of lastSize
	if err != nil {
		return nil, err
	}
	return &models.ConsistencyProof{Hashes: hexes(hashes), RootHash: conv.Pointer(hex.EncodeToString(root[:]))}, nil
}

// sizeParam is an integer query parameter of at least 1.
func sizeParam(r *http.Request, name, missing string) (int64, error) {
	return intParam(r, name, missing, 1)
}

func intParam(r *http.Request, name, missing string, least int64) (int64, error) {
	raw := r.URL.Query().Get(name)
	if raw == "" {
		raw = missing
	}
	if raw == "" {
		return 0, oapi.Required(name, "query", raw)
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		return 0, oapi.InvalidType(name, "query", "int64", raw)
	}
	if n < least {
		return 0, oapi.ExceedsMinimumInt(name, "query", least, false, n)
	}
	return n, nil
}

func publicKey(r *http.Request, shards []*shard) (any, error) {
	sh, err := byTreeID(r, shards)
	if err != nil {
		return nil, err
	}
	pem, err := publicKeyPEM(sh.key.Public())
	return string(pem), err
}

func byIndex(r *http.Request, shards []*shard) (any, error) {
	index, err := intParam(r, "logIndex", "", 0)
	if err != nil {
		return nil, err
	}
	return entryAt(r, shards, uint64(index))
}

// entryAt finds an entry by its global index.
func entryAt(r *http.Request, shards []*shard, global uint64) (models.LogEntry, error) {
	sh := active(shards)
	for i := range len(shards) - 1 {
		if global < shards[i+1].base {
			sh = shards[i]
			break
		}
	}
	return entryIn(r, sh, global-sh.base)
}

func entryIn(r *http.Request, sh *shard, index uint64) (models.LogEntry, error) {
	if index >= sh.size {
		return nil, errNotFound
	}
	if lie := sh.lies[index]; lie.Status != 0 {
		return nil, oapi.New(int32(lie.Status), "unexpected error communicating with transparency log")
	} else if lie.Missing {
		return nil, errNotFound
	}
	e, err := sh.entry(r.Context(), index)
	if err != nil {
		return nil, err
	}
	sh.served.countRead(index, 1)
	return e, nil
}

func byUUID(r *http.Request, shards []*shard) (any, error) {
	return entryWith(r, shards, r.PathValue("uuid"), "path")
}

// entryWith finds an entry by its UUID: the leaf hash in hex, and before it the tree
// ID, without which all trees are searched.
func entryWith(r *http.Request, shards []*shard, uuid, in string) (models.LogEntry, error) {
	id, err := hex.DecodeString(uuid)
	if err != nil || len(id) != 32 && len(id) != 40 {
		return nil, oapi.FailedPattern("entryUUID", in, "^([0-9a-fA-F]{64}|[0-9a-fA-F]{80})$", uuid)
	}
	treeID, leafHash := id[:len(id)-32], Hash(id[len(id)-32:])
	for _, sh := range shards {
		if len(treeID) > 0 && binary.BigEndian.Uint64(treeID) != uint64(sh.served.ID) {
			continue
		}
		if index, found := sh.tree.Find(leafHash); found {
			return entryIn(r, sh, index)
		}
	}
	return nil, errNotFound
}

// retrieve answers up to ten queries; what does not exist is left out.
func retrieve(r *http.Request, shards []*shard) (any, error) {
	var q models.SearchLogQuery
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&q); errors.Is(err, io.EOF) {
		return nil, oapi.Required("entry", "body", "")
	} else if err != nil {
		return nil, oapi.NewParseError("entry", "body", "", err)
	}
	if err := q.Validate(strfmt.Default); err != nil {
		return nil, err
	}
	if len(q.LogIndexes)+len(q.EntryUUIDs)+len(q.Entries()) > maxQueries {
		return nil, oapi.New(http.StatusUnprocessableEntity, "more than max allowed %d entries in request", maxQueries)
	}
	if len(q.Entries()) > 0 {
		return nil, oapi.New(http.StatusNotImplemented, "searching by proposed entry is not enabled in this Rekor instance")
	}
	found := []models.LogEntry{}
	add := func(e models.LogEntry, err error) error {
		if err == nil {
			found = append(found, e)
		} else if !errors.Is(err, errNotFound) {
			return fmt.Errorf("retrieving: %w", err)
		}
		return nil
	}
	for _, uuid := range q.EntryUUIDs {
		if err := add(entryWith(r, shards, uuid, "body")); err != nil {
			return nil, err
		}
	}
	for _, index := range q.LogIndexes {
		if err := add(entryAt(r, shards, uint64(conv.Value(index)))); err != nil {
			return nil, err
		}
	}
	return found, nil
}
