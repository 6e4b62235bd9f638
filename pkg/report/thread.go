package report

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// Thread is something that lasts, and of which a message says how it goes on: a
// health condition or tampering.
type Thread struct {
	// Keys name it, the most telling first: "health:" and the condition's key,
	// "incident:" and the incident's ID, "tamper:" and the log's ID.
	Keys []string
	// Since is when it began: nothing said of it is older. Zero if that is not known.
	Since time.Time
}

// Threads are what a message goes on with: reminders and closures of health
// conditions, and what is said of tampering after its alert. News says that the
// message holds more than that. A digest is news, whatever it holds.
func (m Message) Threads() (threads []Thread, news bool) {
	if len(m.alerts) != 1 {
		return nil, true
	}
	a := m.alerts[0]
	if a.Class == ClassTamper && a.Incident == nil && a.total() == 0 && len(a.Health) == 0 && len(a.Notes) > 0 {
		log := "tamper:" + string(a.Log)
		if len(a.About) == 0 {
			return []Thread{{Keys: []string{log}}}, false
		}
		for _, id := range a.About {
			threads = append(threads, Thread{Keys: []string{"incident:" + id, log}})
		}
		return threads, false
	}
	news = a.Incident != nil || a.total() > 0 || a.Expected > 0 || len(a.Notes) > 0 || len(a.Health) == 0
	for _, h := range a.Health {
		if h.State == Reminder || h.State == Closed {
			threads = append(threads, Thread{[]string{"health:" + h.Key}, h.Since})
		} else {
			news = true
		}
	}
	return threads, news
}

// Opens are the keys of what can go on after this message: incidents, and health
// conditions that are not over.
func (m Message) Opens() []string {
	var keys []string
	for _, a := range m.alerts {
		if a.Incident != nil {
			keys = append(keys, "incident:"+a.Incident.ID, "tamper:"+string(a.Log))
		}
		for _, h := range a.Health {
			if h.State == Opened || h.State == Reminder {
				keys = append(keys, "health:"+h.Key)
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Only is the message without the health conditions that are not among keys.
func (m Message) Only(keys []string) Message {
	if len(m.alerts) != 1 {
		return m
	}
	a := m.alerts[0]
	a.Health = slices.DeleteFunc(slices.Clone(a.Health), func(h Health) bool { return !slices.Contains(keys, "health:"+h.Key) })
	return Email([]Alert{a})
}

// Classes are those of the message's alerts, the gravest first.
func (m Message) Classes() []Class {
	var classes []Class
	for _, c := range Classes() {
		if slices.ContainsFunc(m.alerts, func(a Alert) bool { return a.Class == c }) {
			classes = append(classes, c)
		}
	}
	return classes
}

// Title is the message's subject for where @ and # are links: neither is one in
// it, nor is it longer than 200 characters.
func (m Message) Title() string {
	s := mention.ReplaceAllString(Safe(m.Subject), "$1(at)$2")
	s = reference.ReplaceAllString(s, "# $1")
	return safe(strings.ReplaceAll(s, "`", "'"), 200)
}

var (
	// mention is an @ that GitHub takes for the beginning of a name: not that of a
	// mail address.
	mention   = regexp.MustCompile(`(\A|[^A-Za-z0-9_])@([A-Za-z0-9])`)
	reference = regexp.MustCompile(`#([0-9])`)
)
