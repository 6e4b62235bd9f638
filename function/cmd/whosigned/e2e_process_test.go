//go:build e2e && linux

package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serversDir is where .ci/servers puts the programs it builds.
func serversDir(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "whosigned", "servers")
}

// process is a server that runs until the test that started it ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string        // the file that its output goes to
	exited chan struct{} // closed once it has
}

// start runs a server. What it printed is shown if the test fails.
func start(t testing.TB, name, program string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(t.TempDir(), name+".log"), exited: make(chan struct{})}
	output, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(program, args...)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	// A suite that is killed or runs out of time leaves no server behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v; .ci/servers installs it", name, err)
	}
	go func() {
		defer close(p.exited)
		defer output.Close()
		_ = p.cmd.Wait() // how it ends is in its log
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // nothing that it still holds is needed; it may be gone already
		<-p.exited
		if t.Failed() {
			t.Logf("the last lines of %s:\n%s", p.name, tail(p.log, 4<<10))
		}
	})
	return p
}

// stop ends the process: politely, then not.
func (p *process) stop(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	select {
	case <-p.exited:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// tail returns the end of a file.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// await asks until ready says nil, at most for a minute, and fails the test if
// the server it waits for exits first.
func (p *process) await(t testing.TB, ready func() error) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-p.exited:
			t.Fatalf("%s exited before it was ready: %v\n%s", p.name, err, tail(p.log, 4<<10))
		case <-timeout:
			t.Fatalf("%s is not ready after a minute: %v\n%s", p.name, err, tail(p.log, 4<<10))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freePort returns a TCP port on loopback that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// command runs a program to its end and returns what it printed on stdout.
func command(t testing.TB, stdin io.Reader, program string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// get fetches a URL and returns the body of a 200.
func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return body, nil
}

// post sends JSON and returns the body of a 200 or 201.
func post(url string, body []byte) ([]byte, error) {
	resp, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("POST %s: %s: %s", url, resp.Status, answer)
	}
	return answer, nil
}
