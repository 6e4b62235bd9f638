package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/monitor"
)

// TestJSONFieldNamesStayAsTheyAre lists every field of what --json prints. Other
// tools read them: a name here is never changed and never means something else. New
// ones may be added, and belong in the README too.
func TestJSONFieldNamesStayAsTheyAre(t *testing.T) {
	for _, tc := range []struct {
		name string
		of   any
		want string
	}{
		{"run and scan", monitor.Result{}, `
alerts.delivered number
alerts.failed{} string
alerts.oldest string
alerts.pending number
bytes number
errors[] string
exit number
failed bool
failingSince string
findings[].bestEffort bool
findings[].certificate string
findings[].certificateId string
findings[].cut bool
findings[].digests[] string
findings[].expected bool
findings[].extensions[].name string
findings[].extensions[].oid string
findings[].extensions[].value string
findings[].fingerprint string
findings[].globalIndex number
findings[].index number
findings[].issuer string
findings[].keyFingerprint string
findings[].kind string
findings[].leafHash string
findings[].link string
findings[].log string
findings[].logType string
findings[].matched string
findings[].origin string
findings[].rule string
findings[].serialNumber string
findings[].signerType string
findings[].subject string
findings[].subjects[] string
findings[].times[].time string
findings[].times[].vouched string
findings[].times[].what string
findings[].trustError string
findings[].trusted string
findings[].unproven bool
findings[].uuid string
findings[].version string
findingsCut number
finished string
health[].alerted bool
health[].key string
health[].since string
health[].text string
incidents[].ended string
incidents[].evidence string
incidents[].id string
incidents[].kind string
incidents[].log string
incidents[].opened string
incidents[].proof bool
incidents[].text string
logs[].coverage string
logs[].entries number
logs[].error string
logs[].expected number
logs[].fallingBehind bool
logs[].findings number
logs[].holes number
logs[].id string
logs[].lagSeconds number
logs[].notes[] string
logs[].origin string
logs[].scanned number
logs[].size number
logs[].status string
logs[].treeId string
logs[].type string
logs[].unparsed number
logs[].unproven number
logs[].url string
notices[] string
overdue bool
requests number
run string
started string
version string
trust string
warnings[] string
`},
		{"check", checkedAll{}, `
certificateAuthorities number
config string
firstCheckpoint.entry number
firstCheckpoint.error string
firstCheckpoint.file string
firstCheckpoint.log string
firstCheckpoint.note string
logs[].coverage string
logs[].discovered bool
logs[].error string
logs[].from number
logs[].id string
logs[].imported string
logs[].index.asked string
logs[].index.listed number
logs[].index.values number
logs[].index.warning string
logs[].known bool
logs[].origin string
logs[].plan.backlog number
logs[].plan.budget string
logs[].plan.entriesPerRequest number
logs[].plan.every string
logs[].plan.perHour number
logs[].plan.requests number
logs[].plan.requestsPerRun number
logs[].plan.runs number
logs[].refused string
logs[].retired bool
logs[].size number
logs[].to number
logs[].treeId string
logs[].type string
logs[].url string
problems[] string
rules[] string
scan.from number
scan.to number
sinks[] string
state string
trust string
trustError string
warnings[] string
`},
		{"status", status{}, `
at string
config string
deployment.messages[] string
deployment.name string
deployment.project string
deployment.region string
deployment.revision string
deployment.runtime string
deployment.source string
deployment.state string
deployment.updated string
deployment.url string
exit number
failingSince string
firstRun string
health[].alerted bool
health[].key string
health[].since string
health[].text string
healthy bool
incidents[].ended string
incidents[].evidence string
incidents[].id string
incidents[].kind string
incidents[].log string
incidents[].opened string
incidents[].proof bool
incidents[].text string
job.code number
job.lastAttempt string
job.message string
job.name string
job.next string
job.schedule string
job.state string
job.timeZone string
lastGoodRun string
lastRun.errors[] string
lastRun.exit number
lastRun.finished string
lastRun.run string
lastRun.started string
logs[].coverage string
logs[].entries number
logs[].error string
logs[].fallingBehind bool
logs[].grew string
logs[].id string
logs[].lagSeconds number
logs[].origin string
logs[].scanned number
logs[].size number
logs[].status string
logs[].type string
logs[].unread number
logs[].url string
notes[] string
problems[].next string
problems[].what string
running.expires string
running.run string
state string
undelivered[].alert string
undelivered[].class string
undelivered[].log string
undelivered[].refused{} string
undelivered[].since string
undelivered[].sinks[] string
undelivered[].taken bool
version string
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := shape(reflect.TypeOf(tc.of), "")
			slices.Sort(got)
			want := strings.Split(strings.TrimSpace(tc.want), "\n")
			for _, line := range want {
				if !slices.Contains(got, line) {
					t.Errorf("gone or renamed: %s", line)
				}
			}
			for _, line := range got {
				if !slices.Contains(want, line) {
					t.Errorf("not listed here: %s", line)
				}
			}
		})
	}
}

// shape lists the paths of all values that a type has in JSON, with their kind.
func shape(t reflect.Type, path string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	texts := reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
	switch {
	case t.Implements(texts) || reflect.PointerTo(t).Implements(texts):
		return []string{path + " string"}
	case t.Kind() == reflect.Struct:
		var all []string
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case name == "-" || name == "" && (!f.IsExported() || f.Anonymous): // those of an embedded one are visible too
				continue
			case name == "":
				name = f.Name
			}
			all = append(all, shape(f.Type, strings.TrimPrefix(path+"."+name, "."))...)
		}
		return all
	case t.Kind() == reflect.Slice:
		return shape(t.Elem(), path+"[]")
	case t.Kind() == reflect.Map:
		return shape(t.Elem(), path+"{}")
	case t.Kind() == reflect.String, t.Kind() == reflect.Bool:
		return []string{path + " " + t.Kind().String()}
	}
	return []string{path + " number"}
}
