// Package bucket reads and writes the objects of a Google Cloud Storage bucket,
// over its JSON API (https://cloud.google.com/storage/docs/json_api).
//
// It keeps its share of these promises:
//
//   - P1: content counts only as it was stored: what is read is checked against
//     the object's CRC32C, what is written is sent with it.
//   - P4: every write is a compare-and-swap on the object's generation.
//   - P8: passing trouble is waited out within the call's context: 429 (an object
//     takes about one write a second), 5xx, connections that break.
//   - P9: a bucket that is missing, or that may not be read, never reads as an
//     absent object or an empty list.
//
// STORAGE_EMULATOR_HOST names another server to speak to, without credentials.
package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"net/http/httptrace"
	"path"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/storage"
	gax "github.com/googleapis/gax-go/v2"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
)

// ErrChanged is wrapped by the error of a Write whose object no longer has the
// generation that it asked for. Since a Write whose answer was lost is made again,
// the object may have been changed by that very Write: read it to know.
var ErrChanged = errors.New("its generation has changed")

const (
	// attempts is how often a request that fails for a passing reason is made.
	attempts = 8
	// maxRequests bounds one call. The library resumes a read whose connection breaks
	// at once and without end, even if no byte gets through.
	maxRequests = 2 * attempts
)

// Bucket is the objects of a bucket whose names begin with a prefix. Its methods
// may be called at once; its fields are to be set before.
type Bucket struct {
	// Timeout bounds one Read or Write, and each page of a List, with all that is
	// tried again.
	Timeout time.Duration // 1 minute by Open
	// Wait is the longest wait before the second attempt; it doubles for each further
	// one. There are 8 in all.
	Wait time.Duration // 1 second by Open
	// Limit is the size of the largest object that is read, in bytes.
	Limit int64 // 64 MiB by Open

	name   string
	prefix string // "" or ending in a slash
	client *storage.Client
	found  atomic.Bool // the bucket exists
	paging int         // objects to a page of a listing
}

