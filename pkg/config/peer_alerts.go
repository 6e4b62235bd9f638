package config

import (
	"net"
	"net/mail"
	"strings"

	"github.com/whosigned/whosigned/pkg/watch"
)

// Identities is rekor-monitor's outputIdentities: a file to which a line is appended
// for each finding.
type Identities struct {
	Name string // "identities"
	Path string
	JSON bool // a JSON object a line; else words
	// Values are what rules stand for, by their names; it has none for rules of watch.
	Values map[string]PeerValue
	Where  string
}

// PeerValue is one of rekor-monitor's monitored values, as its output shows it.
type PeerValue struct {
	Type    string // "certIdentity", "subject", "fingerprint" or "oidExtension"
	Text    string // certSubject, subject or fingerprint
	Issuers []string
	// Extension is what monitoredValues calls the extension: a name of Fulcio's, or a
	// dotted OID. Values are those of which it has one.
	Extension string
	Values    []string
}

// peerSinks are where rekor-monitor sends its alerts: keys of the configuration that
// each make a sink, which takes alerts of all classes and may stand beside those of
// alerts.
func (d *document) peerSinks(top map[string]node) (a Alerts) {
	for _, name := range []string{"githubIssue", "gitHubIssue"} {
		n := top[name]
		switch {
		case n.none():
		case len(a.GitHubs) > 0:
			n.warn("githubIssue is given too; this one is ignored")
		default:
			a.GitHubs = append(a.GitHubs, d.peerGitHub(n))
		}
	}
	for _, s := range []struct {
		key  string
		read func(n node, e *Email)
	}{
		{"emailNotificationSMTP", d.peerSMTP},
		{"emailNotificationSendGrid", d.peerSendGrid},
		{"emailNotificationMailgun", d.peerMailgun},
	} {
		n := top[s.key]
		if n.none() {
			continue
		}
		e := Email{Via: strings.ToLower(strings.TrimPrefix(s.key, "emailNotification")), Where: d.where(n.line)}
		e.Name = "email-" + e.Via
		s.read(n, &e)
		a.Emails = append(a.Emails, e)
	}
	if n := top["outputIdentities"]; !n.none() {
		if i, ok := d.identities(n, top["outputIdentitiesFormat"], top["monitoredValues"]); ok {
			a.Identities = append(a.Identities, i)
		}
	} else if n := top["outputIdentitiesFormat"]; !n.none() {
		n.warn("it has no effect without outputIdentities")
	}
	return a
}

// join adds other sinks. Two of one name would share an outbox.
func (a *Alerts) join(d *document, other Alerts) {
	names := map[string]string{}
	for name, where := range a.names() {
		names[name] = where
	}
	for name, where := range other.names() {
		if first, taken := names[name]; taken {
			_, line := split(where)
			d.fail(line, "", "the sink here is named %q, and so is the one at %s; give that one another name", name, first)
		}
	}
	a.Emails = append(a.Emails, other.Emails...)
	a.GitHubs = append(a.GitHubs, other.GitHubs...)
	a.Folders = append(a.Folders, other.Folders...)
	a.Identities = append(a.Identities, other.Identities...)
}

// names are the sinks' names, and where each stands.
func (a *Alerts) names() map[string]string {
	names := map[string]string{}
	for _, s := range a.Emails {
		names[s.Name] = s.Where
	}
	for _, s := range a.GitHubs {
		names[s.Name] = s.Where
	}
	for _, s := range a.Folders {
		names[s.Name] = s.Where
	}
	for _, s := range a.Identities {
		names[s.Name] = s.Where
	}
	return names
}

func (d *document) peerGitHub(n node) GitHub {
	// Its first release spelt them after the fields of its program.
	f := n.folded("assigneeUsername", "repositoryOwner", "repositoryName", "authenticationToken", "githubClient",
		"gitHubAssigneeUsername", "gitHubOwnerUsername", "gitHubRepositoryName")
	g := GitHub{Name: "github-issue", Where: d.where(n.line)}
	owner := f.first("repositoryOwner", "gitHubOwnerUsername").required("name the repository's owner")
	repo := f.first("repositoryName", "gitHubRepositoryName").required("name the repository")
	if strings.ContainsAny(owner+repo, "/ \t\r\n") {
		n.fail("%q and %q are not the owner and the name of a repository", owner, repo)
	}
	g.Repository = owner + "/" + repo
	if who := f.first("assigneeUsername", "gitHubAssigneeUsername").text(); who != "" {
		g.Assignees = []string{who}
	}
	g.Secrets.keep(f.first("authenticationToken"), gitHubToken)
	f.unused("githubClient", "it cannot be written in YAML")
	return g
}

