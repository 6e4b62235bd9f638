package rfc6962

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
)

// oracle is what encoding/json makes of a page.
func oracle(raw []byte) ([]served, bool) {
	var page struct {
		Entries []struct {
			Leaf  *string `json:"leaf_input"`
			Extra string  `json:"extra_data"`
		} `json:"entries"`
	}
	if json.Unmarshal(raw, &page) != nil {
		return nil, false
	}
	var out []served
	for _, e := range page.Entries {
		if e.Leaf == nil {
			return nil, false
		}
		out = append(out, served{[]byte(*e.Leaf), []byte(e.Extra)})
	}
	return out, true
}

var somePages = []string{
	`{"entries":[{"leaf_input":"AAA=","extra_data":"BBBB"}]}`,
	`{"entries":[{"leaf_input":"AAA=","extra_data":"BBBB"},{"leaf_input":"","extra_data":""}]}` + "\n",
	`{"entries":[{"extra_data":"BBBB","leaf_input":"AAA="}]}`,
	`{"entries":[{"leaf_input":"AAA="}]}`,
	`{"entries":[{"leaf_input":"A\/A=","extra_data":"\u0042"}]}`,
	`{"entries":[{"leaf_input":"A","extra_data":"\""}]}`,
	`{"entries":[{"leaf_input":"A","extra_data":"B"},]}`,
	`{"entries":[{"leaf_input":"A","extra_data":"B"}],"entries":[]}`,
	`{"entries":[{"leaf_input":"A","extra_data":"B"}]`,
	`{"entries":[{"leaf_input":"A","extra_data":"B"}]}}`,
	`{"entries":[{"leaf_input":"A","extra_data":"B","leaf_input":"C"}]}`,
	`{"entries":[{"leaf_input":7,"extra_data":"B"}]}`,
	`{"entries":[]}`, `{"entries":null}`, `{"entries":{}}`, `{}`, `[]`, `null`, ``, ` { "entries" : [ { "leaf_input" : "A" , "extra_data" : null } ] } `,
}

func TestAPageGivesTheSameAsEncodingJSON(t *testing.T) {
	for _, raw := range somePages {
		got, err := parsePage([]byte(raw), 10)
		want, ok := oracle([]byte(raw))
		if len(want) == 0 && ok {
			ok = err == nil // whether a page without entries is one, is ours to say
		}
		if (err == nil) != ok || ok && len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, %v; want %q, %t", raw, got, err, want, ok)
		}
	}
}

func TestAPageOfMoreThanWasAskedForIsRefusedInEitherForm(t *testing.T) {
	for _, raw := range []string{somePages[1], " " + somePages[1]} {
		if got, err := parsePage([]byte(raw), 2); err != nil || len(got) != 2 {
			t.Errorf("%s: got %q, %v; want 2 entries", raw, got, err)
		}
		if got, err := parsePage([]byte(raw), 1); !errors.Is(err, errTooMany) {
			t.Errorf("%s: got %q, %v; want %v", raw, got, err, errTooMany)
		}
	}
}

func FuzzAPageGivesTheSameAsEncodingJSON(f *testing.F) {
	for _, raw := range somePages {
		f.Add([]byte(raw))
	}
	// Broken UTF-8, which encoding/json replaces, is base64 in neither.
	decoded := func(entries []served) (out []string) {
		for _, e := range entries {
			for _, text := range [][]byte{e.leaf, e.extra} {
				b, err := base64.StdEncoding.DecodeString(string(text))
				if err != nil {
					b = []byte("not base64")
				}
				out = append(out, string(b))
			}
		}
		return out
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := cutPage(raw, 1<<20)
		want, ok := oracle(raw)
		if err == nil && ok && !slices.Equal(decoded(got), decoded(want)) {
			t.Errorf("%q: cut into %q, want %q", raw, got, want)
		}
		if got, err := decodePage(raw, 1<<20); err == nil && (!ok || !slices.Equal(decoded(got), decoded(want))) {
			t.Errorf("%q: decoded to %q, want %q, %t", raw, got, want, ok)
		}
	})
}
