package report

import (
	"fmt"

	"github.com/whosigned/whosigned/pkg/watch"
)

// signing is what makes findings one: the certificate, or its precertificate, and
// whether it chains. The same one is found in a CT log, when it was issued, and in
// Rekor, for each thing signed with it. Without the chain anybody can make one that
// looks the same.
type signing struct {
	certificate string
	trusted     watch.Trust
}

func signingOf(f *watch.Finding) (signing, bool) {
	return signing{f.CertificateID, f.Trusted}, f.CertificateID != "" && f.Trusted == watch.Trusted
}

// Group puts alerts that tell of the same certificate together, each group in the
// order given: [Email] makes one message of a group, in which the certificate is one
// item that names every log. Other alerts are a group each.
func Group(alerts []Alert) [][]Alert {
	var groups [][]Alert
	in := make(map[signing]int) // group by certificate
	for _, a := range alerts {
		at := -1
		if a.Class == ClassIdentity && a.Incident == nil {
			for i := range a.Findings {
				if s, ok := signingOf(&a.Findings[i]); ok {
					if g, seen := in[s]; seen && len(groups[g]) < maxAlerts {
						at = g
						break
					}
				}
			}
		}
		if at < 0 {
			at = len(groups)
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], a)
		for i := range a.Findings {
			if s, ok := signingOf(&a.Findings[i]); ok && a.Class == ClassIdentity {
				if _, seen := in[s]; !seen {
					in[s] = at
				}
			}
		}
	}
	return groups
}

// place is where a certificate was found, in words.
func place(f *watch.Finding) string {
	text := fmt.Sprintf("%s (%s), index %d", f.Origin, f.LogType, f.Index)
	if f.Kind != "" {
		text += ", " + f.Kind
	}
	for _, d := range limit(f.Digests, maxSame) {
		text += ", artifact " + d
	}
	if f.BestEffort {
		text += ", by its search index (best effort)"
	}
	text += ", leaf hash " + f.LeafHash.String()
	if f.Link != "" {
		text += ", " + f.Link
	}
	return text
}

// places are, by the first finding of each certificate, others of it that are told of
// there: as many as are shown, and none that is unproven. The rest is told by itself.
func places(alerts []Alert) (also map[*watch.Finding][]*watch.Finding, told map[*watch.Finding]bool) {
	also, told = make(map[*watch.Finding][]*watch.Finding), make(map[*watch.Finding]bool)
	first := make(map[signing]*watch.Finding)
	for i := range alerts {
		for j := range alerts[i].Findings {
			f := &alerts[i].Findings[j]
			s, ok := signingOf(f)
			if !ok {
				continue
			}
			if of := first[s]; of == nil {
				first[s] = f
			} else if of.Log != f.Log && of.Rule == f.Rule && !of.Unproven && !f.Unproven && len(also[of]) < maxSame {
				also[of], told[f] = append(also[of], f), true
			}
		}
	}
	return also, told
}

// oneSigning says whether the alerts after the first tell of nothing but what the
// first one does: the same certificates, in other logs.
func oneSigning(alerts []Alert, told map[*watch.Finding]bool) bool {
	if len(alerts) < 2 {
		return false
	}
	for i := range alerts {
		a := &alerts[i]
		if a.Class != ClassIdentity || len(a.Findings) == 0 || a.Cut > 0 {
			return false
		}
		for j := range a.Findings {
			if i > 0 && !told[&a.Findings[j]] {
				return false
			}
		}
	}
	return true
}
