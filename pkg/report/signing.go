package report

import (
	"fmt"
	"slices"

	"github.com/whosigned/whosigned/pkg/tlog"
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

// item is what a message shows with a finding that stands for others.
type item struct {
	rules []*watch.Finding // of other rules that fit
	also  []*watch.Finding // of other logs
}

// spot is one signature in one leaf: what fits several rules there is shown once.
type spot struct {
	signing
	log                  tlog.ID
	index                uint64
	leaf                 tlog.Hash
	fingerprint, subject string
	unproven             bool
}

func spotOf(f *watch.Finding) spot {
	s, _ := signingOf(f)
	return spot{s, f.Log, f.Index, f.LeafHash, f.Fingerprint, f.Subject, f.Unproven}
}

// entries counts the alert's findings, one signature that fits several rules as one.
// What was cut is counted as it is.
func (a *Alert) entries() int {
	spots := make(map[spot]bool)
	for i := range a.Findings {
		spots[spotOf(&a.Findings[i])] = true
	}
	return len(spots) + a.Cut
}

// fold says which findings are told in the item of another, and what that item names
// besides: every rule that fits, and as many other logs as are shown. A finding that is
// unproven is told in no item of another log. The rest is told by itself.
func fold(alerts []Alert) (items map[*watch.Finding]*item, in map[*watch.Finding]*watch.Finding) {
	type certificate struct {
		signing
		subject string
	}
	items, in = make(map[*watch.Finding]*item), make(map[*watch.Finding]*watch.Finding)
	first := make(map[certificate]*watch.Finding)
	for i := range alerts {
		at := make(map[spot]*watch.Finding) // of this alert: one that repeats another is told again
		for j := range alerts[i].Findings {
			f := &alerts[i].Findings[j]
			s, ok := signingOf(f)
			c := certificate{s, f.Subject}
			of := at[spotOf(f)]
			if of == nil && ok {
				if of = first[c]; of != nil && of.Log != f.Log && !of.Unproven && !f.Unproven && len(items[of].also) < maxSame {
					items[of].also = append(items[of].also, f)
				} else {
					of = nil
				}
			}
			if of == nil {
				of, items[f] = f, &item{}
				if first[c] == nil {
					first[c] = f
				}
			} else {
				in[f] = of
				items[of].name(of, f)
			}
			at[spotOf(f)] = of
		}
	}
	return items, in
}

// name adds the rule of f to those of the item of a finding.
func (it *item) name(of, f *watch.Finding) {
	same := func(other *watch.Finding) bool { return other.Rule == f.Rule && other.Matched == f.Matched }
	if !same(of) && !slices.ContainsFunc(it.rules, same) {
		it.rules = append(it.rules, f)
	}
}

// oneSigning says whether the alerts after the first tell of nothing but what the
// first one does: the same certificates, in other logs.
func oneSigning(alerts []Alert, in map[*watch.Finding]*watch.Finding) bool {
	if len(alerts) < 2 {
		return false
	}
	for i := range alerts {
		a := &alerts[i]
		if a.Class != ClassIdentity || len(a.Findings) == 0 || a.Cut > 0 {
			return false
		}
		for j := range a.Findings {
			if i > 0 && in[&a.Findings[j]] == nil {
				return false
			}
		}
	}
	return true
}
