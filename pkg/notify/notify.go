// Package notify takes alerts to people: by mail through SendGrid, Mailgun or
// SMTP, as issues on GitHub, or into a folder.
//
// It keeps its share of P3 (no alert is lost, none is buried): [Sink.Send] says
// nil only when the sink acknowledged (SendGrid's 202, Mailgun's 200 with an ID,
// SMTP's 250 after the data, GitHub's 201 with an issue's number, a file that is
// synced and in place), and [Deliver] reports which alerts were acknowledged,
// whatever happened to the others. A repeat carries the same Message-ID and
// X-Whosigned-Alert, and opens no second issue. And of P6 (one bad sink or alert
// never stops the others): every wait is bounded, and a message that is refused
// does not hold up the next.
package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
)

// Sink is a place alerts go.
type Sink interface {
	// Name is what outboxes and messages call it.
	Name() string
	// Takes says whether alerts of a class are routed to it. It is asked when an
	// alert is put in the outbox; what is there is delivered.
	Takes(report.Class) bool
	// Send returns nil only if the sink acknowledged the message. Other errors than
	// that of ctx are a *SendError.
	Send(ctx context.Context, m report.Message) error
}

// SendError is a delivery that was not acknowledged, or not for everybody.
type SendError struct {
	Sink  string
	Alert string // the message's ID
	// Down: the sink takes no message at all at the moment (unreachable, refuses our
	// credentials or sender, asks to wait). Otherwise it refused this one.
	Down bool
	// Delivered: the message was acknowledged, but not for every recipient, or not with
	// every label and assignee. Asking again would not help that, and would repeat it to
	// the others.
	Delivered bool
	Err       error
}

func (e *SendError) Error() string {
	what := "refused alert"
	switch {
	case e.Delivered:
		what = "delivered only in part alert"
	case e.Down:
		what = "is down, not delivered: alert"
	}
	return fmt.Sprintf("sink %s %s %s: %v", e.Sink, what, e.Alert, e.Err)
}
func (e *SendError) Unwrap() error { return e.Err }

// maxMessages is how many alerts a sink gets as a message each; more become one
// digest.
const maxMessages = 50

// Deliver sends alerts to a sink: a message each, the gravest first, and one for all
// that tell of the same certificate; or one digest if more than 50 are pending. It returns the IDs of those that the sink
// acknowledged, and what went wrong with the others; both may be set. A message
// that is refused does not stop the others; a sink that is down does.
func Deliver(ctx context.Context, sink Sink, alerts []report.Alert) (acked []string, err error) {
	if len(alerts) > maxMessages {
		ok, err := send(ctx, sink, alerts)
		if ok {
			for _, a := range alerts {
				acked = append(acked, a.ID)
			}
		}
		return acked, err
	}
	grave := slices.Clone(alerts)
	classes := report.Classes()
	slices.SortStableFunc(grave, func(a, b report.Alert) int {
		return cmp.Compare(slices.Index(classes, a.Class), slices.Index(classes, b.Class))
	})
	var errs []error
	for _, group := range report.Group(grave) {
		ok, err := send(ctx, sink, group)
		if ok {
			for _, a := range group {
				acked = append(acked, a.ID)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
		var failed *SendError
		if ctx.Err() != nil || errors.As(err, &failed) && failed.Down {
			break
		}
	}
	return acked, errors.Join(errs...)
}

// send sends one message and says whether it was acknowledged.
func send(ctx context.Context, sink Sink, alerts []report.Alert) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("sink %s: %w", sink.Name(), err)
	}
	err := sink.Send(ctx, report.Email(alerts))
	var partly *SendError
	return err == nil || errors.As(err, &partly) && partly.Delivered, err
}

// Open makes the configured sinks, reading their secrets: SENDGRID_API_KEY,
// MAILGUN_API_KEY, SMTP_USERNAME and SMTP_PASSWORD, and GITHUB_TOKEN, from getenv, or
// from the file that the same name with _FILE points at. Nothing is written or
// connected to. SENDGRID_HOST, a base URL, replaces SendGrid's own.
//
// The error lists the sinks that cannot be opened, and why. Each is still among
// those returned, under its name and with its classes, but whatever it is sent it
// fails with that reason, as one that is down: its alerts wait in the outbox (P3)
// instead of counting as those of a sink that nobody configured.
func Open(a config.Alerts, getenv func(string) string) ([]Sink, error) {
	var sinks []Sink
	var errs []error
	where := map[string]string{}
	add := func(place, name string, classes []string, s Sink, err error) {
		if other, taken := where[name]; taken {
			errs = append(errs, fmt.Errorf("%s: a sink named %q is already at %s: give one of them another name", place, name, other))
			return
		}
		where[name] = place
		if err != nil {
			err = fmt.Errorf("%s: %w", place, err)
			errs = append(errs, err)
			r, _ := newRoute(name, classes) // a class that is not one is in err
			s = unopened{route: r, err: err}
		}
		sinks = append(sinks, s)
	}
	for _, e := range a.Emails {
		s, err := openEmail(e, e.Secrets.Or(getenv))
		add(cmp.Or(e.Where, "alerts.email"), cmp.Or(e.Name, "email"), e.Classes, s, err)
	}
	for _, g := range a.GitHubs {
		s, err := openGitHub(g, g.Secrets.Or(getenv))
		add(cmp.Or(g.Where, "alerts.github"), cmp.Or(g.Name, "github"), g.Classes, s, err)
	}
	for _, f := range a.Folders {
		s, err := openFolder(f)
		add(cmp.Or(f.Where, "alerts.folder"), cmp.Or(f.Name, "folder"), f.Classes, s, err)
	}
	for _, i := range a.Identities {
		s, err := openIdentities(i)
		add(cmp.Or(i.Where, "outputIdentities"), cmp.Or(i.Name, "identities"), nil, s, err)
	}
	return sinks, errors.Join(errs...)
}

// unopened stands for a sink that could not be opened.
type unopened struct {
	route
	err error
}

func (u unopened) Send(_ context.Context, m report.Message) error {
	return &SendError{Sink: u.name, Alert: m.ID, Down: true, Err: u.err}
}

// route is the part of a sink that is the same for all.
type route struct {
	name    string
	classes []report.Class // none: all
}

func (r route) Name() string { return r.name }

func (r route) Takes(c report.Class) bool {
	return len(r.classes) == 0 || slices.Contains(r.classes, c)
}

func newRoute(name string, classes []string) (route, error) {
	r := route{name: name}
	for _, c := range classes {
		if !slices.Contains(report.Classes(), report.Class(c)) {
			return r, fmt.Errorf("class %q is not one of %v", c, report.Classes())
		}
		r.classes = append(r.classes, report.Class(c))
	}
	return r, nil
}

// secret reads a secret from the environment, or from the file that name_FILE
// points at, afresh: files of mounted secrets change. It returns "" if neither is set.
func secret(getenv func(string) string, name string) (string, error) {
	value, file := getenv(name), getenv(name+"_FILE")
	switch {
	case value != "" && file != "":
		return "", fmt.Errorf("both %s and %s_FILE are set: unset one of them", name, name)
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("reading %s_FILE: %w", name, err)
		}
		if value = strings.TrimSpace(string(b)); value == "" {
			return "", fmt.Errorf("%s_FILE: %s is empty", name, file)
		}
	}
	if strings.ContainsFunc(value, unicode.IsControl) {
		return "", fmt.Errorf("%s holds a control character or a second line; it must be one line", name)
	}
	return value, nil
}
