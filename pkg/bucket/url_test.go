package bucket

import (
	"strings"
	"testing"
)

func TestALocationIsTakenApartOrRefusedInWords(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, tc := range []struct {
		location, bucket, object string
		refused                  string
	}{
		{"gs://acme", "acme", "", ""},
		{"gs://acme/", "acme", "", ""},
		{"gs://acme-1_x.example.com/a/B c/ä%20.yaml", "acme-1_x.example.com", "a/B c/ä%20.yaml", ""},
		{"gs://acme/a/", "acme", "a", ""},
		{"gs://" + long[1:] + "." + long[1:], long[1:] + "." + long[1:], "", ""},
		{"acme/a", "", "", "is not in a bucket; write gs://bucket/name"},
		{"s3://acme/a", "", "", "is not in a bucket"},
		{"gs:/acme", "", "", "is not in a bucket"},
		{"gs://", "", "", `"" is not the name of a bucket`},
		{"gs://x", "", "", `"x" is not the name of a bucket`},
		{"gs://" + long, "", "", "is not the name of a bucket"},
		{"gs://a." + long, "", "", "is not the name of a bucket"},
		{"gs://Acme", "", "", `"Acme" is not the name of a bucket`},
		{"gs://acme-", "", "", "is not the name of a bucket"},
		{"gs://a..b", "", "", "is not the name of a bucket"},
		{"gs://10.0.0.1", "", "", "is not the name of a bucket"},
		{"gs://acme:80/a", "", "", "is not the name of a bucket"},
		{"gs://acme//a", "", "", `has the component ""`},
		{"gs://acme/a//b", "", "", `has the component ""`},
		{"gs://acme/a/../b", "", "", `has the component ".."`},
		{"gs://acme/./b", "", "", `has the component "."`},
		{"gs://acme/a#12", "", "", `has the character '#'`},
		{"gs://acme/*", "", "", `has the character '*'`},
		{"gs://acme/a\nb", "", "", `has the character '\n'`},
		{"gs://acme/\xff", "", "", "is not UTF-8"},
		{"gs://acme/" + strings.Repeat("a", 1025), "", "", "has 1025 bytes"},
	} {
		bucket, object, err := Split(tc.location)
		if tc.refused == "" && (err != nil || bucket != tc.bucket || object != tc.object) {
			t.Errorf("Split(%q) = %q, %q, %v; want %q, %q", tc.location, bucket, object, err, tc.bucket, tc.object)
		}
		if tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)) {
			t.Errorf("Split(%q): %v, want %q", tc.location, err, tc.refused)
		}
	}
}
