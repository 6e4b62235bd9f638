package rekorv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// oracle reads a retrieve answer with encoding/json.
func oracle(data []byte) ([]served, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	delim := func(want json.Delim) error {
		if tok, err := dec.Token(); err != nil || tok != want {
			return errors.New("not " + want.String())
		}
		return nil
	}
	var list []served
	if err := delim('['); err != nil {
		return nil, err
	}
	for dec.More() {
		if err := delim('{'); err != nil {
			return nil, err
		}
		for dec.More() {
			uuid, err := dec.Token()
			if err != nil {
				return nil, err
			}
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				return nil, err
			}
			e, err := oracleEntry(raw)
			if err != nil {
				return nil, err
			}
			e.uuid = []byte(uuid.(string))
			list = append(list, e)
		}
		if err := delim('}'); err != nil {
			return nil, err
		}
	}
	if len(list) > batchSize {
		return nil, errors.New("too many")
	}
	return list, delim(']')
}

// fields calls field with each name and value of an object, names as they stand.
func fields(raw []byte, field func(name string, value []byte) error) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return errors.New("not an object")
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		if err := field(name.(string), value); err != nil {
			return err
		}
	}
	return nil
}

// strict refuses null, which encoding/json takes for anything.
func strict(raw []byte, v any) error {
	if string(raw) == "null" {
		return errors.New("null")
	}
	return json.Unmarshal(raw, v)
}

func oracleEntry(raw []byte) (served, error) {
	var e served
	var body *string
	var index *uint64
	err := fields(raw, func(name string, value []byte) error {
		switch name {
		case "body":
			return strict(value, &body)
		case "logIndex":
			return strict(value, &index)
		case "integratedTime":
			return strict(value, &e.integrated)
		case "verification":
			e.set, e.proof = nil, nil
			if string(value) == "null" {
				return nil
			}
			return fields(value, func(name string, value []byte) error {
				switch name {
				case "signedEntryTimestamp":
					var set string
					err := strict(value, &set)
					e.set = []byte(set)
					return err
				case "inclusionProof":
					e.proof = value
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && (body == nil || index == nil) {
		err = errors.New("body or logIndex missing")
	}
	if err != nil {
		return served{}, err
	}
	e.body, e.index = []byte(*body), *index
	return e, nil
}

const realAnswer = `[{"108e9186e8c5677a0000000000000000000000000000000000000000000000000000000000000000":{"attestation":{"data":"eyJhIjoiXCIifQ=="},"body":"eyJhcGlWZXJzaW9uIjoiMC4wLjEifQ==","integratedTime":1700000000,"logID":"c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d","logIndex":50000000,"verification":{"inclusionProof":{"checkpoint":"rekor.sigstore.dev - 1193050959916656506\n45836569\nroot=\n\n— rekor.sigstore.dev wNI9ajBF\n","hashes":["00","11"],"logIndex":45836568,"rootHash":"22","treeSize":45836569},"signedEntryTimestamp":"MEUCIQ=="}}}]`

func FuzzRetrievedIsReadAsEncodingJSONReadsIt(f *testing.F) {
	entry := realAnswer[1 : len(realAnswer)-1]
	for _, s := range []string{
		realAnswer, ``, `[]`, `null`, `[null]`, `[{}]`, `[{"a":null}]`, `[{"a":{}}]`, `{}`, `[`, `[]x`, ` [ ] `, "[]\x00",
		"[" + entry + "," + entry + "]",
		"[" + strings.Repeat(entry+",", 10) + entry + "]",
		strings.Replace(realAnswer, `"body"`, `"b\u006fdy"`, 1),
		strings.Replace(realAnswer, `"body"`, `"Body"`, 1),
		strings.Replace(realAnswer, `eyJh`, `eyJh\/\u002b`, 1),
		strings.Replace(realAnswer, `"body"`, `"body":{},"body"`, 1),
		strings.Replace(realAnswer, `"body"`, `"body":"e30=","body"`, 1),
		strings.Replace(realAnswer, `50000000`, `5e7`, 1),
		strings.Replace(realAnswer, `50000000`, `-0`, 1),
		strings.Replace(realAnswer, `1700000000`, `-0`, 1),
		strings.Replace(realAnswer, `50000000`, `18446744073709551616`, 1),
		strings.Replace(realAnswer, `50000000`, `"5"`, 1),
		strings.Replace(realAnswer, `"verification"`, `"verification":{"signedEntryTimestamp":"A"},"verification"`, 1),
		strings.Replace(realAnswer, `"verification":{`, `"verification":null,"x":[[{"\\\"":[1,"]"]}]],"verification":{`, 1),
		`[{"u":{"body":"","logIndex":1,"verification":{"inclusionProof":null}}}]`,
		`[{"u":{"body":"","logIndex":1,"verification":{"inclusionProof": [ {} , 1 ] }}},{"u":{"body":"","logIndex":1,"x":"\ud800"}}]`,
		`[{"u":{"body":"","logIndex":1,"verification":[]}}]`,
		`[{"u":{"body":"","logIndex":1,},}]`,
		`[{"u":{"body":"","logIndex":1,"x":}}]`, `[{"u":{"body":"","logIndex":1,"x":,}}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseRetrieved(data)
		if err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("got %v, want one that is errMalformed", err)
		}
		// What is not JSON may be taken where it is stepped over: the leaf's hash is
		// checked anyhow. (encoding/json replaces what is not UTF-8.)
		if !json.Valid(data) || !utf8.Valid(data) {
			return
		}
		want, wantErr := oracle(data)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("got error %v, encoding/json says %v", err, wantErr)
		}
		if err == nil && !reflect.DeepEqual(normal(got), normal(want)) {
			t.Errorf("got %+v, encoding/json says %+v", got, want)
		}
	})
}

// normal makes empty slices nil.
func normal(list []served) []served {
	out := []served{}
	for _, e := range list {
		for _, s := range []*[]byte{&e.uuid, &e.body, &e.set, &e.proof} {
			*s = append([]byte(nil), *s...)
		}
		out = append(out, e)
	}
	return out
}

func TestRetrievedIsReadInFull(t *testing.T) {
	got, err := parseRetrieved([]byte(realAnswer))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %d entries, %v", len(got), err)
	}
	e := got[0]
	if string(e.uuid[:16]) != "108e9186e8c5677a" || string(e.body) != "eyJhcGlWZXJzaW9uIjoiMC4wLjEifQ==" || e.index != 50000000 ||
		e.integrated != 1700000000 || string(e.set) != "MEUCIQ==" || !bytes.HasPrefix(e.proof, []byte(`{"checkpoint"`)) || !json.Valid(e.proof) {
		t.Errorf("got %+v", e)
	}
}

func FuzzInclusionProofNeverPanics(f *testing.F) {
	f.Add(uint64(3), []byte(`{"logIndex":3,"treeSize":4,"rootHash":"`+strings.Repeat("0", 64)+`","hashes":["`+strings.Repeat("0", 64)+`"]}`))
	f.Add(uint64(0), []byte(`{"treeSize":18446744073709551615}`))
	f.Add(uint64(1)<<61, []byte(`{"logIndex":2305843009213693952,"treeSize":4611686018427387904}`))
	f.Fuzz(func(t *testing.T, index uint64, raw []byte) {
		known, err := openInclusion(index, [32]byte{}, raw)
		if err != nil {
			return
		}
		r, err := known.Edge(index + 1)
		if err != nil || r.End() != index+1 {
			t.Errorf("a verified proof for %d gives the edge %v, %v", index, r, err)
		}
	})
}
