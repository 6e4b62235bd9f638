package notifytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	netmail "net/mail"
	"slices"
	"strings"
	"sync"
)

// Mailgun is an http.Handler that stands in for https://api.mailgun.net: it accepts
// what the reference at
// https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
// allows for a message to a domain, as a multipart form, and refuses the rest. As
// https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages says, it
// puts a link in the place of each of its variables: [UnsubscribeLink].
type Mailgun struct {
	Key    string // the API key that it accepts
	Domain string
	// Refused are recipients that are refused, and with them every message to them.
	Refused []string

	mu       sync.Mutex
	requests int
	answers  []Answer
	mails    []Mail
}

// SetKey replaces Key, as somebody does who rotates it.
func (s *Mailgun) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Key = key
}

// Next queues answers, one for each of the next requests that are well formed.
func (s *Mailgun) Next(answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answers...)
}

// Mails returns the accepted messages, in order.
func (s *Mailgun) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Requests is how often it was asked.
func (s *Mailgun) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// maxMailgun is the reference's limit for a message.
const maxMailgun = 25 << 20

func (s *Mailgun) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	user, key, basic := r.BasicAuth()
	if !basic || user != "api" || key != s.Key {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "Forbidden")
		return
	}
	refuse := func(status int, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
	path, v3 := strings.CutPrefix(r.URL.Path, "/v3/")
	domain, messages := strings.CutSuffix(path, "/messages")
	switch {
	case !v3 || !messages || domain == "" || strings.Contains(domain, "/"):
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "404 page not found")
		return
	case r.Method != http.MethodPost:
		refuse(http.StatusMethodNotAllowed, "Method not allowed")
		return
	case domain != s.Domain:
		refuse(http.StatusNotFound, "Domain not found: "+domain)
		return
	}
	mail, status, message := s.form(w, r)
	if message != "" {
		refuse(status, message)
		return
	}
	s.answer(w, mail)
}

func (s *Mailgun) answer(w http.ResponseWriter, mail Mail) {
	var a Answer
	if len(s.answers) > 0 {
		a, s.answers = s.answers[0], s.answers[1:]
	}
	scripted := a.Status != 0 || a.Disconnect
	if !scripted || a.Accept {
		s.mails = append(s.mails, mail)
	}
	if a.Disconnect {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), a.Header)
	if scripted {
		w.WriteHeader(a.Status)
		io.WriteString(w, a.Body)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"id": fmt.Sprintf("<stand-in-%d@%s>", len(s.mails), s.Domain), "message": "Queued. Thank you."})
}

// form reads the multipart form, and says what is wrong with it.
func (s *Mailgun) form(w http.ResponseWriter, r *http.Request) (m Mail, status int, message string) {
	t, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || t != "multipart/form-data" {
		return m, http.StatusBadRequest, "Content-Type must be multipart/form-data"
	}
	parts := multipart.NewReader(http.MaxBytesReader(w, r.Body, maxMailgun), params["boundary"])
	values := map[string][]string{}
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		var value []byte
		if err == nil {
			value, err = io.ReadAll(part)
		}
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return m, http.StatusRequestEntityTooLarge, "Message too large"
		}
		if err != nil {
			return m, http.StatusBadRequest, "malformed form: " + err.Error()
		}
		values[part.FormName()] = append(values[part.FormName()], string(value))
	}
	m, message = mailOf(values)
	if message == "" {
		for _, to := range m.To {
			if slices.Contains(s.Refused, to) {
				message = "to parameter is not a valid address. please check documentation"
			}
		}
	}
	return m, http.StatusBadRequest, message
}

// UnsubscribeLink is how the links begin that stand in a message where Mailgun's
// variables were: who follows one gets no more mail of the domain.
const UnsubscribeLink = "https://email.mailgun.test/u/"

// expand replaces Mailgun's variables, as it does in the subject and every part.
func expand(s string) string {
	for _, name := range []string{"unsubscribe_url", "tag_unsubscribe_url", "mailing_list_unsubscribe_url", "unsubscribe_email"} {
		s = strings.ReplaceAll(s, "%"+name+"%", UnsubscribeLink+name)
	}
	return s
}

// mailOf makes a message of the form's fields.
func mailOf(values map[string][]string) (m Mail, wrong string) {
	m.Headers, m.CustomArgs = map[string]string{}, map[string]string{}
	for name, v := range values {
		header, isHeader := strings.CutPrefix(name, "h:")
		variable, isVariable := strings.CutPrefix(name, "v:")
		switch {
		case name != "to" && len(v) != 1:
			return m, name + " is given more than once"
		case isHeader:
			if header == "" || strings.ContainsFunc(header+v[0], func(c rune) bool { return c < ' ' || c > '~' }) {
				return m, "header " + header + " is not valid"
			}
			m.Headers[header] = v[0]
		case isVariable:
			m.CustomArgs[variable] = v[0]
		case slices.Contains([]string{"o:tracking", "o:tracking-clicks", "o:tracking-opens"}, name):
			if !slices.Contains([]string{"yes", "no", "true", "false", "htmlonly"}, v[0]) {
				return m, name + " is not valid"
			}
			m.CustomArgs[name] = v[0]
		case !slices.Contains([]string{"from", "to", "subject", "text", "html"}, name):
			return m, "unknown parameter " + name
		}
	}
	one := func(name string) string { return strings.Join(values[name], "") }
	from, err := netmail.ParseAddress(one("from"))
	if err != nil {
		return m, "from parameter is not a valid address. please check documentation"
	}
	m.From, m.Subject, m.Text, m.HTML = from.Address, expand(one("subject")), expand(one("text")), expand(one("html"))
	switch {
	case m.Subject == "" || strings.ContainsAny(m.Subject, "\r\n"):
		return m, "subject parameter is missing or holds a line end"
	case m.Text == "" && m.HTML == "":
		return m, "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified"
	case len(values["to"]) == 0:
		return m, "to parameter is missing"
	case len(values["to"]) > maxRecipients:
		return m, "too many recipients"
	}
	for _, raw := range values["to"] {
		to, err := netmail.ParseAddress(raw)
		if err != nil || slices.Contains(m.To, strings.ToLower(to.Address)) {
			return m, "to parameter is not a valid address. please check documentation"
		}
		m.To = append(m.To, strings.ToLower(to.Address))
	}
	return m, ""
}
