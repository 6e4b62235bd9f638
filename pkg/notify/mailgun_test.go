package notify

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/report"
)

// viaMailgun is a Mailgun item.
func viaMailgun(base string, to ...string) config.Alerts {
	return config.Alerts{Emails: []config.Email{{Via: "mailgun", Domain: "mg.acme.test", BaseURL: base, From: "Who Signed <alerts@acme.com>", To: to, Where: "whosigned.yaml:7"}}}
}

// onMailgun runs a test in a synctest bubble, with a stand-in for Mailgun and a sink
// that mails through it.
func onMailgun(t *testing.T, test func(t *testing.T, api *notifytest.Mailgun, sink Sink)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		api := &notifytest.Mailgun{Key: "key-test", Domain: "mg.acme.test"}
		sinks, err := Open(viaMailgun("", "Sec Team <sec@acme.com>", "cto@acme.com"), env("MAILGUN_API_KEY", "key-test"))
		if err != nil {
			t.Fatal(err)
		}
		sinks[0].(*mailgunSink).client.Client().Transport = overheard{limited{inMemory{api}, maxAnswer}}
		test(t, api, sinks[0])
	})
}

func TestMailgunTakesOurMessages(t *testing.T) {
	onMailgun(t, func(t *testing.T, api *notifytest.Mailgun, sink Sink) {
		all := alerts(2)
		all[0].Findings[0].Subject = "x\r\nBcc: evil@evil.example\r\n\r\n<script>\x00\u202e"
		all[0].Seal()
		deliver(t, sink, all...)
		m, want := api.Mails()[0], report.Email(all[:1])
		if m.From != "alerts@acme.com" || strings.Join(m.To, " ") != "sec@acme.com cto@acme.com" || m.Subject != want.Subject || m.Text != want.Text || m.HTML != want.HTML {
			t.Errorf("Mailgun got %+v", m)
		}
		if m.Headers["Message-Id"] != "<"+all[0].ID+"@acme.com>" || m.Headers["X-Whosigned-Alert"] != all[0].ID {
			t.Errorf("a repeat could not be recognised: %v", m.Headers)
		}
		for _, tracking := range []string{"o:tracking", "o:tracking-clicks", "o:tracking-opens"} {
			if m.CustomArgs[tracking] != "no" {
				t.Errorf("%s is %q, want no", tracking, m.CustomArgs[tracking])
			}
		}
	})
}

func TestMailgunReplacesNothingInWhatALogSays(t *testing.T) {
	for name, shown := range map[string]string{
		"%unsubscribe_url%":              `\u{0025}unsubscribe_url%`,
		"%tag_unsubscribe_url%":          `\u{0025}tag_unsubscribe_url%`,
		"%mailing_list_unsubscribe_url%": `\u{0025}mailing_list_unsubscribe_url%`,
		"%unsubscribe_email%":            `\u{0025}unsubscribe_email%`,
		"%a%unsubscribe_url%":            `\u{0025}a\u{0025}unsubscribe_url%`,
		"%C3%unsubscribe_url%":           `%C3\u{0025}unsubscribe_url%`,
		"%%unsubscribe_url%%":            `%\u{0025}unsubscribe_url%%`,
	} {
		onMailgun(t, func(t *testing.T, api *notifytest.Mailgun, sink Sink) {
			deliver(t, sink, signedAs("https://github.com/acme/"+name))
			m := api.Mails()[0]
			for part, got := range map[string]string{"subject": m.Subject, "text": m.Text, "HTML": m.HTML} {
				if strings.Contains(got, notifytest.UnsubscribeLink) {
					t.Errorf("%s: the %s has a link that puts off whoever follows it:\n%s", name, part, got)
				}
				if want := "https://github.com/acme/" + shown; !strings.Contains(strings.ReplaceAll(got, "<wbr>", ""), want) {
					t.Errorf("the %s does not say who signed, as %s:\n%s", part, want, got)
				}
			}
		})
	}
}

