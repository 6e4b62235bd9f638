package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be whosigned, so that scripts run it as people do:
// a process of its own, with its exit status, its signals and its two outputs.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"whosigned": main})
}

// TestCommandLine runs testdata/script. Besides testscript's own commands a script
// has these:
//
//	logs …                    serves logs on loopback and makes them lie: see cli_logs_test.go
//	expand FILE…              puts environment variables into files
//	status N ARG…             runs whosigned, which must exit with N
//	interrupt LOG PATH N STATUS ARG…
//	                          the same, interrupted when the log is asked for PATH the Nth time
//	killed LOG PATH N ARG…    runs whosigned, which is killed at such a moment
//	json PATH [WANT]          compares a value in the JSON on stdout (logs.0.id; findings.len is
//	                          how many), which must be one document and nothing else
//	json -set NAME PATH       puts one into the environment
//	examples COMMAND LOG      runs every example in a command's help; one that goes on
//	                          until interrupted is interrupted when LOG is asked
//	cloud CONFIG STATE        serves Google Cloud with an installation: see cloud_test.go
//	mails                     puts subject and text of what is in ./mail on stdout, oldest first
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			w := &world{dir: e.WorkDir, logs: map[string]*served{}}
			e.Values[worldKey{}] = w
			e.Defer(w.close)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"logs":      positive("logs", cmdLogs),
			"expand":    positive("expand", cmdExpand),
			"status":    positive("status", cmdStatus),
			"interrupt": positive("interrupt", cmdInterrupt),
			"killed":    positive("killed", cmdKilled),
			"json":      positive("json", cmdJSON),
			"cloud":     positive("cloud", cmdCloud),
			"mails":     positive("mails", cmdMails),
			"examples":  positive("examples", cmdExamples),
		},
	})
}

// positive is for commands that cannot be negated.
func positive(name string, cmd func(*testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("unsupported: ! %s", name)
		}
		cmd(ts, args)
	}
}

func cmdExpand(ts *testscript.TestScript, files []string) {
	for _, name := range files {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o600))
	}
}

func cmdStatus(ts *testscript.TestScript, args []string) {
	want := number(ts, args, 0)
	checkStatus(ts, int(want), ts.Exec("whosigned", args[1:]...))
}

func checkStatus(ts *testscript.TestScript, want int, err error) {
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func number(ts *testscript.TestScript, args []string, i int) uint64 {
	if i >= len(args) {
		ts.Fatalf("argument %d is missing: want a number", i)
	}
	n, err := strconv.ParseUint(args[i], 10, 64)
	ts.Check(err)
	return n
}

// cmdInterrupt sends SIGINT, as Ctrl-C does, at a moment that the log knows.
func cmdInterrupt(ts *testscript.TestScript, args []string) {
	if len(args) < 5 {
		ts.Fatalf("usage: interrupt LOG PATH N STATUS ARG…")
	}
	err := runUntil(ts, args[:3], os.Interrupt, args[4:])
	checkStatus(ts, int(number(ts, args, 3)), err)
}

func cmdKilled(ts *testscript.TestScript, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: killed LOG PATH N ARG…")
	}
	checkStatus(ts, -1, runUntil(ts, args[:3], os.Kill, args[3:]))
}

// runUntil runs whosigned until a log is asked for a path the Nth time: then it
// gets the signal.
func runUntil(ts *testscript.TestScript, when []string, signal os.Signal, args []string) error {
	reached, clear := worldOf(ts).log(ts, when[0]).reach(when[1], number(ts, when, 2))
	defer clear()
	// Not the script's environment, of which a process needs nothing here.
	c := exec.Command("whosigned", args...)
	c.Dir = ts.MkAbs(".")
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	ts.Check(c.Start())
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	var err error
	select {
	case <-reached:
		ts.Check(c.Process.Signal(signal))
		err = <-done
	case err = <-done:
		ts.Fatalf("it ended before it asked for %s %s times: %v\n%s%s", when[1], when[2], err, stdout.Bytes(), stderr.Bytes())
	}
	fmt.Fprint(ts.Stdout(), stdout.String())
	fmt.Fprint(ts.Stderr(), stderr.String())
	return err
}

// cmdExamples takes an example as a shell would, without what stands after a pipe.
func cmdExamples(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: examples COMMAND LOG")
	}
	ts.Check(ts.Exec("whosigned", args[0], "--help"))
	_, after, ok := strings.Cut(ts.ReadFile("stdout"), "\nExamples:\n")
	examples, _, _ := strings.Cut(after, "\n\n")
	if !ok || !strings.Contains(examples, "whosigned "+args[0]) {
		ts.Fatalf("the help of %s has no example", args[0])
	}
	for _, line := range strings.Split(examples, "\n") {
		line, comment, _ := strings.Cut(strings.TrimSpace(line), "#")
		line, _, _ = strings.Cut(line, "|")
		ts.Logf("example: %s", line)
		if strings.Contains(comment, "until interrupted") {
			cmdInterrupt(ts, append([]string{args[1], "/checkpoint", "1", "1"}, strings.Fields(line)[1:]...))
			continue
		}
		ts.Check(ts.Exec("sh", "-c", line))
	}
}

func cmdJSON(ts *testscript.TestScript, args []string) {
	name := ""
	if len(args) == 3 && args[0] == "-set" {
		name, args = args[1], args[2:]
	}
	if len(args) == 0 || len(args) > 2 || name != "" && len(args) > 1 {
		ts.Fatalf("usage: json PATH [WANT], or json -set NAME PATH")
	}
	var doc any
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	ts.Check(d.Decode(&doc))
	if d.More() {
		ts.Fatalf("stdout has more than one JSON document")
	}
	got, err := at(doc, args[0])
	ts.Check(err)
	switch {
	case name != "":
		ts.Setenv(name, got)
	case len(args) == 2 && got != args[1]:
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

// at is the value at a path like logs.0.id, as text; of a list, path.len is the length.
func at(v any, path string) (string, error) {
	for _, step := range strings.Split(path, ".") {
		switch t := v.(type) {
		case map[string]any:
			next, ok := t[step]
			if !ok {
				return "", fmt.Errorf("%s: there is no %q", path, step)
			}
			v = next
		case []any:
			if step == "len" {
				return strconv.Itoa(len(t)), nil
			}
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(t) {
				return "", fmt.Errorf("%s: there is no %q among %d", path, step, len(t))
			}
			v = t[i]
		default:
			return "", fmt.Errorf("%s: %v has no %q", path, v, step)
		}
	}
	return fmt.Sprint(v), nil
}

func cmdMails(ts *testscript.TestScript, _ []string) {
	names, err := filepath.Glob(ts.MkAbs("mail/*.eml"))
	ts.Check(err)
	for _, name := range names {
		text, err := mailText(name)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "Subject: %s\n%s\n", subject(name), text)
	}
}

// mailText is the first part of a message, which is its text.
func mailText(name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return "", err
	}
	part, err := multipart.NewReader(m.Body, params["boundary"]).NextPart()
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(part)
	return strings.ReplaceAll(string(text), "\r\n", "\n"), err
}
