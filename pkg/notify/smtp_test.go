package notify

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/report"
)

// mailServer is an SMTP server on loopback and a sink that mails through it.
func mailServer(t *testing.T, c notifytest.SMTPConfig, to ...string) (*notifytest.SMTP, Sink) {
	t.Helper()
	server, err := notifytest.NewSMTP(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	e := mailTo(append(to, "sec@acme.com")...)
	e.Via, e.Host, e.TLS = "smtp", server.Addr, c.TLS
	if c.TLS == "" {
		e.TLS = "none"
	}
	getenv := env()
	if c.Username != "" {
		getenv = env("SMTP_USERNAME", "user", "SMTP_PASSWORD", "secret")
	}
	sinks, err := Open(config.Alerts{Emails: []config.Email{e}}, getenv)
	if err != nil {
		t.Fatal(err)
	}
	sink := sinks[0].(*smtp)
	sink.tls.RootCAs = x509.NewCertPool()
	sink.tls.RootCAs.AppendCertsFromPEM(server.CA)
	return server, sink
}

// at makes a Reply that says line at a stage, and nothing at the others.
func at(stage, line string) func(string, string) string {
	return func(s, _ string) string {
		if s == stage {
			return line
		}
		return ""
	}
}

func TestSMTPDeliversInEveryModeOfTLS(t *testing.T) {
	for name, c := range map[string]notifytest.SMTPConfig{
		"plain text on loopback":        {},
		"starttls":                      {TLS: "starttls"},
		"implicit":                      {TLS: "implicit"},
		"starttls with login":           {TLS: "starttls", Username: "user", Password: "secret"},
		"implicit with login":           {TLS: "implicit", Username: "user", Password: "secret"},
		"plain text with login on self": {Username: "user", Password: "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			server, sink := mailServer(t, c)
			if acked, err := Deliver(t.Context(), sink, alerts(2)); err != nil || len(acked) != 2 {
				t.Fatalf("acked %v, %v", acked, err)
			}
			m := server.Mails()[0]
			if m.From != "alerts@acme.com" || !slices.Equal(m.To, []string{"sec@acme.com"}) || m.TLS != (c.TLS != "") || m.User != c.Username {
				t.Errorf("server got from %s to %v, TLS %v, user %q", m.From, m.To, m.TLS, m.User)
			}
			wellFormed(t, m.Data, message(0))
		})
	}
}

// A relay may be Mailgun's or SendGrid's, which replace there what they do in their APIs.
func TestARelayIsGivenNoVariableOutOfALog(t *testing.T) {
	server, sink := mailServer(t, notifytest.SMTPConfig{})
	a := signedAs("<%asm_global_unsubscribe_url%>/%unsubscribe_url%")
	deliver(t, sink, a)
	m := report.Email([]report.Alert{a})
	m.Subject, m.Text, m.HTML = literal(m)
	for part, got := range map[string]string{"subject": m.Subject, "text": m.Text, "HTML": m.HTML} {
		if strings.Contains(got, "%asm") || strings.Contains(got, "%unsub") {
			t.Errorf("the %s holds a variable:\n%s", part, got)
		}
	}
	wellFormed(t, server.Mails()[0].Data, m)
}