func TestMailgunTakesTheLargestDigest(t *testing.T) {
	onMailgun(t, func(t *testing.T, api *notifytest.Mailgun, sink Sink) {
		var all []report.Alert
		for i := range 60 {
			a := alert(report.ClassIdentity, i)
			a.Findings[0].Issuer = strings.Repeat("\u202e", 1<<11)
			a.Findings = slices.Repeat(a.Findings, 60)
			a.Seal()
			all = append(all, a)
		}
		deliver(t, sink, all...)
		if n := len(api.Mails()); n != 1 {
			t.Errorf("%d messages, want one", n)
		}
	})
}

func TestOnly200WithAnIDIsAnAcknowledgementOfMailguns(t *testing.T) {
	for name, c := range map[string]struct {
		answer notifytest.Answer
		down   bool
		want   string
	}{
		"200 without an ID":   {notifytest.Answer{Status: 200, Body: `{"message": "Queued. Thank you."}`}, true, "it names no message ID"},
		"202 with an ID":      {notifytest.Answer{Status: 202, Body: `{"id": "<a@b>", "message": "m"}`}, true, "answered 202"},
		"200, a login page":   {notifytest.Answer{Status: 200, Body: "<html>"}, true, "cannot be read"},
		"204":                 {notifytest.Answer{Status: 204}, true, "status 204"},
		"redirect":            {notifytest.Answer{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, true, "answered 307"},
		"400":                 {notifytest.Answer{Status: 400, Body: `{"message": "from parameter is\u001b[2J not a valid address"}`}, false, `is\u{001b}[2J not`},
		"401, in plain words": {notifytest.Answer{Status: 401, Body: "Forbidden"}, true, "Forbidden; check MAILGUN_API_KEY"},
		"402":                 {notifytest.Answer{Status: 402, Body: `{"message": "Payment required"}`}, true, "plan and payments"},
		"403":                 {notifytest.Answer{Status: 403, Body: `{"message": "Domain mg.acme.test is disabled"}`}, true, "is disabled; MAILGUN_API_KEY must be allowed to send for mg.acme.test"},
		"404":                 {notifytest.Answer{Status: 404, Body: `{"message": "Domain not found"}`}, true, "check domain (mg.acme.test), and that base_url is that of its region (EU: https://api.eu.mailgun.net/v3)"},
		"413":                 {notifytest.Answer{Status: 413, Body: strings.Repeat("x", 1<<20)}, false, "25 MB"},
		"500, again":          {notifytest.Answer{Status: 500, Body: `{"message": "Internal Server Error"}`}, true, "after 4 tries"},
	} {
		t.Run(name, func(t *testing.T) {
			onMailgun(t, func(t *testing.T, api *notifytest.Mailgun, sink Sink) {
				api.Next(slices.Repeat([]notifytest.Answer{c.answer}, 8)...)
				acked, err := Deliver(t.Context(), sink, alerts(2))
				var failed *SendError
				if !errors.As(err, &failed) || failed.Down != c.down || failed.Delivered || len(acked) != 0 || len(api.Mails()) != 0 {
					t.Fatalf("acked %v, error %v; want down %v", acked, err, c.down)
				}
				if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "key-test") || len(err.Error()) > 8<<10 {
					t.Errorf("error %q lacks %q, or tells the key", err, c.want)
				}
			})
		})
	}
}

