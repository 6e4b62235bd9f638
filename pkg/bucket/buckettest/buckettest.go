// Package buckettest is a Cloud Storage server for tests, over real HTTP on
// loopback, whose answers can be made to go wrong.
package buckettest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

// Server is fake-gcs-server behind a handler that tests can make fail.
type Server struct {
	URL string

	fake  *fakestorage.Server
	mu    sync.Mutex
	fault func(*http.Request) Fault
}

// Fault answers a request in the place of, or after, apply, which is the server.
type Fault func(w http.ResponseWriter, r *http.Request, apply http.Handler)

// New starts a server with empty buckets for the length of a test, and points
// STORAGE_EMULATOR_HOST at it.
func New(t testing.TB, buckets ...string) *Server {
	t.Helper()
	fake, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, Writer: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Stop)
	for _, name := range buckets {
		fake.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: name})
	}
	s := &Server{fake: fake}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	t.Setenv("STORAGE_EMULATOR_HOST", s.URL)
	return s
}

// Put writes an object, past all faults.
func (s *Server) Put(bucket, name, content string) {
	s.fake.CreateObject(fakestorage.Object{
		ObjectAttrs: fakestorage.ObjectAttrs{BucketName: bucket, Name: name}, Content: []byte(content),
	})
}

// Fail asks choose about each request from now on; nil is no fault. It is called
// by one request at a time.
func (s *Server) Fail(choose func(*http.Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = choose
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	var fault Fault
	if s.fault != nil {
		fault = s.fault(r)
	}
	s.mu.Unlock()
	if fault == nil {
		s.fake.HTTPHandler().ServeHTTP(w, r)
		return
	}
	fault(w, r, s.fake.HTTPHandler())
}

// IsWrite, IsRead and IsList tell requests apart.
func IsWrite(r *http.Request) bool { return r.Method == http.MethodPost }
func IsRead(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("alt") == "media"
}
func IsList(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/o")
}

// Status answers with a status and a message, in the form in which GCS does, and
// does nothing else.
func Status(code int, message string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": code, "message": message}})
	}
}

// Lost does what is asked and closes the connection without an answer.
func Lost(_ http.ResponseWriter, r *http.Request, apply http.Handler) {
	apply.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// Applied does what is asked and gives another fault's answer.
func Applied(then Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, apply http.Handler) {
		apply.ServeHTTP(httptest.NewRecorder(), r)
		then(w, r, apply)
	}
}

// CutRequest closes the connection when half of the request has come.
func CutRequest(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, 1000)
	panic(http.ErrAbortHandler)
}

// CutAnswer closes the connection after n bytes of an answer's body.
func CutAnswer(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, apply http.Handler) {
		body, status := record(w, r, apply)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(status)
		_, _ = w.Write(body[:min(n, len(body))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// ShortAnswer ends an answer early as if it were whole: its length is that of what came.
func ShortAnswer(w http.ResponseWriter, r *http.Request, apply http.Handler) {
	body, status := record(w, r, apply)
	body = body[:len(body)/2]
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// Corrupt flips a bit of an answer's body.
func Corrupt(w http.ResponseWriter, r *http.Request, apply http.Handler) {
	body, status := record(w, r, apply)
	body[len(body)/2] ^= 1
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// Without answers without a header.
func Without(header string) Fault {
	return func(w http.ResponseWriter, r *http.Request, apply http.Handler) {
		body, status := record(w, r, apply)
		w.Header().Del(header)
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}
}

// Silent takes a request and never answers.
func Silent(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body) // only then is it noticed that the client leaves
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// record has the request served, copies the headers of the answer, and returns its
// body.
func record(w http.ResponseWriter, r *http.Request, apply http.Handler) (body []byte, status int) {
	rec := httptest.NewRecorder()
	apply.ServeHTTP(rec, r)
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	return bytes.Clone(rec.Body.Bytes()), rec.Code
}
