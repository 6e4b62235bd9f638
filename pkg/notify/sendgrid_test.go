package notify

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/report"
)

// standIn is a SendGrid on loopback and a sink that mails through it.
func standIn(t *testing.T) (*notifytest.SendGrid, Sink) {
	t.Helper()
	api := &notifytest.SendGrid{Key: "SG.test"}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	sinks, err := Open(config.Alerts{Emails: []config.Email{mailTo("Sec Team <sec@acme.com>", "cto@acme.com")}},
		env("SENDGRID_API_KEY", "SG.test", "SENDGRID_HOST", server.URL+"/"))
	if err != nil {
		t.Fatal(err)
	}
	return api, sinks[0]
}

func TestSendGridTakesOurMessages(t *testing.T) {
	api, sink := standIn(t)
	all := alerts(2)
	all[0].Findings[0].Subject = "x\r\nBcc: evil@evil.example\r\n\r\n<script>\x00\u202e"
	all[0].Seal()
	if acked, err := Deliver(t.Context(), sink, all); err != nil || len(acked) != 2 {
		t.Fatalf("acked %v, %v", acked, err)
	}
	m := api.Mails()[0]
	want := report.Email(all[:1])
	if m.From != "alerts@acme.com" || strings.Join(m.To, " ") != "sec@acme.com cto@acme.com" || m.Subject != want.Subject || m.Text != want.Text || m.HTML != want.HTML {
		t.Errorf("SendGrid got %+v", m)
	}
	if m.Headers["Message-ID"] != "<"+all[0].ID+"@acme.com>" || m.Headers["X-Whosigned-Alert"] != all[0].ID || m.CustomArgs["alert_id"] != all[0].ID || m.CustomArgs["alert_class"] != "identity" {
		t.Errorf("a repeat could not be recognised: %v, %v", m.Headers, m.CustomArgs)
	}
}

func TestSendGridIsGivenNoTagOutOfALog(t *testing.T) {
	for _, tag := range []string{"<%asm_global_unsubscribe_url%>", "<%asm_global_unsubscribe_raw_url%>", "<%asm_group_unsubscribe_raw_url%>", "<%asm_preferences_raw_url%>"} {
		api, sink := standIn(t)
		deliver(t, sink, signedAs("https://github.com/acme/"+tag))
		m := api.Mails()[0]
		for part, got := range map[string]string{"subject": m.Subject, "text": m.Text, "HTML": m.HTML} {
			if strings.Contains(got, tag) || strings.Contains(got, tag[1:len(tag)-1]) {
				t.Errorf("the %s holds SendGrid's tag %s:\n%s", part, tag, got)
			}
		}
		if want := `<\u{0025}` + tag[2:]; !strings.Contains(m.Text, want) {
			t.Errorf("the text does not say who signed, as %s:\n%s", want, m.Text)
		}
	}
}

func TestSendGridTakesTheLargestDigest(t *testing.T) {
	api, sink := standIn(t)
	var all []report.Alert
	for i := range 80 {
		a := alert(report.ClassIdentity, i)
		f := a.Findings[0]
		f.Subject, f.Issuer = strings.Repeat("/<", 1<<11), strings.Repeat("\u202e", 1<<11)
		for range 60 {
			a.Findings = append(a.Findings, f)
		}
		a.Seal()
		all = append(all, a)
	}
	if acked, err := Deliver(t.Context(), sink, all); err != nil || len(acked) != 80 || len(api.Mails()) != 1 {
		t.Errorf("%d acked in %d messages, %v", len(acked), len(api.Mails()), err)
	}
}

func TestOnly202IsAnAcknowledgement(t *testing.T) {
	sendGridSays := func(message, field string) string {
		return notifytest.ErrorBody(message, field, "http://sendgrid.com/docs")
	}
	for name, c := range map[string]struct {
		answer notifytest.Answer
		down   bool
		want   string
	}{
		"200, as in sandbox mode": {notifytest.Answer{Status: 200}, true, "answered 200"},
		"204":                     {notifytest.Answer{Status: 204}, true, "answered 204"},
		"redirect":                {notifytest.Answer{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, true, "answered 307"},
		"400":                     {notifytest.Answer{Status: 400, Body: sendGridSays("The subject is\x1b[2J required", "subject")}, false, `The subject is\u{001b}[2J required (field subject), see http://sendgrid.com/docs`},
		"413":                     {notifytest.Answer{Status: 413, Body: sendGridSays("too large", "")}, false, "too large"},
		"401":                     {notifytest.Answer{Status: 401, Body: sendGridSays("The provided authorization grant is invalid, expired, or revoked", "")}, true, "check SENDGRID_API_KEY"},
		"403":                     {notifytest.Answer{Status: 403, Body: sendGridSays("The from address does not match a verified Sender Identity", "from")}, true, "verified Sender Identity (field from)"},
		"an error page":           {notifytest.Answer{Status: 404, Body: "<html>" + strings.Repeat("x", 1<<20)}, true, "404 Not Found: <html>xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			api, sink := standIn(t)
			api.Always(&c.answer)
			acked, err := Deliver(t.Context(), sink, alerts(2))
			var failed *SendError
			var answer *SendGridError
			if !errors.As(err, &failed) || !errors.As(err, &answer) || failed.Down != c.down || len(acked) != 0 || len(api.Mails()) != 0 {
				t.Fatalf("acked %v, error %v", acked, err)
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SG.test") {
				t.Errorf("error %q lacks %q, or tells the key", err, c.want)
			}
			if want := map[bool]int{true: 1, false: 2}[c.down]; api.Requests() != want {
				t.Errorf("%d requests, want %d", api.Requests(), want)
			}
		})
	}
}

