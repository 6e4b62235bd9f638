package notify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v84/github"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
)

const (
	// maxIssueBody is GitHub's limit for the body of an issue or a comment, in characters.
	maxIssueBody = 65536
	// pageSize and maxPages bound what is looked through for an issue or a comment;
	// maxPage, in bytes, has room for bodies of their full length in any script.
	pageSize, maxPages = 25, 40
	maxPage            = 24 << 20
	// clockSkew is how far GitHub's clock may be from ours.
	clockSkew = 24 * time.Hour
)

// gitHub opens an issue for each alert.
//
// What goes on with an older alert (the reminder or the end of a health condition;
// that tampering is no longer seen, and what was decided about it) becomes a comment
// on the newest issue about it, or an issue if there is none. An alarm, even one about
// an incident that was there before, is always an issue of its own. More than 50
// alerts at once are a digest, and that is one issue.
//
// A hidden first line of issues and comments holds the alert's ID and, as hashes,
// what it is about. Before one is made, those that are there are listed: of this
// repository, with the label whosigned-<class>, changed since the alert was made.
// So when a run ends between GitHub's answer and the commit of the acknowledgement,
// the next one finds the issue, and says in a comment that the alert was sent again:
// once a day at most. A repeat of a comment is left out. A digest of other alerts than
// before is another one.
//
// The label is what makes an issue's marker count: in a public repository anybody may
// write an issue, but only those who may write to the repository can label one. A
// comment's counts if its author is the issue's.
//
// The up to 50 messages of a delivery stay below the 80 a minute from which GitHub's
// secondary limits set in.
type gitHub struct {
	route
	owner, repo       string
	labels, assignees []string
	token             string // where it came from, for messages
	client            *github.Client
	transport         *limited // under the client, which keeps copies of what it is made of
}

func openGitHub(c config.GitHub, getenv func(string) string) (Sink, error) {
	r, err := newRoute(cmp.Or(c.Name, "github"), c.Classes)
	if err != nil {
		return nil, err
	}
	owner, repo, ok := strings.Cut(c.Repository, "/")
	if !ok || !repositoryName.MatchString(owner) || !repositoryName.MatchString(repo) {
		return nil, fmt.Errorf("repository: %q is not owner/name, as in acme/alerts", c.Repository)
	}
	token, err := secret(getenv, "GITHUB_TOKEN")
	if err != nil {
		return nil, err
	}
	if token == "" {
		return nil, errors.New("github needs a token that may write issues: set GITHUB_TOKEN, or GITHUB_TOKEN_FILE to a file that holds it")
	}
	g := &gitHub{route: r, owner: owner, repo: repo, labels: c.Labels, assignees: c.Assignees, token: "GITHUB_TOKEN", transport: &limited{http.DefaultTransport, maxPage}}
	if file := getenv("GITHUB_TOKEN_FILE"); file != "" {
		g.token = "the token in " + file + " (GITHUB_TOKEN_FILE)"
	}
	g.client = github.NewClient(newClient(g.transport)).WithAuthToken(token)
	g.client.UserAgent = "whosigned"
	if c.BaseURL != "" {
		if err := checkBase("base_url", c.BaseURL); err != nil {
			return nil, err
		}
		if g.client, err = g.client.WithEnterpriseURLs(c.BaseURL, c.BaseURL); err != nil {
			return nil, fmt.Errorf("base_url: %w", err)
		}
	}
	return g, nil
}

// repositoryName is half of owner/name.
var repositoryName = regexp.MustCompile(`\A[A-Za-z0-9_.-]{1,100}\z`)

// Send files the message; only 201 with a number is an acknowledgement.
func (g *gitHub) Send(ctx context.Context, m report.Message) error {
	fail := func(down bool, err error) *SendError {
		return &SendError{Sink: g.name, Alert: m.ID, Down: down, Err: err}
	}
	if err := check(m); err != nil {
		return fail(false, err)
	}
	f := &filing{gitHub: g, m: m}
	gaveUp, err := patiently(ctx, func() error { return f.try(ctx) })
	var answer *GitHubError
	switch {
	case err != nil:
		return fail(gaveUp || errors.As(err, &answer) && !aboutMessage(answer.Status), err)
	case f.short != nil:
		partly := fail(false, f.short)
		partly.Delivered = true
		return partly
	}
	return nil
}

// filing is one message on its way.
type filing struct {
	*gitHub
	m       report.Message
	unheard bool  // we may have made its issue without hearing of it
	short   error // what GitHub left out of the issue
}

// issue is one of ours that is there.
type issue struct {
	number int
	author int64
	marker
}

