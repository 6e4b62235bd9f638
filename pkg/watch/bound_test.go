package watch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/whosigned/whosigned/pkg/entry"
)

func TestAFindingShowsNoMoreThanItsShareOfAnEntry(t *testing.T) {
	long := strings.Repeat("é\x00", 1<<20)
	many := make([]string, 1<<16)
	for i := range many {
		many[i] = fmt.Sprintf("name %d", i)
	}
	for name, tc := range map[string]struct {
		change func(*entry.Signer, *entry.Entry)
		show   func(Finding) bool
	}{
		"a long subject": {func(s *entry.Signer, _ *entry.Entry) { s.Subjects = []string{"a@b" + long} }, func(f Finding) bool {
			return strings.HasPrefix(f.Subject, "a@bé") && strings.HasSuffix(f.Subject, "…") && utf8.ValidString(f.Subject)
		}},
		"many subjects": {func(s *entry.Signer, _ *entry.Entry) { s.Subjects = append(many, "a@b") }, func(f Finding) bool {
			return f.Subject == "a@b" && len(f.Subjects) == maxItems && f.Subjects[0] == "name 0"
		}},
		"long subjects": {func(s *entry.Signer, _ *entry.Entry) {
			s.Subjects = []string{"a@b", long, long, long, long, long, long, long, long, long}
		}, func(f Finding) bool {
			return f.Subject == "a@b" && len(f.Subjects) == 8
		}},
		"a long issuer":         {func(s *entry.Signer, _ *entry.Entry) { s.Issuer = long }, func(f Finding) bool { return len(f.Issuer) < 5000 }},
		"a long serial number":  {func(s *entry.Signer, _ *entry.Entry) { s.SerialNumber = long }, func(f Finding) bool { return len(f.SerialNumber) < 5000 }},
		"many digests":          {func(_ *entry.Signer, e *entry.Entry) { e.Digests = many }, func(f Finding) bool { return len(f.Digests) == maxItems }},
		"a certificate of 1 MB": {func(s *entry.Signer, _ *entry.Entry) { s.Certificate = []byte(long) }, func(f Finding) bool { return f.Certificate == "" }},
		"many extensions": {func(s *entry.Signer, _ *entry.Entry) {
			for _, v := range many {
				s.Extensions = append(s.Extensions, entry.Extension{OID: "1.2", Name: "issuer", Value: v})
			}
		}, func(f Finding) bool { return len(f.Extensions) == maxItems }},
		"a long extension": {func(s *entry.Signer, _ *entry.Entry) {
			s.Extensions = []entry.Extension{{OID: "1.2", Name: "issuer", Value: long}}
		}, func(f Finding) bool { return len(f.Extensions) == 1 && len(f.Extensions[0].Value) < 5000 }},
	} {
		s := certificate()
		s.Subjects = []string{"a@b"}
		e := entryOf(s)
		tc.change(&e.Signers[0], e)
		rules := compile(t, Rule{Name: "r", Clause: Clause{Subject: any1(Glob, "a@b*")}})
		found := rules.Match(e, nil)
		if len(found) != 1 || !found[0].Cut || !tc.show(found[0]) {
			t.Errorf("%s: got %d findings, the first %.300v", name, len(found), found)
			continue
		}
		if b, err := json.Marshal(found[0]); err != nil || len(b) > 512<<10 || found[0].Size() != len(b) {
			t.Errorf("%s: %d bytes of JSON, Size says %d (%v)", name, len(b), found[0].Size(), err)
		}
	}
}

func TestWhatAnybodyCanMakeDoesNotCrowdOutWhatMatters(t *testing.T) {
	var signers []entry.Signer
	for range maxPerEntry + 5 {
		signers = append(signers, certificate())
	}
	real := certificate()
	real.SerialNumber = "ff"
	rules := compile(t, Rule{Name: "r", Clause: Clause{Subject: any1(Glob, "https://github.com/*")}})
	found := rules.Match(entryOf(append(signers, real)...), func(s *entry.Signer) (Trust, string) {
		if s.SerialNumber == "ff" {
			return Trusted, ""
		}
		return Untrusted, "self-made"
	})
	if len(found) != maxPerEntry || !slices.ContainsFunc(found, func(f Finding) bool { return f.SerialNumber == "ff" }) {
		t.Errorf("%d findings; want %d, and the trusted one among them", len(found), maxPerEntry)
	}
	if i := slices.IndexFunc(found, func(f Finding) bool { return f.Cut }); i < 0 {
		t.Error("it is not said that some are left out")
	}
}

func TestWhatFittedIsAmongWhatIsShown(t *testing.T) {
	s := certificate()
	s.Subjects, s.Extensions = nil, nil
	for i := range 2 * maxItems {
		s.Subjects = append(s.Subjects, fmt.Sprintf("junk %d", i))
		s.Extensions = append(s.Extensions, entry.Extension{OID: "1.2.3", Name: "junk", Value: "x"})
	}
	s.Subjects = append(s.Subjects, "ceo@acme")
	s.Extensions = append(s.Extensions, entry.Extension{OID: "1.2.4", Name: "build", Value: "ours"})
	for name, clause := range map[string]Clause{
		"subject":   {Subject: any1(Exact, "ceo@acme")},
		"extension": {Extensions: []ExtensionPattern{{"1.2.4", any1(Exact, "ours")}}},
	} {
		found := compile(t, Rule{Name: "r", Clause: clause}).Match(entryOf(s), nil)
		if len(found) != 1 || !found[0].Cut {
			t.Fatalf("%s: %d findings", name, len(found))
		}
		f := found[0]
		if name == "subject" && !slices.Contains(f.Subjects, "ceo@acme") || name == "extension" && !slices.ContainsFunc(f.Extensions, func(x Extension) bool { return x.Value == "ours" }) {
			t.Errorf("%s: what fitted is not shown", name)
		}
	}
}

func TestAnOrdinaryFindingIsWhole(t *testing.T) {
	e := entryOf(certificate())
	found := compile(t, Rule{Name: "r", Clause: Clause{Subject: any1(Glob, "https://github.com/*")}}).Match(e, nil)
	if len(found) != 1 || found[0].Cut || found[0].Certificate == "" || len(found[0].Extensions) != 4 {
		t.Errorf("got %+v, want all of it", found)
	}
}

func TestAnEntryOfMoreSignersThanAnyGivesSoManyFindingsAndSaysSo(t *testing.T) {
	signers := make([]entry.Signer, maxPerEntry+1)
	for i := range signers {
		signers[i] = pgp()
	}
	rules := compile(t, Rule{Name: "r", Clause: Clause{Fingerprint: any1(Exact, pgp().Fingerprint)}})
	for n, cut := range map[int]bool{maxPerEntry: false, maxPerEntry + 1: true} {
		if found := rules.Match(entryOf(signers[:n]...), nil); len(found) != maxPerEntry || found[maxPerEntry-1].Cut != cut {
			t.Errorf("of %d signers: %d findings; want %d, and the last with cut %v", n, len(found), maxPerEntry, cut)
		}
	}
}
