package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/whosigned/whosigned/pkg/bucket"
	"github.com/whosigned/whosigned/pkg/trust"
)

func inBucket(location string) bool { return strings.HasPrefix(location, "gs://") }

// files reads a configuration and what it names, and remembers the version of
// each: an object's generation, a file's hash.
type files struct {
	buckets  map[string]*bucket.Bucket // by name
	versions []string                  // "location#version", the configuration's first
	unread   bool                      // something may be there and could not be read
}

func (f *files) read(ctx context.Context, location string) (data []byte, err error) {
	version := ""
	if inBucket(location) {
		var generation int64
		data, generation, err = f.object(ctx, location)
		version = fmt.Sprint(generation)
	} else {
		data, err = trust.ReadFile(location)
		version = hash(data)
	}
	f.unread = f.unread || err != nil && !errors.Is(err, fs.ErrNotExist)
	f.versions = append(f.versions, location+"#"+version)
	return data, err
}

func (f *files) object(ctx context.Context, location string) ([]byte, int64, error) {
	name, object, err := bucket.Split(location)
	if err != nil {
		return nil, 0, err
	}
	if object == "" {
		return nil, 0, fmt.Errorf("%s is a bucket; name an object in it", location)
	}
	b := f.buckets[name]
	if b == nil {
		if b, err = bucket.Open(ctx, "gs://"+name); err != nil {
			return nil, 0, err
		}
		b.Limit = trust.MaxFile
		f.buckets[name] = b
	}
	return b.Read(ctx, object)
}

func (f *files) close() {
	for _, b := range f.buckets {
		_ = b.Close() // it was only read from
	}
}

// generation is the configuration's own version, and a hash of those of the files
// that it names, if any.
func (f *files) generation() string {
	if f.unread {
		return "" // trouble that may pass is no version
	}
	_, own, _ := strings.Cut(f.versions[0], "#")
	if len(f.versions) == 1 {
		return own
	}
	return own + "-" + hash([]byte(strings.Join(f.versions[1:], "\n")))
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// newDocument is an empty document for a configuration at a location, and its
// absolute path.
func newDocument(location string) (d *document, abs string, err error) {
	d = &document{file: location, anchors: map[string]ast.Node{}}
	if inBucket(location) {
		name, object, err := bucket.Split(location)
		d.base = "gs://" + path.Join(name, path.Dir(object))
		return d, location, err
	}
	if abs, err = filepath.Abs(location); err != nil {
		return nil, "", err
	}
	d.base = filepath.Dir(abs)
	return d, abs, nil
}

// locate is where a file is that the configuration names: an absolute path or
// gs://bucket/object. It is "" after a problem.
func (d *document) locate(n node, text string) string {
	switch {
	case inBucket(text):
		if _, object, err := bucket.Split(text); err != nil {
			n.fail("%v", err)
			return ""
		} else if object == "" {
			n.fail("%q is a bucket; name an object in it", text)
			return ""
		}
		return text
	case !inBucket(d.base) && filepath.IsAbs(text):
		return filepath.Clean(text)
	case !inBucket(d.base):
		return filepath.Join(d.base, text)
	}
	const remedy = "the configuration is in a bucket, and so must be what it names: put it beside the configuration and give its name, or write gs://bucket/object"
	if filepath.IsAbs(text) || strings.Contains(text, "://") {
		n.fail("%q is outside; %s", text, remedy)
		return ""
	}
	name, folder, _ := strings.Cut(strings.TrimPrefix(d.base, "gs://"), "/")
	object := path.Join(folder, text)
	if up := strings.Split(object, "/"); slices.Contains(up, "..") || object == "." {
		n.fail("%q is outside; %s", text, remedy)
		return ""
	}
	at := "gs://" + name + "/" + object
	if _, _, err := bucket.Split(at); err != nil {
		n.fail("%v", err)
		return ""
	}
	return at
}

// folder is the absolute path of a folder that alerts are written to.
func (d *document) folder(n node, text string) string {
	switch {
	case !inBucket(d.base):
		return d.locate(n, text)
	case !filepath.IsAbs(text):
		n.fail("%q is not absolute, and the configuration is in a bucket, which has no folders; write the whole path", text)
		return ""
	}
	n.warn("a folder is lost with the instance that a function runs in, and its alerts with it; add a sink that sends them, such as email")
	return filepath.Clean(text)
}