func TestMailgunIsAskedAgainAsItWants(t *testing.T) {
	for name, c := range map[string]struct {
		answers []notifytest.Answer
		waited  time.Duration
		tries   int
		acked   bool
	}{
		"429 with Retry-After":          {[]notifytest.Answer{{Status: 429, Header: http.Header{"Retry-After": {"7"}}}}, 7 * time.Second, 2, true},
		"429 until, in seconds":         {[]notifytest.Answer{{Status: 429, Header: http.Header{"X-Ratelimit-Reset": {"946684809"}}}}, 9 * time.Second, 2, true},
		"429 until, in milliseconds":    {[]notifytest.Answer{{Status: 429, Header: http.Header{"X-Ratelimit-Reset": {"946684809000"}}}}, 9 * time.Second, 2, true},
		"429 for an hour":               {[]notifytest.Answer{{Status: 429, Header: http.Header{"Retry-After": {"3600"}}}}, 0, 1, false},
		"500 without a word":            {[]notifytest.Answer{{Status: 500}, {Status: 503}}, 3 * time.Second, 3, true},
		"disconnected":                  {[]notifytest.Answer{{Disconnect: true}}, time.Second, 2, true},
		"taken, but we did not hear it": {[]notifytest.Answer{{Disconnect: true, Accept: true}}, time.Second, 2, true},
		"half an answer":                {[]notifytest.Answer{{Status: 200, Body: `{"id": "<a`}}, time.Second, 2, true},
		"refused for good after 500":    {[]notifytest.Answer{{Status: 500}, {Status: 400}}, time.Second, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			onMailgun(t, func(t *testing.T, api *notifytest.Mailgun, sink Sink) {
				api.Next(c.answers...)
				begin := time.Now()
				err := sink.Send(t.Context(), message(1))
				if waited := time.Since(begin); waited != c.waited || api.Requests() != c.tries || (err == nil) != c.acked {
					t.Errorf("waited %v for %d tries, %v; want %v, %d, acknowledged %v", waited, api.Requests(), err, c.waited, c.tries, c.acked)
				}
				for _, m := range api.Mails() {
					if m.Headers["X-Whosigned-Alert"] != message(1).ID {
						t.Errorf("a repeat has the headers %v", m.Headers)
					}
				}
			})
		})
	}
}

func TestOneRecipientThatMailgunRefusesKeepsNoAlertFromTheOthers(t *testing.T) {
	const sandbox = `{"message": "Domain mg.acme.test is not allowed to send: Free accounts are for test purposes only. Please upgrade or add the address to authorized recipients in Account Settings."}`
	for name, c := range map[string]struct {
		refused   []string
		answers   []notifytest.Answer
		mails     int
		delivered bool
		down      bool
	}{
		"one":                          {[]string{"cto@acme.com"}, nil, 1, true, false},
		"all":                          {[]string{"sec@acme.com", "cto@acme.com"}, nil, 0, false, false},
		"one of an account on trial":   {nil, []notifytest.Answer{{Status: 403, Body: sandbox}, {}, {Status: 403, Body: sandbox}}, 1, true, false},
		"all of an account on trial":   {nil, []notifytest.Answer{{Status: 403, Body: sandbox}, {Status: 403, Body: sandbox}, {Status: 403, Body: sandbox}}, 0, false, true},
		"one taken, trouble for one":   {nil, []notifytest.Answer{{Status: 403, Body: sandbox}, {}, {Status: 500}, {Status: 500}, {Status: 500}, {Status: 500}}, 1, false, false},
		"one, and trouble for another": {[]string{"sec@acme.com"}, []notifytest.Answer{{Status: 500}, {Status: 500}, {Status: 500}, {Status: 500}}, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			onMailgun(t, func(t *testing.T, api *notifytest.Mailgun, sink Sink) {
				api.Refused = c.refused
				api.Next(c.answers...)
				err := sink.Send(t.Context(), message(1))
				var failed *SendError
				if !errors.As(err, &failed) || failed.Delivered != c.delivered || failed.Down != c.down || len(api.Mails()) != c.mails {
					t.Errorf("%d mails, %v; want %d, delivered %v, down %v", len(api.Mails()), err, c.mails, c.delivered, c.down)
				}
			})
		})
	}
}

