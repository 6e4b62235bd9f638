package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"strconv"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
)

// smtpTimeout bounds one session.
const smtpTimeout = time.Minute

// smtp mails through a server: STARTTLS is mandatory unless the configuration
// says otherwise, and certificates are verified against the system's roots.
type smtp struct {
	route
	host string
	port int
	from mail.Address
	to   []mail.Address
	mode string // "starttls", "implicit" or "none"
	tls  *tls.Config
	user string // "": do not log in
	pass string
}

func openSMTP(r route, from mail.Address, to []mail.Address, e config.Email, getenv func(string) string) (Sink, error) {
	host, portText, err := hostPort(e.Host)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("host: %q: the port is not a number from 1 to 65535", e.Host)
	}
	s := &smtp{route: r, host: host, port: int(port), from: from, to: to, mode: e.TLS,
		tls: &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}}
	switch s.mode {
	case "":
		s.mode = "starttls"
	case "starttls", "implicit":
	case "none":
		if !loopback(host) {
			return nil, fmt.Errorf(`tls: "none" is for a server on this machine, and %s is not: use "starttls" or "implicit"`, host)
		}
	default:
		return nil, fmt.Errorf(`tls: %q is none of "starttls", "implicit", "none"`, e.TLS)
	}
	if s.user, err = secret(getenv, "SMTP_USERNAME"); err != nil {
		return nil, err
	}
	if s.pass, err = secret(getenv, "SMTP_PASSWORD"); err != nil {
		return nil, err
	}
	if s.user != "" && s.pass == "" {
		return nil, errors.New("SMTP_USERNAME is set but SMTP_PASSWORD is not: set it, or SMTP_PASSWORD_FILE to a file that holds it")
	}
	return s, nil
}

// Send mails the message to all recipients in one transaction. If the server
// refuses some of them, each gets a transaction of its own, so that one dead
// mailbox does not keep an alert from the others: it counts as delivered if those
// that were refused were refused for good.
func (s *smtp) Send(ctx context.Context, m report.Message) error {
	if err := check(m); err != nil {
		return &SendError{Sink: s.name, Alert: m.ID, Err: err}
	}
	err := s.session(ctx, m, s.to)
	var refused *gomail.SendError
	if !errors.As(err, &refused) || refused.Reason != gomail.ErrSMTPRcptTo || len(s.to) == 1 || s.down(err) {
		return s.failure(m, err)
	}
	delivered, retry := 0, false
	var errs []error
	for _, to := range s.to {
		err := s.session(ctx, m, []mail.Address{to})
		if err == nil {
			delivered++
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %w", to.Address, err))
		retry = retry || s.down(err) || errors.As(err, &refused) && refused.IsTemp()
	}
	if len(errs) == 0 {
		return nil
	}
	return &SendError{Sink: s.name, Alert: m.ID, Delivered: delivered > 0 && !retry, Err: errors.Join(errs...)}
}

// session is one connection and one transaction. It returns nil if and only if
// the server said 250 to the data: what becomes of RSET and QUIT is no matter.
func (s *smtp) session(ctx context.Context, m report.Message, to []mail.Address) error {
	ctx, cancel := context.WithTimeout(ctx, smtpTimeout)
	defer cancel()
	opts := []gomail.Option{
		gomail.WithPort(s.port), gomail.WithTimeout(smtpTimeout), gomail.WithTLSConfig(s.tls),
		gomail.WithDialContextFunc(s.dial(ctx)),
	}
	switch s.mode {
	case "implicit":
		opts = append(opts, gomail.WithSSL())
	case "none":
		opts = append(opts, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		opts = append(opts, gomail.WithTLSPolicy(gomail.TLSMandatory))
	}
	if s.user != "" {
		opts = append(opts, gomail.WithUsername(s.user), gomail.WithPassword(s.pass),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	client, err := gomail.NewClient(s.host, opts...)
	if err != nil {
		return err
	}
	msg := compose(m, s.from, to, time.Now())
	err = client.DialAndSendWithContext(ctx, msg)
	if msg.IsDelivered() {
		return nil
	}
	if err == nil {
		err = errors.New("the server did not acknowledge the data")
	}
	return errors.Join(context.Cause(ctx), err)
}

// dial connects so that the session ends when ctx does; the library looks at its
// context only while it connects.
func (s *smtp) dial(session context.Context) gomail.DialContextFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var conn net.Conn
		var err error
		if s.mode == "implicit" {
			conn, err = (&tls.Dialer{Config: s.tls}).DialContext(ctx, network, addr)
		} else {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		if err != nil {
			return nil, err
		}
		context.AfterFunc(session, func() { conn.Close() })
		return conn, nil
	}
}

// down says whether the next message would fare no better: no connection, no TLS,
// no login, our sender refused, or the server closing (421).
func (s *smtp) down(err error) bool {
	var refused *gomail.SendError
	if !errors.As(err, &refused) {
		return true
	}
	switch refused.Reason {
	case gomail.ErrConnCheck, gomail.ErrSMTPMailFrom:
		return true
	}
	return refused.ErrorCode() == 0 || refused.ErrorCode() == 421
}

func (s *smtp) failure(m report.Message, err error) error {
	if err == nil {
		return nil
	}
	return &SendError{Sink: s.name, Alert: m.ID, Down: s.down(err),
		Err: fmt.Errorf("SMTP server %s: %w", net.JoinHostPort(s.host, strconv.Itoa(s.port)), err)}
}
