package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strings"

	"github.com/mailgun/mailgun-go/v4"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
)

// MailgunError is an answer of Mailgun's other than 200 with an ID.
type MailgunError struct {
	Status  int
	Message string // Mailgun's own words, or the answer's beginning
	Domain  string
	// Key is where the key came from: MAILGUN_API_KEY, or the file of MAILGUN_API_KEY_FILE.
	Key string
}

func (e *MailgunError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Mailgun answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		b.WriteString(": " + report.Safe(e.Message))
	}
	switch e.Status {
	case http.StatusOK:
		b.WriteString("; it names no message ID, so nothing says that it took the message")
	case http.StatusUnauthorized:
		b.WriteString("; check " + e.Key + ", and that base_url is that of the key's region (EU: " + mailgun.APIBaseEU + ")")
	case http.StatusPaymentRequired:
		b.WriteString("; check the Mailgun account's plan and payments")
	case http.StatusForbidden:
		b.WriteString("; " + e.Key + " must be allowed to send for " + e.Domain + " from this address, and the account and the domain be active")
	case http.StatusNotFound:
		b.WriteString("; check domain (" + e.Domain + "), and that base_url is that of its region (EU: " + mailgun.APIBaseEU + ")")
	case http.StatusRequestEntityTooLarge:
		b.WriteString("; a message has at most 25 MB")
	}
	return b.String()
}

// mailgunSink mails through the messages API of a domain:
// https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
type mailgunSink struct {
	route
	domain string
	origin string // of the key, for messages
	from   netmail.Address
	to     []netmail.Address
	client *mailgun.MailgunImpl
}

func openMailgun(r route, from netmail.Address, to []netmail.Address, e config.Email, getenv func(string) string) (Sink, error) {
	key, err := secret(getenv, "MAILGUN_API_KEY")
	if err != nil {
		return nil, err
	}
	if key == "" {
		return nil, errors.New("via mailgun needs an API key: set MAILGUN_API_KEY, or MAILGUN_API_KEY_FILE to a file that holds it")
	}
	if !mailDomain.MatchString(e.Domain) {
		return nil, fmt.Errorf("domain: %q is not a sending domain, as in mg.example.com", e.Domain)
	}
	s := &mailgunSink{route: r, domain: e.Domain, origin: "MAILGUN_API_KEY", from: from, to: to, client: mailgun.NewMailgun(e.Domain, key)}
	if file := getenv("MAILGUN_API_KEY_FILE"); file != "" {
		s.origin = "the key in " + file + " (MAILGUN_API_KEY_FILE)"
	}
	if base := strings.TrimRight(e.BaseURL, "/"); base != "" {
		if err := checkBase("base_url", base); err != nil {
			return nil, err
		}
		if u, err := url.Parse(base); err == nil && u.Path == "" {
			base += "/v3"
		}
		s.client.SetAPIBase(base)
	}
	// The library's own client waits for ever.
	s.client.SetClient(newClient(overheard{limited{http.DefaultTransport, maxAnswer}}))
	return s, nil
}

// mailDomain is a host name; it stands in the path of requests.
var mailDomain = regexp.MustCompile(`\A(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{1,63}\z`)

// overheard notes the answers to requests whose context has an *answerHead: the
// library tells neither which good status it got nor any header.
type overheard struct{ http.RoundTripper }

type answerHead struct {
	status int // 0: none
	header http.Header
}

type answerHeadKey struct{}

func (o overheard) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.RoundTripper.RoundTrip(req)
	if head, ok := req.Context().Value(answerHeadKey{}).(*answerHead); ok && err == nil {
		head.status, head.header = resp.StatusCode, resp.Header
	}
	return resp, err
}

