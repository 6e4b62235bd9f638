package tlogtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
)

// search asks the index; null is an error.
func search(t testing.TB, base, query string) []string {
	t.Helper()
	status, body := post(t, base+"/api/v1/index/retrieve", query)
	if status != 200 || strings.HasPrefix(string(body), "null") {
		t.Fatalf("index/retrieve %s: status %d: %s", query, status, body)
	}
	return decode[[]string](t, body)
}

func TestTheSearchIndexAnswersAsRekorServerDoes(t *testing.T) {
	s, base := newRekor(t, p256(t))
	if status, _ := post(t, base+"/api/v1/index/retrieve", `{"email":"a@b.c"}`); status != 501 {
		t.Errorf("while it is off: status %d, want 501", status)
	}
	s.Index().On()
	ca, err := NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	const workflow = "https://github.com/Acme/app/.github/workflows/release.yml@refs/tags/v1"
	uri, err := ca.Issue(Identity{URI: workflow})
	if err != nil {
		t.Fatal(err)
	}
	email, err := ca.Issue(Identity{Email: "Alice@Example.com"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKeySigner()
	if err != nil {
		t.Fatal(err)
	}
	var uuids []string
	add := func(leaf []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		s.Append(leaf)
		uuids = append(uuids, s.Active().UUID(leaf))
	}
	add(HashedRekordV001(uri, []byte("artifact")))
	add(DSSEV001([]byte(`{}`), email))
	add(HashedRekordV001(key, []byte("artifact")))
	if err := s.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	add(IntotoV002([]byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"p","subject":[]}`), uri))
	s.Append([]byte("no entry at all"))

	pem, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(base64.StdEncoding.EncodeToString(pem))
	if err != nil {
		t.Fatal(err)
	}
	const digest = "c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c" // of "artifact"
	for _, tc := range []struct {
		query string
		want  []int
	}{
		{fmt.Sprintf(`{"subject":%q}`, strings.ToUpper(workflow)), []int{0, 3}},
		{`{"email":"alice@example.COM"}`, []int{1}},
		{`{"subject":"alice@example.com"}`, []int{1}},
		{`{"hash":"` + digest + `"}`, []int{0, 2}},
		{`{"hash":"sha256:` + strings.ToUpper(digest) + `"}`, []int{0, 2}},
		{`{"publicKey":{"format":"x509","content":` + string(content) + `}}`, []int{2}},
		{`{"email":"alice@example.com","hash":"` + digest + `"}`, []int{0, 1, 2}},
		{fmt.Sprintf(`{"operator":"and","subject":%q,"hash":%q}`, workflow, digest), []int{0}},
		{`{"email":"bob@example.com"}`, nil},
		{`{}`, nil},
		{`{"operator":"and"}`, nil},
	} {
		var want []string
		for _, i := range tc.want {
			want = append(want, uuids[i])
		}
		slices.Sort(want)
		got := search(t, base, tc.query)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", tc.query, got, want)
		}
	}
	for query, want := range map[string]int{
		``:                   422,
		`[`:                  400,
		`{"email":"nobody"}`: 422,
		`{"hash":"12"}`:      422,
		`{"subject":"` + strings.Repeat("x", 513) + `"}`:   422,
		`{"operator":"xor"}`:                               422,
		`{"publicKey":{"format":"x509","content":"AAAA"}}`: 400,
		`{"publicKey":{"content":"AAAA"}}`:                 422,
	} {
		if status, body := post(t, base+"/api/v1/index/retrieve", query); status != want {
			t.Errorf("%.80s: status %d, want %d: %s", query, status, want, body)
		}
	}
}

func TestTheSearchIndexIsWrongOnDemand(t *testing.T) {
	s, base := newRekor(t, p256(t))
	x := s.Index()
	x.On()
	key, err := NewKeySigner()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := HashedRekordV001(key, []byte("artifact"))
	if err != nil {
		t.Fatal(err)
	}
	const query = `{"hash":"c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c"}`
	count := func(what, query string, want int) {
		t.Helper()
		if got := search(t, base, query); len(got) != want {
			t.Errorf("%s: %d UUIDs, want %d: %q", what, len(got), want, got)
		}
	}
	x.Hold()
	s.Append(leaf)
	count("held", query, 0)
	x.Release()
	count("released", query, 1)
	x.List("a@b.c", s.Active().UUID(leaf), strings.Repeat("0", 80))
	count("listed", `{"email":"A@B.c"}`, 2)
	x.Withhold(Hash(rfc6962.DefaultHasher.HashLeaf(leaf)))
	count("withheld", query, 0)
	count("withheld", `{"email":"A@B.c"}`, 1)
	x.List("x", "anything")
	count("subjects", `{"subject":"X"}`, 1)
	x.BeforeSubjects()
	count("before subjects", `{"subject":"X"}`, 0)
	count("before subjects, too long", `{"subject":"`+strings.Repeat("x", 513)+`"}`, 0)
	x.Off()
	if status, _ := post(t, base+"/api/v1/index/retrieve", query); status != 501 {
		t.Errorf("off again: status %d, want 501", status)
	}
}
