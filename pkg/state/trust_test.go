package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/trust"
)

const repository = "tuf.example.com-0a1b"

// signedAs is metadata of a role, as far as Merge looks at what it cannot verify.
func signedAs(version int) string {
	return fmt.Sprintf("{\n\t\"signed\": {\"version\": %d}, \"note\": \"<&>\\u2028\"\n}\n", version)
}

func newTrust(version int) *Trust {
	return &Trust{Metadata: trust.Metadata{Root: signedAs(1), Timestamp: signedAs(version), Target: fmt.Sprint(version), Verified: noon.Add(time.Duration(version))}}
}

func saveTrust(t *testing.T, s *State, doc *Trust) {
	t.Helper()
	if err := s.SaveTrust(t.Context(), repository, doc); err != nil {
		t.Fatal(err)
	}
}

func loadTrust(t *testing.T, s *State) *Trust {
	t.Helper()
	doc, err := s.LoadTrust(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTrustComesBackByteForByte(t *testing.T) {
	s, f := newFaulty(t)
	if _, err := s.LoadTrust(t.Context(), repository); !errors.Is(err, ErrNotExist) {
		t.Errorf("before the first save: %v, want ErrNotExist", err)
	}
	saved := newTrust(3)
	saveTrust(t, s, saved)
	got := loadTrust(t, New(f))
	if got.ID != repository || got.Metadata != saved.Metadata || got.Format != Format || got.generation != saved.generation {
		t.Errorf("loaded\n%+v, saved\n%+v", got, saved)
	}
	// The document is there for people too.
	data, _, err := f.Read(t.Context(), "trust/"+repository+"/metadata.json")
	if err != nil || !strings.Contains(string(data), `"timestamp": "{\n\t\"signed\": {\"version\": 3}`) {
		t.Errorf("stored is %s (%v)", data, err)
	}
}

func TestTrustKeepsWhatANewerReleaseWrote(t *testing.T) {
	s, f := newFaulty(t)
	overwrite(t, f, "trust/"+repository+"/metadata.json", `{"format":1,"min_reader":1,"id":"`+repository+`","root":"{}","mirrors":["a"]}`)
	saveTrust(t, s, loadTrust(t, s))
	data, _, err := f.Read(t.Context(), "trust/"+repository+"/metadata.json")
	var stored struct {
		Root    string
		Mirrors []string
	}
	if err != nil || json.Unmarshal(data, &stored) != nil || len(stored.Mirrors) != 1 || stored.Root != "{}" {
		t.Errorf("stored is %s (%v), want what was not understood in it", data, err)
	}
}

func TestASlowWriterOfTrustDoesNotRollItBack(t *testing.T) {
	for _, row := range []struct {
		name       string
		ours, want int
	}{{"older", 2, 5}, {"as new", 5, 5}, {"newer", 7, 7}} {
		t.Run(row.name, func(t *testing.T) {
			_, f := newFaulty(t)
			one, two := New(f), New(f)
			saveTrust(t, one, newTrust(1))
			slow, quick := loadTrust(t, one), loadTrust(t, two)
			quick.Metadata = newTrust(5).Metadata
			saveTrust(t, two, quick)
			slow.Metadata = newTrust(row.ours).Metadata
			saveTrust(t, one, slow)
			if got := loadTrust(t, two); got.Timestamp != signedAs(row.want) || slow.Metadata != got.Metadata {
				t.Errorf("stored %+v and in hand %+v, want both of version %d", got.Metadata, slow.Metadata, row.want)
			}
			saveTrust(t, one, slow) // the generation in hand is the stored one
		})
	}
	t.Run("both the first", func(t *testing.T) {
		s, _ := newFaulty(t)
		saveTrust(t, s, newTrust(5))
		late := newTrust(2)
		saveTrust(t, s, late)
		if got := loadTrust(t, s); got.Timestamp != signedAs(5) || late.Timestamp != signedAs(5) {
			t.Errorf("stored %s, in hand %s, want version 5", got.Timestamp, late.Timestamp)
		}
	})
}

func TestTrustThatWasDeletedMeanwhileIsSaved(t *testing.T) {
	s, f := newFaulty(t)
	doc := newTrust(1)
	saveTrust(t, s, doc)
	if err := os.Remove(f.Store.(*folder).path("trust/" + repository + "/metadata.json")); err != nil {
		t.Fatal(err)
	}
	saveTrust(t, s, doc)
	if got := loadTrust(t, s); got.Metadata != doc.Metadata {
		t.Errorf("stored %+v, want %+v", got.Metadata, doc.Metadata)
	}
}

func TestAWriterOfTrustThatAlwaysLosesSaysSo(t *testing.T) {
	s, f := newFaulty(t)
	saveTrust(t, s, newTrust(1))
	doc := loadTrust(t, s)
	var rivals int
	f.write = func(string) (bool, error) {
		rivals++
		rival := New(f.Store)
		saveTrust(t, rival, func() *Trust {
			r := loadTrust(t, rival)
			r.Metadata = newTrust(rivals).Metadata
			return r
		}())
		return true, nil
	}
	doc.Metadata = newTrust(1000).Metadata
	if err := s.SaveTrust(t.Context(), repository, doc); !errors.Is(err, ErrConflict) || rivals != maxMerges {
		t.Errorf("got %v after %d rivals, want ErrConflict after %d", err, rivals, maxMerges)
	}
}

func TestTrustThatIsDamagedIsNoFreshStart(t *testing.T) {
	for name, data := range map[string]string{
		"cut short":       `{"format":1,"min_reader":1,"id":"` + repository,
		"no format":       `{"id":"` + repository + `"}`,
		"another's":       `{"format":1,"min_reader":1,"id":"tuf.example.com-ffff","root":"x"}`,
		"root not text":   `{"format":1,"min_reader":1,"id":"` + repository + `","root":{}}`,
		"time not a time": `{"format":1,"min_reader":1,"id":"` + repository + `","verified":"now"}`,
	} {
		s, f := newFaulty(t)
		overwrite(t, f, "trust/"+repository+"/metadata.json", data)
		_, err := s.LoadTrust(t.Context(), repository)
		corrupt := (*CorruptError)(nil)
		if !errors.As(err, &corrupt) || errors.Is(err, ErrNotExist) || !strings.Contains(err.Error(), "trust/"+repository+"/metadata.json") || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%s: got %v, want a *CorruptError with the object and what to do", name, err)
		}
		if err := s.SaveTrust(t.Context(), repository, newTrust(1)); !errors.As(err, &corrupt) {
			t.Errorf("%s: saving over it: %v, want a *CorruptError", name, err)
		}
	}
	s, f := newFaulty(t)
	overwrite(t, f, "trust/"+repository+"/metadata.json", `{"format":9,"min_reader":9}`)
	if _, err := s.LoadTrust(t.Context(), repository); !errors.As(err, new(*FormatError)) {
		t.Errorf("a newer format: %v, want a *FormatError", err)
	}
}

func TestTrustNeedsANameAndARoot(t *testing.T) {
	s, _ := newFaulty(t)
	for _, id := range []string{"", "../x", "a/b", "A", ".hidden"} {
		if _, err := s.LoadTrust(t.Context(), id); err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("LoadTrust(%q) = %v, want a refusal", id, err)
		}
		if err := s.SaveTrust(t.Context(), id, newTrust(1)); err == nil {
			t.Errorf("SaveTrust(%q) succeeded", id)
		}
	}
	if err := s.SaveTrust(t.Context(), repository, &Trust{}); err == nil {
		t.Error("saving no root succeeded")
	}
}
