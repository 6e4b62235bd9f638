package notify

import (
	"bytes"
	"context"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/entry"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/watch"
)

// identities appends findings to a file, as rekor-monitor's outputIdentities does: a
// line each, of words or of JSON. A run that ends between the file and the outbox
// appends its lines again.
type identities struct {
	route
	path   string
	json   bool
	values map[string]value
}

// value is what a rule was made of.
type value struct {
	config.PeerValue
	subject *regexp.Regexp // of a subject
	oids    []string       // of an extension, dotted
}

// identity is a line of JSON. Names and order of its members are rekor-monitor's; what
// it has no like of follows them.
type identity struct {
	MatchedIdentity any
	CertSubject     string
	Issuer          string
	Fingerprint     string
	Subject         string
	Index           uint64
	UUID            string
	OIDExtension    asn1.ObjectIdentifier
	ExtensionValue  string
	Origin          string `json:",omitempty"` // of the log: rekor-monitor watches one, and does not say which
	Unproven        bool   `json:",omitempty"`
}

// Tells says whether people hear of what a sink has taken. Nobody does of lines in a file
// of identities: they are no reason to stop trying to tell somebody.
func Tells(s Sink) bool {
	_, file := s.(*identities)
	return !file
}

// ListsAll says whether a sink lists every finding of an alert. Such a sink takes none
// with findings left out (report.Alert.Cut) that are kept elsewhere: whoever sends puts
// them back before.
func ListsAll(s Sink) bool {
	_, file := s.(*identities)
	return file
}

func openIdentities(i config.Identities) (Sink, error) {
	s := &identities{route: route{name: "identities", classes: []report.Class{report.ClassIdentity}},
		path: i.Path, json: i.JSON, values: map[string]value{}}
	if i.Name != "" {
		s.name = i.Name
	}
	if i.Path == "" {
		return nil, errors.New("outputIdentities: no file is named")
	}
	for rule, p := range i.Values {
		v := value{PeerValue: p}
		switch p.Type {
		case "subject":
			re, err := regexp.Compile(p.Text)
			if err != nil {
				return nil, fmt.Errorf("outputIdentities: rule %q: %w", rule, err)
			}
			v.subject = re
		case "oidExtension":
			v.oids = oids(p.Extension)
		}
		s.values[rule] = v
	}
	return s, nil
}

// oids are an extension's. Fulcio keeps the issuer twice, and rekor-monitor looks for
// it in both places.
func oids(name string) []string {
	if name == "issuer" {
		return []string{"1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"}
	}
	if oid, ok := entry.ExtensionOID(name); ok {
		return []string{oid}
	}
	return []string{name}
}

// Send appends the findings that a message was made of, and returns nil once they
// are synced.
func (s *identities) Send(ctx context.Context, m report.Message) error {
	var text []byte
	for _, a := range m.Alerts() {
		if a.Cut > 0 && a.Pointer != "" {
			return &SendError{Sink: s.name, Alert: m.ID, Err: fmt.Errorf("alert %s lacks %d of its findings, which are in %s: nothing is written of it without them", a.ID, a.Cut, report.Safe(a.Pointer))}
		}
		text = append(text, s.text(&a)...)
	}
	err := ctx.Err()
	if err == nil && len(text) > 0 {
		err = appendFile(s.path, text)
	}
	if err != nil {
		return &SendError{Sink: s.name, Alert: m.ID, Down: true, Err: err}
	}
	return nil
}

// text is an alert's lines. A scan lists so many findings and no more: how many there are
// besides is said in words, and of JSON, whose readers know no such line, by the scan alone.
func (s *identities) text(a *report.Alert) []byte {
	var text []byte
	var before *watch.Finding
	var said []string
	for i := range a.Findings {
		f := &a.Findings[i]
		// Each key of a PGP key ring makes a finding with the same subjects, which
		// rekor-monitor looks at once.
		if before == nil || f.Index != before.Index || f.Rule != before.Rule || f.SignerType != string(entry.PGP) {
			said = nil
		}
		before = f
		for _, line := range s.lines(f) {
			rendered := s.render(line)
			if slices.Contains(said, rendered) {
				continue
			}
			if f.SignerType == string(entry.PGP) {
				said = append(said, rendered)
			}
			text = append(text, rendered...)
		}
	}
	if a.Cut > 0 && !s.json {
		text = fmt.Appendf(text, "%d more findings are not listed here\n", a.Cut)
	}
	return text
}

