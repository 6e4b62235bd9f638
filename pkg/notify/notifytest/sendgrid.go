// Package notifytest has stand-ins for what takes our alerts: [SendGrid], [Mailgun]
// and [GitHub], which hold requests to the references of their APIs and answer as
// those do, and [SMTP], a mail server on loopback. All fail on demand.
package notifytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	netmail "net/mail"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// SendGrid is an http.Handler that stands in for https://api.sendgrid.com: point
// SENDGRID_HOST at a server of it. It accepts what the reference at
// https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send allows,
// and refuses the rest with 400 and an error that names the field.
type SendGrid struct {
	Key string // the API key it accepts; "" accepts any

	mu       sync.Mutex
	requests int
	answers  []Answer
	always   *Answer
	mails    []Mail
}

// Answer is what is said to a request that is well formed, instead of what a success says.
type Answer struct {
	Status int // 0: as without an Answer
	Header http.Header
	Body   string
	// Disconnect closes the connection without an answer; with Accept, after the
	// message was taken.
	Disconnect, Accept bool
}

// Mail is a message that was accepted.
type Mail struct {
	From       string
	To         []string
	Subject    string
	Text, HTML string
	Headers    map[string]string
	CustomArgs map[string]string
}

// ErrorBody is an error in SendGrid's form.
func ErrorBody(message, field, help string) string {
	type detail struct {
		Message string `json:"message"`
		Field   any    `json:"field"`
		Help    any    `json:"help"`
	}
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	b, err := json.Marshal(map[string][]detail{"errors": {{message, orNull(field), orNull(help)}}})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// SetKey replaces Key, as somebody does who rotates it.
func (s *SendGrid) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Key = key
}

// Next queues answers, one for each of the next requests.
func (s *SendGrid) Next(answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answers...)
}

// Always makes a the answer to every request for which none is queued; nil ends it.
func (s *SendGrid) Always(a *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = a
}

// Mails returns the accepted messages, in order.
func (s *SendGrid) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Requests is how often it was asked.
func (s *SendGrid) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *SendGrid) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	refuse := func(status int, message, field string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, ErrorBody(message, field, ""))
	}
	if r.URL.Path != "/v3/mail/send" {
		refuse(http.StatusNotFound, "not found", "")
		return
	}
	if r.Method != http.MethodPost {
		refuse(http.StatusMethodNotAllowed, "method not allowed", "")
		return
	}
	key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer || key == "" || s.Key != "" && key != s.Key {
		refuse(http.StatusUnauthorized, "The provided authorization grant is invalid, expired, or revoked", "")
		return
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		refuse(http.StatusUnsupportedMediaType, "Content-Type should be application/json.", "")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTotal))
	if err != nil {
		refuse(http.StatusRequestEntityTooLarge, "The JSON payload you have included in your request is too large.", "")
		return
	}
	mail, bad := parse(body)
	if bad != nil {
		refuse(http.StatusBadRequest, bad.message, bad.field)
		return
	}
	s.answer(w, mail)
}

// answer says what it was told to, or accepts.
func (s *SendGrid) answer(w http.ResponseWriter, mail Mail) {
	var a Answer
	switch {
	case len(s.answers) > 0:
		a, s.answers = s.answers[0], s.answers[1:]
	case s.always != nil:
		a = *s.always
	}
	if a.Accept || !a.Disconnect && (a.Status == 0 || a.Status == http.StatusAccepted) {
		s.mails = append(s.mails, mail)
	}
	if a.Disconnect {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), a.Header)
	if a.Status == 0 {
		w.Header().Set("X-Message-Id", fmt.Sprintf("stand-in-%d", len(s.mails)))
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.WriteHeader(a.Status)
	io.WriteString(w, a.Body)
}

// The reference's limits.
const (
	maxTotal      = 30 << 20
	maxRecipients = 1000
	maxCustomArgs = 10000
)

// invalid is what the reference does not allow.
type invalid struct{ message, field string }

