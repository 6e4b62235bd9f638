package watch

import (
	"encoding/pem"
	"slices"

	"github.com/whosigned/whosigned/pkg/entry"
)

// Match returns a finding for each rule and each signer of e that fits it. The
// caller adds what the log knows: which log and index, UUID, leaf hash, link,
// integrated time. trust says whether a certificate chains to a trusted CA and, if
// not, why; it is expensive, and called once for each signer with a certificate
// that fits a rule. If it is nil, trust is Unknown.
//
// An entry that fits nothing costs no allocation.
func (r *Rules) Match(e *entry.Entry, trust func(*entry.Signer) (Trust, string)) []Finding {
	if r == nil {
		return nil
	}
	var found []Finding
	judged := 0
	if len(e.Signers) == 0 {
		return r.unsigned(e)
	}
	for i := range e.Signers {
		s := &e.Signers[i]
		var verdict Trust
		var reason string
		for j := range r.rules {
			rule := &r.rules[j]
			fit, ok := rule.fits(s)
			if !ok || !rule.digestFits(e) {
				continue
			}
			if verdict == "" {
				if judged++; judged > maxJudged {
					found[len(found)-1].Cut = true
					return found
				}
				verdict, reason = judge(s, trust)
			}
			f := finding(e, s, fit)
			f.Rule, f.Trusted, f.TrustErr = rule.name, verdict, reason
			f.bound()
			f.Expected = (verdict == Trusted || isKey(s)) &&
				slices.ContainsFunc(rule.expect, func(c clause) bool { return c.expects(s) })
			if len(found) < maxPerEntry {
				found = append(found, f)
				continue
			}
			// There is no room for all, and what anybody can make must not hide what matters.
			if i := slices.IndexFunc(found, func(other Finding) bool { return other.weight() < f.weight() }); i >= 0 {
				found[i] = f
			}
			found[len(found)-1].Cut = true
		}
	}
	return found
}

// weight is how little a finding may be left out.
func (f *Finding) weight() int {
	switch {
	case f.Trusted == Untrusted:
		return 0
	case f.Expected:
		return 1
	}
	return 2
}

// unsigned is Match for an entry that tells of no signer, such as a timestamp: only a
// digest can fit.
func (r *Rules) unsigned(e *entry.Entry) (found []Finding) {
	for j := range r.rules {
		if rule := &r.rules[j]; rule.onlyDigest() && rule.signer == AnySigner && rule.digestFits(e) {
			f := finding(e, &entry.Signer{}, fit{matched: "digest"})
			f.Rule, f.Trusted = rule.name, Unknown
			f.bound()
			found = append(found, f)
		}
	}
	return found
}

func (r *rule) digestFits(e *entry.Entry) bool {
	return len(r.digest) == 0 || slices.ContainsFunc(e.Digests, func(d string) bool { return anyFits(r.digest, d) })
}

// onlyDigest: the rule asks nothing of the signer.
func (r *rule) onlyDigest() bool {
	c := &r.clause
	return len(r.digest) > 0 && len(c.subject)+len(c.issuer)+len(c.fingerprint)+len(c.extensions) == 0
}

func judge(s *entry.Signer, trust func(*entry.Signer) (Trust, string)) (Trust, string) {
	if trust == nil || !certified(s) {
		return Unknown, ""
	}
	return trust(s)
}

// certified: by a certificate, or by a precertificate as a CT log commits to it.
func certified(s *entry.Signer) bool { return len(s.Certificate) > 0 || len(s.TBS) > 0 }

// isKey is false for a signer that should have a certificate and shows none.
func isKey(s *entry.Signer) bool { return !certified(s) && s.Type != entry.X509 }

// fit is which part of a rule fitted, and on what.
type fit struct {
	matched string
	oid     string // of the extension; "" if another part did
	subject string
}

// fits looks at the cheap and selective parts first.
func (r *rule) fits(s *entry.Signer) (fit, bool) {
	certificate := certified(s)
	if r.signer == Certificates && !certificate || r.signer == Keys && !isKey(s) {
		return fit{}, false
	}
	c := &r.clause
	// rekor-monitor takes a certificate without an issuer for no identity at all.
	if r.compat && r.signer == Certificates && len(c.subject) > 0 && s.Issuer == "" {
		return fit{}, false
	}
	if len(c.issuer) > 0 && !c.issuerFits(s, r.compat) || len(c.fingerprint) > 0 && !c.fingerprintFits(s, r.compat) {
		return fit{}, false
	}
	f := fit{matched: "issuer"}
	if r.onlyDigest() {
		f.matched = "digest"
	}
	for i := range c.extensions {
		oid, ok := c.extensions[i].fits(s, r.compat)
		if !ok {
			return fit{}, false
		}
		if i == 0 {
			f.oid = oid
		}
	}
	if len(s.Subjects) > 0 {
		f.subject = s.Subjects[0]
	}
	if len(c.subject) > 0 {
		at := slices.IndexFunc(s.Subjects, func(subject string) bool { return anyFits(c.subject, subject) })
		if at < 0 {
			return fit{}, false
		}
		f.subject = s.Subjects[at]
		f.matched = "subject"
	} else if len(c.fingerprint) > 0 {
		f.matched = "fingerprint"
	} else if f.oid != "" {
		f.matched = "" // said with the OID, in finding, where allocating is due
	}
	return f, true
}

