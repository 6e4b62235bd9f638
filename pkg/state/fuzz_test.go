package state

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"testing"
)

// What decodes must encode, and after one round be the same for ever: as text
// and as a document.
func FuzzDocumentsComeBackAsTheyWere(f *testing.F) {
	id := string(logA)
	f.Add([]byte(`{"format":1,"min_reader":1,"writer":"r/1","saved":"2026-11-22T12:00:00Z","lease":{"run":"x","expires":"2026-11-22T12:00:00+05:00","y":1},` +
		`"logs":{"` + id + `":"u"},"last_result":{"n":1e400,"s":"<\u2028"},"conditions":{"c":{"count":3,"":[]}},"outbox":[{},null],"z":{"a":[1,2,{}]}}`))
	f.Add([]byte(`{"FORMAT":1,"min_reader":1,"id":"` + id + `","scanned":{"size":1,"hashes":["` + id + `"]},"stuck":{"a":null},"retired":null,"incidents":[{"ended":"2026-11-22T12:00:00Z"}],` +
		`"holes":[{"hash":"` + id + `"}],"gaps":[{"x":" "}],"rules":[{}],"unproven":{"scanned":18446744073709551615}}`))
	f.Add([]byte(`{"format":1,"min_reader":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		roundTrip[Run](t, data)
		roundTrip[Log](t, data)
		roundTrip[Trust](t, data)
	})
}

func roundTrip[T any](t *testing.T, data []byte) {
	var first, second, third T
	if decode("x", data, &first) != nil {
		return
	}
	once := encoded(t, first)
	if err := decode("x", once, &second); err != nil {
		t.Fatalf("%T does not decode again: %v\n%s", first, err, once)
	}
	twice := encoded(t, second)
	if !bytes.Equal(once, twice) {
		t.Fatalf("%T encodes as\n%s\nand then as\n%s", first, once, twice)
	}
	if err := decode("x", twice, &third); err != nil || !reflect.DeepEqual(second, third) {
		t.Fatalf("%T is\n%+v\nand then\n%+v (%v)", first, second, third, err)
	}
}

func encoded(t *testing.T, doc any) []byte {
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatalf("encoding %+v: %v", doc, err)
	}
	return b
}

// Whoever can write to the folder can put anything there under a fitting name.
func FuzzGarbageInTheArchiveIsAnError(f *testing.F) {
	f.Add(testCheckpoint(5, 1, "").Note)
	f.Add([]byte(`{"log":"` + string(logA) + `","from":0,"to":1,"previous":""}` + "\n" + `{"log":"x","index":3}` + "\n"))
	f.Add([]byte("{}\n{\n"))
	s := New(&folder{root: f.TempDir()})
	f.Fuzz(func(t *testing.T, data []byte) {
		if size, root, err := readNote(data); err == nil {
			if got, err := archivedRoot("x", size, data); err != nil || got != root {
				t.Errorf("archivedRoot = %s, %v; want %s as read", got, err, root)
			}
		}
		if len(data) > 1<<10 {
			return
		}
		name := "findings/" + string(logA) + "/0-1-" + contentHash(data) + ".jsonl"
		if err := s.store.Create(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(s.store.(*folder).path(name))
		var n int
		for found, err := range s.Findings(t.Context(), name) {
			if n++; err != nil {
				continue // the last
			}
			if _, err := json.Marshal(found); err != nil {
				t.Errorf("a finding that was read cannot be written: %v", err)
			}
		}
		if lines := bytes.Count(data, []byte("\n")); n > lines+1 {
			t.Errorf("%d findings from %d lines", n, lines)
		}
	})
}