// peerSMTP: STARTTLS is mandatory, as there, and so is a certificate that verifies.
// Without a port it is 25, as there.
func (d *document) peerSMTP(n node, e *Email) {
	f := n.folded("recipientEmailAddress", "senderEmailAddress", "senderSMTPUsername", "senderSMTPPassword", "SMTPHostURL", "SMTPCustomOptions")
	e.To = []string{address(f.first("recipientEmailAddress"))}
	e.From = address(f.first("senderEmailAddress"))
	e.TLS = "starttls"
	host := f.first("SMTPHostURL")
	e.Host = host.required("give the mail server's host name")
	if strings.Contains(e.Host, "://") {
		host.fail("%q: give the host alone, such as smtp.example.com, or with a port, such as smtp.example.com:587", e.Host)
	} else if _, _, err := net.SplitHostPort(e.Host); err != nil && e.Host != "" {
		e.Host = net.JoinHostPort(strings.Trim(e.Host, "[]"), "25")
	}
	e.Secrets.keep(f.first("senderSMTPUsername"), smtpUser)
	e.Secrets.keep(f.first("senderSMTPPassword"), smtpPassword)
	f.unused("SMTPCustomOptions", "they cannot be written in YAML; list the sink under alerts for another port or tls: implicit")
}

func (d *document) peerSendGrid(n node, e *Email) {
	f := n.folded("recipientName", "recipientEmailAddress", "senderName", "senderEmailAddress", "sendGridAPIKey")
	e.To = []string{mailbox(f.first("recipientName"), f.first("recipientEmailAddress"))}
	e.From = mailbox(f.first("senderName"), f.first("senderEmailAddress"))
	e.Secrets.keep(f.first("sendGridAPIKey"), sendGridKey)
}

func (d *document) peerMailgun(n node, e *Email) {
	f := n.folded("recipientEmailAddress", "senderEmailAddress", "mailgunAPIKey", "mailgunDomainName")
	e.To = []string{address(f.first("recipientEmailAddress"))}
	e.From = address(f.first("senderEmailAddress"))
	e.Domain = f.first("mailgunDomainName").required("give the sending domain")
	e.Secrets.keep(f.first("mailgunAPIKey"), mailgunKey)
}

// mailbox is an RFC 5322 address with the name before it.
func mailbox(name, addr node) string {
	text := address(addr)
	parsed, err := mail.ParseAddress(text)
	if err != nil || name.text() == "" {
		return text
	}
	if strings.ContainsAny(name.text(), "\r\n") {
		name.fail("%q is not a name: it has a second line", name.text())
		return text
	}
	parsed.Name = name.text()
	return parsed.String()
}

func (d *document) identities(n, format, values node) (Identities, bool) {
	i := Identities{Name: "identities", Values: d.peerValues(values), Where: d.where(n.line)}
	path := n.required("name the file to append findings to")
	if path == "" {
		return i, false
	}
	if format.none() {
		i.JSON = strings.HasSuffix(path, ".json")
	} else {
		i.JSON = format.choice("text", "json") == "json"
	}
	i.Path = d.peerOutput(n)
	return i, i.Path != ""
}

// peerValues are the monitored values by the names of the rules made of them.
func (d *document) peerValues(n node) map[string]PeerValue {
	s := &specs{at: map[string]node{}}
	d.monitoredValues(s, n) // what is wrong with them is said once
	values := map[string]PeerValue{}
	for _, r := range s.rules {
		v := PeerValue{Issuers: texts(r.Issuer)}
		switch {
		case len(r.Extensions) > 0:
			v.Type, v.Extension, v.Values = "oidExtension", r.Extensions[0].Name, texts(r.Extensions[0].Value)
		case len(r.Fingerprint) > 0:
			v.Type, v.Text = "fingerprint", r.Fingerprint[0].Text
		case r.Signer == watch.Certificates:
			v.Type, v.Text = "certIdentity", r.Subject[0].Text
		default:
			v.Type, v.Text = "subject", r.Subject[0].Text
		}
		values[r.Name] = v
	}
	return values
}

func texts(any watch.AnyOf) []string {
	var all []string
	for _, p := range any {
		all = append(all, p.Text)
	}
	return all
}

// folded are a mapping's values by key, whose spelling differs between releases in
// the case of letters. Unknown keys are warnings: rekor-monitor passes over them.
type folded map[string]node

func (n node) folded(known ...string) folded {
	found := folded{}
	for _, e := range n.entries() {
		hit := ""
		for _, name := range known {
			if plainKey(e.name) == plainKey(name) {
				hit = name
			}
		}
		if _, twice := found[hit]; hit == "" || twice {
			n.doc.ignored(e, known)
			continue
		}
		found[hit] = e.node
	}
	for _, name := range known {
		if _, ok := found[name]; !ok {
			found[name] = node{doc: n.doc, key: n.key + "." + name, line: n.line}
		}
	}
	return found
}

// first is the value of the first of keys that has one, else that of the first key.
func (f folded) first(keys ...string) node {
	for _, key := range keys {
		if !f[key].none() {
			return f[key]
		}
	}
	return f[keys[0]]
}

func (f folded) unused(key, why string) {
	if n := f[key]; !n.none() {
		n.warn("it is ignored: %s", why)
	}
}
