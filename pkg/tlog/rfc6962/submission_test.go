package rfc6962

import (
	"encoding/base64"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestSubmissionIsWhatTheCAHandedIn(t *testing.T) {
	f := serve(t, 4)
	f.checkpoint(t)
	leaves, err := read(t.Context(), f.log, 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	for i, leaf := range leaves {
		e := entries()(uint64(i))
		want := tlog.Submission{Precertificate: e.Precertificate, Chain: e.Chain}
		if got, err := leaf.Submission(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("leaf %d: got %+v, %v; want %+v", i, got, err, want)
		}
	}
}

func TestASubmissionThatIsMalformedIsUnverified(t *testing.T) {
	final, pre := entries()(0), entries()(1)
	empty := []byte{0, 0, 0}
	for _, row := range []struct {
		name  string
		of    tlogtest.CTEntry
		extra []byte
		want  string // "" if it is well-formed
		read  int    // certificates of the chain, in spite of that
	}{
		{"no chain", final, empty, "", 0},
		{"a precertificate without chain", pre, tlogtest.CTEntry{Precertificate: []byte{1}}.ExtraData(), "", 0},
		{"nothing", final, []byte{}, "certificate chain", 0},
		{"nothing beside a precertificate", pre, []byte{}, "precertificate", 0},
		{"an empty precertificate", pre, append(empty, empty...), "precertificate", 0},
		{"a precertificate alone", pre, []byte{0, 0, 1, 7}, "certificate chain", 0},
		{"a chain cut short", final, []byte{0, 0, 9, 0, 0, 1, 7}, "certificate chain", 0},
		{"a certificate cut short", final, []byte{0, 0, 4, 0, 0, 2, 7}, "certificate 0", 0},
		{"an empty certificate", final, []byte{0, 0, 7, 0, 0, 1, 7, 0, 0, 0}, "certificate 1", 1},
		{"something after it", final, append(empty, 1), "after the certificate chain", 0},
		{"something after a chain", final, []byte{0, 0, 4, 0, 0, 1, 7, 9}, "after the certificate chain", 1},
		{"a precertificate's beside a certificate", final, pre.ExtraData(), "certificate", 0},
		{"a chain without end", final, tlogtest.CTEntry{Certificate: []byte{1}, Chain: slices.Repeat([][]byte{{1}}, 100_000)}.ExtraData(), "more than 64", 64},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := serve(t, 0)
			f.Submit(row.of)
			f.LieBeside(0, row.extra)
			f.checkpoint(t)
			leaves, err := read(t.Context(), f.log, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := leaves[0].Submission(t.Context())
			var unverified *tlog.Unverified
			if row.want == "" {
				if err != nil || len(got.Chain) != 0 {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if !errors.As(err, &unverified) || !strings.Contains(err.Error(), row.want) || len(got.Chain) != row.read {
				t.Errorf("got %d certificates, %v; want %d, and an Unverified with %q", len(got.Chain), err, row.read, row.want)
			} else if string(unverified.Served) != base64.StdEncoding.EncodeToString(row.extra) {
				t.Error("what was served is not kept")
			}
		})
	}
	for name, leaf := range map[string]string{"another entry_type": "\x00\x00tttttttt\x00\x02", "a leaf cut short": "\x00\x00tttttttt\x00"} {
		if s, err := parseSubmission([]byte(leaf), nil); err == nil {
			t.Errorf("%s: got %+v, want an error", name, s)
		}
	}
	if _, err := parseSubmission(final.Leaf(-1), []byte("%")); err == nil {
		t.Error("not base64: got no error")
	}
}
