package config

import (
	"net"
	"net/mail"
	"regexp"
	"slices"
	"strings"
)

func (d *document) alerts(n node) Alerts {
	f := n.fields("email", "folder")
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
		g := item.fields("via", "from", "to", "host", "tls", "name", "classes")
		e := Email{Name: name(g["name"], "email"), Classes: classes(g["classes"]), Where: d.where(item.line)}
		d.email(&e, g)
		a.Emails = append(a.Emails, e)
	}
	for _, item := range f["folder"].listOrOne() {
		g := item.fields("path", "name", "classes")
		folder := Folder{Name: name(g["name"], "folder"), Classes: classes(g["classes"]), Where: d.where(item.line)}
		if text := g["path"].required("name the folder to write .eml files to"); text != "" {
			folder.Path = d.folder(g["path"], text)
		}
		a.Folders = append(a.Folders, folder)
	}
	if len(a.Emails)+len(a.Folders) == 0 && len(d.problems) == 0 {
		n.warn("nobody will be told: there is no sink; add alerts: {email: …} or alerts: {folder: …}")
	}
	return a
}

// sinkName keeps names safe in state, paths and terminals.
var sinkName = regexp.MustCompile(`\A[a-z0-9][a-z0-9_-]{0,63}\z`)

func (d *document) email(e *Email, f map[string]node) {
	e.Via = f["via"].required("use sendgrid or smtp")
	if e.Via != "" && e.Via != "sendgrid" && e.Via != "smtp" {
		f["via"].fail("unknown way to send %q; use sendgrid or smtp", e.Via)
	}
	e.From = address(f["from"])
	for _, item := range f["to"].listOrOne() {
		e.To = append(e.To, address(item))
	}
	if f["to"].none() || len(e.To) == 0 {
		f["to"].fail("missing; list who is to be told")
	}
	if e.Via == "sendgrid" {
		for _, name := range []string{"host", "tls"} {
			if !f[name].none() {
				f[name].fail("only for via: smtp; SendGrid's endpoint is overridden by SENDGRID_HOST in the environment")
			}
		}
		return
	}
	e.TLS = f["tls"].choice("starttls", "implicit", "none")
	if e.Via != "smtp" {
		return
	}
	e.Host = f["host"].required("give the mail server, such as smtp.example.com:587")
	host, port, err := net.SplitHostPort(e.Host)
	if e.Host != "" && (err != nil || host == "" || port == "") {
		f["host"].fail("%q is not host:port; write it like smtp.example.com:587", e.Host)
	} else if e.TLS == "none" && e.Host != "" && !loopback(host) {
		f["tls"].fail("none sends alerts in the clear, and is for loopback only; use starttls or implicit")
	}
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
