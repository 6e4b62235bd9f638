package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// alertsOnly is a configuration of nothing but alerts.
func alertsOnly(email, github string) []byte {
	var b strings.Builder
	b.WriteString("state: s\nalerts:\n")
	if email != "" {
		b.WriteString("  email: {" + email + "}\n")
	}
	if github != "" {
		b.WriteString("  github: {" + github + "}\n")
	}
	return []byte(b.String())
}

func TestGitHubAndMailgunAreReadAsWritten(t *testing.T) {
	got, err := ParseAlerts("/etc/whosigned.yaml", []byte(`
alerts:
  email: {via: mailgun, domain: mg.example.com, from: a@b.c, to: d@e.f, base_url: "https://api.eu.mailgun.net/v3/"}
  github:
  - {repository: acme/alerts, assignee: octocat, labels: security}
  - repository: acme/other.repo
    name: enterprise
    base_url: https://ghe.example.com
    labels: [security, "help wanted"]
    assignee: [octocat, hubot, "copilot[bot]"]
    classes: [tamper, identity]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Alerts{
		Emails: []Email{{Name: "email", Via: "mailgun", From: "a@b.c", To: []string{"d@e.f"}, Domain: "mg.example.com", BaseURL: "https://api.eu.mailgun.net/v3", Where: "/etc/whosigned.yaml:3"}},
		GitHubs: []GitHub{
			{Name: "github", Repository: "acme/alerts", Labels: []string{"security"}, Assignees: []string{"octocat"}, Where: "/etc/whosigned.yaml:5"},
			{Name: "enterprise", Repository: "acme/other.repo", BaseURL: "https://ghe.example.com", Labels: []string{"security", "help wanted"},
				Assignees: []string{"octocat", "hubot", "copilot[bot]"}, Classes: []string{"tamper", "identity"}, Where: "/etc/whosigned.yaml:6"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestErrorsOfGitHubAndMailgunNameLineAndKey(t *testing.T) {
	const mail, hub = "via: mailgun, from: a@b.c, to: d@e.f, domain: mg.b.c", "repository: acme/alerts"
	for _, row := range []struct{ name, email, github, want string }{
		{"no domain", "via: mailgun, from: a@b.c, to: d@e.f", "", "3: alerts.email.domain: missing; give the sending domain, such as mg.example.com"},
		{"a path for a domain", "via: mailgun, from: a@b.c, to: d@e.f, domain: a.b/../x", "", `3: alerts.email.domain: "a.b/../x" is not a domain; write it like mg.example.com`},
		{"Mailgun in the clear", mail + `, base_url: "http://api.mailgun.net/v3"`, "", `3: alerts.email.base_url: "http://api.mailgun.net/v3" would send the key in the clear; use https, as in https://api.eu.mailgun.net/v3`},
		{"Mailgun nowhere", mail + `, base_url: "api.mailgun.net"`, "", `3: alerts.email.base_url: "api.mailgun.net" is not a base URL; write it like https://api.eu.mailgun.net/v3`},
		{"a key in the URL", mail + `, base_url: "https://api:key@api.mailgun.net/v3"`, "", "is not a base URL"},
		{"Mailgun on loopback", mail + `, base_url: "http://127.0.0.1:8080/v3"`, "", ""},
		{"a mail server of Mailgun", mail + `, host: "h:25"`, "", "3: alerts.email.host: only for via: smtp; Mailgun's endpoint is overridden by base_url"},
		{"a domain of SendGrid", "via: sendgrid, from: a@b.c, to: d@e.f, domain: mg.b.c", "", "3: alerts.email.domain: only for via: mailgun; SendGrid's endpoint is overridden by SENDGRID_HOST in the environment"},
		{"a base URL of SMTP", `via: smtp, host: "h:25", from: a@b.c, to: d@e.f, base_url: "https://x.y"`, "", "3: alerts.email.base_url: only for via: mailgun; the mail server is host"},
		{"a key of Mailgun", mail + ", api_key: hunter2", "", "3: alerts.email.api_key: secrets do not belong in the configuration"},
		{"no repository", "", "labels: a", "3: alerts.github.repository: missing; name where to open issues, such as acme/alerts"},
		{"an owner alone", "", "repository: acme", `3: alerts.github.repository: "acme" is not owner/name; write it like acme/alerts`},
		{"a URL for a repository", "", `repository: "https://github.com/acme/alerts"`, "is not owner/name"},
		{"a path up", "", `repository: "acme/../x"`, "is not owner/name"},
		{"a token", "", hub + ", token: ghp_x", "3: alerts.github.token: secrets do not belong in the configuration"},
		{"an unknown key", "", hub + ", assignees: [a]", `3: alerts.github.assignees: unknown key; did you mean "assignee"?`},
		{"a mention", "", hub + `, assignee: "@octocat"`, `3: alerts.github.assignee: "@octocat" is not a GitHub user name; write it like octocat, without @`},
		{"an empty assignee", "", hub + `, assignee: [a, ""]`, "3: alerts.github.assignee[1]: missing; the user name is empty"},
		{"eleven assignees", "", hub + `, assignee: [a, b, c, d, e, f, g, h, i, j, k]`, "3: alerts.github.assignee: 11 assignees; GitHub takes at most 10"},
		{"a label with a comma", "", hub + `, labels: "a,b"`, `3: alerts.github.labels: "a,b" is not a label; use up to 50 characters without commas`},
		{"a long label", "", hub + `, labels: [` + strings.Repeat("é", 51) + `]`, "3: alerts.github.labels[0]: "},
		{"a label that just fits", "", hub + `, labels: [` + strings.Repeat("é", 50) + `]`, ""},
		{"Enterprise in the clear", "", hub + `, base_url: "http://ghe.example.com"`, `3: alerts.github.base_url: "http://ghe.example.com" would send the key in the clear; use https, as in https://ghe.example.com`},
		{"Enterprise that is not", "", hub + `, base_url: "https://GitHub.com/"`, "3: alerts.github.base_url: only for a GitHub Enterprise Server; remove it for github.com"},
		{"Enterprise on loopback", "", hub + `, base_url: "http://localhost:8080"`, ""},
		{"a class", "", hub + `, classes: [all]`, `3: alerts.github.classes[0]: unknown class "all"; use tamper, identity or health`},
		{"a bad name", "", hub + `, name: A B`, `3: alerts.github.name: "A B" is not a name for a sink`},
		{"the mail's name", mail, hub + `, name: email`, `4: alerts.github.name: the sink at line 3 has the name "email" too`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ParseAlerts("c.yaml", alertsOnly(row.email, row.github))
			if row.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			var all *Error
			if !errors.As(err, &all) || len(all.Problems) != 1 || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v\nwant %s alone", err, row.want)
			}
		})
	}
}
