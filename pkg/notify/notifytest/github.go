package notifytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
)

// The requests that [GitHub] takes, as its scripts and counts name them.
const (
	ListIssues    = "list issues"
	CreateIssue   = "create issue"
	ListComments  = "list comments"
	CreateComment = "create comment"
)

// GitHub is an http.Handler that stands in for https://api.github.com, or with a
// Prefix for a GitHub Enterprise Server: it holds requests about the issues of one
// repository to the reference at https://docs.github.com/en/rest/issues and refuses
// the rest. It is stricter where GitHub passes things over: unknown fields and
// parameters are errors.
type GitHub struct {
	Token      string // that it accepts
	Repository string // owner/name
	Prefix     string // "" or "/api/v3"
	User       string // whose token it is
	Assignable []string
	// NoPush: the token's account may not write to the repository. What labels and
	// assignees it sets are silently dropped.
	NoPush bool
	// NoLabels: labels that do not exist yet are refused with 403, as to accounts that
	// may not make any.
	NoLabels bool
	Disabled bool // issues are, in this repository

	mu       sync.Mutex
	requests map[string]int
	answers  map[string][]Answer
	issues   []*Issue
	comments int64
}

// Issue is one that is there.
type Issue struct {
	Number      int
	Title, Body string
	Labels      []string
	Assignees   []string
	Author      string
	PullRequest bool
	Locked      bool
	Deleted     bool
	Created     time.Time
	Updated     time.Time
	Comments    []Comment
}

// Comment is one on an issue.
type Comment struct {
	ID      int64
	Author  string
	Body    string
	Created time.Time
}

// Next queues answers to the next requests of a kind. With Accept the request is
// carried out all the same, whatever is answered.
func (g *GitHub) Next(request string, answers ...Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.answers == nil {
		g.answers = map[string][]Answer{}
	}
	g.answers[request] = append(g.answers[request], answers...)
}

// Requests is how often a kind of request was made; "" is all of them.
func (g *GitHub) Requests(request string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for kind, times := range g.requests {
		if request == "" || kind == request {
			n += times
		}
	}
	return n
}

// Issues returns all issues, in order.
func (g *GitHub) Issues() []Issue {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Issue
	for _, i := range g.issues {
		c := *i
		c.Comments = slices.Clone(i.Comments)
		all = append(all, c)
	}
	return all
}

// Add puts an issue there, as anybody can who may see a public repository.
func (g *GitHub) Add(i Issue) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.add(i)
}

// Change changes an issue.
func (g *GitHub) Change(number int, change func(*Issue)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g.issues[number-1])
}

func (g *GitHub) add(i Issue) *Issue {
	i.Number = len(g.issues) + 1
	if i.Created.IsZero() {
		i.Created = time.Now()
	}
	i.Updated = i.Created
	g.issues = append(g.issues, &i)
	return &i
}

// gitHubRefusal is an answer other than success.
type gitHubRefusal struct {
	status  int
	message string
	docs    string
	errors  []fault
}

// fault is one of the errors of a 422.
type fault struct {
	Resource string `json:"resource"`
	Field    string `json:"field"`
	Code     string `json:"code"`
	Message  string `json:"message,omitempty"`
	Value    string `json:"value,omitempty"`
}

// GitHubErrorBody is an error in GitHub's form.
func GitHubErrorBody(message, documentation string) string {
	return string((&gitHubRefusal{message: message, docs: documentation}).body())
}

