package state

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// kept holds the fields of a stored JSON object that this release does not know.
// They are written back with the object, so that rolling back a release and
// forth again loses nothing. It is JSON text, not a map, to keep the documents
// comparable and safe to copy.
type kept struct{ unknown string } // `"key":value,"key":value`, or ""

// decode reads an object into plain, a pointer to a struct without JSON methods,
// and keeps what does not belong to any of its fields.
func (k *kept) decode(data []byte, plain any) error {
	if err := json.Unmarshal(data, plain); err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	known := fieldNames(reflect.TypeOf(plain).Elem())
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		// encoding/json matches names without regard to case, so this must too.
		if slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
			continue
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return err
		}
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		out.Write(quoted)
		out.WriteByte(':')
		if err := json.Compact(&out, fields[name]); err != nil {
			return err
		}
	}
	k.unknown = out.String()
	return nil
}

// encode is the JSON of plain, a struct without JSON methods that has at least
// one field that is never omitted, followed by what decode kept.
func (k kept) encode(plain any) ([]byte, error) {
	b, err := json.Marshal(plain)
	if err != nil || k.unknown == "" {
		return b, err
	}
	return slices.Concat(b[:len(b)-1], []byte(","+k.unknown+"}")), nil
}

// fieldNames are the names of a struct's fields in JSON.
func fieldNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// The documents' JSON methods do nothing but keep unknown fields.

func (l *Lease) UnmarshalJSON(b []byte) error {
	type plain Lease
	return l.decode(b, (*plain)(l))
}
func (l Lease) MarshalJSON() ([]byte, error) {
	type plain Lease
	return l.encode(plain(l))
}

func (l *Listed) UnmarshalJSON(b []byte) error {
	type plain Listed
	return l.decode(b, (*plain)(l))
}
func (l Listed) MarshalJSON() ([]byte, error) {
	type plain Listed
	return l.encode(plain(l))
}

func (c *Condition) UnmarshalJSON(b []byte) error {
	type plain Condition
	return c.decode(b, (*plain)(c))
}
func (c Condition) MarshalJSON() ([]byte, error) {
	type plain Condition
	return c.encode(plain(c))
}

func (p *Pending) UnmarshalJSON(b []byte) error {
	type plain Pending
	return p.decode(b, (*plain)(p))
}
func (p Pending) MarshalJSON() ([]byte, error) {
	type plain Pending
	return p.encode(plain(p))
}

func (g *Gap) UnmarshalJSON(b []byte) error {
	type plain Gap
	return g.decode(b, (*plain)(g))
}
func (g Gap) MarshalJSON() ([]byte, error) {
	type plain Gap
	return g.encode(plain(g))
}

func (h *Hole) UnmarshalJSON(b []byte) error {
	type plain Hole
	return h.decode(b, (*plain)(h))
}
func (h Hole) MarshalJSON() ([]byte, error) {
	type plain Hole
	return h.encode(plain(h))
}

func (s *Stuck) UnmarshalJSON(b []byte) error {
	type plain Stuck
	return s.decode(b, (*plain)(s))
}
func (s Stuck) MarshalJSON() ([]byte, error) {
	type plain Stuck
	return s.encode(plain(s))
}

func (u *Unproven) UnmarshalJSON(b []byte) error {
	type plain Unproven
	return u.decode(b, (*plain)(u))
}
func (u Unproven) MarshalJSON() ([]byte, error) {
	type plain Unproven
	return u.encode(plain(u))
}

func (r *RulesFrom) UnmarshalJSON(b []byte) error {
	type plain RulesFrom
	return r.decode(b, (*plain)(r))
}
func (r RulesFrom) MarshalJSON() ([]byte, error) {
	type plain RulesFrom
	return r.encode(plain(r))
}

func (i *Incident) UnmarshalJSON(b []byte) error {
	type plain Incident
	return i.decode(b, (*plain)(i))
}
func (i Incident) MarshalJSON() ([]byte, error) {
	type plain Incident
	return i.encode(plain(i))
}

func (l *Log) UnmarshalJSON(b []byte) error {
	type plain Log
	return l.decode(b, (*plain)(l))
}
func (l Log) MarshalJSON() ([]byte, error) {
	type plain Log
	return l.encode(plain(l))
}

// UnmarshalJSON also leaves the last result as it stands, a json.RawMessage:
// numbers in it keep their digits, and fields their order.
func (r *Run) UnmarshalJSON(b []byte) error {
	type plain Run
	var last json.RawMessage
	r.Last = &last
	err := r.decode(b, (*plain)(r))
	r.Last = nil
	if last != nil {
		r.Last = last
	}
	return err
}
func (r Run) MarshalJSON() ([]byte, error) {
	type plain Run
	return r.encode(plain(r))
}
