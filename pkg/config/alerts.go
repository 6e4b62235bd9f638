package config

import (
	"net"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// GitHub is a sink that opens issues. Its token is never in it: GITHUB_TOKEN from the
// environment, or from the file that GITHUB_TOKEN_FILE points at.
type GitHub struct {
	Name       string   // default "github"
	Repository string   // owner/name
	BaseURL    string   // of a GitHub Enterprise Server, such as https://ghe.example.com; default github.com
	Labels     []string // put on each issue, beside the sink's own
	Assignees  []string // user names
	Classes    []string // of alerts it takes; empty: all
	Where      string
	Secrets    Secrets // of a rekor-monitor file; the environment's go before them
}

func (d *document) alerts(n node) Alerts {
	f := n.fields("email", "github", "folder")
	var a Alerts
	names := map[string]node{}
	name := func(n node, def string) string {
		text := n.text()
		if text == "" {
			text = def
		}
		if !sinkName.MatchString(text) {
			n.fail("%q is not a name for a sink; use up to 64 lower-case letters, digits, - and _", text)
		}
		if first, taken := names[text]; taken {
			n.fail("the sink at line %d has the name %q too; give each sink a name of its own", first.line, text)
		}
		names[text] = n
		return text
	}
	for _, item := range f["email"].listOrOne() {
		g := item.fields("via", "from", "to", "host", "tls", "domain", "base_url", "name", "classes")
		e := Email{Name: name(g["name"], "email"), Classes: classes(g["classes"]), Where: d.where(item.line)}
		d.email(&e, g)
		a.Emails = append(a.Emails, e)
	}
	for _, item := range f["github"].listOrOne() {
		g := item.fields("repository", "labels", "assignee", "base_url", "name", "classes")
		hub := GitHub{Name: name(g["name"], "github"), Classes: classes(g["classes"]), Where: d.where(item.line)}
		d.gitHub(&hub, g)
		a.GitHubs = append(a.GitHubs, hub)
	}
	for _, item := range f["folder"].listOrOne() {
		g := item.fields("path", "name", "classes")
		folder := Folder{Name: name(g["name"], "folder"), Classes: classes(g["classes"]), Where: d.where(item.line)}
		if text := g["path"].required("name the folder to write .eml files to"); text != "" {
			folder.Path = d.folder(g["path"], text)
		}
		a.Folders = append(a.Folders, folder)
	}
	return a
}

// untold warns of a configuration whose alerts reach nobody.
func (d *document) untold(n node, a Alerts) {
	const remedy = "add alerts: {email: …}, alerts: {github: …} or alerts: {folder: …}"
	switch {
	case len(a.Emails)+len(a.GitHubs)+len(a.Folders) > 0 || len(d.problems) > 0:
	case len(a.Identities) > 0:
		n.warn("nobody will be told: outputIdentities is a file, and takes findings but neither tampering nor trouble; " + remedy)
	default:
		n.warn("nobody will be told: there is no sink; " + remedy)
	}
}

// sinkName keeps names safe in state, paths and terminals.
var sinkName = regexp.MustCompile(`\A[a-z0-9][a-z0-9_-]{0,63}\z`)

func (d *document) email(e *Email, f map[string]node) {
	e.Via = f["via"].required("use sendgrid, mailgun or smtp")
	if e.Via != "" && !slices.Contains([]string{"sendgrid", "mailgun", "smtp"}, e.Via) {
		f["via"].fail("unknown way to send %q; use sendgrid, mailgun or smtp", e.Via)
	}
	e.From = address(f["from"])
	for _, item := range f["to"].listOrOne() {
		e.To = append(e.To, address(item))
	}
	if f["to"].none() || len(e.To) == 0 {
		f["to"].fail("missing; list who is to be told")
	}
	endpoints := map[string]string{
		"sendgrid": "SendGrid's endpoint is overridden by SENDGRID_HOST in the environment",
		"mailgun":  "Mailgun's endpoint is overridden by base_url",
		"smtp":     "the mail server is host",
	}
	for _, only := range [][2]string{{"host", "smtp"}, {"tls", "smtp"}, {"domain", "mailgun"}, {"base_url", "mailgun"}} {
		key, via := only[0], only[1]
		if instead, known := endpoints[e.Via]; known && e.Via != via && !f[key].none() {
			f[key].fail("only for via: %s; %s", via, instead)
		}
	}
	switch e.Via {
	case "mailgun":
		if e.Domain = f["domain"].required("give the sending domain, such as mg.example.com"); e.Domain != "" && !hostName.MatchString(e.Domain) {
			f["domain"].fail("%q is not a domain; write it like mg.example.com", e.Domain)
		}
		e.BaseURL = f["base_url"].baseURL("https://api.eu.mailgun.net/v3")
	case "smtp":
		d.smtp(e, f)
	}
}

// hostName is a host name of two labels or more.
var hostName = regexp.MustCompile(`\A(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{1,63}\z`)

func (d *document) smtp(e *Email, f map[string]node) {
	e.TLS = f["tls"].choice("starttls", "implicit", "none")
	e.Host = f["host"].required("give the mail server, such as smtp.example.com:587")
	host, port, err := net.SplitHostPort(e.Host)
	if e.Host != "" && (err != nil || host == "" || port == "") {
		f["host"].fail("%q is not host:port; write it like smtp.example.com:587", e.Host)
	} else if e.TLS == "none" && e.Host != "" && !loopback(host) {
		f["tls"].fail("none sends alerts in the clear, and is for loopback only; use starttls or implicit")
	}
}

// GitHub's own limits and forms.
const (
	maxLabel     = 50 // characters
	maxAssignees = 10
)

var (
	gitHubRepository = regexp.MustCompile(`\A[A-Za-z0-9_-]{1,100}/[A-Za-z0-9_.-]{1,100}\z`)
	gitHubUser       = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_-]{0,38}(?:\[bot\])?\z`)
)

func (d *document) gitHub(g *GitHub, f map[string]node) {
	g.Repository = f["repository"].required("name where to open issues, such as acme/alerts")
	if g.Repository != "" && !gitHubRepository.MatchString(g.Repository) {
		f["repository"].fail("%q is not owner/name; write it like acme/alerts", g.Repository)
	}
	for _, item := range f["labels"].listOrOne() {
		text := item.required("the label is empty")
		if utf8.RuneCountInString(text) > maxLabel || strings.ContainsFunc(text, func(r rune) bool { return r == ',' || unicode.IsControl(r) }) {
			item.fail("%q is not a label; use up to %d characters without commas", text, maxLabel)
		}
		g.Labels = append(g.Labels, text)
	}
	for _, item := range f["assignee"].listOrOne() {
		text := item.required("the user name is empty")
		if text != "" && !gitHubUser.MatchString(text) {
			item.fail("%q is not a GitHub user name; write it like octocat, without @", text)
		}
		g.Assignees = append(g.Assignees, text)
	}
	if len(g.Assignees) > maxAssignees {
		f["assignee"].fail("%d assignees; GitHub takes at most %d", len(g.Assignees), maxAssignees)
	}
	g.BaseURL = f["base_url"].baseURL("https://ghe.example.com")
	if u, err := url.Parse(g.BaseURL); err == nil && slices.Contains([]string{"github.com", "www.github.com"}, strings.ToLower(u.Hostname())) {
		f["base_url"].fail("only for a GitHub Enterprise Server; remove it for github.com")
	}
}

// baseURL is where an API is, without a trailing slash: https, or http on loopback. A
// secret is sent there.
func (n node) baseURL(example string) string {
	text := strings.TrimRight(n.text(), "/")
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		n.fail("%q is not a base URL; write it like %s", text, example)
	case u.Scheme == "http" && !loopback(u.Hostname()), u.Scheme != "http" && u.Scheme != "https":
		n.fail("%q would send the key in the clear; use https, as in %s", text, example)
	}
	return text
}

// address is one RFC 5322 address.
func address(n node) string {
	text := n.required("give an email address, such as security@example.com")
	if text == "" {
		return ""
	}
	if _, err := mail.ParseAddress(text); err != nil || strings.ContainsAny(text, "\r\n") {
		n.fail("%q is not an email address; write it like security@example.com", text)
	}
	return text
}

func classes(n node) []string {
	var all []string
	for _, item := range n.listOrOne() {
		if c := item.text(); slices.Contains([]string{"tamper", "identity", "health"}, c) {
			all = append(all, c)
		} else {
			item.fail("unknown class %q; use tamper, identity or health", c)
		}
	}
	if !n.none() && len(all) == 0 && n.isList() && len(n.list()) == 0 {
		n.fail("the list is empty and the sink would take nothing; remove the key to take all classes")
	}
	return all
}