type address struct {
	Email string `json:"email"`
	Name  string `json:"name"`
}

// request is the part of the mail/send body that the reference requires or that
// an alert has a use for; anything else is refused.
type request struct {
	Personalizations []struct {
		To []address `json:"to"`
		CC []address `json:"cc"`
	} `json:"personalizations"`
	From    *address `json:"from"`
	Subject *string  `json:"subject"`
	Content []struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"content"`
	Headers    map[string]string `json:"headers"`
	Categories []string          `json:"categories"`
	CustomArgs map[string]string `json:"custom_args"`
	Tracking   struct {
		Click struct {
			Enable     bool `json:"enable"`
			EnableText bool `json:"enable_text"`
		} `json:"click_tracking"`
		Open struct {
			Enable bool `json:"enable"`
		} `json:"open_tracking"`
		Subscription struct {
			Enable bool `json:"enable"`
		} `json:"subscription_tracking"`
	} `json:"tracking_settings"`
}

func parse(body []byte) (Mail, *invalid) {
	if bad := strict(body); bad != nil {
		return Mail{}, bad
	}
	var r request
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			return Mail{}, &invalid{"Invalid type. Expected: " + wrongType.Type.String() + ", given: " + wrongType.Value + ".", wrongType.Field}
		}
		return Mail{}, &invalid{"Bad Request: " + err.Error(), ""}
	}
	for _, check := range []func(request) *invalid{recipients, content, headers, extras} {
		if bad := check(r); bad != nil {
			return Mail{}, bad
		}
	}
	m := Mail{From: r.From.Email, Subject: *r.Subject, Headers: r.Headers, CustomArgs: r.CustomArgs}
	for _, p := range r.Personalizations {
		for _, to := range append(p.To, p.CC...) {
			m.To = append(m.To, to.Email)
		}
	}
	for _, c := range r.Content {
		switch c.Type {
		case "text/plain":
			m.Text = c.Value
		case "text/html":
			m.HTML = c.Value
		}
	}
	return m, nil
}

// strict refuses what encoding/json lets pass: text that is not UTF-8, a second
// value, null, a name given twice, and names in another case.
func strict(body []byte) *invalid {
	if !utf8.Valid(body) {
		return &invalid{"Bad Request: the body is not UTF-8.", ""}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if bad := strictValue(d, "", false); bad != nil {
		return bad
	}
	if _, err := d.Token(); err != io.EOF {
		return &invalid{"Bad Request: there is more than one JSON value.", ""}
	}
	return nil
}

// strictValue reads a value that is at a path; in open ones any name is allowed.
func strictValue(d *json.Decoder, path string, open bool) *invalid {
	token, err := d.Token()
	if err != nil {
		return &invalid{"Bad Request: " + err.Error(), path}
	}
	if token == nil {
		return &invalid{"Invalid type. Given: null.", path}
	}
	delim, nested := token.(json.Delim)
	seen := map[string]bool{}
	for n := 0; nested && d.More(); n++ {
		name := fmt.Sprint(n)
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return &invalid{"Bad Request: " + err.Error(), path}
			}
			name = fmt.Sprint(key)
			if seen[name] || !open && strings.ToLower(name) != name {
				return &invalid{"Additional property " + name + " is not allowed.", path}
			}
			seen[name] = true
		}
		field := strings.TrimPrefix(path+"."+name, ".")
		if bad := strictValue(d, field, field == "headers" || field == "custom_args"); bad != nil {
			return bad
		}
	}
	if nested {
		if _, err := d.Token(); err != nil { // the closing bracket
			return &invalid{"Bad Request: " + err.Error(), path}
		}
	}
	return nil
}

func recipients(r request) *invalid {
	if len(r.Personalizations) == 0 {
		return &invalid{"The personalizations field is required and must have at least one personalization.", "personalizations"}
	}
	if len(r.Personalizations) > maxRecipients {
		return &invalid{"The personalization block is limited to 1000 personalizations per API request.", "personalizations"}
	}
	seen := map[string]bool{}
	for i, p := range r.Personalizations {
		if len(p.To) == 0 {
			return &invalid{"The to array is required for all personalization objects, and must have at least one email object with a valid email address.", fmt.Sprintf("personalizations.%d.to", i)}
		}
		for j, a := range append(p.To, p.CC...) {
			field := fmt.Sprintf("personalizations.%d.to.%d.email", i, j)
			if !valid(a) {
				return &invalid{"Does not contain a valid address.", field}
			}
			if key := strings.ToLower(a.Email); seen[key] {
				return &invalid{"Each unique email address in the personalizations array should only be included once. You have included [" + a.Email + "] more than once.", "personalizations"}
			} else {
				seen[key] = true
			}
		}
	}
	if len(seen) > maxRecipients {
		return &invalid{"There is a limit of 1000 total recipients (to + cc + bcc) per request.", "personalizations"}
	}
	if r.From == nil || !valid(*r.From) {
		return &invalid{"The from object must be provided for every email send. It is an object that requires the email parameter, but may also contain a name parameter.", "from.email"}
	}
	return nil
}

// valid wants a bare address: the name has its own field.
func valid(a address) bool {
	parsed, err := netmail.ParseAddress(a.Email)
	return err == nil && parsed.Address == a.Email && !strings.ContainsAny(a.Name, "\r\n")
}

func content(r request) *invalid {
	if r.Subject == nil || *r.Subject == "" {
		return &invalid{"The subject is required. You can get around this requirement if you use a template with a subject defined or if every personalization has a subject defined.", "subject"}
	}
	if strings.ContainsAny(*r.Subject, "\r\n") {
		return &invalid{"The subject cannot contain line breaks.", "subject"}
	}
	if len(r.Content) == 0 {
		return &invalid{"Unless a valid template_id is provided, the content parameter is required. There must be at least one defined content block. We typically suggest both text/plain and text/html blocks are included, but only one block is required.", "content"}
	}
	last := -1
	for i, c := range r.Content {
		if c.Type == "" || strings.ContainsAny(c.Type, ";,\r\n") {
			return &invalid{"The content type must be a string at least one character in length, and cannot contain ';', ',' or CRLF characters.", fmt.Sprintf("content.%d.type", i)}
		}
		if c.Value == "" {
			return &invalid{"The content value must be a string at least one character in length.", fmt.Sprintf("content.%d.value", i)}
		}
		order := slices.Index([]string{"text/plain", "text/html"}, c.Type)
		if order < 0 {
			order = 2
		}
		if order <= last && order < 2 {
			return &invalid{"If present, text/plain and text/html may only be provided once, and text/plain must be first, followed by text/html.", "content"}
		}
		last = order
	}
	return nil
}

// reserved headers have fields of their own, or are SendGrid's.
var reserved = []string{"x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to", "from", "subject", "reply-to", "cc", "bcc"}

func headers(r request) *invalid {
	for name, value := range r.Headers {
		if slices.Contains(reserved, strings.ToLower(name)) {
			return &invalid{"The header " + name + " is reserved.", "headers"}
		}
		if name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }) {
			return &invalid{"Header names must be ASCII without spaces.", "headers"}
		}
		if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
			return &invalid{"Header values must be encoded.", "headers." + name}
		}
	}
	return nil
}

func extras(r request) *invalid {
	b, err := json.Marshal(r.CustomArgs)
	if err != nil || len(b) >= maxCustomArgs {
		return &invalid{"The combined size of custom arguments must be less than 10,000 bytes.", "custom_args"}
	}
	if len(r.Categories) > 10 {
		return &invalid{"You cannot have more than 10 categories per request.", "categories"}
	}
	for i, c := range r.Categories {
		if len(c) > 255 || slices.Contains(r.Categories[:i], c) {
			return &invalid{"Categories must be unique and at most 255 characters.", fmt.Sprintf("categories.%d", i)}
		}
	}
	return nil
}
