package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	netmail "net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sendgrid/rest"
	"github.com/sendgrid/sendgrid-go"
	"github.com/sendgrid/sendgrid-go/helpers/mail"

	"github.com/whosigned/whosigned/pkg/report"
)

// How long and how often SendGrid is asked.
const (
	sendGridTries   = 4
	sendGridTimeout = 30 * time.Second
	sendGridMaxWait = 30 * time.Second // asked to wait longer: leave it to the next run
	sendGridMaxBody = 64 << 10         // of an answer
)

// SendGridError is an answer of SendGrid's other than 202.
type SendGridError struct {
	Status int
	// Errors are SendGrid's own words; none if its answer was not in its usual form.
	Errors []SendGridErrorDetail
	Body   string // the answer's beginning, if Errors is empty
	// Key is where the key came from: SENDGRID_API_KEY, or the file of SENDGRID_API_KEY_FILE.
	Key string
}

// SendGridErrorDetail is one of the errors SendGrid names.
type SendGridErrorDetail struct {
	Message string `json:"message"`
	Field   string `json:"field"` // of the request
	Help    string `json:"help"`  // URL
}

func (e *SendGridError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "SendGrid answered %d %s", e.Status, http.StatusText(e.Status))
	for _, d := range e.Errors {
		b.WriteString(": " + report.Safe(d.Message))
		if d.Field != "" {
			b.WriteString(" (field " + report.Safe(d.Field) + ")")
		}
		if d.Help != "" {
			b.WriteString(", see " + report.Safe(d.Help))
		}
	}
	if e.Body != "" {
		b.WriteString(": " + report.Safe(e.Body))
	}
	switch e.Status {
	case http.StatusUnauthorized:
		b.WriteString("; check " + e.Key + " and the account's credits")
	case http.StatusForbidden:
		b.WriteString("; " + e.Key + " needs the permission Mail Send, and the from address a verified sender identity")
	}
	return b.String()
}

// sendGrid mails through the v3 mail/send API.
type sendGrid struct {
	route
	key, host string
	origin    string // of the key, for messages
	from      netmail.Address
	to        []netmail.Address
	client    *rest.Client
}

func openSendGrid(r route, from netmail.Address, to []netmail.Address, getenv func(string) string) (Sink, error) {
	key, err := secret(getenv, "SENDGRID_API_KEY")
	if err != nil {
		return nil, err
	}
	if key == "" {
		return nil, errors.New("via sendgrid needs an API key: set SENDGRID_API_KEY, or SENDGRID_API_KEY_FILE to a file that holds it")
	}
	origin := "SENDGRID_API_KEY"
	if file := getenv("SENDGRID_API_KEY_FILE"); file != "" {
		origin = "the key in " + file + " (SENDGRID_API_KEY_FILE)"
	}
	host := strings.TrimRight(getenv("SENDGRID_HOST"), "/")
	if host != "" {
		u, err := url.Parse(host)
		if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
			return nil, fmt.Errorf("SENDGRID_HOST %q is not a base URL with https, or http on loopback", host)
		}
	}
	return &sendGrid{
		route: r, key: key, origin: origin, host: host, from: from, to: to,
		// The library's own client is global and waits for ever.
		client: &rest.Client{HTTPClient: &http.Client{
			Timeout:       sendGridTimeout,
			Transport:     limited{http.DefaultTransport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}},
	}, nil
}

// limited cuts answers off: the library reads all of them into memory.
type limited struct{ http.RoundTripper }

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, sendGridMaxBody), resp.Body}
	return resp, nil
}

