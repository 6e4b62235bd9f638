package notifytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"
)

// The stages at which [SMTPConfig.Reply] is asked.
const (
	Connect  = "CONNECT" // the greeting
	EHLO     = "EHLO"
	StartTLS = "STARTTLS"
	Auth     = "AUTH" // after the credentials
	MailFrom = "MAIL"
	RcptTo   = "RCPT"
	Data     = "DATA" // the command
	End      = "END"  // after the data: the acknowledgement
	Reset    = "RSET"
	Quit     = "QUIT"
)

// What [SMTPConfig.Reply] may return besides a reply line.
const (
	Drop       = "drop"        // close the connection without a word
	AcceptDrop = "accept-drop" // at End: take the message, then close without a word
)

// SMTPConfig says how an [SMTP] behaves. The zero value is a server on loopback
// without TLS that takes everything.
type SMTPConfig struct {
	TLS                string // "starttls", "implicit" or "": none
	Username, Password string // required if Username is set; AUTH PLAIN and LOGIN
	// Reply may say something else than the server would at a stage ("451 4.3.0 try
	// later", or Drop); "" leaves it to the server. arg is the command's argument.
	Reply func(stage, arg string) string
}

// SMTP is a mail server on loopback, as much of RFC 5321 as a client needs.
type SMTP struct {
	Addr string // host:port
	// CA is the certificate that TLS clients must trust, PEM: "127.0.0.1" and
	// "localhost" are its names.
	CA []byte

	config   SMTPConfig
	listener net.Listener
	tls      *tls.Config
	wg       sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]bool
	sessions int
	mails    []SMTPMail
}

// SMTPMail is a message that was acknowledged, or taken before a disconnect.
type SMTPMail struct {
	From string
	To   []string
	Data []byte // as transferred, dots unstuffed, lines ending in \n
	TLS  bool
	User string // who logged in
}

// NewSMTP starts a server. Close it.
func NewSMTP(c SMTPConfig) (*SMTP, error) {
	cert, ca, err := selfSigned()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &SMTP{Addr: l.Addr().String(), CA: ca, config: c, listener: l, conns: map[net.Conn]bool{},
		tls: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}
	s.wg.Go(s.serve)
	return s, nil
}

// Close ends the server and every session.
func (s *SMTP) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// Mails returns the messages taken, in order.
func (s *SMTP) Mails() []SMTPMail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Sessions is how many connections there were.
func (s *SMTP) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

func (s *SMTP) serve() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.sessions++
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			(&session{SMTP: s, conn: c}).run()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			c.Close()
		})
	}
}

// session is one connection.
type session struct {
	*SMTP
	conn   net.Conn
	text   *textproto.Conn
	secure bool
	mail   SMTPMail
	user   string
}

var errDropped = errors.New("dropped")

func (s *session) run() {
	if s.config.TLS == "implicit" && s.upgrade() != nil {
		return
	}
	s.text = textproto.NewConn(s.conn)
	if s.reply(Connect, "", "220 notifytest ESMTP") != nil {
		return
	}
	for {
		line, err := s.text.ReadLine()
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(line, " ")
		if err := s.command(strings.ToUpper(verb), arg); err != nil {
			return
		}
	}
}

func (s *session) upgrade() error {
	c := tls.Server(s.conn, s.tls)
	if err := c.Handshake(); err != nil {
		return err
	}
	s.conn, s.secure = c, true
	return nil
}

// reply sends normal, or what the configuration wants said instead. It returns
// an error if the session ends.
func (s *session) reply(stage, arg, normal string) error {
	if s.config.Reply != nil {
		if other := s.config.Reply(stage, arg); other != "" {
			normal = other
		}
	}
	if normal == Drop || normal == AcceptDrop {
		return errDropped
	}
	if err := s.text.PrintfLine("%s", normal); err != nil {
		return err
	}
	if strings.HasPrefix(normal, "421") || strings.HasPrefix(normal, "221") {
		return errDropped
	}
	return s.refused(normal)
}

// refusal is a reply of 4xx or 5xx: the command had no effect.
type refusal string

func (r refusal) Error() string { return string(r) }

func (s *session) refused(line string) error {
	if line[0] == '4' || line[0] == '5' {
		return refusal(line)
	}
	return nil
}

// command obeys one command; a refusal does not end the session.
func (s *session) command(verb, arg string) error {
	err := s.obey(verb, arg)
	var no refusal
	if errors.As(err, &no) {
		return nil
	}
	return err
}