// lines are what rekor-monitor shows of a finding: one for each part of the entry
// that fits the value.
func (s *identities) lines(f *watch.Finding) []identity {
	line := identity{Index: f.Index, UUID: f.UUID, Origin: f.Origin, Unproven: f.Unproven}
	if f.LogIndex != nil {
		line.Index = *f.LogIndex
	}
	v := s.values[f.Rule]
	switch v.Type {
	case "certIdentity":
		line.MatchedIdentity = struct { // rekor-monitor's is a map, whose members are sorted
			CertSubject string   `json:"certSubject"`
			Issuers     []string `json:"issuers"`
			Type        string   `json:"type"`
		}{v.Text, v.Issuers, v.Type}
		line.CertSubject, line.Issuer = f.Subject, f.Issuer
	case "fingerprint":
		line.MatchedIdentity = map[string]string{"fingerprint": v.Text, "type": v.Type}
		line.Fingerprint = f.Fingerprint
	case "subject":
		line.MatchedIdentity = map[string]string{"subject": v.Text, "type": v.Type}
		var lines []identity
		for _, subject := range f.Subjects {
			if v.subject.MatchString(subject) {
				line.Subject = subject
				lines = append(lines, line)
			}
		}
		if len(lines) == 0 && f.Cut {
			line.Subject = f.Subject
			lines = append(lines, line)
		}
		return lines
	case "oidExtension":
		return v.extensions(f, line)
	default: // a rule of watch
		line.MatchedIdentity = map[string]string{"rule": f.Rule, "type": "rule"}
		line.Fingerprint = f.Fingerprint
		if f.Certificate != "" {
			line.CertSubject, line.Issuer = f.Subject, f.Issuer
		} else {
			line.Subject = f.Subject
		}
	}
	return []identity{line}
}

func (v value) extensions(f *watch.Finding, line identity) (lines []identity) {
	for _, dotted := range v.oids {
		for _, x := range f.Extensions {
			if x.OID != dotted || !slices.Contains(v.Values, x.Value) {
				continue
			}
			line.OIDExtension, line.ExtensionValue = arcs(dotted), x.Value
			line.MatchedIdentity = struct {
				Values []string              `json:"extensionValues"`
				OID    asn1.ObjectIdentifier `json:"oid"`
				Type   string                `json:"type"`
			}{v.Values, line.OIDExtension, v.Type}
			lines = append(lines, line)
			break
		}
	}
	if len(lines) == 0 && f.Cut { // the finding does not show the one that fitted
		line.MatchedIdentity = struct {
			Values []string `json:"extensionValues"`
			Type   string   `json:"type"`
		}{v.Values, v.Type}
		line.Subject = f.Subject
		lines = append(lines, line)
	}
	return lines
}

// arcs are an OID's; none if one is beyond a machine's numbers.
func arcs(dotted string) asn1.ObjectIdentifier {
	var oid asn1.ObjectIdentifier
	for arc := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.Atoi(arc)
		if err != nil {
			return nil
		}
		oid = append(oid, n)
	}
	return oid
}

// render writes a line with its end. What comes from a log cannot begin another. In
// words the origin stands where there is no UUID, which says enough of the log; both
// it and the mark come last, where they move no word of rekor-monitor's.
func (s *identities) render(i identity) string {
	if s.json {
		line, err := json.Marshal(i)
		if err != nil { // strings, numbers and maps of them always marshal
			line = []byte(quoted(err.Error()))
		}
		return string(line) + "\n"
	}
	origin, mark := "", ""
	if i.UUID == "" {
		origin = i.Origin
	}
	if i.Unproven {
		mark = "(unproven)"
	}
	var words []string
	for _, word := range []string{i.CertSubject, i.Issuer, i.Fingerprint, i.Subject, strconv.FormatUint(i.Index, 10), i.UUID, i.OIDExtension.String(), i.ExtensionValue, origin, mark} {
		if strings.TrimSpace(word) != "" {
			words = append(words, report.Safe(word))
		}
	}
	return strings.Join(words, " ") + "\n"
}

func quoted(text string) string {
	line, _ := json.Marshal(text) // a string always marshals
	return string(line)
}

// appendFile adds to a file, which it makes if need be, and syncs it. A line that an
// earlier run left unfinished is ended first.
func appendFile(path string, text []byte) (err error) {
	_, missing := os.Stat(path)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size, err := f.Seek(0, io.SeekEnd); err == nil && size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err == nil && !bytes.Equal(last, []byte("\n")) {
			text = append([]byte("\n"), text...)
		}
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || missing == nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path)) // a new file's name has to last too
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