func TestSMTPAcknowledgesOnly250AfterTheData(t *testing.T) {
	for name, c := range map[string]struct {
		reply func(string, string) string
		acked bool
		down  bool
		want  string
	}{
		"greeting 554":             {at(notifytest.Connect, "554 5.3.2 go away"), false, true, "go away"},
		"greeting dropped":         {at(notifytest.Connect, notifytest.Drop), false, true, "EOF"},
		"EHLO 421":                 {at(notifytest.EHLO, "421 4.3.2 closing"), false, true, "closing"},
		"MAIL 550":                 {at(notifytest.MailFrom, "550 5.7.1 sender unknown"), false, true, "sender unknown"},
		"MAIL dropped":             {at(notifytest.MailFrom, notifytest.Drop), false, true, "EOF"},
		"RCPT 550":                 {at(notifytest.RcptTo, "550 5.1.1 no such user"), false, false, "no such user"},
		"RCPT 450":                 {at(notifytest.RcptTo, "450 4.2.1 greylisted"), false, false, "greylisted"},
		"RCPT dropped":             {at(notifytest.RcptTo, notifytest.Drop), false, true, "EOF"},
		"DATA 452":                 {at(notifytest.Data, "452 4.3.1 disk full"), false, false, "disk full"},
		"data refused":             {at(notifytest.End, "554 5.7.1 looks like spam"), false, false, "looks like spam"},
		"data deferred":            {at(notifytest.End, "451 4.3.0 try later"), false, false, "try later"},
		"data 421":                 {at(notifytest.End, "421 4.3.0 closing"), false, true, "closing"},
		"dropped after the data":   {at(notifytest.End, notifytest.Drop), false, true, "EOF"},
		"taken but never said":     {at(notifytest.End, notifytest.AcceptDrop), false, true, "EOF"},
		"acknowledged, RSET fails": {at(notifytest.Reset, "500 5.5.1 what"), true, false, ""},
		"acknowledged, RSET drops": {at(notifytest.Reset, notifytest.Drop), true, false, ""},
		"acknowledged, QUIT drops": {at(notifytest.Quit, notifytest.Drop), true, false, ""},
		"garbage for a reply":      {at(notifytest.End, "hello?"), false, true, "hello?"},
	} {
		t.Run(name, func(t *testing.T) {
			_, sink := mailServer(t, notifytest.SMTPConfig{Reply: c.reply})
			err := sink.Send(t.Context(), message(0))
			if c.acked {
				if err != nil {
					t.Fatalf("acknowledged, but: %v", err)
				}
				return
			}
			var failed *SendError
			if !errors.As(err, &failed) || failed.Down != c.down || failed.Delivered || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q, down %v", err, c.want, c.down)
			}
		})
	}
}

func TestOneDeadMailboxDoesNotKeepAnAlertFromTheOthers(t *testing.T) {
	refuse := func(line string, who ...string) func(string, string) string {
		return func(stage, arg string) string {
			for _, w := range who {
				if stage == notifytest.RcptTo && strings.Contains(arg, w) {
					return line
				}
			}
			return ""
		}
	}
	for name, c := range map[string]struct {
		reply     func(string, string) string
		got       []string
		acked     bool
		delivered bool
	}{
		"gone for good":           {refuse("550 5.1.1 gone", "cto@"), []string{"sec@acme.com"}, true, true},
		"not now: asked again":    {refuse("450 4.2.1 later", "cto@"), []string{"sec@acme.com"}, false, false},
		"both gone":               {refuse("550 5.1.1 gone", "cto@", "sec@"), nil, false, false},
		"nobody refused any more": {once(notifytest.RcptTo, "451 4.3.0 busy"), []string{"cto@acme.com", "sec@acme.com"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			server, sink := mailServer(t, notifytest.SMTPConfig{Reply: c.reply}, "cto@acme.com")
			acked, err := Deliver(t.Context(), sink, alerts(1))
			var got []string
			for _, m := range server.Mails() {
				got = append(got, m.To...)
			}
			if !slices.Equal(got, c.got) || (len(acked) == 1) != c.acked {
				t.Errorf("delivered to %v, acked %v, %v; want %v, %v", got, acked, err, c.got, c.acked)
			}
			var failed *SendError
			if errors.As(err, &failed) && (failed.Delivered != c.delivered || !strings.Contains(err.Error(), "cto@acme.com")) {
				t.Errorf("error %v, want it to name cto@acme.com and delivered %v", err, c.delivered)
			}
		})
	}
}

// once says line the first time a stage is reached.
func once(stage, line string) func(string, string) string {
	said := false
	return func(s, _ string) string {
		if s == stage && !said {
			said = true
			return line
		}
		return ""
	}
}