// try does what is not done yet.
func (f *filing) try(ctx context.Context) error {
	threads, news := f.m.Threads()
	there, err := f.list(ctx, threads)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(there, func(i issue) bool { return i.alert == f.m.ID }); i >= 0 {
		if f.unheard {
			return nil
		}
		return f.again(ctx, there[i])
	}
	// The issue comes last: once it is there, all comments are.
	byIssue, followed := map[int][]string{}, map[string]bool{}
	var order []issue
	for _, t := range threads {
		i := slices.IndexFunc(there, func(i issue) bool { return i.about(t.Keys) })
		if i < 0 {
			news = true
			continue
		}
		n := there[i].number
		if byIssue[n] == nil {
			order = append(order, there[i])
		}
		byIssue[n] = append(byIssue[n], t.Keys...)
	}
	for _, i := range order {
		part := f.m.Only(byIssue[i.number])
		lead := marker{alert: f.m.ID}.String() + "\n"
		switch err := f.comment(ctx, i, marker{alert: f.m.ID}, lead+part.Markdown(maxIssueBody-len(lead)-1)); {
		case err == nil:
			for _, key := range byIssue[i.number] {
				followed[key] = true
			}
		case gone(err):
			news = true
		default:
			return err
		}
	}
	if !news {
		return nil
	}
	return f.create(ctx, slices.DeleteFunc(f.m.Opens(), func(key string) bool { return followed[key] }))
}

// gone says that an issue takes no comments: it is deleted, moved or locked.
func gone(err error) bool {
	var answer *GitHubError
	return errors.As(err, &answer) && !answer.limited && slices.Contains([]int{http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusUnprocessableEntity}, answer.Status)
}

// create opens the issue. If GitHub refuses it with the labels and assignees that are
// configured, it gets none: the alert matters more.
func (f *filing) create(ctx context.Context, keys []string) error {
	var own []string
	for _, c := range f.m.Classes() {
		own = append(own, label(c))
	}
	all := slices.Concat(own, slices.DeleteFunc(slices.Clone(f.labels), func(l string) bool { return holds(own, l) }))
	lead := marker{alert: f.m.ID, keys: hashes(keys)}.String() + "\n"
	title, body := f.m.Title(), lead+f.m.Markdown(maxIssueBody-len(lead)-1)
	var refused error
	for _, with := range []struct{ labels, assignees []string }{{all, f.assignees}, {own, nil}, {nil, nil}} {
		made, resp, err := f.client.Issues.Create(ctx, f.owner, f.repo, &github.IssueRequest{
			Title: &title, Body: &body, Labels: list(with.labels), Assignees: list(with.assignees)})
		err = f.heard("creating an issue", resp, err)
		if err == nil && made.GetNumber() <= 0 {
			err = &later{err: errors.New("creating an issue: GitHub's answer 201 holds no number")}
		}
		var answer *GitHubError
		switch {
		case err == nil:
			f.short = f.leftOut(made, all, refused)
			return nil
		case !errors.As(err, &answer) || passes(answer.Status):
			f.unheard = true
			return err
		case answer.Status != http.StatusUnprocessableEntity && answer.Status != http.StatusForbidden, answer.limited:
			return err
		}
		if refused == nil {
			refused = err
		}
	}
	return refused
}

// leftOut says which labels and assignees the issue was to have and has not: GitHub
// drops them silently if the token's account may not set them.
func (f *filing) leftOut(made *github.Issue, labels []string, refused error) error {
	var has, lacks []string
	for _, l := range made.Labels {
		has = append(has, l.GetName())
	}
	for _, l := range labels {
		if !holds(has, l) {
			lacks = append(lacks, "label "+report.Safe(l))
		}
	}
	has = nil
	for _, a := range made.Assignees {
		has = append(has, a.GetLogin())
	}
	for _, a := range f.assignees {
		if !holds(has, a) {
			lacks = append(lacks, "assignee "+report.Safe(a))
		}
	}
	if lacks == nil {
		return nil
	}
	return errors.Join(refused, fmt.Errorf("issue %d of %s/%s was opened without %s: an assignee must be able to see the repository, and to set these %s must be of an account with write access; without its whosigned label an issue is not found again",
		made.GetNumber(), f.owner, f.repo, strings.Join(lacks, ", "), f.token))
}

// again says that an alert was sent before.
func (f *filing) again(ctx context.Context, i issue) error {
	mark := marker{alert: f.m.ID, day: time.Now().UTC().Format(time.DateOnly)}
	return f.comment(ctx, i, mark, mark.String()+
		"\nSent again: the acknowledgement of this alert was lost, or the same was seen once more.\n")
}

