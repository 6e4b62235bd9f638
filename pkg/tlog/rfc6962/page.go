package rfc6962

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

var (
	// errMalformed is wrapped by the errors about answers that are not a page.
	errMalformed = errors.New("not what a CT log answers to get-entries")
	errTooMany   = errors.New("more entries than were asked for")
)

// served is one entry of a page. Its slices alias the page.
type served struct {
	leaf  []byte // base64
	extra []byte // base64
}

// parsePage reads the answer to get-entries, of at most most entries. Servers in Go,
// which nearly all are, write it without white space, escapes or other fields: that
// form is cut at its quotes, for to encoding/json, which gives the same for it, the
// page costs several times what decoding and hashing its leaves does
// (BenchmarkPage). Any other form goes to encoding/json.
func parsePage(raw []byte, most uint64) ([]served, error) {
	entries, err := cutPage(raw, most)
	if errors.Is(err, errOtherForm) {
		entries, err = decodePage(raw, most)
	}
	return entries, err
}

var (
	errOtherForm = errors.New("another form")

	pageStart  = []byte(`{"entries":[`)
	entryStart = []byte(`{"leaf_input":"`)
	extraStart = []byte(`,"extra_data":"`)
	pageEnd    = []byte(`]}`)
)

// cutPage reads a page in the form that Go writes.
func cutPage(raw []byte, most uint64) ([]served, error) {
	rest, ok := bytes.CutPrefix(raw, pageStart)
	if !ok || bytes.IndexByte(raw, '\\') >= 0 {
		return nil, errOtherForm
	}
	entries := make([]served, 0, min(most, maxPage))
	for {
		var e served
		if rest, ok = bytes.CutPrefix(rest, entryStart); !ok {
			return nil, errOtherForm
		}
		if e.leaf, rest, ok = bytes.Cut(rest, []byte{'"'}); !ok {
			return nil, errOtherForm
		}
		if rest, ok = bytes.CutPrefix(rest, extraStart); !ok {
			return nil, errOtherForm
		}
		if e.extra, rest, ok = bytes.Cut(rest, []byte{'"'}); !ok || len(rest) < 2 || rest[0] != '}' {
			return nil, errOtherForm
		}
		if uint64(len(entries)) == most {
			return nil, errTooMany
		}
		entries = append(entries, e)
		if rest[1] == ',' {
			rest = rest[2:]
			continue
		}
		if rest, ok = bytes.CutPrefix(rest[1:], pageEnd); !ok || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errOtherForm
		}
		return entries, nil
	}
}

// decodePage reads a page in any form of JSON.
func decodePage(raw []byte, most uint64) ([]served, error) {
	var page struct {
		Entries list `json:"entries"`
	}
	page.Entries.most = most
	if err := json.Unmarshal(raw, &page); errors.Is(err, errTooMany) {
		return nil, errTooMany
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if !page.Entries.there {
		return nil, fmt.Errorf(`%w: it has no "entries"`, errMalformed)
	}
	return page.Entries.entries, nil
}

// list decodes entries one by one and stops in time: millions of empty ones have
// room in an answer.
type list struct {
	most    uint64
	there   bool
	entries []served
}

func (l *list) UnmarshalJSON(b []byte) error {
	l.there, l.entries = true, nil
	if string(b) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return errors.New(`"entries" is no list`)
	}
	for dec.More() {
		if uint64(len(l.entries)) == l.most {
			return errTooMany
		}
		var e struct {
			Leaf  *string `json:"leaf_input"`
			Extra string  `json:"extra_data"`
		}
		if err := dec.Decode(&e); err != nil {
			return err
		}
		if e.Leaf == nil {
			return errors.New(`an entry without "leaf_input"`)
		}
		l.entries = append(l.entries, served{[]byte(*e.Leaf), []byte(e.Extra)})
	}
	return nil
}
