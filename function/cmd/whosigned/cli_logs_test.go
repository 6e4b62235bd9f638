package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// world is what a script has around it. Its logs are served by the test itself,
// so they answer until the script is over.
type world struct {
	dir   string
	ca    *tlogtest.CA
	logs  map[string]*served
	order []string
	stops []func() error
}

// served is a log: v1 is set, or v2.
type served struct {
	v1  *tlogtest.RekorV1
	v2  *tlogtest.Tiles
	url string
	n   int // artifacts signed
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func (w *world) close() {
	for _, stop := range w.stops {
		stop()
	}
}

func (w *world) log(ts *testscript.TestScript, name string) *served {
	l, ok := w.logs[name]
	if !ok {
		ts.Fatalf("no log %q: logs start %s", name, name)
	}
	return l
}

func (l *served) log() *tlogtest.Log {
	if l.v1 != nil {
		return l.v1.Active().Log
	}
	return l.v2.Log
}

func (l *served) gate() *tlogtest.Gate {
	if l.v1 != nil {
		return l.v1.Gate
	}
	return l.v2.Gate
}

func (l *served) publish() error {
	if l.v2 != nil {
		return l.v2.Publish()
	}
	return nil
}

// reach is closed when the log is asked the nth time for a path that contains part.
// That request is not answered before its client has gone.
func (l *served) reach(part string, n uint64) (reached <-chan struct{}, clear func()) {
	c := make(chan struct{})
	var count atomic.Uint64
	return c, l.gate().Inject(tlogtest.Path(part), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		i := count.Add(1)
		if i == n {
			close(c)
		}
		if i >= n {
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// logCommands are what a script can have done to logs. For a log NAME the script
// has NAME_URL, NAME_ID and the key NAME.pub; v1… is a Rekor v1 service, any other
// name a Rekor v2 shard with the origin NAME.example, or NAME if it has dots.
var logCommands = map[string]struct {
	usage string
	args  int
	do    func(ts *testscript.TestScript, w *world, args []string) error
}{
	"start":    {"NAME…", 1, logsStart},
	"config":   {"OPTIONS, such as 'start: 0'; writes whosigned.yaml", 1, logsConfig},
	"grow":     {"NAME N: what others sign all day", 2, logsGrow},
	"sign":     {"NAME SUBJECT: a certificate's URI, or a mail address; Go escapes work", 2, logsSign},
	"append":   {"NAME TEXT: a leaf of any bytes", 2, logsAppend},
	"fork":     {"NAME INDEX: another history of the same size, without that entry", 2, logsFork},
	"rollback": {"NAME SIZE", 2, logsRollback},
	"alter":    {"NAME INDEX: serve other bytes than were hashed", 2, logsAlter},
	"honest":   {"NAME: end lies and faults", 1, logsHonest},
	"fault":    {"NAME PATH FAULT: 404, endless, garbage or hang", 3, logsFault},
	"key":      {"NAME: write the key NAME.pub of a log that is not served", 1, logsKey},
	"sendgrid": {"KEY: serve SendGrid, which takes KEY only, at SENDGRID_HOST", 1, logsSendGrid},
}

func cmdLogs(ts *testscript.TestScript, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: logs COMMAND …")
	}
	c, ok := logCommands[args[0]]
	if !ok || len(args)-1 < c.args {
		ts.Fatalf("usage: logs %s %s", args[0], c.usage)
	}
	ts.Check(c.do(ts, worldOf(ts), args[1:]))
}

func logsStart(ts *testscript.TestScript, w *world, names []string) error {
	if w.ca == nil {
		var err error
		if w.ca, err = tlogtest.NewCA("sigstore.example"); err != nil {
			return err
		}
		for name, pem := range map[string][]byte{"ca-root.pem": w.ca.RootPEM(), "ca-intermediate.pem": w.ca.IntermediatePEM()} {
			if err := os.WriteFile(filepath.Join(w.dir, name), pem, 0o600); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		l, h, err := newServed(name)
		if err != nil {
			return err
		}
		var stop func() error
		if l.url, stop, err = tlogtest.Serve(context.Background(), h); err != nil {
			return err
		}
		w.stops = append(w.stops, stop)
		pem, err := l.log().PublicKeyPEM()
		if err != nil {
			return err
		}
		key, err := tlog.ParseKeyPEM(pem)
		if err != nil {
			return err
		}
		if l.v1 != nil {
			ts.Setenv(name+"_ID", key.Hex()+"-"+strconv.FormatInt(l.v1.Active().ID, 10))
		} else {
			key.LogID = key.OriginID(l.v2.Origin())
			ts.Setenv(name+"_ID", key.Hex())
		}
		ts.Setenv(name+"_URL", l.url)
		if err := os.WriteFile(filepath.Join(w.dir, name+".pub"), pem, 0o600); err != nil {
			return err
		}
		w.logs[name] = l
		w.order = append(w.order, name)
	}
	return nil
}

func newServed(name string) (*served, http.Handler, error) {
	if strings.HasPrefix(name, "v1") {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		v1, err := tlogtest.NewRekorV1(key)
		return &served{v1: v1}, v1, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	origin := name
	if !strings.Contains(name, ".") {
		origin += ".example"
	}
	v2, err := tlogtest.NewTiles(origin, key)
	return &served{v2: v2}, v2, err
}

func logsConfig(_ *testscript.TestScript, w *world, args []string) error {
	var b strings.Builder
	b.WriteString("state: ./state\ncaRootsFile: ca-root.pem\ncaIntermediatesFile: ca-intermediate.pem\nlogs:\n")
	for _, name := range w.order {
		if l := w.logs[name]; l.v1 != nil {
			fmt.Fprintf(&b, "  - {type: rekor-v1, url: %q, key: %s.pub, %s}\n", l.url, name, args[0])
		} else {
			fmt.Fprintf(&b, "  - {type: rekor-v2, url: %q, key: %s.pub, origin: %s, %s}\n", l.url, name, l.v2.Origin(), args[0])
		}
	}
	b.WriteString(`watch:
  - name: acme
    subject: [{glob: "https://github.com/acme/*"}, {glob: "*@acme.example*"}]
    expect: [{extensions: {build-signer-uri: {glob: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/*"}}}]
alerts:
  folder: {path: ./mail}
`)
	return os.WriteFile(filepath.Join(w.dir, "whosigned.yaml"), []byte(b.String()), 0o600)
}

func logsGrow(ts *testscript.TestScript, w *world, args []string) error {
	l := w.log(ts, args[0])
	signer, err := w.ca.Issue(github("https://github.com/someone/else/.github/workflows/ci.yml@refs/heads/main"))
	if err != nil {
		return err
	}
	maker := tlogtest.HashedRekordV002
	if l.v1 != nil {
		maker = tlogtest.HashedRekordV001
	}
	leaf, err := tlogtest.Synthetic(maker, signer)
	if err != nil {
		return err
	}
	l.log().Tree().Generate(number(ts, args, 1), leaf)
	return l.publish()
}

func logsSign(ts *testscript.TestScript, w *world, args []string) error {
	l := w.log(ts, args[0])
	subject, err := strconv.Unquote(`"` + args[1] + `"`)
	if err != nil {
		return fmt.Errorf("subject %q: %w", args[1], err)
	}
	id := tlogtest.Identity{Email: subject, Issuer: "https://accounts.google.com"}
	if strings.Contains(subject, "://") {
		id = github(subject)
	}
	signer, err := w.ca.Issue(id)
	if err != nil {
		return err
	}
	maker := tlogtest.HashedRekordV002
	if l.v1 != nil {
		maker = tlogtest.HashedRekordV001
	}
	l.n++
	leaf, err := maker(signer, fmt.Appendf(nil, "artifact %d", l.n))
	if err != nil {
		return err
	}
	l.log().Append(leaf)
	return l.publish()
}

func logsAppend(ts *testscript.TestScript, w *world, args []string) error {
	l := w.log(ts, args[0])
	l.log().Append([]byte(args[1]))
	return l.publish()
}

func logsFork(ts *testscript.TestScript, w *world, args []string) error {
	l := w.log(ts, args[0])
	tree := l.log().Tree()
	fork, err := without(tree, number(ts, args, 1))
	if err != nil {
		return err
	}
	l.log().Show(fork)
	return nil
}

func logsRollback(ts *testscript.TestScript, w *world, args []string) error {
	w.log(ts, args[0]).log().At(number(ts, args, 1))
	return nil
}

func logsAlter(ts *testscript.TestScript, w *world, args []string) error {
	w.log(ts, args[0]).log().Lie(number(ts, args, 1), tlogtest.Lie{Data: []byte(`{"not":"what was hashed"}`)})
	return nil
}

func logsHonest(ts *testscript.TestScript, w *world, args []string) error {
	l := w.log(ts, args[0])
	l.log().Honest()
	l.gate().ClearFaults()
	return l.publish()
}

func logsFault(ts *testscript.TestScript, w *world, args []string) error {
	effect, ok := map[string]tlogtest.Effect{
		"404": tlogtest.Status(http.StatusNotFound), "endless": tlogtest.Oversize(-1), "garbage": tlogtest.Garbage(), "hang": tlogtest.Hang(),
	}[args[2]]
	if !ok {
		return fmt.Errorf("unknown fault %q", args[2])
	}
	w.log(ts, args[0]).gate().Inject(tlogtest.Path(args[1]), 0, effect)
	return nil
}

func logsKey(_ *testscript.TestScript, w *world, args []string) error {
	l, _, err := newServed(args[0])
	if err != nil {
		return err
	}
	pem, err := l.log().PublicKeyPEM()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.dir, args[0]+".pub"), pem, 0o600)
}

func logsSendGrid(ts *testscript.TestScript, w *world, args []string) error {
	url, stop, err := tlogtest.Serve(context.Background(), &notifytest.SendGrid{Key: args[0]})
	if err != nil {
		return err
	}
	w.stops = append(w.stops, stop)
	ts.Setenv("SENDGRID_HOST", url)
	return nil
}
