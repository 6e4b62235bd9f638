package rekorv1

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// maxElement limits what an answer may have in the place of one UUID, of 82 bytes.
const maxElement = 16 << 10

func (s *Service) indexURL() string { return s.url + "/api/v1/index/retrieve" }

// ask sends one query.
func (s *Service) ask(ctx context.Context, q Query) list {
	raw, err := s.client.Post(ctx, s.indexURL(), "application/json", q.body(), maxAnswer)
	if tlog.IsTooLarge(err) {
		return list{long: true}
	}
	if err != nil {
		return list{err: err}
	}
	var ids []entryID
	err = readList(bytes.NewReader(raw), func(id entryID) { ids = append(ids, id) })
	slices.SortFunc(ids, func(a, b entryID) int {
		return cmp.Or(bytes.Compare(a.leaf[:], b.leaf[:]), cmp.Compare(a.tree, b.tree))
	})
	return list{ids: slices.Clip(slices.Compact(ids)), err: s.searchError(ctx, err)}
}

// stream sends a query whose answer is long, once, and passes on what is listed as it
// comes. What was passed on before an error is good all the same.
func (s *Service) stream(ctx context.Context, q Query, take func(entryID)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.indexURL(), bytes.NewReader(q.body()))
	if err != nil {
		return s.searchError(ctx, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.HTTP().Do(req)
	if err != nil {
		return s.searchError(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s.searchError(ctx, &tlog.StatusError{Code: resp.StatusCode})
	}
	return s.searchError(ctx, readList(resp.Body, take))
}

// searchError makes of what went wrong with one query a *tlog.Unavailable.
func (s *Service) searchError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var about *url.Error
	if errors.As(err, &about) {
		err = about.Err // we name the URL
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = errors.New("the answer takes longer than one request may") // the run's time is not over
	}
	return &tlog.Unavailable{What: "POST " + s.indexURL(), Err: err}
}

// readList passes on each UUID of an answer while it is read, and passes over what is
// none. The error is a *malformedList if there was such, the reader's own, or says what
// is not as Rekor answers.
func readList(answer io.Reader, take func(entryID)) error {
	in := &window{from: answer, left: maxElement}
	dec := json.NewDecoder(in)
	fail := func(err error) error {
		return cmp.Or(in.err, fmt.Errorf("not what Rekor's search index answers: %w", err))
	}
	if t, err := dec.Token(); err != nil {
		return fail(err)
	} else if t != json.Delim('[') {
		return fail(fmt.Errorf("%.100q where a list was expected", fmt.Sprint(t)))
	}
	bad := &malformedList{}
	for dec.More() {
		var uuid string
		if err := dec.Decode(&uuid); err != nil {
			return fail(err)
		}
		in.left = maxElement
		if id, ok := parseUUID(uuid); ok {
			take(id)
			continue
		}
		if bad.n++; bad.n == 1 {
			bad.first = uuid
		}
	}
	if _, err := dec.Token(); err != nil { // the list's end
		return fail(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fail(cmp.Or(err, errors.New("something follows the list")))
	}
	if bad.n > 0 {
		return bad
	}
	return nil
}

// window fails once nothing is left, so that a decoder, which holds what it has not
// made a value of, never holds much.
type window struct {
	from io.Reader
	left int
	err  error // what ended it before the answer's end
}

func (w *window) Read(p []byte) (int, error) {
	if w.left <= 0 {
		return 0, fmt.Errorf("more than %d bytes that are no UUID", maxElement)
	}
	n, err := w.from.Read(p[:min(len(p), w.left)])
	w.left -= n
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// parseUUID reads a leaf hash in hex, with the tree ID before it or without.
func parseUUID(uuid string) (id entryID, ok bool) {
	raw, err := hex.DecodeString(uuid)
	if err != nil || len(raw) != len(id.leaf) && len(raw) != 8+len(id.leaf) {
		return id, false
	}
	for _, b := range raw[:len(raw)-len(id.leaf)] {
		id.tree = id.tree<<8 | uint64(b)
	}
	id.leaf = tlog.Hash(raw[len(raw)-len(id.leaf):])
	return id, true
}

// malformedList says that something in an answer is no UUID.
type malformedList struct {
	first string
	n     int
}

func (e *malformedList) Error() string {
	return fmt.Sprintf("it lists %d that are no UUID of an entry, the first %.100q", e.n, e.first)
}
