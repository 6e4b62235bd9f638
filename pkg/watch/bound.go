package watch

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// How much of an entry a finding shows. A leaf may have 16 MiB of a hostile log's
// making, and all findings of a slice are in memory at once; no honest entry has as much.
const (
	maxPerEntry    = 1000     // findings
	maxJudged      = 10_000   // signers that fit
	maxText        = 4 << 10  // bytes of one text
	maxTexts       = 32 << 10 // bytes of subjects, digests and extensions together
	maxItems       = 64       // of each of them
	maxCertificate = 32 << 10 // bytes of DER
)

// bound cuts a finding down to that, says so in Cut, and makes it independent of the
// memory that its entry lies in.
func (f *Finding) bound() {
	f.Subject, f.Issuer = f.text(f.Subject), f.text(f.Issuer)
	f.SerialNumber, f.Matched, f.TrustErr = f.text(f.SerialNumber), f.text(f.Matched), f.text(f.TrustErr)
	room := maxTexts
	f.Subjects, f.Digests = f.texts(f.Subjects, &room), f.texts(f.Digests, &room)
	if n := len(f.Subjects); n > 0 && f.Subject != "" && !slices.Contains(f.Subjects, f.Subject) {
		f.Subjects[n-1] = f.Subject // the one that fitted
	}
	for i, x := range f.Extensions {
		f.Extensions[i].Value = f.text(x.Value)
		if room -= len(x.OID) + len(f.Extensions[i].Value); i == maxItems || room < 0 {
			f.Extensions, f.Cut = f.Extensions[:i], true
			break
		}
	}
}

func (f *Finding) text(s string) string {
	if len(s) <= maxText {
		return strings.Clone(s)
	}
	f.Cut = true
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

func (f *Finding) texts(list []string, room *int) []string {
	var kept []string
	for i, s := range list {
		s = f.text(s)
		if *room -= len(s); i == maxItems || *room < 0 {
			f.Cut = true
			break
		}
		kept = append(kept, s)
	}
	return kept
}

// Size is about how many bytes the finding takes, in memory or as JSON.
func (f *Finding) Size() int {
	line, err := json.Marshal(f)
	if err != nil {
		return maxTexts // a time that JSON cannot say: whoever keeps it finds out
	}
	return len(line)
}