// Send posts the message; only 202 is an acknowledgement. 429, 5xx and network
// trouble are retried a few times.
func (s *sendGrid) Send(ctx context.Context, m report.Message) error {
	fail := func(down bool, err error) error {
		return &SendError{Sink: s.name, Alert: m.ID, Down: down, Err: err}
	}
	if err := check(m); err != nil {
		return fail(false, err)
	}
	body := mail.GetRequestBody(s.compose(m))
	var causes []error
	for try := 1; ; try++ {
		wait, err := s.post(ctx, body)
		if err == nil {
			return nil
		}
		causes = append(causes, err)
		var answer *SendGridError
		if errors.As(err, &answer) && answer.Status != http.StatusTooManyRequests && answer.Status < 500 {
			// 400 and 413 are about this message; any other would meet the next one too.
			about := answer.Status == http.StatusBadRequest || answer.Status == http.StatusRequestEntityTooLarge
			return fail(!about, err)
		}
		if wait == 0 {
			wait = time.Second << (try - 1)
		}
		if try == sendGridTries || wait > sendGridMaxWait {
			return fail(true, fmt.Errorf("after %d tries, the next one to wait for %v: %w", try, wait.Round(time.Second), errors.Join(causes...)))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fail(true, errors.Join(append(causes, context.Cause(ctx))...))
		}
	}
}

// post asks once, and says how long SendGrid wants us to wait before we ask
// again; 0 if it does not say.
func (s *sendGrid) post(ctx context.Context, body []byte) (wait time.Duration, err error) {
	req := sendgrid.GetRequest(s.key, "/v3/mail/send", s.host)
	req.Method = rest.Post
	req.Body = body
	resp, err := s.client.SendWithContext(ctx, req)
	if err != nil {
		return 0, fmt.Errorf("asking SendGrid: %w", err)
	}
	if resp.StatusCode == http.StatusAccepted {
		return 0, nil
	}
	answer := &SendGridError{Status: resp.StatusCode, Key: s.origin}
	var said struct {
		Errors []SendGridErrorDetail `json:"errors"`
	}
	if json.Unmarshal([]byte(resp.Body), &said) == nil && len(said.Errors) > 0 {
		answer.Errors = said.Errors[:min(len(said.Errors), 5)]
	} else {
		answer.Body = strings.TrimSpace(resp.Body)
	}
	return asked(http.Header(resp.Headers)), answer
}

// asked reads Retry-After (seconds or a date), else X-RateLimit-Reset (Unix time).
func asked(h http.Header) time.Duration {
	if s := h.Get("Retry-After"); s != "" {
		if n, err := strconv.Atoi(s); err == nil {
			return time.Duration(max(0, min(n, 1<<20))) * time.Second
		}
		if t, err := http.ParseTime(s); err == nil {
			return max(0, time.Until(t))
		}
	}
	if n, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64); err == nil {
		return max(0, time.Until(time.Unix(min(n, 1<<40), 0)))
	}
	return 0
}

// compose makes the request. SendGrid's tracking is off: it would rewrite the
// links of a security alert, and put an image that phones home into it.
func (s *sendGrid) compose(m report.Message) *mail.SGMailV3 {
	p := mail.NewPersonalization()
	for _, a := range s.to {
		p.AddTos(mail.NewEmail(a.Name, a.Address))
	}
	off := false
	msg := mail.NewV3Mail()
	msg.Subject = report.Safe(m.Subject)
	return msg.
		SetFrom(mail.NewEmail(s.from.Name, s.from.Address)).
		AddPersonalizations(p).
		AddContent(mail.NewContent("text/plain", m.Text), mail.NewContent("text/html", m.HTML)).
		SetHeader("Message-ID", "<"+messageID(m, s.from)+">").
		SetHeader(alertHeader, m.ID).
		SetHeader(autoSubmitted, autoGenerated).
		SetCustomArg("alert_id", m.ID).
		SetCustomArg("alert_class", string(m.Class)).
		SetTrackingSettings(mail.NewTrackingSettings().
			SetClickTracking(mail.NewClickTrackingSetting().SetEnable(off).SetEnableText(off)).
			SetOpenTracking(mail.NewOpenTrackingSetting().SetEnable(off)).
			SetSubscriptionTracking(mail.NewSubscriptionTrackingSetting().SetEnable(off)))
}