// inMemory is a RoundTripper that needs no network, so that time in a synctest
// bubble moves on.
type inMemory struct{ http.Handler }

func (h inMemory) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("connection reset")
		}
	}()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestSendGridIsAskedAgainAsItWants(t *testing.T) {
	for name, c := range map[string]struct {
		answers []notifytest.Answer
		waited  time.Duration
		tries   int
		acked   bool
	}{
		"429 with Retry-After":            {[]notifytest.Answer{{Status: 429, Header: http.Header{"Retry-After": {"7"}}}}, 7 * time.Second, 2, true},
		"429 with a date":                 {[]notifytest.Answer{{Status: 429, Header: http.Header{"Retry-After": {"Sat, 01 Jan 2000 00:00:20 GMT"}}}}, 20 * time.Second, 2, true},
		"429 with X-RateLimit-Reset":      {[]notifytest.Answer{{Status: 429, Header: http.Header{"X-Ratelimit-Reset": {"946684809"}}}}, 9 * time.Second, 2, true},
		"500 without a word":              {[]notifytest.Answer{{Status: 500}, {Status: 503}}, 3 * time.Second, 3, true},
		"disconnected":                    {[]notifytest.Answer{{Disconnect: true}}, time.Second, 2, true},
		"taken, but we did not hear it":   {[]notifytest.Answer{{Disconnect: true, Accept: true}}, time.Second, 2, true},
		"for good":                        {[]notifytest.Answer{{Status: 500}, {Status: 500}, {Status: 500}, {Status: 500}}, 7 * time.Second, 4, false},
		"asked to wait too long":          {[]notifytest.Answer{{Status: 429, Header: http.Header{"Retry-After": {"3600"}}}}, 0, 1, false},
		"asked to wait longer than 2^63":  {[]notifytest.Answer{{Status: 429, Header: http.Header{"X-Ratelimit-Reset": {"9223372036854775807"}}}}, 0, 1, false},
		"refused for good after 500":      {[]notifytest.Answer{{Status: 500}, {Status: 400}}, time.Second, 2, false},
		"asked to wait by no known words": {[]notifytest.Answer{{Status: 429, Header: http.Header{"Retry-After": {"soon"}}}}, time.Second, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &notifytest.SendGrid{}
				api.Next(c.answers...)
				sinks, err := Open(config.Alerts{Emails: []config.Email{mailTo("sec@acme.com")}}, env("SENDGRID_API_KEY", "SG.x"))
				if err != nil {
					t.Fatal(err)
				}
				sinks[0].(*sendGrid).client.HTTPClient.Transport = limited{inMemory{api}, maxAnswer}
				begin := time.Now()
				err = sinks[0].Send(t.Context(), message(1))
				if waited := time.Since(begin); waited != c.waited || api.Requests() != c.tries || (err == nil) != c.acked {
					t.Errorf("waited %v for %d tries, %v; want %v, %d, acknowledged %v", waited, api.Requests(), err, c.waited, c.tries, c.acked)
				}
				for _, m := range api.Mails() {
					if m.CustomArgs["alert_id"] != message(1).ID {
						t.Errorf("a repeat has the ID %s", m.CustomArgs["alert_id"])
					}
				}
			})
		})
	}
}

func TestSendGridThatNeverAnswersIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sinks, err := Open(config.Alerts{Emails: []config.Email{mailTo("sec@acme.com")}}, env("SENDGRID_API_KEY", "SG.x"))
		if err != nil {
			t.Fatal(err)
		}
		sinks[0].(*sendGrid).client.HTTPClient.Transport = hanging{}
		begin := time.Now()
		var failed *SendError
		if err := sinks[0].Send(t.Context(), message(1)); !errors.As(err, &failed) || !failed.Down {
			t.Errorf("got %v, want the sink down", err)
		}
		if d := time.Since(begin); d > 3*time.Minute {
			t.Errorf("gave up after %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if err := sinks[0].Send(ctx, message(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("with a deadline of 1s: %v after %v", err, time.Since(begin))
		}
	})
}

func TestSendGridsEndlessAnswerIsCutOff(t *testing.T) {
	const most = 64 << 20
	written := make(chan int, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		total, chunk := 0, make([]byte, 1<<16)
		for total < most {
			n, err := w.Write(chunk)
			total += n
			if err != nil {
				break
			}
		}
		written <- total
	}))
	defer server.Close()
	sinks, err := Open(config.Alerts{Emails: []config.Email{mailTo("sec@acme.com")}}, env("SENDGRID_API_KEY", "SG.x", "SENDGRID_HOST", server.URL))
	if err != nil {
		t.Fatal(err)
	}
	var answer *SendGridError
	if err := sinks[0].Send(t.Context(), message(1)); !errors.As(err, &answer) || len(err.Error()) > 4096 {
		t.Errorf("got %.200v", err)
	}
	if n := <-written; n >= most {
		t.Errorf("all %d bytes of the answer were read", n)
	}
}

// hanging answers when its request is over.
type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestNoMessageLeavesThatWasNotMadeOfSealedAlerts(t *testing.T) {
	from := mail.Address{Address: "a@b.c"}
	dir := t.TempDir()
	for _, sink := range []Sink{&sendGrid{from: from}, &smtp{from: from}, &folder{path: dir}} {
		for _, m := range []report.Message{{}, {ID: "../../x", Class: report.ClassHealth}, {ID: strings.Repeat("a", 32), Class: "x/../y"}, {ID: strings.Repeat("a", 30) + "\r\n", Class: report.ClassHealth}} {
			var failed *SendError
			if err := sink.Send(t.Context(), m); !errors.As(err, &failed) || failed.Down {
				t.Errorf("%T sent %q of class %q: %v", sink, m.ID, m.Class, err)
			}
		}
	}
}
