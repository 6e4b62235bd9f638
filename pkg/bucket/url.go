package bucket

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names: https://cloud.google.com/storage/docs/buckets#naming and
// https://cloud.google.com/storage/docs/objects#naming.
var (
	nameForm = regexp.MustCompile(`\A[a-z0-9]([a-z0-9_.-]*[a-z0-9])?\z`)
	ipForm   = regexp.MustCompile(`\A[0-9]+(\.[0-9]+){3}\z`)
)

const maxObjectName = 1024

// Split takes gs://bucket/object apart; object may be a prefix, and "". The error
// says what is wrong with it.
func Split(location string) (bucket, object string, err error) {
	rest, ok := strings.CutPrefix(location, "gs://")
	if !ok {
		return "", "", fmt.Errorf("%.200q is not in a bucket; write gs://bucket/name", location)
	}
	bucket, object, _ = strings.Cut(rest, "/")
	object = strings.TrimSuffix(object, "/")
	longest := 63
	if strings.Contains(bucket, ".") {
		longest = 222
	}
	if len(bucket) < 3 || len(bucket) > longest || !nameForm.MatchString(bucket) || ipForm.MatchString(bucket) || strings.Contains(bucket, "..") ||
		slices.ContainsFunc(strings.Split(bucket, "."), func(part string) bool { return len(part) > 63 }) {
		return "", "", fmt.Errorf("%.200q: %.100q is not the name of a bucket; it has 3 to 63 lower-case letters, digits, - and _, as in gs://acme-whosigned", location, bucket)
	}
	if object != "" {
		if err := checkObject(object); err != nil {
			return "", "", fmt.Errorf("%.200q: %w", location, err)
		}
	}
	return bucket, object, nil
}

// checkObject refuses names that are legal and only make trouble: those that
// gcloud takes for patterns or versions, and those that look like paths and are not.
func checkObject(name string) error {
	if len(name) > maxObjectName || !utf8.ValidString(name) {
		return fmt.Errorf("the name in the bucket has %d bytes, or is not UTF-8; %d bytes are possible", len(name), maxObjectName)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune(`#*?[]\`, r) }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(name[i:])
		return fmt.Errorf("the name in the bucket has the character %q; use another name", r)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("the name in the bucket has the component %q; write it without", part)
		}
	}
	return nil
}