// issuerFits looks at every issuer that the certificate names, so that a second one
// cannot hide behind the first; rekor-monitor looks at the first only.
func (c *clause) issuerFits(s *entry.Signer, firstOnly bool) bool {
	if s.Issuer != "" && anyFits(c.issuer, s.Issuer) {
		return true
	}
	return !firstOnly && slices.ContainsFunc(s.Extensions, func(e entry.Extension) bool {
		return e.Name == "issuer" && e.Value != "" && anyFits(c.issuer, e.Value)
	})
}

func (c *clause) everyIssuerFits(s *entry.Signer) bool {
	return s.Issuer != "" && anyFits(c.issuer, s.Issuer) && !slices.ContainsFunc(s.Extensions, func(e entry.Extension) bool {
		return e.Name == "issuer" && !anyFits(c.issuer, e.Value)
	})
}

func (c *clause) fingerprintFits(s *entry.Signer, ownOnly bool) bool {
	return s.Fingerprint != "" && anyFits(c.fingerprint, s.Fingerprint) ||
		!ownOnly && s.KeyFingerprint != "" && anyFits(c.fingerprint, s.KeyFingerprint)
}

func (x *extension) fits(s *entry.Signer, nonEmpty bool) (oid string, ok bool) {
	for i := range s.Extensions {
		e := &s.Extensions[i]
		if slices.Contains(x.oids, e.OID) && (e.Value != "" || !nonEmpty) && x.valueFits(e) {
			return e.OID, true
		}
	}
	return "", false
}

func (x *extension) valueFits(e *entry.Extension) bool {
	if anyFits(x.value, e.Value) {
		return true
	}
	if e.Name != "" {
		return false
	}
	text, ok := derText(e.Value)
	return ok && anyFits(x.value, text)
}

// expects is stricter than fits: all subjects, and every extension of the name,
// must fit, so that a second one cannot hide behind the expected one.
func (c *clause) expects(s *entry.Signer) bool {
	if len(c.subject) > 0 {
		if len(s.Subjects) == 0 || slices.ContainsFunc(s.Subjects, func(subject string) bool { return !anyFits(c.subject, subject) }) {
			return false
		}
	}
	if len(c.issuer) > 0 && !c.everyIssuerFits(s) || len(c.fingerprint) > 0 && !c.fingerprintFits(s, false) {
		return false
	}
	for i := range c.extensions {
		x := &c.extensions[i]
		seen := false
		for j := range s.Extensions {
			e := &s.Extensions[j]
			if !slices.Contains(x.oids, e.OID) {
				continue
			}
			if !x.valueFits(e) {
				return false
			}
			seen = true
		}
		if !seen {
			return false
		}
	}
	return true
}

func finding(e *entry.Entry, s *entry.Signer, fit fit) Finding {
	f := Finding{
		Matched: fit.matched, Kind: e.Kind, Version: e.Version, Digests: e.Digests,
		SignerType: string(s.Type), Subject: fit.subject, Subjects: s.Subjects, Issuer: s.Issuer,
		Fingerprint: s.Fingerprint, KeyFingerprint: s.KeyFingerprint, SerialNumber: s.SerialNumber,
	}
	if f.Matched == "" {
		f.Matched = "extension " + fit.oid
	}
	for _, x := range s.Extensions {
		shown := Extension(x)
		if x.Name == "" {
			if x.OID != fit.oid {
				continue
			}
			if text, ok := derText(x.Value); ok {
				shown.Value = text
			}
		}
		f.Extensions = append(f.Extensions, shown)
	}
	if i := slices.IndexFunc(f.Extensions, func(x Extension) bool { return x.OID == fit.oid }); i >= maxItems {
		f.Extensions[0] = f.Extensions[i] // the rest is cut, see bound
	}
	if !e.Logged.IsZero() {
		f.Times = append(f.Times, Time{Time: e.Logged.UTC(), What: "logged", Vouched: "the log"})
	}
	if !certified(s) {
		return f
	}
	f.CertificateID = s.CertificateID()
	if f.Cut = len(s.Certificate) > maxCertificate; !f.Cut && len(s.Certificate) > 0 {
		f.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate}))
	}
	f.Times = append(f.Times, []Time{
		{Time: s.NotBefore.UTC(), What: "certificate not before", Vouched: "certificate"},
		{Time: s.NotAfter.UTC(), What: "certificate not after", Vouched: "certificate"},
	}...)
	return f
}