func (r *gitHubRefusal) body() []byte {
	b, err := json.Marshal(map[string]any{"message": r.message, "documentation_url": r.docs, "errors": r.errors})
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

func unprocessable(faults ...fault) *gitHubRefusal {
	return &gitHubRefusal{status: http.StatusUnprocessableEntity, message: "Validation Failed", errors: faults}
}

func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	kind, issue, bad := g.route(r)
	if g.requests == nil {
		g.requests = map[string]int{}
	}
	g.requests[kind]++
	if bad == nil {
		bad = requestHeaders(r)
	}
	if bad == nil && r.Method != http.MethodGet && r.Method != http.MethodPost {
		bad = &gitHubRefusal{status: http.StatusNotFound, message: "Not Found"}
	}
	var carry func() (status int, answer any, header http.Header)
	if bad == nil {
		carry, bad = g.request(kind, issue, r)
	}
	if bad != nil {
		w.WriteHeader(bad.status)
		w.Write(bad.body())
		return
	}
	var a Answer
	if script := g.answers[kind]; len(script) > 0 {
		a, g.answers[kind] = script[0], script[1:]
	}
	scripted := a.Status != 0 || a.Disconnect
	if !scripted || a.Accept {
		status, answer, header := carry()
		if !scripted {
			maps.Copy(w.Header(), header)
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(answer)
			return
		}
	}
	if a.Disconnect {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	io.WriteString(w, a.Body)
}

// route says what is asked for, after the path and the token.
func (g *GitHub) route(r *http.Request) (kind string, issue *Issue, bad *gitHubRefusal) {
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer || token != g.Token {
		return "refused", nil, &gitHubRefusal{status: http.StatusUnauthorized, message: "Bad credentials", docs: "https://docs.github.com/rest"}
	}
	notFound := &gitHubRefusal{status: http.StatusNotFound, message: "Not Found", docs: "https://docs.github.com/rest"}
	rest, ok := strings.CutPrefix(r.URL.Path, g.Prefix+"/repos/"+g.Repository+"/issues")
	if !ok {
		return "refused", nil, notFound
	}
	if g.Disabled {
		return "refused", nil, &gitHubRefusal{status: http.StatusGone, message: "Issues has been disabled in this repository.", docs: "https://docs.github.com/v3/issues/"}
	}
	create := r.Method == http.MethodPost
	if rest == "" {
		return map[bool]string{true: CreateIssue, false: ListIssues}[create], nil, nil
	}
	part := commentsOf.FindStringSubmatch(rest)
	if part == nil {
		return "refused", nil, notFound
	}
	n, err := strconv.Atoi(part[1])
	if err != nil || n < 1 || n > len(g.issues) {
		return "refused", nil, notFound
	}
	if g.issues[n-1].Deleted {
		return "refused", nil, &gitHubRefusal{status: http.StatusGone, message: "This issue was deleted", docs: "https://docs.github.com/v3/issues/"}
	}
	return map[bool]string{true: CreateComment, false: ListComments}[create], g.issues[n-1], nil
}

var commentsOf = regexp.MustCompile(`\A/([0-9]+)/comments\z`)

// requestHeaders wants what the reference asks of every request.
func requestHeaders(r *http.Request) *gitHubRefusal {
	if r.Header.Get("User-Agent") == "" {
		return &gitHubRefusal{status: http.StatusForbidden, message: "Request forbidden by administrative rules. Please make sure your request has a User-Agent header"}
	}
	if v := r.Header.Get("X-GitHub-Api-Version"); v != "" && v != "2022-11-28" {
		return &gitHubRefusal{status: http.StatusBadRequest, message: "The version " + v + " is not supported"}
	}
	if accept := r.Header.Get("Accept"); accept != "" && !strings.HasPrefix(accept, "application/vnd.github") && accept != "*/*" {
		return &gitHubRefusal{status: http.StatusUnsupportedMediaType, message: "Unsupported 'Accept' header: " + accept + ". Must accept 'application/json'."}
	}
	return nil
}

// request checks a request, and returns what carries it out.
func (g *GitHub) request(kind string, issue *Issue, r *http.Request) (func() (int, any, http.Header), *gitHubRefusal) {
	switch kind {
	case CreateIssue:
		return g.createIssue(r)
	case CreateComment:
		return g.createComment(issue, r)
	}
	q, page, bad := query(r, map[string][]string{
		ListIssues:   {"state", "labels", "since", "sort", "direction", "page", "per_page"},
		ListComments: {"since", "page", "per_page"},
	}[kind])
	if bad != nil {
		return nil, bad
	}
	return func() (int, any, http.Header) {
		var all []any
		if kind == ListIssues {
			all = g.matching(q)
		} else {
			for _, c := range issue.Comments {
				if !c.Created.Before(q.since) {
					all = append(all, commentJSON(c))
				}
			}
		}
		from := min((page.number-1)*page.size, len(all))
		to := min(from+page.size, len(all))
		header := http.Header{}
		if to < len(all) {
			next := *r.URL
			values := next.Query()
			values.Set("page", strconv.Itoa(page.number+1))
			next.RawQuery = values.Encode()
			header.Set("Link", fmt.Sprintf(`<http://%s%s>; rel="next"`, r.Host, next.String()))
		}
		return http.StatusOK, append([]any{}, all[from:to]...), header
	}, nil
}

// filter is what a list is filtered by.
type filter struct {
	url.Values
	since time.Time
}

type pageOf struct{ number, size int }

func query(r *http.Request, known []string) (f filter, p pageOf, bad *gitHubRefusal) {
	f.Values, p = r.URL.Query(), pageOf{1, 30}
	for name, values := range f.Values {
		if !slices.Contains(known, name) || len(values) != 1 {
			return f, p, unprocessable(fault{Resource: "Search", Field: name, Code: "invalid"})
		}
		v := values[0]
		ok := true
		var err error
		switch name {
		case "state":
			ok = slices.Contains([]string{"open", "closed", "all"}, v)
		case "sort":
			ok = slices.Contains([]string{"created", "updated", "comments"}, v)
		case "direction":
			ok = v == "asc" || v == "desc"
		case "since":
			f.since, err = time.Parse(time.RFC3339, v)
		case "page":
			p.number, err = strconv.Atoi(v)
			ok = p.number > 0
		case "per_page":
			p.size, err = strconv.Atoi(v)
			ok = 0 < p.size && p.size <= 100
		}
		if !ok || err != nil {
			return f, p, unprocessable(fault{Resource: "Search", Field: name, Code: "invalid", Value: v})
		}
	}
	return f, p, nil
}

// matching lists issues and, as GitHub does, pull requests.
func (g *GitHub) matching(f filter) []any {
	var found []*Issue
	for _, i := range g.issues {
		fits := !i.Deleted && !i.Updated.Before(f.since)
		for _, l := range strings.Split(f.Get("labels"), ",") {
			fits = fits && (l == "" || has(i.Labels, l))
		}
		if fits {
			found = append(found, i)
		}
	}
	if f.Get("direction") != "asc" {
		slices.Reverse(found)
	}
	var all []any
	for _, i := range found {
		all = append(all, issueJSON(i))
	}
	return all
}

func has(list []string, s string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return strings.EqualFold(l, s) })
}

