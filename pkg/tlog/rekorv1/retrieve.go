package rekorv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// errMalformed is wrapped by every error of parseRetrieved.
var errMalformed = errors.New("not what Rekor answers to retrieve")

// served is one entry of a retrieve answer. Its slices alias the answer.
type served struct {
	uuid       []byte
	body       []byte // base64
	index      uint64 // global
	integrated int64  // seconds; 0 if there is none
	set        []byte // base64; nil if there is none
	proof      []byte // JSON of the inclusion proof, not looked into; nil if there is none
}

// parseRetrieved reads the answer to log/entries/retrieve, a list of
// {"<uuid>": {entry}}. It takes what encoding/json would take, with the same
// result, and reads only what is needed: the rest, a third of the answer, is
// stepped over by its quotes and brackets. encoding/json would cost several times
// what decoding and hashing the leaf does (BenchmarkAnswer).
func parseRetrieved(data []byte) ([]served, error) {
	s := &scanner{data: data}
	var entries []served
	err := s.list('[', ']', func() error {
		return s.object(func(uuid []byte) error {
			if len(entries) == batchSize {
				return fmt.Errorf("more than %d entries", batchSize)
			}
			e, err := s.entry()
			e.uuid = uuid
			entries = append(entries, e)
			return err
		})
	})
	if err == nil && (s.peek() != 0 || s.pos < len(data)) {
		err = errors.New("something follows the list")
	}
	if err != nil {
		// A number that is none stands in err, quoted, whatever its length.
		return nil, fmt.Errorf("%w: at byte %d of %d: %.200s", errMalformed, s.pos, len(data), err)
	}
	return entries, nil
}

// scanner steps through JSON.
type scanner struct {
	data []byte
	pos  int
}

// entry reads one entry. Later fields win over earlier ones of the same name, all
// of which must be of the right type.
func (s *scanner) entry() (served, error) {
	var e served
	indexed := false
	err := s.object(func(field []byte) (err error) {
		switch string(field) {
		case "body":
			e.body, err = s.text()
		case "logIndex":
			e.index, err = strconv.ParseUint(s.token(), 10, 64)
			indexed = err == nil
		case "integratedTime":
			e.integrated, err = strconv.ParseInt(s.token(), 10, 64)
		case "verification":
			e.set, e.proof, err = s.verification()
		default:
			_, err = s.skip()
		}
		return err
	})
	if err == nil && (e.body == nil || !indexed) {
		err = errors.New("an entry without body or logIndex")
	}
	return e, err
}

func (s *scanner) verification() (set, proof []byte, err error) {
	if s.peek() == 'n' {
		_, err = s.skip()
		return nil, nil, err
	}
	err = s.object(func(field []byte) (err error) {
		switch string(field) {
		case "signedEntryTimestamp":
			set, err = s.text()
		case "inclusionProof":
			proof, err = s.skip()
		default:
			_, err = s.skip()
		}
		return err
	})
	return set, proof, err
}

// peek steps over white space and returns the byte there; 0 at the end. (A NUL in
// the answer, which is not JSON, is taken for its end.)
func (s *scanner) peek() byte {
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) expect(c byte) error {
	if got := s.peek(); got != c {
		return fmt.Errorf("%q where %q was expected", got, c)
	}
	s.pos++
	return nil
}

// list reads the elements between two brackets.
func (s *scanner) list(open, end byte, element func() error) error {
	if err := s.expect(open); err != nil {
		return err
	}
	if s.peek() == end {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if s.peek() == end {
			s.pos++
			return nil
		}
		if err := s.expect(','); err != nil {
			return err
		}
	}
}

// object calls field with each name, at its value.
func (s *scanner) object(field func(name []byte) error) error {
	return s.list('{', '}', func() error {
		name, err := s.text()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		return field(name)
	})
}

// quoted reads a string as it stands, without its quotes.
func (s *scanner) quoted() ([]byte, error) {
	if err := s.expect('"'); err != nil {
		return nil, err
	}
	start := s.pos
	for {
		n := bytes.IndexByte(s.data[s.pos:], '"')
		if n < 0 {
			return nil, errors.New("a string without end")
		}
		end := s.pos + n
		s.pos = end + 1
		// An odd number of backslashes before it makes the quote part of the string.
		slashes := 0
		for end-slashes > start && s.data[end-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return s.data[start:end:end], nil
		}
	}
}

// text reads a string.
func (s *scanner) text() ([]byte, error) {
	raw, err := s.quoted()
	if err != nil || bytes.IndexByte(raw, '\\') < 0 {
		return raw, err
	}
	var text string
	start := s.pos - len(raw) - 2
	err = json.Unmarshal(s.data[start:s.pos], &text)
	return []byte(text), err
}

// token reads a number or literal.
func (s *scanner) token() string {
	s.peek()
	start := s.pos
	for s.pos < len(s.data) && strings.IndexByte(" \t\n\r,:\"[]{}", s.data[s.pos]) < 0 {
		s.pos++
	}
	return string(s.data[start:s.pos])
}

// skip steps over a value and returns it as it stands. It takes what is not JSON
// too, but never more than the value if it is.
func (s *scanner) skip() ([]byte, error) {
	s.peek()
	start := s.pos
	for depth := 0; ; {
		switch s.peek() {
		case 0:
			return nil, errors.New("a value without end")
		case '"':
			if _, err := s.quoted(); err != nil {
				return nil, err
			}
		case '[', '{':
			depth++
			s.pos++
		case ']', '}':
			if depth == 0 {
				return nil, errors.New("no value")
			}
			depth--
			s.pos++
		case ',', ':':
			if depth == 0 {
				return nil, errors.New("no value")
			}
			s.pos++
		default:
			s.token()
		}
		if depth == 0 {
			return s.data[start:s.pos:s.pos], nil
		}
	}
}
