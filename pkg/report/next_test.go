package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/watch"
)

// identityOf is an identity alert about one proven, trusted finding, changed.
func identityOf(change func(*Alert, *watch.Finding)) Alert {
	a := identityAlert()
	a.Config, a.Findings = "/etc/whosigned.yaml", []watch.Finding{finding(101)}
	f := &a.Findings[0]
	f.Trusted, f.TrustErr, f.Unproven = watch.Trusted, "", false
	f.Extensions = append(f.Extensions, watch.Extension{Name: "run-invocation-uri", Value: "https://github.com/mallory/app/actions/runs/7"})
	if change != nil {
		change(&a, f)
	}
	a.Seal()
	return a
}

func TestIdentityMailSaysWhatToDoInTheWordsOfTheFinding(t *testing.T) {
	var (
		workflow = "https://github.com/mallory/app/.github/workflows/release.yml@refs/heads/main"
		digest   = "sha256:" + strings.Repeat("56", 32)
		scan     = "whosigned scan --config /etc/whosigned.yaml --log " + string(logID) + " --from 101 --to 102 --json"
	)
	for _, c := range []struct {
		name     string
		change   func(*Alert, *watch.Finding)
		has, not []string
	}{
		{"a workflow", nil, []string{
			"-- What to do next\n\n01. Was it us? Signed as releases@acme.com, signed in through https://accounts.google.com, by the workflow " + workflow + ", in the run https://github.com/mallory/app/actions/runs/7. Open that run",
			"02. If not: what was signed is " + digest + ". Find where it is offered",
			"03. If not, revoke or rotate what could sign: who may change or start " + workflow,
			"04. Keep the evidence: this message, and findings/" + string(logID) + "/100-200-aabbccdd.jsonl",
			`05. If it is routine: add an expect clause that fits just this to rule "releases"`,
			"06. To look at the entry: " + scan + "\n",
		}, []string{"Anybody can make", "has not (yet) proven"}},
		{"an account", func(_ *Alert, f *watch.Finding) { f.Extensions = nil }, []string{
			"Ask whoever has that account", "the account releases@acme.com at https://accounts.google.com",
		}, []string{"workflow"}},
		{"a key", func(_ *Alert, f *watch.Finding) {
			f.SignerType, f.Fingerprint, f.Trusted, f.Extensions, f.Issuer = "ssh", "SHA256:abc", watch.Unknown, nil, ""
		}, []string{"Signed with the ssh key SHA256:abc, of releases@acme.com", "rotate what could sign: the key SHA256:abc", "add an expect clause"}, []string{"account"}},
		{"no digest", func(_ *Alert, f *watch.Finding) { f.Digests = nil }, []string{"names no artifact"}, nil},
		{"many digests", func(_ *Alert, f *watch.Finding) { f.Digests = []string{"a", "b", "c", "d", "e"} }, []string{"is a, b, c and 2 more."}, nil},
		{"several findings", func(a *Alert, f *watch.Finding) {
			other := *f
			other.Rule = "keys"
			a.Findings, a.Cut = append(a.Findings, other), 40
		}, []string{"Ask that of each of the 41; this is one. Signed as", `to rules "releases", "keys" (under watch`}, nil},
		{"an untrusted chain", func(_ *Alert, f *watch.Finding) { f.Trusted = watch.Untrusted }, []string{
			"\n\nAnybody can make a certificate like this, which leads to no trusted CA: this may be noise or a probe. 1 entry fits",
			"The certificate claims to be of releases@acme.com", "No account or key of yours is needed", `narrow rule "releases". An expect clause does not cover`,
		}, []string{"revoke"}},
		{"a chain that nothing can judge", func(_ *Alert, f *watch.Finding) { f.Trusted = watch.Unknown }, []string{
			"Signed as releases@acme.com", "An expect clause does not cover a chain that is not proven trusted"}, []string{"Anybody can make"}},
		{"one untrusted of two", func(a *Alert, f *watch.Finding) {
			other := *f
			other.Trusted = watch.Untrusted
			a.Findings = []watch.Finding{other, *f}
		}, []string{"this is one. Signed as", "revoke or rotate what could sign", "add an expect clause"}, []string{"Anybody can make"}},
		{"unproven", func(_ *Alert, f *watch.Finding) { f.Unproven = true }, []string{
			"The log has not (yet) proven these entries: they were served to us", scan + " (which fails for as long as the log does not prove it)"}, nil},
		{"one unproven of two", func(a *Alert, f *watch.Finding) {
			other := *f
			other.Unproven = true
			a.Findings = append(a.Findings, other)
		}, []string{"The log has not (yet) proven 1 of these entries"}, nil},
		{"no path of the configuration", func(a *Alert, _ *watch.Finding) { a.Config = "" }, []string{"--config FILE --log"}, nil},
		{"a path that a shell would read", func(a *Alert, _ *watch.Finding) { a.Config = "/a b/it's $(reboot).yaml" }, []string{`--config '/a b/it'\''s $(reboot).yaml' --log`}, nil},
		{"only expected ones", func(a *Alert, _ *watch.Finding) { a.Findings = nil }, nil, []string{"What to do next"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Email([]Alert{identityOf(c.change)})
			page := visible(t, m.HTML)
			for _, want := range c.has {
				if !strings.Contains(m.Text, want) {
					t.Errorf("text lacks %q:\n%s", want, m.Text)
				}
				for line := range strings.SplitSeq(strings.TrimSpace(want), "\n") {
					line = strings.TrimPrefix(line, "-- ")
					if len(line) > 4 && line[0] == '0' && line[2] == '.' {
						line = line[4:] // a list numbers itself
					}
					if !strings.Contains(page, line) {
						t.Errorf("HTML lacks %q", line)
					}
				}
			}
			for _, bad := range c.not {
				steps, _, _ := strings.Cut(m.Text, "-- releases@acme.com")
				if strings.Contains(steps, bad) {
					t.Errorf("text has %q:\n%s", bad, steps)
				}
			}
		})
	}
}

func TestHostileValuesDoNotPushTheAdviceOut(t *testing.T) {
	for i, s := range append(slices.Clone(hostileStrings), strings.Repeat("'", 5000)) {
		m := Email([]Alert{identityOf(func(_ *Alert, f *watch.Finding) {
			f.Subject, f.Issuer, f.Digests = s, s, []string{s, s, s, s}
			f.Extensions = []watch.Extension{{Name: "build-signer-uri", Value: s}, {Name: "run-invocation-uri", Value: s}}
		})})
		for _, want := range []string{"Was it us?", "Open that run", "not to rely on this signature.", "its permission id-token: write", "Keep the evidence", "If it is routine", "--from 101 --to 102 --json\n"} {
			if !strings.Contains(m.Text, want) {
				t.Errorf("hostile string %d: text lacks %q", i, want)
			}
		}
	}
}

func TestDigestSaysWhatToDoForTheFirstIdentityAlerts(t *testing.T) {
	var alerts []Alert
	for i := range 8 {
		alerts = append(alerts, identityOf(func(a *Alert, f *watch.Finding) { a.From, f.Subject = uint64(i), fmt.Sprint("signer-", i) }))
	}
	text := Email(alerts).Text
	if got := strings.Count(text, "Was it us?"); got != maxNexts {
		t.Errorf("%d alerts say in full what to do, want %d", got, maxNexts)
	}
	if got := strings.Count(text, "The same as for the identity alerts above"); got != 3 {
		t.Errorf("%d alerts point at what is said above, want 3", got)
	}
}
