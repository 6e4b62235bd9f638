package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const withoutAlerts = "state: s\nlogs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\n"

// peerSinkKeys are rekor-monitor's sinks with every key that they have.
const peerSinkKeys = `
githubIssue:
  assigneeUsername: carol
  repositoryOwner: acme
  repositoryName: alerts
  authenticationToken: hunter2-token
emailNotificationSMTP:
  recipientEmailAddress: security@acme.example
  senderEmailAddress: monitor@acme.example
  senderSMTPUsername: hunter2-user
  senderSMTPPassword: hunter2-password
  SMTPHostURL: smtp.acme.example
emailNotificationMailgun:
  recipientEmailAddress: security@acme.example
  senderEmailAddress: monitor@acme.example
  mailgunAPIKey: hunter2-mailgun
  mailgunDomainName: mg.acme.example
emailNotificationSendGrid:
  recipientName: Security
  recipientEmailAddress: security@acme.example
  senderName: Monitor, the
  senderEmailAddress: monitor@acme.example
  sendGridAPIKey: hunter2-sendgrid
`

const peerSinksWant = `github-issue acme/alerts [carol]
email-smtp smtp monitor@acme.example [security@acme.example] smtp.acme.example:25 starttls ""
email-sendgrid sendgrid "Monitor, the" <monitor@acme.example> ["Security" <security@acme.example>]   ""
email-mailgun mailgun monitor@acme.example [security@acme.example]   "mg.acme.example"`

func sinks(a Alerts) string {
	var all []string
	for _, g := range a.GitHubs {
		all = append(all, fmt.Sprintf("%s %s %s", g.Name, g.Repository, g.Assignees))
	}
	for _, e := range a.Emails {
		all = append(all, fmt.Sprintf("%s %s %s %s %s %s %q", e.Name, e.Via, e.From, e.To, e.Host, e.TLS, e.Domain))
	}
	return strings.Join(all, "\n")
}

func TestRekorMonitorsSinksAreSinksInEverySpelling(t *testing.T) {
	lower := func(s string) string { // as yaml names a field that has no tag
		var lines []string
		for line := range strings.Lines(s) {
			key, value, _ := strings.Cut(line, ":")
			if strings.HasPrefix(key, " ") {
				key = strings.ToLower(key)
			}
			lines = append(lines, key+":"+value)
		}
		return strings.Join(lines, "")
	}
	first := strings.NewReplacer("assigneeUsername", "githubassigneeusername", "repositoryOwner", "githubownerusername", "repositoryName", "githubrepositoryname")
	for name, text := range map[string]string{
		"as documented": peerSinkKeys,
		"gitHubIssue":   strings.Replace(peerSinkKeys, "githubIssue", "gitHubIssue", 1),
		"lower case":    lower(strings.TrimPrefix(peerSinkKeys, "\n")),
		"the first":     first.Replace(peerSinkKeys),
		"a port":        strings.Replace(peerSinkKeys, "smtp.acme.example", "smtp.acme.example:25", 1),
	} {
		cfg := load(t, folder(t), someLogs+"monitoredValues: {subjects: [a]}\n"+text)
		if got := sinks(cfg.Alerts); got != peerSinksWant {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, peerSinksWant)
		}
		if strings.Contains(strings.Join(cfg.Warnings, "\n"), "unknown key") {
			t.Errorf("%s: got warnings\n%s\nwant no key unknown", name, after(cfg))
		}
	}
}

func TestSecretsInARekorMonitorFileAreUsedUnlessTheEnvironmentHasThem(t *testing.T) {
	cfg := load(t, folder(t), someLogs+"monitoredValues: {subjects: [a]}"+peerSinkKeys)
	all := []Secrets{cfg.Alerts.GitHubs[0].Secrets}
	for _, e := range cfg.Alerts.Emails {
		all = append(all, e.Secrets)
	}
	look := func(getenv func(string) string) map[string]string {
		got := map[string]string{}
		for _, s := range all {
			for _, name := range []string{"SENDGRID_API_KEY", "MAILGUN_API_KEY", "SMTP_USERNAME", "SMTP_PASSWORD", "GITHUB_TOKEN", "OTHER"} {
				if value := s.Or(getenv)(name); value != "" {
					got[name] = value
				}
			}
		}
		return got
	}
	want := map[string]string{"GITHUB_TOKEN": "hunter2-token", "SMTP_USERNAME": "hunter2-user", "SMTP_PASSWORD": "hunter2-password",
		"MAILGUN_API_KEY": "hunter2-mailgun", "SENDGRID_API_KEY": "hunter2-sendgrid"}
	if got := look(func(string) string { return "" }); !reflect.DeepEqual(got, want) {
		t.Errorf("an empty environment: got %v, want %v", got, want)
	}
	env := map[string]string{"SENDGRID_API_KEY": "rotated", "SMTP_PASSWORD_FILE": "/run/secrets/smtp"}
	want["SENDGRID_API_KEY"] = "rotated"
	delete(want, "SMTP_PASSWORD") // the file has it
	if got := look(func(name string) string { return env[name] }); !reflect.DeepEqual(got, want) {
		t.Errorf("an environment: got %v, want %v", got, want)
	}

	warned := 0
	for _, w := range cfg.Warnings {
		if strings.Contains(w, "it is used unless ") {
			warned++
		}
	}
	if warned != 5 {
		t.Errorf("got %d warnings of secrets, want 5:\n%s", warned, after(cfg))
	}
	encoded, err := json.Marshal(cfg.Alerts)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secrets", all[0], "alerts", cfg.Alerts)
	for name, text := range map[string]string{
		"warnings": after(cfg), "%v": fmt.Sprintf("%v", cfg), "%+v": fmt.Sprintf("%+v", *cfg), "%#v": fmt.Sprintf("%#v", cfg.Alerts),
		"%s": fmt.Sprintf("%s", all[0]), "JSON": string(encoded), "log": logged.String(),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s shows a secret:\n%s", name, text)
		}
	}
}

