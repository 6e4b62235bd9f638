package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
)

const credentialsRemedy = "run where a service account is attached, or: gcloud auth application-default login"

// roles are predefined ones with storage.objects.<verb>, the least first.
var roles = map[string]string{
	"get":    "roles/storage.objectViewer",
	"list":   "roles/storage.objectViewer",
	"create": "roles/storage.objectCreator; to overwrite, storage.objects.delete too: roles/storage.objectUser",
}

// explain says what became of an operation, for which object, and what to do. What
// it returns wraps ErrChanged, storage.ErrBucketNotExist or fs.ErrPermission where
// that is what happened, and the context's error; never fs.ErrNotExist.
func (b *Bucket) explain(ctx context.Context, doing, verb string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		// A credential's file that is gone is no object that is absent.
		err = errors.New(err.Error())
	}
	var answer *googleapi.Error
	if errors.As(err, &answer) {
		spellOut(answer)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%s: %w (%v)", doing, cause, terse(err))
	} else if cause != nil || answer == nil {
		return fmt.Errorf("%s: %w", doing, terse(err))
	}
	switch answer.Code {
	case http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w: %w", doing, ErrChanged, terse(err))
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w: create the bucket %s, or correct its name", doing, storage.ErrBucketNotExist, b.name)
	case http.StatusForbidden:
		unless := ""
		if verb == "get" {
			unless = ", unless there is no such object: without storage.objects.list GCS does not say"
		}
		return fmt.Errorf("%s: %w: the account that whosigned runs as needs storage.objects.%s on bucket %s (%s)%s; the answer: %w",
			doing, fs.ErrPermission, verb, b.name, roles[verb], unless, terse(err))
	case http.StatusUnauthorized:
		return fmt.Errorf("%s: the credentials were not accepted: %w; %s", doing, terse(err), credentialsRemedy)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%s: too many requests at once (GCS takes about one write a second for an object): %w", doing, terse(err))
	}
	return fmt.Errorf("%s: %w", doing, terse(err))
}

// spellOut puts the message of an answer in place, which the library leaves in the
// body of one that should have been an object.
func spellOut(answer *googleapi.Error) {
	var body struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if answer.Message == "" && json.Unmarshal([]byte(answer.Body), &body) == nil {
		answer.Message = body.Error.Message
	}
}

// terse is an error whose text is one line of bounded length: an answer may hold
// anything.
func terse(err error) error { return &terseError{err} }

type terseError struct{ err error }

func (e *terseError) Unwrap() error { return e.err }
func (e *terseError) Error() string {
	text := strings.Join(strings.Fields(e.err.Error()), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}