func TestAMailgunThatNeverAnswersIsGivenUp(t *testing.T) {
	onMailgun(t, func(t *testing.T, _ *notifytest.Mailgun, sink Sink) {
		sink.(*mailgunSink).client.Client().Transport = hanging{}
		begin := time.Now()
		var failed *SendError
		if err := sink.Send(t.Context(), message(1)); !errors.As(err, &failed) || !failed.Down || time.Since(begin) > 3*time.Minute {
			t.Errorf("got %v after %v, want the sink down", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if err := sink.Send(ctx, message(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("with a deadline of 1s: %v after %v", err, time.Since(begin))
		}
	})
}

func TestMailgunIsAskedAtItsBaseURL(t *testing.T) {
	api := &notifytest.Mailgun{Key: "key-test", Domain: "mg.acme.test"}
	server := httptest.NewServer(api)
	defer server.Close()
	for _, base := range []string{server.URL, server.URL + "/", server.URL + "/v3", server.URL + "/v3/"} {
		sinks, err := Open(viaMailgun(base, "sec@acme.com"), env("MAILGUN_API_KEY", "key-test"))
		if err != nil {
			t.Fatal(err)
		}
		deliver(t, sinks[0], alert(report.ClassHealth, 1))
	}
	if n := len(api.Mails()); n != 4 {
		t.Errorf("%d mails, want 4", n)
	}
	if got := openOne(t, viaMailgun("", "sec@acme.com")).client.APIBase(); got != "https://api.mailgun.net/v3" {
		t.Errorf("the default is %s, want the US", got)
	}
}

func openOne(t *testing.T, a config.Alerts) *mailgunSink {
	t.Helper()
	sinks, err := Open(a, env("MAILGUN_API_KEY", "key-test"))
	if err != nil {
		t.Fatal(err)
	}
	return sinks[0].(*mailgunSink)
}

func TestOpenPointsAtWhatIsWrongWithGitHubAndMailgun(t *testing.T) {
	hub := func(g config.GitHub) config.Alerts {
		g.Where = "whosigned.yaml:7"
		return config.Alerts{GitHubs: []config.GitHub{g}}
	}
	mail := viaMailgun("", "sec@acme.com")
	elsewhere, clear, noDomain := viaMailgun("ftp://x", "a@b.c"), viaMailgun("http://api.mailgun.net/v3", "a@b.c"), viaMailgun("", "a@b.c")
	noDomain.Emails[0].Domain = "../x"
	token, key := env("GITHUB_TOKEN", "t"), env("MAILGUN_API_KEY", "k")
	for name, c := range map[string]struct {
		alerts config.Alerts
		env    func(string) string
		want   string
	}{
		"no token":              {hub(config.GitHub{Repository: "a/b"}), env(), "set GITHUB_TOKEN"},
		"token file missing":    {hub(config.GitHub{Repository: "a/b"}), env("GITHUB_TOKEN_FILE", "/nowhere"), "/nowhere"},
		"token of two lines":    {hub(config.GitHub{Repository: "a/b"}), env("GITHUB_TOKEN", "a\nb"), "one line"},
		"no repository":         {hub(config.GitHub{}), token, "owner/name"},
		"a path":                {hub(config.GitHub{Repository: "a/b/c"}), token, "owner/name"},
		"a query":               {hub(config.GitHub{Repository: "a/b?x"}), token, "owner/name"},
		"Enterprise over http":  {hub(config.GitHub{Repository: "a/b", BaseURL: "http://ghe.acme.com"}), token, "base_url"},
		"a class":               {hub(config.GitHub{Repository: "a/b", Classes: []string{"all"}}), token, `class "all"`},
		"no key":                {mail, env(), "set MAILGUN_API_KEY"},
		"both":                  {mail, env("MAILGUN_API_KEY", "a", "MAILGUN_API_KEY_FILE", "b"), "unset one"},
		"no domain":             {noDomain, key, "sending domain"},
		"base URL of a kind":    {elsewhere, key, "base_url"},
		"base URL in the clear": {clear, key, "base_url"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(c.alerts, c.env); err == nil || !strings.Contains(err.Error(), "whosigned.yaml:7") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v lacks the place or %q", err, c.want)
			}
		})
	}
}