func TestASinkOfRekorMonitorsThatCouldNotSendIsPointedAt(t *testing.T) {
	dir := folder(t)
	for _, tc := range []struct{ text, want string }{
		{"githubIssue: {repositoryOwner: acme, repositoryName: a/b}", `c.yaml:5: githubIssue: "acme" and "a/b" are not the owner and the name of a repository`},
		{"githubIssue: {repositoryName: a}", "c.yaml:5: githubIssue.repositoryOwner: missing; name the repository's owner"},
		{"emailNotificationSMTP: {recipientEmailAddress: a@b.c, senderEmailAddress: a@b.c, SMTPHostURL: \"https://smtp.acme.example\"}",
			`c.yaml:5: emailNotificationSMTP.SMTPHostURL: "https://smtp.acme.example": give the host alone, such as smtp.example.com, or with a port, such as smtp.example.com:587`},
		{"emailNotificationMailgun: {recipientEmailAddress: a@b.c, senderEmailAddress: a, mailgunAPIKey: k}",
			"c.yaml:5: emailNotificationMailgun.senderEmailAddress: \"a\" is not an email address; write it like security@example.com\n" +
				"c.yaml:5: emailNotificationMailgun.mailgunDomainName: missing; give the sending domain"},
		{"emailNotificationSendGrid: {recipientName: \"a\\nBcc: x@y.z\", recipientEmailAddress: a@b.c, senderEmailAddress: a@b.c}",
			`c.yaml:5: emailNotificationSendGrid.recipientName: "a\nBcc: x@y.z" is not a name: it has a second line`},
		{"outputIdentities: a.txt\noutputIdentitiesFormat: xml", `c.yaml:6: outputIdentitiesFormat: "xml" is not one of text, json`},
		{"# with another\nalerts: {email: {name: email-smtp, via: sendgrid, from: a@b.c, to: a@b.c}}\nemailNotificationSMTP: {recipientEmailAddress: a@b.c, senderEmailAddress: a@b.c, SMTPHostURL: h}",
			"c.yaml:7: the sink here is named \"email-smtp\", and so is the one at c.yaml:6; give that one another name"},
	} {
		_, err := Parse(filepath.Join(dir, "c.yaml"), []byte(withoutAlerts+"#\nmonitoredValues: {subjects: [a]}\n"+tc.text+"\n"))
		got := "nothing wrong"
		var invalid *Error
		if errors.As(err, &invalid) {
			got = strings.ReplaceAll(err.Error(), dir+"/", "")
		}
		if got != tc.want {
			t.Errorf("%s\ngot  %s\nwant %s", tc.text, got, tc.want)
		}
	}
}

func TestOutputIdentitiesIsASinkWhoseFormatFollowsTheFilesName(t *testing.T) {
	dir := folder(t)
	for _, tc := range []struct {
		text string
		json bool
	}{
		{"outputIdentities: ids.txt", false}, {"outputIdentities: ids.json", true}, {"outputIdentities: ids", false},
		{"outputIdentities: ids.json\noutputIdentitiesFormat: text", false}, {"outputIdentities: ids.txt\noutputIdentitiesFormat: json", true},
	} {
		cfg := load(t, dir, withoutAlerts+"monitoredValues: {subjects: [a]}\n"+tc.text+"\n")
		if len(cfg.Alerts.Identities) != 1 || cfg.Alerts.Identities[0].JSON != tc.json || filepath.Dir(cfg.Alerts.Identities[0].Path) != dir {
			t.Errorf("%s: got %+v, want JSON %v in %s", tc.text, cfg.Alerts.Identities, tc.json, dir)
		}
		if !strings.Contains(after(cfg), "nobody will be told: outputIdentities is a file") || strings.Contains(after(cfg), "there is no sink") {
			t.Errorf("%s: got warnings\n%s\nwant one that a file tells nobody", tc.text, after(cfg))
		}
	}
}

func TestOutputIdentitiesKnowsWhatEachRuleStandsFor(t *testing.T) {
	cfg := load(t, folder(t), someLogs+`outputIdentities: a.txt
watch: [{name: own, subject: {exact: a}}]
monitoredValues:
  certIdentities: [{certSubject: s, issuers: [i, j]}]
  subjects: [k]
  fingerprints: [f]
  oidMatchers: {fulcioExtensions: {issuer: [v, w]}}
`)
	want := map[string]PeerValue{
		"certSubject s of i or j": {Type: "certIdentity", Text: "s", Issuers: []string{"i", "j"}},
		"subject k":               {Type: "subject", Text: "k"},
		"fingerprint f":           {Type: "fingerprint", Text: "f"},
		"extension issuer v or w": {Type: "oidExtension", Extension: "issuer", Values: []string{"v", "w"}},
	}
	if got := cfg.Alerts.Identities[0].Values; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRekorMonitorsSinksAreToldOfAConfigurationThatCannotBeUsed(t *testing.T) {
	_, err := Parse(filepath.Join(folder(t), "c.yaml"), []byte("monitoredValues: {subjects: [\"(\"]}\noutputIdentities: a.txt"+peerSinkKeys))
	var invalid *Error
	if !errors.As(err, &invalid) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if got := sinks(invalid.Alerts); got != peerSinksWant {
		t.Errorf("got sinks\n%s\nwant\n%s", got, peerSinksWant)
	}
}