func TestSMTPSendsNothingWithoutTheTLSAndLoginItWants(t *testing.T) {
	for name, c := range map[string]struct {
		server notifytest.SMTPConfig
		change func(*smtp)
		want   string
	}{
		"STARTTLS not offered":   {notifytest.SMTPConfig{}, func(s *smtp) { s.mode = "starttls" }, "STARTTLS"},
		"STARTTLS refused":       {notifytest.SMTPConfig{TLS: "starttls", Reply: at(notifytest.StartTLS, "454 4.7.0 no")}, func(*smtp) {}, "454"},
		"certificate of others":  {notifytest.SMTPConfig{TLS: "starttls"}, func(s *smtp) { s.tls.RootCAs = x509.NewCertPool() }, "certificate"},
		"certificate, implicit":  {notifytest.SMTPConfig{TLS: "implicit"}, func(s *smtp) { s.tls.RootCAs = x509.NewCertPool() }, "certificate"},
		"wrong password":         {notifytest.SMTPConfig{TLS: "starttls", Username: "user", Password: "other"}, func(*smtp) {}, "535"},
		"server wants a login":   {notifytest.SMTPConfig{TLS: "starttls", Username: "user", Password: "x"}, func(s *smtp) { s.user = "" }, "Authentication required"},
		"no login to be had":     {notifytest.SMTPConfig{TLS: "starttls"}, func(s *smtp) { s.user, s.pass = "user", "secret" }, "AUTH"},
		"nobody is listening":    {notifytest.SMTPConfig{}, func(s *smtp) { s.port = 1 }, "refused"},
		"TLS where none is":      {notifytest.SMTPConfig{}, func(s *smtp) { s.mode = "implicit" }, "tls"},
		"no TLS where it is all": {notifytest.SMTPConfig{TLS: "implicit", Reply: at(notifytest.Connect, notifytest.Drop)}, func(*smtp) {}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			server, sink := mailServer(t, c.server)
			c.change(sink.(*smtp))
			acked, err := Deliver(t.Context(), sink, alerts(3))
			var failed *SendError
			if !errors.As(err, &failed) || !failed.Down || len(acked) > 0 || len(server.Mails()) > 0 || server.Sessions() > 1 {
				t.Fatalf("acked %v in %d sessions, %v", acked, server.Sessions(), err)
			}
			if s := err.Error(); !strings.Contains(s, c.want) || strings.Contains(s, "secret") {
				t.Errorf("%q lacks %q, or tells the password", s, c.want)
			}
		})
	}
}

func TestSMTPServerThatHangsIsLeftWhenTheContextEnds(t *testing.T) {
	for _, stage := range []string{notifytest.Connect, notifytest.EHLO, notifytest.RcptTo, notifytest.End} {
		t.Run(stage, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			_, sink := mailServer(t, notifytest.SMTPConfig{Reply: func(s, _ string) string {
				if s == stage {
					cancel()
					<-t.Context().Done()
				}
				return ""
			}})
			begin := time.Now()
			if err := sink.Send(ctx, message(0)); !errors.Is(err, context.Canceled) || time.Since(begin) > smtpTimeout/2 {
				t.Errorf("got %v after %v, want context canceled at once", err, time.Since(begin))
			}
		})
	}
}

// wellFormed checks data against RFC 5322 and MIME with the standard library, and
// that it is m.
func wellFormed(t *testing.T, data []byte, m report.Message) {
	t.Helper()
	for line := range strings.Lines(strings.ReplaceAll(string(data), "\r\n", "\n")) {
		if len(line) > 999 || strings.Contains(line, "\r") {
			t.Fatalf("line of %d bytes", len(line))
		}
	}
	msg, err := mail.ReadMessage(strings.NewReader(string(data)))
	if err != nil {
		t.Fatalf("not RFC 5322: %v", err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil || subject != m.Subject {
		t.Errorf("Subject %q, %v; want %q", subject, err, m.Subject)
	}
	if got := msg.Header.Get("Message-Id"); !strings.HasPrefix(got, "<"+m.ID+"@") || msg.Header.Get("X-Whosigned-Alert") != m.ID || msg.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("headers %v", msg.Header)
	}
	for _, once := range []string{"From", "Subject", "Date", "Message-Id", "Mime-Version", "Content-Type"} {
		if n := len(msg.Header[once]); n != 1 {
			t.Errorf("%d headers %s", n, once)
		}
	}
	if _, ok := msg.Header["Bcc"]; ok {
		t.Error("a Bcc header got in")
	}
	if d, err := msg.Header.Date(); err != nil || d.Before(noon.Add(-365*24*time.Hour)) {
		t.Errorf("Date %v, %v", d, err)
	}
	mediaType, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/alternative" {
		t.Fatalf("Content-Type %s, %v", mediaType, err)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for _, want := range []struct{ mediaType, body string }{{"text/plain", m.Text}, {"text/html", m.HTML}} {
		p, err := parts.NextRawPart()
		if err != nil {
			t.Fatalf("no %s: %v", want.mediaType, err)
		}
		got, err := io.ReadAll(quotedprintable.NewReader(p))
		body := strings.ReplaceAll(string(got), "\r\n", "\n")
		if err != nil || !strings.HasPrefix(p.Header.Get("Content-Type"), want.mediaType) || strings.TrimRight(body, "\n") != strings.TrimRight(want.body, "\n") {
			t.Errorf("part %s, %v, is\n%s\nwant\n%s", p.Header.Get("Content-Type"), err, body, want.body)
		}
	}
	if _, err := parts.NextRawPart(); err != io.EOF {
		t.Errorf("a third part: %v", err)
	}
}