func userJSON(login string) map[string]any {
	id := 0
	for _, c := range login {
		id = id*31 + int(c)
	}
	return map[string]any{"login": login, "id": id & 0xffffff}
}

func issueJSON(i *Issue) map[string]any {
	labels, assignees := []any{}, []any{}
	for _, l := range i.Labels {
		labels = append(labels, map[string]any{"name": l})
	}
	for _, a := range i.Assignees {
		assignees = append(assignees, userJSON(a))
	}
	out := map[string]any{"number": i.Number, "id": 1000 + i.Number, "title": i.Title, "body": i.Body, "state": "open", "user": userJSON(i.Author),
		"labels": labels, "assignees": assignees, "created_at": i.Created.UTC().Format(time.RFC3339), "updated_at": i.Updated.UTC().Format(time.RFC3339)}
	if i.PullRequest {
		out["pull_request"] = map[string]any{"url": "https://api.github.com/repos/x/y/pulls/1"}
	}
	return out
}

func commentJSON(c Comment) map[string]any {
	return map[string]any{"id": c.ID, "body": c.Body, "user": userJSON(c.Author), "created_at": c.Created.UTC().Format(time.RFC3339), "updated_at": c.Created.UTC().Format(time.RFC3339)}
}

// The reference's limits.
const (
	maxTitle     = 256
	maxIssueBody = 65536
	maxLabelName = 50
	maxAssigned  = 10
)