// comment comments on an issue, unless the same is there.
func (f *filing) comment(ctx context.Context, i issue, mark marker, body string) error {
	since := f.m.Created.Add(-clockSkew)
	opts := &github.IssueListCommentsOptions{Since: &since, ListOptions: github.ListOptions{PerPage: pageSize}}
	for range maxPages {
		comments, resp, err := f.client.Issues.ListComments(ctx, f.owner, f.repo, i.number, opts)
		if err := f.heard(fmt.Sprintf("listing the comments on issue %d", i.number), resp, err); err != nil {
			return err
		}
		for _, c := range comments {
			if read, ok := parseMarker(c.GetBody()); ok && c.GetUser().GetID() == i.author && read.alert == mark.alert && read.day == mark.day {
				return nil
			}
		}
		if opts.Page = resp.NextPage; opts.Page == 0 {
			break
		}
	}
	made, resp, err := f.client.Issues.CreateComment(ctx, f.owner, f.repo, i.number, &github.IssueComment{Body: &body})
	if err := f.heard(fmt.Sprintf("commenting on issue %d", i.number), resp, err); err != nil {
		return err
	}
	if made.GetID() <= 0 {
		return &later{err: fmt.Errorf("commenting on issue %d: GitHub's answer 201 holds no ID", i.number)}
	}
	return nil
}

// list finds our issues, the newest first.
func (f *filing) list(ctx context.Context, threads []report.Thread) ([]issue, error) {
	since := f.m.Created
	for _, t := range threads {
		if t.Since.Before(since) {
			since = t.Since // the zero time: all of them
		}
	}
	opts := &github.IssueListByRepoOptions{State: "all", Labels: []string{label(f.m.Class)}, Sort: "created", Direction: "desc",
		ListOptions: github.ListOptions{PerPage: pageSize}}
	if !since.IsZero() {
		opts.Since = since.Add(-clockSkew)
	}
	var ours []issue
	for range maxPages {
		issues, resp, err := f.client.Issues.ListByRepo(ctx, f.owner, f.repo, opts)
		if err := f.heard("listing issues", resp, err); err != nil {
			return nil, err
		}
		for _, i := range issues {
			if mark, ok := parseMarker(i.GetBody()); ok && !i.IsPullRequest() {
				ours = append(ours, issue{i.GetNumber(), i.GetUser().GetID(), mark})
			}
		}
		opts.ListOptions.Page, opts.After = resp.NextPage, resp.After
		if resp.NextPage == 0 && resp.After == "" {
			break
		}
	}
	return ours, nil
}

// label is what issues about a class are found by.
func label(c report.Class) string { return "whosigned-" + string(c) }

// holds says whether list has s; names on GitHub do not differ by case.
func holds(list []string, s string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return strings.EqualFold(l, s) })
}

func list(s []string) *[]string {
	if len(s) == 0 {
		return nil
	}
	return &s
}

// marker is the hidden first line of what we write.
type marker struct {
	alert string
	keys  []string // hashes of what an issue is about
	day   string   // of a comment that says that the alert was sent again
}

// maxKeys keeps the marker of a digest short.
const maxKeys = 100

func (k marker) String() string {
	s := "<!-- whosigned alert=" + k.alert
	if len(k.keys) > 0 {
		s += " about=" + strings.Join(k.keys[:min(len(k.keys), maxKeys)], ",")
	}
	if k.day != "" {
		s += " again=" + k.day
	}
	return s + " -->"
}

var markerForm = regexp.MustCompile(`\A<!-- whosigned alert=([0-9a-f]{32})(?: about=([0-9a-f,]+))?(?: again=([0-9-]+))? -->\r?\n`)

// parseMarker reads the first line, which log content cannot reach.
func parseMarker(body string) (k marker, ok bool) {
	found := markerForm.FindStringSubmatch(body)
	if found == nil {
		return k, false
	}
	return marker{alert: found[1], keys: strings.Split(found[2], ","), day: found[3]}, true
}

// about says whether an issue is about one of keys.
func (k marker) about(keys []string) bool {
	return slices.ContainsFunc(hashes(keys), func(h string) bool { return slices.Contains(k.keys, h) })
}

// hashes are keys as a marker holds them: they name logs, and may be long.
func hashes(keys []string) []string {
	var short []string
	for _, key := range keys {
		sum := sha256.Sum256([]byte(key))
		short = append(short, hex.EncodeToString(sum[:8]))
	}
	return short
}
