package notify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// alert n of a class, sealed.
func alert(class report.Class, n int) report.Alert {
	a := report.Alert{Class: class, Created: noon, Log: tlog.ID(strings.Repeat("ab", 32)), Origin: "rekor.example.com", From: uint64(n), To: uint64(n) + 10,
		Findings: []watch.Finding{{Rule: "releases", Subject: "releases@acme.com", Index: uint64(n), Kind: "hashedrekord"}}}
	a.Seal()
	return a
}

func alerts(n int) []report.Alert {
	var all []report.Alert
	for i := range n {
		all = append(all, alert(report.ClassIdentity, i))
	}
	return all
}

func message(n int) report.Message {
	return report.Email([]report.Alert{alert(report.ClassIdentity, n)})
}

// env makes a getenv of pairs.
func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(k string) string { return m[k] }
}

// mailTo is a valid SendGrid item.
func mailTo(to ...string) config.Email {
	return config.Email{Via: "sendgrid", From: "Who Signed <alerts@acme.com>", To: to, Where: "whosigned.yaml:7"}
}

// fake is a sink that answers as told, in order, then nil.
type fake struct {
	answers []error
	sent    []report.Message
}

func (f *fake) Name() string            { return "fake" }
func (f *fake) Takes(report.Class) bool { return true }
func (f *fake) Send(_ context.Context, m report.Message) error {
	f.sent = append(f.sent, m)
	if len(f.answers) == 0 {
		return nil
	}
	err := f.answers[0]
	f.answers = f.answers[1:]
	return err
}

// signedAs is an alert of a signature with a subject, sealed.
func signedAs(subject string) report.Alert {
	a := alert(report.ClassIdentity, 1)
	a.Findings[0].Subject = subject
	a.Seal()
	return a
}

