package notifytest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const goodMail = `{"from": {"email": "a@acme.test"}, "subject": "s", "personalizations": [{"to": [{"email": "b@acme.test", "name": "B"}]}],
"content": [{"type": "text/plain", "value": "t"}, {"type": "text/html", "value": "h"}], "headers": {"X-Alert": "1"}, "custom_args": {"Alert": "1"}}`

func TestSendGridRefusesWhatTheReferenceForbids(t *testing.T) {
	many := strings.Repeat(`{"to": [{"email": "b@acme.test"}]},`, 1001)
	for _, row := range []struct {
		name, old, new string
		field          string // that the answer names
	}{
		{"no recipients", `[{"to": [{"email": "b@acme.test", "name": "B"}]}]`, `[]`, "personalizations"},
		{"nobody in to", `[{"email": "b@acme.test", "name": "B"}]`, `[]`, "personalizations.0.to"},
		{"too many recipients", `[{"to": [{"email": "b@acme.test", "name": "B"}]}]`, "[" + many[:len(many)-1] + "]", "personalizations"},
		{"a recipient twice", `"name": "B"}`, `"name": "B"}, {"email": "B@acme.test"}`, "personalizations"},
		{"a recipient that is none", `b@acme.test`, `B <b@acme.test>`, "personalizations.0.to.0.email"},
		{"no sender", `"from": {"email": "a@acme.test"}, `, ``, "from.email"},
		{"no subject", `"subject": "s", `, ``, "subject"},
		{"an empty subject", `"subject": "s"`, `"subject": ""`, "subject"},
		{"a subject of two lines", `"subject": "s"`, `"subject": "s\nBcc: c@acme.test"`, "subject"},
		{"a subject that is a number", `"subject": "s"`, `"subject": 1`, "subject"},
		{"a subject that is null", `"subject": "s"`, `"subject": null`, "subject"},
		{"a field in another case", `"subject": "s"`, `"Subject": "s"`, ""},
		{"a field twice", `"subject": "s"`, `"subject": "s", "subject": "t"`, ""},
		{"a field that is unknown", `"subject": "s"`, `"subject": "s", "subjekt": "t"`, ""},
		{"HTML before text", `"text/plain"`, `"text/html"`, "content"},
		{"empty content", `"value": "t"`, `"value": ""`, "content.0.value"},
		{"a header that has a field", `"X-Alert"`, `"Reply-To"`, "headers"},
		{"a header that is not encoded", `"X-Alert": "1"`, `"X-Alert": "ü"`, "headers.X-Alert"},
		{"custom arguments of more than 10,000 bytes", `"Alert": "1"`, `"Alert": "` + strings.Repeat("x", 10000) + `"`, "custom_args"},
		{"text that is not UTF-8", `"value": "t"`, "\"value\": \"\xff\"", ""},
		{"a second value", `"custom_args": {"Alert": "1"}}`, `"custom_args": {"Alert": "1"}} {}`, ""},
		{"no JSON", goodMail, `from=a`, ""},
	} {
		body := strings.Replace(goodMail, row.old, row.new, 1)
		if body == goodMail {
			t.Errorf("%s: nothing is changed", row.name)
		}
		api := &SendGrid{Key: "SG.right"}
		got := post(api, body, "Bearer SG.right", "application/json")
		field := `"field":null`
		if row.field != "" {
			field = `"field":"` + row.field + `"`
		}
		if got.Code != http.StatusBadRequest || !strings.Contains(got.Body.String(), field) || len(api.Mails()) != 0 {
			t.Errorf("%s: answer %d %s with %d mails taken, want 400, %s and none", row.name, got.Code, got.Body, len(api.Mails()), field)
		}
	}
}

func TestSendGridAnswersAsTheReferenceSays(t *testing.T) {
	for _, row := range []struct {
		name, key, contentType string
		want                   int
	}{
		{"a good request", "Bearer SG.right", "application/json", http.StatusAccepted},
		{"no key", "", "application/json", http.StatusUnauthorized},
		{"a wrong key", "Bearer SG.wrong", "application/json", http.StatusUnauthorized},
		{"a key without Bearer", "SG.right", "application/json", http.StatusUnauthorized},
		{"another content type", "Bearer SG.right", "text/plain", http.StatusUnsupportedMediaType},
	} {
		got := post(&SendGrid{Key: "SG.right"}, goodMail, row.key, row.contentType)
		if got.Code != row.want {
			t.Errorf("%s: answer %d %s, want %d", row.name, got.Code, got.Body, row.want)
		}
		if accepted := got.Code == http.StatusAccepted; accepted != (got.Body.Len() == 0) || accepted != (got.Header().Get("X-Message-Id") != "") {
			t.Errorf("%s: answer %d has the body %q and the message ID %q", row.name, got.Code, got.Body, got.Header().Get("X-Message-Id"))
		}
	}
}

func post(api http.Handler, body, key, contentType string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/v3/mail/send", strings.NewReader(body))
	r.Header.Set("Authorization", key)
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}