// Send posts the message; only 200 with an ID is an acknowledgement. 429, 5xx and
// network trouble are retried a few times. If Mailgun refuses a recipient it
// refuses all: then each gets a message of its own, so that one wrong address does not
// keep an alert from the others.
func (s *mailgunSink) Send(ctx context.Context, m report.Message) error {
	fail := func(down bool, err error) *SendError {
		return &SendError{Sink: s.name, Alert: m.ID, Down: down, Err: err}
	}
	if err := check(m); err != nil {
		return fail(false, err)
	}
	down, err := s.deliver(ctx, m, s.to)
	if err == nil {
		return nil
	}
	if len(s.to) == 1 || !refusesRecipient(err) {
		return fail(down, err)
	}
	delivered, retry := 0, false
	var errs []error
	for _, to := range s.to {
		down, err := s.deliver(ctx, m, []netmail.Address{to})
		if err == nil {
			delivered++
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %w", to.Address, err))
		retry = retry || !refusesRecipient(err)
		if down && !refusesRecipient(err) {
			break // the others would fare no better
		}
	}
	if len(errs) == 0 {
		return nil
	}
	failed := fail(down && delivered == 0, errors.Join(errs...))
	failed.Delivered = delivered > 0 && !retry
	return failed
}

// refusesRecipient says that an answer is about whom the message goes to. An account
// on trial may write to authorized recipients only.
func refusesRecipient(err error) bool {
	var answer *MailgunError
	if !errors.As(err, &answer) {
		return false
	}
	text := strings.ToLower(answer.Message)
	switch answer.Status {
	case http.StatusBadRequest:
		return strings.Contains(text, "to parameter") || strings.Contains(text, "recipient")
	case http.StatusForbidden:
		return strings.Contains(text, "authorized recipient")
	}
	return false
}

func (s *mailgunSink) deliver(ctx context.Context, m report.Message, to []netmail.Address) (down bool, err error) {
	gaveUp, err := patiently(ctx, func() error { return s.post(ctx, m, to) })
	var answer *MailgunError
	return gaveUp || errors.As(err, &answer) && !aboutMessage(answer.Status), err
}

// post asks once.
func (s *mailgunSink) post(ctx context.Context, m report.Message, to []netmail.Address) error {
	var head answerHead
	said, id, err := s.client.Send(context.WithValue(ctx, answerHeadKey{}, &head), s.compose(m, to))
	if err == nil && head.status == http.StatusOK && id != "" {
		return nil
	}
	answer := &MailgunError{Status: head.status, Message: said, Domain: s.domain, Key: s.origin}
	var refused *mailgun.UnexpectedResponseError
	switch {
	case errors.As(err, &refused):
		answer.Message = words(refused.Data)
	case err != nil && head.status == 0:
		return &later{err: fmt.Errorf("asking Mailgun: %w", err)}
	case err != nil: // a good status, and an answer that cannot be read
		return &later{err: fmt.Errorf("status %d from Mailgun, and what it said cannot be read: %w", head.status, err)}
	}
	if passes(head.status) {
		return &later{answer, asked(head.header)}
	}
	return answer
}

// words are Mailgun's, out of its usual form or as they came.
func words(body []byte) string {
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &said) == nil && said.Message != "" {
		return said.Message
	}
	return strings.TrimSpace(string(body))
}

// compose makes the request. Mailgun's tracking is off: it would rewrite the links
// of a security alert, and put an image that phones home into it.
func (s *mailgunSink) compose(m report.Message, to []netmail.Address) *mailgun.Message {
	var list []string
	for _, a := range to {
		list = append(list, a.String())
	}
	subject, text, html := literal(m)
	msg := mailgun.NewMessage(s.from.String(), subject, text, list...)
	msg.SetHTML(html)
	msg.AddHeader("Message-Id", "<"+messageID(m, s.from)+">")
	msg.AddHeader(alertHeader, alertIDs(m))
	msg.AddHeader(autoSubmitted, autoGenerated)
	msg.SetTracking(false)
	msg.SetTrackingClicks(false)
	msg.SetTrackingOpens(false)
	return msg
}