func TestAPercentSignBeginsNoNameInAMailButStaysInURLs(t *testing.T) {
	for text, want := range map[string]string{
		"%name%":                          `\u{0025}name%`,
		"%_x%":                            `\u{0025}_x%`,
		"%Recipient.a%":                   `\u{0025}Recipient.a%`,
		"%a%b%c":                          `\u{0025}a\u{0025}b\u{0025}c`,
		"<%asm%>":                         `<\u{0025}asm%>`,
		"ends in %a":                      `ends in \u{0025}a`,
		"%Gü%":                            `\u{0025}Gü%`,
		"https://x.test/%C3%A4pp%2Fa%20b": "https://x.test/%C3%A4pp%2Fa%20b",
		"100 % of 5%, width:100%;":        "100 % of 5%, width:100%;",
		"%":                               "%",
		"%%":                              "%%",
	} {
		if got := unnamed(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	a := alert(report.ClassIdentity, 1)
	a.Findings[0].Link = "https://rekor.acme.test/a%2Fb/%C3%A4?q=%unsubscribe_url%&logIndex=7"
	a.Seal()
	m := report.Email([]report.Alert{a})
	_, text, html := literal(m)
	if want := `href="https://rekor.acme.test/a%2Fb/%C3%A4?q=%25unsubscribe_url%25&amp;logIndex=7"`; !strings.Contains(html, want) {
		t.Errorf("the HTML lacks %s:\n%s", want, html)
	}
	if want := `https://rekor.acme.test/a%2Fb/%C3%A4?q=\u{0025}unsubscribe_url%&logIndex=7`; !strings.Contains(text, want) {
		t.Errorf("the text lacks %s:\n%s", want, text)
	}
	if plain := message(1); strings.Contains(plain.HTML, "%") {
		if _, _, html := literal(plain); html != plain.HTML {
			t.Error("the page of a message without variables is changed")
		}
	} else {
		t.Error("the page has no % any more: this test needs another one")
	}
}

func TestDeliverAcknowledgesExactlyWhatTheSinkDid(t *testing.T) {
	refused := &SendError{Sink: "fake", Err: errors.New("no")}
	down := &SendError{Sink: "fake", Down: true, Err: errors.New("gone")}
	partly := &SendError{Sink: "fake", Delivered: true, Err: errors.New("one mailbox is gone")}
	for name, c := range map[string]struct {
		answers []error
		acked   []int
		sent    int
	}{
		"all taken":                     {nil, []int{0, 1, 2, 3}, 4},
		"one refused, the others go on": {[]error{nil, refused}, []int{0, 2, 3}, 4},
		"down stops early":              {[]error{nil, down}, []int{0}, 2},
		"partly delivered counts":       {[]error{partly, refused}, []int{0, 2, 3}, 4},
		"an unknown error is a refusal": {[]error{errors.New("odd")}, []int{1, 2, 3}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			sink, all := &fake{answers: slices.Clone(c.answers)}, alerts(4)
			acked, err := Deliver(t.Context(), sink, all)
			var want []string
			for _, i := range c.acked {
				want = append(want, all[i].ID)
			}
			if !slices.Equal(acked, want) || len(sink.sent) != c.sent {
				t.Errorf("acked %v after %d messages, want %v after %d", acked, len(sink.sent), want, c.sent)
			}
			if (err != nil) != (len(c.answers) > 0) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestDeliverSendsTheGravestFirst(t *testing.T) {
	sink := &fake{}
	all := []report.Alert{alert(report.ClassHealth, 1), alert(report.ClassIdentity, 2), alert(report.ClassTamper, 3)}
	if _, err := Deliver(t.Context(), sink, all); err != nil {
		t.Fatal(err)
	}
	var got []report.Class
	for _, m := range sink.sent {
		got = append(got, m.Class)
	}
	if !slices.Equal(got, report.Classes()) {
		t.Errorf("sent %v, want %v", got, report.Classes())
	}
}

func TestDeliverMakesOneDigestOfMoreThanFifty(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 50: 50, 51: 1, 300: 1} {
		sink := &fake{}
		acked, err := Deliver(t.Context(), sink, alerts(n))
		if err != nil || len(sink.sent) != want || len(acked) != n {
			t.Errorf("%d alerts: %d messages, %d acked, %v; want %d messages", n, len(sink.sent), len(acked), err, want)
		}
	}
	sink := &fake{answers: []error{&SendError{Err: errors.New("no")}}}
	if acked, err := Deliver(t.Context(), sink, alerts(51)); len(acked) != 0 || err == nil {
		t.Errorf("a refused digest: %d acked, %v", len(acked), err)
	}
}

func TestDeliverSendsNothingOnceItsContextIsDone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sink := &fake{}
	if acked, err := Deliver(ctx, sink, alerts(3)); len(acked) != 0 || len(sink.sent) != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("acked %v, sent %d, %v", acked, len(sink.sent), err)
	}
}

func TestOpenPointsAtWhatIsWrong(t *testing.T) {
	key := env("SENDGRID_API_KEY", "SG.x")
	with := func(change func(*config.Email)) config.Alerts {
		e := mailTo("sec@acme.com")
		change(&e)
		return config.Alerts{Emails: []config.Email{e}}
	}
	smtpTo := func(host, mode string) config.Alerts {
		return with(func(e *config.Email) { e.Via, e.Host, e.TLS = "smtp", host, mode })
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		alerts config.Alerts
		env    func(string) string
		want   string
	}{
		"no key":                {with(func(*config.Email) {}), env(), "set SENDGRID_API_KEY"},
		"key file missing":      {with(func(*config.Email) {}), env("SENDGRID_API_KEY_FILE", "/nowhere"), "/nowhere"},
		"key file empty":        {with(func(*config.Email) {}), env("SENDGRID_API_KEY_FILE", empty), "is empty"},
		"both":                  {with(func(*config.Email) {}), env("SENDGRID_API_KEY", "a", "SENDGRID_API_KEY_FILE", "b"), "unset one"},
		"key with a line end":   {with(func(*config.Email) {}), env("SENDGRID_API_KEY", "a\r\nX: y"), "one line"},
		"host over http":        {with(func(*config.Email) {}), env("SENDGRID_API_KEY", "a", "SENDGRID_HOST", "http://evil.example"), "SENDGRID_HOST"},
		"via":                   {with(func(e *config.Email) { e.Via = "pigeon" }), key, "pigeon"},
		"from injects a header": {with(func(e *config.Email) { e.From = "a@b.c\r\nBcc: d@e.f" }), key, "from"},
		"name injects a header": {with(func(e *config.Email) { e.From = "\"x\r\nBcc: d@e.f\" <a@b.c>" }), key, "from"},
		"encoded line end":      {with(func(e *config.Email) { e.From = "=?utf-8?q?x=0D=0ABcc:_d@e.f?= <a@b.c>" }), key, "from"},
		"encoded override":      {with(func(e *config.Email) { e.From = "=?utf-8?q?x=E2=80=AE?= <a@b.c>" }), key, "from"},
		"to injects a header":   {with(func(e *config.Email) { e.To = []string{"a@b.c>\r\nDATA"} }), key, "to"},
		"quoted local part":     {with(func(e *config.Email) { e.To = []string{`"a> b"@b.c`} }), key, "to"},
		"nobody":                {with(func(e *config.Email) { e.To = nil }), key, "name who gets"},
		"class":                 {with(func(e *config.Email) { e.Classes = []string{"all"} }), key, `class "all"`},
		"no port":               {smtpTo("mail.acme.com", ""), key, "host:port"},
		"port":                  {smtpTo("mail.acme.com:smtp", ""), key, "65535"},
		"plain text elsewhere":  {smtpTo("mail.acme.com:25", "none"), key, "on this machine"},
		"tls":                   {smtpTo("mail.acme.com:25", "maybe"), key, "maybe"},
		"password missing":      {smtpTo("mail.acme.com:587", ""), env("SMTP_USERNAME", "u"), "SMTP_PASSWORD"},
		"two of one name":       {config.Alerts{Emails: []config.Email{mailTo("a@b.c"), mailTo("d@e.f")}}, key, "another name"},
		"folder":                {config.Alerts{Folders: []config.Folder{{Where: "whosigned.yaml:7"}}}, key, "path"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(c.alerts, c.env)
			if err == nil {
				t.Fatal("opened")
			}
			if s := err.Error(); !strings.Contains(s, "whosigned.yaml:7") || !strings.Contains(s, c.want) {
				t.Errorf("%q lacks the place or %q", s, c.want)
			}
		})
	}
}

func TestASinkThatCannotBeOpenedKeepsItsAlertsAndIsDown(t *testing.T) {
	e := mailTo("sec@acme.com")
	e.Classes = []string{"tamper"}
	sinks, err := Open(config.Alerts{Emails: []config.Email{e}, Folders: []config.Folder{{Path: t.TempDir()}}}, env("SENDGRID_API_KEY_FILE", "/nowhere/key"))
	if err == nil || len(sinks) != 2 {
		t.Fatalf("Open returned %d sinks and error %v, want both sinks and what is wrong with one", len(sinks), err)
	}
	mail := sinks[0]
	if mail.Name() != "email" || !mail.Takes(report.ClassTamper) || mail.Takes(report.ClassHealth) {
		t.Errorf("sink %q takes tamper: %v, health: %v; want its own name and classes", mail.Name(), mail.Takes(report.ClassTamper), mail.Takes(report.ClassHealth))
	}
	pending := []report.Alert{alert(report.ClassTamper, 1), alert(report.ClassTamper, 2)}
	acked, err := Deliver(t.Context(), mail, pending)
	var failed *SendError
	if len(acked) != 0 || !errors.As(err, &failed) || !failed.Down || !strings.Contains(err.Error(), "/nowhere/key") {
		t.Errorf("Deliver acknowledged %v with error %v, want nothing, and a sink that is down for its secret", acked, err)
	}
	if acked, err := Deliver(t.Context(), sinks[1], pending); len(acked) != 2 || err != nil {
		t.Errorf("the other sink acknowledged %v with error %v, want both alerts", acked, err)
	}
}

func TestOpenRoutesClassesAndReadsSecretsAfresh(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	getenv := env("SENDGRID_API_KEY_FILE", file)
	for _, key := range []string{"SG.one", "SG.two"} {
		if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		e := mailTo("sec@acme.com", "SEC@acme.com")
		e.Classes = []string{"tamper", "identity"}
		sinks, err := Open(config.Alerts{Emails: []config.Email{e}, Folders: []config.Folder{{Path: t.TempDir()}}}, getenv)
		if err != nil {
			t.Fatal(err)
		}
		mail, dir := sinks[0], sinks[1]
		if got := mail.(*sendGrid); got.key != key || len(got.to) != 1 || mail.Name() != "email" || dir.Name() != "folder" {
			t.Errorf("key %q, to %v, names %s and %s", got.key, got.to, mail.Name(), dir.Name())
		}
		if !mail.Takes(report.ClassTamper) || mail.Takes(report.ClassHealth) || !dir.Takes(report.ClassHealth) {
			t.Error("classes are routed elsewhere")
		}
	}
}
