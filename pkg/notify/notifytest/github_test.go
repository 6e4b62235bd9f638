package notifytest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func newGitHub() *GitHub {
	return &GitHub{Token: "t", Repository: "acme/alerts", User: "bot", Assignable: []string{"octocat"}}
}

// ask makes a request as a client of the reference does; change may spoil it.
func ask(api http.Handler, method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer t")
	r.Header.Set("User-Agent", "test")
	r.Header.Set("Accept", "application/vnd.github+json")
	r.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

func TestGitHubRefusesWhatTheReferenceForbids(t *testing.T) {
	const issues, comments = "/repos/acme/alerts/issues", "/repos/acme/alerts/issues/1/comments"
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, row := range []struct {
		name, method, path, body string
		change                   func(*http.Request)
		want                     int
		says                     string
	}{
		{"an issue", "POST", issues, `{"title": "t", "body": "b", "labels": ["l"], "assignees": ["Octocat"]}`, nil, 201, `"number":2`},
		{"a title alone", "POST", issues, `{"title": "t"}`, nil, 201, `"number":2`},
		{"a comment", "POST", comments, `{"body": "b"}`, nil, 201, `"id":1`},
		{"a list", "GET", issues + "?state=all&labels=l&since=2000-01-01T00:00:00Z&per_page=25&sort=created&direction=desc", "", nil, 200, "["},
		{"no token", "POST", issues, `{"title": "t"}`, header("Authorization", ""), 401, "Bad credentials"},
		{"a wrong token", "GET", issues, "", header("Authorization", "Bearer u"), 401, "Bad credentials"},
		{"another repository", "GET", "/repos/acme/other/issues", "", nil, 404, "Not Found"},
		{"Enterprise's path", "GET", "/api/v3" + issues, "", nil, 404, "Not Found"},
		{"an issue that is not there", "POST", "/repos/acme/alerts/issues/7/comments", `{"body": "b"}`, nil, 404, "Not Found"},
		{"another method", "PUT", issues, `{"title": "t"}`, nil, 404, "Not Found"},
		{"no user agent", "GET", issues, "", header("User-Agent", ""), 403, "User-Agent"},
		{"another version", "GET", issues, "", header("X-GitHub-Api-Version", "2020-01-01"), 400, "not supported"},
		{"another media type", "GET", issues, "", header("Accept", "text/html"), 415, "Accept"},
		{"a form", "POST", issues, `{"title": "t"}`, header("Content-Type", "application/x-www-form-urlencoded"), 415, "application/json"},
		{"no JSON", "POST", issues, `title=t`, nil, 400, "Problems parsing JSON"},
		{"two values", "POST", issues, `{"title": "t"}{}`, nil, 400, "Problems parsing JSON"},
		{"an unknown field", "POST", issues, `{"title": "t", "titel": "t"}`, nil, 422, "titel"},
		{"no title", "POST", issues, `{"body": "b"}`, nil, 422, "missing_field"},
		{"a blank title", "POST", issues, `{"title": " "}`, nil, 422, "missing_field"},
		{"a title of 256", "POST", issues, `{"title": "` + strings.Repeat("é", 256) + `"}`, nil, 201, ""},
		{"a title of 257", "POST", issues, `{"title": "` + strings.Repeat("é", 257) + `"}`, nil, 422, "title is too long (maximum is 256 characters)"},
		{"a body of 65536", "POST", issues, `{"title": "t", "body": "` + strings.Repeat("b", 65536) + `"}`, nil, 201, ""},
		{"a body of 65537", "POST", issues, `{"title": "t", "body": "` + strings.Repeat("b", 65537) + `"}`, nil, 422, "body is too long (maximum is 65536 characters)"},
		{"a stranger", "POST", issues, `{"title": "t", "assignees": ["mallory"]}`, nil, 422, `"field":"assignees"`},
		{"a long label", "POST", issues, `{"title": "t", "labels": ["` + strings.Repeat("l", 51) + `"]}`, nil, 422, `"resource":"Label"`},
		{"a label for a list", "POST", issues, `{"title": "t", "labels": "l"}`, nil, 422, "Invalid request"},
		{"an empty comment", "POST", comments, `{"body": ""}`, nil, 422, "missing_field"},
		{"a long comment", "POST", comments, `{"body": "` + strings.Repeat("b", 65537) + `"}`, nil, 422, "Body is too long"},
		{"a page of 101", "GET", issues + "?per_page=101", "", nil, 422, "per_page"},
		{"an unknown state", "GET", issues + "?state=any", "", nil, 422, "state"},
		{"a time that is none", "GET", issues + "?since=yesterday", "", nil, 422, "since"},
		{"an unknown parameter", "GET", issues + "?lables=l", "", nil, 422, "lables"},
	} {
		api := newGitHub()
		api.Add(Issue{Title: "there", Author: "ann"})
		got := ask(api, row.method, row.path, row.body, row.change)
		if got.Code != row.want || !strings.Contains(got.Body.String(), row.says) {
			t.Errorf("%s: answer %d %.200s, want %d with %q", row.name, got.Code, got.Body, row.want, row.says)
		}
		if taken := len(api.Issues())+len(api.Issues()[0].Comments) > 1; taken != (row.want == 201) {
			t.Errorf("%s: taken %v", row.name, taken)
		}
	}
}

func TestGitHubListsByLabelInPages(t *testing.T) {
	api := newGitHub()
	for i := range 7 {
		api.Add(Issue{Title: fmt.Sprint(i), Labels: []string{[]string{"a", "b"}[i%2]}})
	}
	got := ask(api, "GET", "/repos/acme/alerts/issues?labels=A&per_page=3", "", nil)
	if body := got.Body.String(); strings.Count(body, `"number"`) != 3 || !strings.Contains(body, `"number":7`) || !strings.Contains(got.Header().Get("Link"), `page=2`) || !strings.HasSuffix(got.Header().Get("Link"), `rel="next"`) {
		t.Errorf("the first page is %s, Link %s", body, got.Header().Get("Link"))
	}
	got = ask(api, "GET", "/repos/acme/alerts/issues?labels=a&per_page=3&page=2", "", nil)
	if body := got.Body.String(); strings.Count(body, `"number"`) != 1 || !strings.Contains(body, `"number":1`) || got.Header().Get("Link") != "" {
		t.Errorf("the last page is %s, Link %s", body, got.Header().Get("Link"))
	}
}

func TestGitHubWithoutIssuesSaysGone(t *testing.T) {
	api := newGitHub()
	api.Disabled = true
	if got := ask(api, "POST", "/repos/acme/alerts/issues", `{"title": "t"}`, nil); got.Code != http.StatusGone {
		t.Errorf("answer %d %s", got.Code, got.Body)
	}
}