// strictJSON reads a body of known fields.
func strictJSON(r *http.Request, into any) *gitHubRefusal {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &gitHubRefusal{status: http.StatusUnsupportedMediaType, message: "Unsupported 'Content-Type' header. Must be application/json."}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTotal))
	if err != nil {
		return &gitHubRefusal{status: http.StatusBadRequest, message: err.Error()}
	}
	if bad := strict(body); bad != nil {
		return &gitHubRefusal{status: http.StatusBadRequest, message: "Problems parsing JSON: " + bad.message}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &gitHubRefusal{status: http.StatusUnprocessableEntity, message: "Invalid request.\n\n" + err.Error()}
	}
	return nil
}

// tooLong counts as the strictest would: UTF-16 units, line ends as two.
func tooLong(s string, limit int) bool {
	return len(utf16.Encode([]rune(s)))+strings.Count(s, "\n") > limit
}

func (g *GitHub) createIssue(r *http.Request) (func() (int, any, http.Header), *gitHubRefusal) {
	var in struct {
		Title     *string  `json:"title"`
		Body      string   `json:"body"`
		Labels    []string `json:"labels"`
		Assignees []string `json:"assignees"`
	}
	if bad := strictJSON(r, &in); bad != nil {
		return nil, bad
	}
	var faults []fault
	if in.Title == nil || strings.TrimSpace(*in.Title) == "" {
		faults = append(faults, fault{Resource: "Issue", Field: "title", Code: "missing_field"})
	} else if tooLong(*in.Title, maxTitle) {
		faults = append(faults, fault{Resource: "Issue", Field: "title", Code: "custom", Message: "title is too long (maximum is 256 characters)"})
	}
	if tooLong(in.Body, maxIssueBody) {
		faults = append(faults, fault{Resource: "Issue", Field: "body", Code: "custom", Message: "body is too long (maximum is 65536 characters)"})
	}
	for _, l := range in.Labels {
		if l == "" || tooLong(l, maxLabelName) || strings.Contains(l, ",") {
			faults = append(faults, fault{Resource: "Label", Field: "name", Code: "invalid", Value: l})
		}
	}
	if len(in.Assignees) > maxAssigned {
		faults = append(faults, fault{Resource: "Issue", Field: "assignees", Code: "invalid"})
	}
	for _, a := range in.Assignees {
		if !g.NoPush && !has(g.Assignable, a) {
			faults = append(faults, fault{Resource: "Issue", Field: "assignees", Code: "invalid", Value: a})
		}
	}
	if faults != nil {
		return nil, unprocessable(faults...)
	}
	if g.NoLabels && len(in.Labels) > 0 {
		return nil, &gitHubRefusal{status: http.StatusForbidden, message: "You do not have permission to create labels on this repository."}
	}
	if g.NoPush {
		in.Labels, in.Assignees = nil, nil
	}
	return func() (int, any, http.Header) {
		i := g.add(Issue{Title: *in.Title, Body: in.Body, Labels: in.Labels, Assignees: in.Assignees, Author: g.User})
		return http.StatusCreated, issueJSON(i), nil
	}, nil
}

func (g *GitHub) createComment(issue *Issue, r *http.Request) (func() (int, any, http.Header), *gitHubRefusal) {
	var in struct {
		Body string `json:"body"`
	}
	if bad := strictJSON(r, &in); bad != nil {
		return nil, bad
	}
	if strings.TrimSpace(in.Body) == "" {
		return nil, unprocessable(fault{Resource: "IssueComment", Field: "body", Code: "missing_field"})
	}
	if tooLong(in.Body, maxIssueBody) {
		return nil, unprocessable(fault{Resource: "IssueComment", Field: "data", Code: "unprocessable", Message: "Body is too long (maximum is 65536 characters)"})
	}
	if issue.Locked {
		return nil, &gitHubRefusal{status: http.StatusForbidden, message: "Unable to create comment because issue is locked."}
	}
	return func() (int, any, http.Header) {
		g.comments++
		c := Comment{ID: g.comments, Author: g.User, Body: in.Body, Created: time.Now()}
		issue.Comments = append(issue.Comments, c)
		issue.Updated = c.Created
		return http.StatusCreated, commentJSON(c), nil
	}, nil
}