func (s *session) obey(verb, arg string) error {
	switch verb {
	case "EHLO", "HELO":
		return s.reply(EHLO, arg, s.extensions())
	case "STARTTLS":
		return s.startTLS(arg)
	case "AUTH":
		return s.auth(arg)
	case "MAIL":
		if s.config.Username != "" && s.user == "" {
			return s.reply(MailFrom, arg, "530 5.7.0 Authentication required")
		}
		if err := s.reply(MailFrom, arg, "250 2.1.0 OK"); err != nil {
			return err
		}
		s.mail = SMTPMail{From: path(arg), TLS: s.secure, User: s.user}
	case "RCPT":
		if err := s.reply(RcptTo, arg, "250 2.1.5 OK"); err != nil {
			return err
		}
		s.mail.To = append(s.mail.To, path(arg))
	case "DATA":
		return s.data(arg)
	case "RSET":
		s.mail = SMTPMail{}
		return s.reply(Reset, arg, "250 2.0.0 OK")
	case "NOOP":
		return s.text.PrintfLine("250 2.0.0 OK")
	case "QUIT":
		return s.reply(Quit, arg, "221 2.0.0 Bye")
	default:
		return s.text.PrintfLine("502 5.5.1 What is %s?", verb)
	}
	return nil
}

func (s *session) extensions() string {
	ext := []string{"notifytest", "8BITMIME", "ENHANCEDSTATUSCODES"}
	if s.config.TLS == "starttls" && !s.secure {
		ext = append(ext, "STARTTLS")
	}
	if s.config.Username != "" {
		ext = append(ext, "AUTH PLAIN LOGIN")
	}
	lines := make([]string, len(ext))
	for i, e := range ext {
		lines[i] = "250-" + e
	}
	lines[len(ext)-1] = "250 " + ext[len(ext)-1]
	return strings.Join(lines, "\r\n")
}

func (s *session) startTLS(arg string) error {
	if s.config.TLS != "starttls" || s.secure {
		return s.reply(StartTLS, arg, "502 5.5.1 No STARTTLS here")
	}
	if err := s.reply(StartTLS, arg, "220 2.0.0 Go ahead"); err != nil {
		return err
	}
	if err := s.upgrade(); err != nil {
		return err
	}
	s.text = textproto.NewConn(s.conn)
	return nil
}

func (s *session) auth(arg string) error {
	mechanism, initial, _ := strings.Cut(arg, " ")
	ask := func(prompt string) (string, error) {
		if initial != "" {
			answer := initial
			initial = ""
			b, err := base64.StdEncoding.DecodeString(answer)
			return string(b), err
		}
		if err := s.text.PrintfLine("334 %s", base64.StdEncoding.EncodeToString([]byte(prompt))); err != nil {
			return "", err
		}
		line, err := s.text.ReadLine()
		if err != nil {
			return "", err
		}
		b, err := base64.StdEncoding.DecodeString(line)
		return string(b), err
	}
	var user, pass string
	var err error
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		var all string
		if all, err = ask(""); err == nil {
			if parts := strings.Split(all, "\x00"); len(parts) == 3 {
				user, pass = parts[1], parts[2]
			}
		}
	case "LOGIN":
		if user, err = ask("Username:"); err == nil {
			pass, err = ask("Password:")
		}
	default:
		return s.reply(Auth, mechanism, "504 5.5.4 Unknown mechanism")
	}
	if err != nil {
		return err
	}
	if user != s.config.Username || pass != s.config.Password {
		return s.reply(Auth, mechanism, "535 5.7.8 Authentication credentials invalid")
	}
	if err := s.reply(Auth, mechanism, "235 2.7.0 Accepted"); err != nil {
		return err
	}
	s.user = user
	return nil
}

func (s *session) data(arg string) error {
	if len(s.mail.To) == 0 {
		return s.reply(Data, arg, "503 5.5.1 No valid recipients")
	}
	if err := s.reply(Data, arg, "354 Go ahead"); err != nil {
		return err
	}
	data, err := io.ReadAll(s.text.DotReader())
	if err != nil {
		return err
	}
	s.mail.Data = data
	line := "250 2.0.0 Taken"
	if s.config.Reply != nil {
		if other := s.config.Reply(End, ""); other != "" {
			line = other
		}
	}
	if line[0] == '2' || line == AcceptDrop {
		s.mu.Lock()
		s.mails = append(s.mails, s.mail)
		s.mu.Unlock()
	}
	s.mail = SMTPMail{}
	if line == Drop || line == AcceptDrop {
		return errDropped
	}
	if err := s.text.PrintfLine("%s", line); err != nil || strings.HasPrefix(line, "421") {
		return errors.Join(err, errDropped)
	}
	return nil
}

// path takes the address out of "FROM:<a@b.c> BODY=8BITMIME".
func path(arg string) string {
	_, rest, _ := strings.Cut(arg, "<")
	addr, _, _ := strings.Cut(rest, ">")
	return addr
}

// selfSigned makes a certificate for loopback that is its own CA.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "notifytest"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
