package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/watch"
)

// doubt is what weakens every finding of an alert, and is to be read before them:
// a chain that anybody can make, leaves that the log has not committed to.
func (a *Alert) doubt() (untrusted, unproven string) {
	if len(a.Findings) == 0 {
		return "", ""
	}
	if !slices.ContainsFunc(a.Findings, func(f watch.Finding) bool { return f.Trusted != watch.Untrusted }) {
		untrusted = "Anybody can make a certificate like this, which leads to no trusted CA: this may be noise or a probe. "
	}
	n := 0
	for _, f := range a.Findings {
		if f.Unproven {
			n++
		}
	}
	what := "these entries"
	if n < len(a.Findings) {
		what = fmt.Sprintf("%d of these entries", n)
	}
	if n > 0 {
		unproven = "The log has not (yet) proven " + what + ": they were served to us, but do not hash into a root that its trusted history commits to."
	}
	return untrusted, unproven
}

// next says what to do about an alert's findings, in the words of one of them. What
// comes from the log is cut value by value, so that none pushes out our words.
func (d *document) next(a *Alert) {
	if len(a.Findings) == 0 {
		return
	}
	d.heading("What to do next")
	if d.nexts--; d.nexts < 0 {
		d.para("The same as for the identity alerts above, with what is said of each finding below.")
		return
	}
	// An untrusted one must not play down another.
	f := &a.Findings[max(0, slices.IndexFunc(a.Findings, func(f watch.Finding) bool { return f.Trusted != watch.Untrusted }))]
	d.steps([]string{
		wasItUs(f, a.entries()),
		whatWasSigned(f),
		whatCouldSign(f),
		"Keep the evidence: this message, and " + Safe(cmp.Or(a.Pointer, "findings/ where the state is kept")) + ", copied to where whosigned does not write.",
		routine(a, f),
		lookAgain(a, f),
	})
}

func wasItUs(f *watch.Finding, total int) string {
	lead := "Was it us? "
	if total > 1 {
		lead = fmt.Sprintf("Was it us? Ask that of each of the %d; this is one. ", total)
	}
	if !certified(f) {
		return lead + "Signed with the " + Safe(f.SignerType) + " key " + Safe(f.Fingerprint) + named(", of ", f.Subject) + ". Ask those who hold it whether they signed this, then."
	}
	says := "Signed as " + Safe(f.Subject) + named(", signed in through ", f.Issuer)
	if f.Trusted == watch.Untrusted {
		says = "The certificate claims to be of " + Safe(f.Subject) + named(", from the issuer ", f.Issuer)
	}
	by, run := workflow(*f), extension(f, "run-invocation-uri")
	says += named(", by the workflow ", by) + named(", in the run ", run) + ". "
	switch {
	case run != "":
		return lead + says + "Open that run: who started it, from which commit, and does it make sense?"
	case by != "":
		return lead + says + "Look for a run of that workflow at the times below."
	default:
		return lead + says + "Ask whoever has that account whether they signed then."
	}
}

func whatWasSigned(f *watch.Finding) string {
	var signed []string
	for _, digest := range limit(f.Digests, maxNamed) {
		signed = append(signed, Safe(digest))
	}
	what := strings.Join(signed, ", ")
	if n := len(f.Digests) - maxNamed; n > 0 {
		what += fmt.Sprintf(" and %d more", n)
	}
	if what == "" {
		return "If not: the entry names no artifact; its certificate is what to look for. Find what carries it, and tell those who use that."
	}
	return "If not: what was signed is " + what + ". Find where it is offered or in use, and tell those who use it not to rely on this signature."
}

// whatCouldSign names what has to be taken out of the signer's hands. Fulcio's
// certificates last minutes: it is what they are given for that has to go.
func whatCouldSign(f *watch.Finding) string {
	const lead = "If not, revoke or rotate what could sign: "
	by := workflow(*f)
	switch {
	case !certified(f):
		return lead + "the key " + Safe(f.Fingerprint) + ", wherever it is published and trusted."
	case f.Trusted == watch.Untrusted:
		return "No account or key of yours is needed to make this certificate. Check that whatever verifies your artifacts rejects it; " +
			"if the CA is yours, its certificate is missing from the trusted root or caRootsFile, and this counts in full."
	case by != "":
		return lead + "who may change or start " + Safe(by) + ", its permission id-token: write, and the secrets and tokens it can read."
	default:
		return lead + "the account " + Safe(f.Subject) + named(" at ", f.Issuer) + ": its sessions, tokens and second factors."
	}
}

// routine says how not to be told again, as far as the rules let one: a clause of
// expect holds only for keys and for chains that are proven trusted.
func routine(a *Alert, f *watch.Finding) string {
	var rules []string
	for _, f := range a.Findings {
		if name := `"` + Safe(f.Rule) + `"`; !slices.Contains(rules, name) {
			rules = append(rules, name)
		}
	}
	which := "rule " + rules[0]
	if len(rules) > 1 {
		which = "rules " + strings.Join(limit(rules, maxNamed), ", ")
	}
	if n := len(rules) - maxNamed; n > 0 {
		which += fmt.Sprintf(" and %d more", n)
	}
	if certified(f) && f.Trusted != watch.Trusted {
		return "If it is routine: narrow " + which + ". An expect clause does not cover a chain that is not proven trusted."
	}
	return "If it is routine: add an expect clause that fits just this to " + which + " (under watch; monitoredValues has none), or narrow the rule. It is then counted, and not mailed."
}

func lookAgain(a *Alert, f *watch.Finding) string {
	say := fmt.Sprintf("To look at the entry: whosigned scan --config %s --log %s --from %d --to %d --json",
		shellWord(cmp.Or(a.Config, "FILE")), shellWord(string(cmp.Or(f.Log, a.Log))), f.Index, f.Index+1)
	if f.Unproven {
		say += " (which fails for as long as the log does not prove it)"
	}
	return say
}

// maxNamed is how many digests or rules a step names.
const maxNamed = 3

// certified says whether the signer shows a certificate, and not a bare key.
func certified(f *watch.Finding) bool { return f.SignerType == "x509" || f.Trusted != watch.Unknown }

// named is the value after its words, or nothing.
func named(words, value string) string {
	if value == "" {
		return ""
	}
	return words + Safe(value)
}

func extension(f *watch.Finding, name string) string {
	for _, e := range f.Extensions {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// shellWord is s as one word of a command that people will paste into a shell.
func shellWord(s string) string {
	s = Safe(s)
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+,=", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