// Open returns the objects below gs://bucket or gs://bucket/prefix. Nothing is
// asked of the bucket yet; the error says what is wrong with the location, or
// that there are no credentials.
func Open(ctx context.Context, location string) (*Bucket, error) {
	name, prefix, err := Split(location)
	if err != nil {
		return nil, err
	}
	if prefix != "" {
		prefix += "/"
	}
	client, err := storage.NewClient(ctx, storage.WithJSONReads(), storage.WithDisabledClientMetrics(),
		option.WithTelemetryDisabled(), option.WithUserAgent("whosigned/"+version()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", location, err, credentialsRemedy)
	}
	return &Bucket{
		Timeout: time.Minute, Wait: time.Second, Limit: 64 << 20,
		name: name, prefix: prefix, client: client, paging: 1000, // the API's limit
	}, nil
}

// Close gives up the connections. The Bucket must not be used any more.
func (b *Bucket) Close() error { return b.client.Close() }

// URL is the gs:// URL of an object; of the prefix, if name is "".
func (b *Bucket) URL(name string) string { return "gs://" + path.Join(b.name, b.prefix, name) }

// Read returns an object's content and its generation, which is above 0. The error
// wraps fs.ErrNotExist if, and only if, the bucket is there and the object is not.
func (b *Bucket) Read(ctx context.Context, name string) ([]byte, int64, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	data, generation, err := b.read(ctx, name)
	if errors.Is(err, storage.ErrObjectNotExist) {
		// GCS answers 404 for a missing bucket just the same.
		if err := b.exists(ctx); err != nil {
			return nil, 0, b.explain(ctx, "reading "+b.URL(name), "list", err)
		}
		return nil, 0, fmt.Errorf("reading %s: %w", b.URL(name), fs.ErrNotExist)
	}
	if err != nil {
		return nil, 0, b.explain(ctx, "reading "+b.URL(name), "get", err)
	}
	b.found.Store(true)
	return data, generation, nil
}

func (b *Bucket) read(ctx context.Context, name string) ([]byte, int64, error) {
	r, err := b.handle().Object(b.prefix + name).NewReader(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	if r.Attrs.Size > b.Limit {
		return nil, 0, fmt.Errorf("it has %d bytes, more than the %d that whosigned reads", r.Attrs.Size, b.Limit)
	}
	content := bytes.NewBuffer(make([]byte, 0, max(r.Attrs.Size, 0)+bytes.MinRead))
	if _, err := content.ReadFrom(io.LimitReader(r, b.Limit+1)); err != nil {
		return nil, 0, err
	}
	data := content.Bytes()
	if int64(len(data)) > b.Limit {
		return nil, 0, fmt.Errorf("it has more than the %d bytes that whosigned reads", b.Limit)
	}
	// The library checks this too, but passes over answers that name no checksum or
	// that were decompressed on the way.
	if got := crc32.Checksum(data, castagnoli); got != r.Attrs.CRC32C {
		text := fmt.Sprintf("its content is not what was stored: %d bytes with CRC32C %08x, want %08x; try again", len(data), got, r.Attrs.CRC32C)
		if r.Attrs.Decompressed {
			text = "it is stored compressed (Content-Encoding: gzip); upload it uncompressed"
		}
		return nil, 0, errors.New(text)
	}
	if r.Attrs.Generation <= 0 {
		return nil, 0, errors.New("the answer names no generation")
	}
	return data, r.Attrs.Generation, nil
}

// Write writes an object if it has the given generation, or does not exist if that
// is 0, and returns its new generation. Otherwise nothing is written and the error
// wraps ErrChanged. After any other error it may have been written all the same.
func (b *Bucket) Write(ctx context.Context, name string, data []byte, ifGeneration int64) (int64, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	wait := b.backoff()
	var failed []error
	for {
		generation, err := b.write(ctx, name, data, ifGeneration)
		if err == nil {
			b.found.Store(true)
			return generation, nil
		}
		failed = append(failed, err)
		if len(failed) == attempts || ctx.Err() != nil || !storage.ShouldRetry(err) {
			break
		}
		if err := gax.Sleep(ctx, wait.Pause()); err != nil {
			failed = append(failed, err)
			break
		}
	}
	err := failed[len(failed)-1]
	if n := len(failed); n > 1 {
		err = fmt.Errorf("%w (attempt %d, after: %w)", err, n, failed[n-2])
	}
	return 0, b.explain(ctx, "writing "+b.URL(name), "create", err)
}

// write is one attempt. The library makes no second one itself: without chunks it
// keeps no copy of what it sends, and with them each write would cost 16 MiB.
func (b *Bucket) write(ctx context.Context, name string, data []byte, ifGeneration int64) (int64, error) {
	conditions := storage.Conditions{GenerationMatch: ifGeneration}
	if ifGeneration == 0 {
		conditions = storage.Conditions{DoesNotExist: true}
	}
	w := b.handle().Object(b.prefix + name).If(conditions).NewWriter(ctx)
	w.ChunkSize = 0
	w.ContentType = contentType(name)
	w.CRC32C, w.SendCRC32C = crc32.Checksum(data, castagnoli), true
	// What Write says is less than what Close says.
	_, err := w.Write(data)
	if closing := w.Close(); closing != nil {
		err = closing
	}
	if err != nil {
		return 0, err
	}
	return w.Attrs().Generation, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// contentType keeps browsers from guessing: some objects hold what an attacker
// wrote into a log.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".json":
		return "application/json"
	case ".html":
		return "text/html; charset=utf-8"
	}
	return "application/octet-stream"
}

// List yields the name of every object that begins with prefix, in order. It stops
// after an error, also if the bucket does not exist.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for token := ""; ; {
			page, next, err := b.page(ctx, b.prefix+prefix, token, b.paging)
			if err != nil {
				yield("", err)
				return
			}
			for _, attrs := range page {
				if name := strings.TrimPrefix(attrs.Name, b.prefix); name != "" && !yield(name, nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}

// page has a context of its own: between two the caller may take its time.
func (b *Bucket) page(ctx context.Context, prefix, token string, size int) ([]*storage.ObjectAttrs, string, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	page, next, err := b.list(ctx, prefix, token, size)
	if err != nil {
		return nil, "", b.explain(ctx, "listing gs://"+b.name+"/"+prefix, "list", err)
	}
	return page, next, nil
}

func (b *Bucket) list(ctx context.Context, prefix, token string, size int) (page []*storage.ObjectAttrs, next string, err error) {
	q := &storage.Query{Prefix: prefix, Projection: storage.ProjectionNoACL}
	if err := q.SetAttrSelection([]string{"Name"}); err != nil {
		return nil, "", err
	}
	next, err = iterator.NewPager(b.handle().Objects(ctx, q), size, token).NextPage(&page)
	if err == nil {
		b.found.Store(true)
	}
	return page, next, err
}

// exists returns an error unless the bucket is known to exist. Listing it needs
// no right that a run does not have anyway.
func (b *Bucket) exists(ctx context.Context) error {
	if b.found.Load() {
		return nil
	}
	_, _, err := b.list(ctx, b.prefix, "", 1)
	return err
}

func (b *Bucket) handle() *storage.BucketHandle {
	return b.client.Bucket(b.name).Retryer(storage.WithPolicy(storage.RetryAlways),
		storage.WithBackoff(*b.backoff()), storage.WithMaxAttempts(attempts))
}

func (b *Bucket) backoff() *gax.Backoff {
	return &gax.Backoff{Initial: b.Wait, Max: 16 * b.Wait, Multiplier: 2}
}

// bound is a context for one call: limited in time, and in requests.
func (b *Bucket) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, b.Timeout, fmt.Errorf("no answer within %s: %w", b.Timeout, context.DeadlineExceeded))
	var requests atomic.Int32
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GetConn: func(string) {
		if requests.Add(1) > maxRequests {
			stop(fmt.Errorf("the connection breaks again and again: given up after %d requests", maxRequests))
		}
	}})
	return ctx, func() { cancel(); stop(nil) }
}

// version is the module's, as the go command recorded it; the program may be
// another one, such as the function's.
func version() string {
	const module = "github.com/whosigned/whosigned"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == module && m.Version != "" {
				return m.Version
			}
		}
	}
	return "devel"
}
