package notifytest

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// formOf makes a multipart form of name=value pairs.
func formOf(t *testing.T, pairs []string) (body *bytes.Buffer, contentType string) {
	t.Helper()
	body = &bytes.Buffer{}
	w := multipart.NewWriter(body)
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return body, w.FormDataContentType()
}

func TestMailgunRefusesWhatTheReferenceForbids(t *testing.T) {
	good := []string{"from=A <a@acme.test>", "to=b@acme.test", "subject=s", "text=t", "html=h", "h:X-Alert=1", "o:tracking=no"}
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprintf("to=b%d@acme.test", i))
	}
	without := func(name string, more ...string) []string {
		var left []string
		for _, p := range good {
			if !strings.HasPrefix(p, name+"=") {
				left = append(left, p)
			}
		}
		return append(left, more...)
	}
	for _, row := range []struct {
		name   string
		path   string
		form   []string
		change func(*http.Request)
		want   int
		says   string
	}{
		{"a good request", "/v3/mg.acme.test/messages", good, nil, 200, `"id":"<stand-in-1@mg.acme.test>"`},
		{"no key", "/v3/mg.acme.test/messages", good, func(r *http.Request) { r.Header.Del("Authorization") }, 401, "Forbidden"},
		{"a wrong key", "/v3/mg.acme.test/messages", good, func(r *http.Request) { r.SetBasicAuth("api", "x") }, 401, "Forbidden"},
		{"another user", "/v3/mg.acme.test/messages", good, func(r *http.Request) { r.SetBasicAuth("x", "key") }, 401, "Forbidden"},
		{"another domain", "/v3/acme.test/messages", good, nil, 404, "Domain not found: acme.test"},
		{"another version", "/v2/mg.acme.test/messages", good, nil, 404, "page not found"},
		{"a GET", "/v3/mg.acme.test/messages", good, func(r *http.Request) { r.Method = "GET" }, 405, "not allowed"},
		{"no form", "/v3/mg.acme.test/messages", good, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400, "multipart"},
		{"no sender", "/v3/mg.acme.test/messages", without("from"), nil, 400, "from parameter"},
		{"two senders", "/v3/mg.acme.test/messages", append(good, "from=c@acme.test"), nil, 400, "more than once"},
		{"nobody", "/v3/mg.acme.test/messages", without("to"), nil, 400, "to parameter is missing"},
		{"a recipient that is none", "/v3/mg.acme.test/messages", append(good, "to=acme"), nil, 400, "to parameter is not a valid"},
		{"a recipient twice", "/v3/mg.acme.test/messages", append(good, "to=B@acme.test"), nil, 400, "to parameter is not a valid"},
		{"a recipient that is refused", "/v3/mg.acme.test/messages", append(good, "to=gone@acme.test"), nil, 400, "to parameter is not a valid"},
		{"too many", "/v3/mg.acme.test/messages", without("to", many...), nil, 400, "too many recipients"},
		{"no subject", "/v3/mg.acme.test/messages", without("subject"), nil, 400, "subject"},
		{"a subject of two lines", "/v3/mg.acme.test/messages", without("subject", "subject=a\r\nBcc: c@acme.test"), nil, 400, "subject"},
		{"neither text nor HTML", "/v3/mg.acme.test/messages", []string{good[0], good[1], good[2]}, nil, 400, "Need at least one of"},
		{"an unknown parameter", "/v3/mg.acme.test/messages", append(good, "o:trackng=no"), nil, 400, "unknown parameter o:trackng"},
		{"an unknown answer", "/v3/mg.acme.test/messages", append(good, "o:tracking-opens=maybe"), nil, 400, "o:tracking-opens"},
		{"a header of two lines", "/v3/mg.acme.test/messages", append(good, "h:X-A=a\r\nBcc: c@acme.test"), nil, 400, "header X-A"},
		{"25 MiB", "/v3/mg.acme.test/messages", without("text", "text="+strings.Repeat("x", 25<<20)), nil, 413, "too large"},
	} {
		api := &Mailgun{Key: "key", Domain: "mg.acme.test", Refused: []string{"gone@acme.test"}}
		body, contentType := formOf(t, row.form)
		r := httptest.NewRequest(http.MethodPost, row.path, body)
		r.SetBasicAuth("api", "key")
		r.Header.Set("Content-Type", contentType)
		if row.change != nil {
			row.change(r)
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		says := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(w.Body.String())
		if w.Code != row.want || !strings.Contains(says, row.says) || (len(api.Mails()) == 1) != (row.want == 200) {
			t.Errorf("%s: answer %d %s with %d mails taken, want %d with %q", row.name, w.Code, says, len(api.Mails()), row.want, row.says)
		}
	}
}

func TestMailgunPutsLinksWhereItsVariablesStand(t *testing.T) {
	api := &Mailgun{Key: "key", Domain: "mg.acme.test"}
	body, contentType := formOf(t, []string{"from=a@acme.test", "to=b@acme.test", "subject=%unsubscribe_url%", "text=x%tag_unsubscribe_url%y 100% %2F", "html=<p>%mailing_list_unsubscribe_url%, &#37;unsubscribe_url%"})
	r := httptest.NewRequest(http.MethodPost, "/v3/mg.acme.test/messages", body)
	r.SetBasicAuth("api", "key")
	r.Header.Set("Content-Type", contentType)
	api.ServeHTTP(httptest.NewRecorder(), r)
	if len(api.Mails()) != 1 {
		t.Fatalf("%d mails, want 1", len(api.Mails()))
	}
	m := api.Mails()[0]
	for got, want := range map[string]string{
		m.Subject: UnsubscribeLink + "unsubscribe_url",
		m.Text:    "x" + UnsubscribeLink + "tag_unsubscribe_urly 100% %2F",
		m.HTML:    "<p>" + UnsubscribeLink + "mailing_list_unsubscribe_url, &#37;unsubscribe_url%",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
