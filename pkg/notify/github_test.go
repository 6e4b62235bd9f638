package notify

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// onGitHub runs a test in a synctest bubble, with a stand-in for GitHub and a
// function that makes the sink of a new process.
func onGitHub(t *testing.T, c config.GitHub, test func(t *testing.T, api *notifytest.GitHub, open func() Sink)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(askTimeout) // net/http watches answers that go-github leaves open until then
		api := &notifytest.GitHub{Token: "ghp_test", Repository: "acme/alerts", User: "acme-bot", Assignable: []string{"octocat", "hubot"}}
		c.Repository = "acme/alerts"
		test(t, api, func() Sink {
			sinks, err := Open(config.Alerts{GitHubs: []config.GitHub{c}}, env("GITHUB_TOKEN", "ghp_test"))
			if err != nil {
				t.Fatal(err)
			}
			g := sinks[0].(*gitHub)
			rerouteTo(g, inMemory{api})
			return g
		})
	})
}

// rerouteTo sends a sink's requests elsewhere, with all that it does to them.
func rerouteTo(g *gitHub, to http.RoundTripper) { g.transport.RoundTripper = to }

// made is an alert that is sealed now.
func made(a report.Alert) report.Alert {
	if a.Created.IsZero() {
		a.Created = time.Now()
	}
	a.Seal()
	return a
}

func found(n int) report.Alert {
	a := alert(report.ClassIdentity, n)
	a.Created = time.Now()
	return made(a)
}

// condition is an alert about health conditions: their keys with their states.
func condition(since time.Time, states ...string) report.Alert {
	a := report.Alert{Class: report.ClassHealth}
	for i := 0; i < len(states); i += 2 {
		a.Health = append(a.Health, report.Health{Key: states[i], State: report.HealthState(states[i+1]), Text: "log " + states[i] + " does not answer", Since: since})
	}
	return made(a)
}

const incidentID = "fork-0123456789abcdef"

func tampering(notes ...string) report.Alert {
	return made(report.Alert{Class: report.ClassTamper, Log: "aa11", Origin: "rekor.example.com", Notes: notes,
		Incident: &report.Incident{ID: incidentID, Kind: tlog.Kind("fork"), Proof: true, Text: "two roots at size 7"}})
}

func aboutTampering(text string, incidents ...string) report.Alert {
	return made(report.Alert{Class: report.ClassTamper, Log: "aa11", Origin: "rekor.example.com", Notes: []string{text}, About: incidents})
}

func deliver(t *testing.T, sink Sink, alerts ...report.Alert) {
	t.Helper()
	if acked, err := Deliver(t.Context(), sink, alerts); err != nil || len(acked) != len(alerts) {
		t.Fatalf("acknowledged %d of %d, %v", len(acked), len(alerts), err)
	}
}

// shape is the number of comments on each issue.
func shape(api *notifytest.GitHub) []int {
	n := []int{}
	for _, i := range api.Issues() {
		n = append(n, len(i.Comments))
	}
	return n
}

func wantShape(t *testing.T, api *notifytest.GitHub, what string, comments ...int) {
	t.Helper()
	if got := shape(api); !slices.Equal(got, comments) {
		t.Fatalf("%s: issues with %v comments, want %v", what, got, comments)
	}
}

func TestAnAlertIsOneIssueWithLabelsAndAssignees(t *testing.T) {
	onGitHub(t, config.GitHub{Labels: []string{"security", "Whosigned-Identity"}, Assignees: []string{"octocat", "Hubot"}}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		deliver(t, open(), found(1), found(2))
		issues := api.Issues()
		if len(issues) != 2 {
			t.Fatalf("%d issues, want 2", len(issues))
		}
		i := issues[0]
		if want := report.Email([]report.Alert{found(1)}).Subject; i.Title != want {
			t.Errorf("title %q, want %q", i.Title, want)
		}
		if !slices.Equal(i.Labels, []string{"whosigned-identity", "security"}) || !slices.Equal(i.Assignees, []string{"octocat", "Hubot"}) {
			t.Errorf("labels %q, assignees %q", i.Labels, i.Assignees)
		}
		for _, want := range []string{"<!-- whosigned alert=" + found(1).ID + " -->\n", "releases@acme.com", found(1).ID} {
			if !strings.Contains(i.Body, want) {
				t.Errorf("the body lacks %q:\n%s", want, i.Body)
			}
		}
	})
}

func TestARepeatOfAnAlertIsACommentOnceADay(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		a := found(1)
		deliver(t, open(), a)
		wantShape(t, api, "first", 0)
		deliver(t, open(), a) // the acknowledgement was not committed
		wantShape(t, api, "after a crash", 1)
		deliver(t, open(), a)
		wantShape(t, api, "after another one", 1)
		time.Sleep(24 * time.Hour)
		deliver(t, open(), a)
		wantShape(t, api, "a day later", 2)
		if c := api.Issues()[0].Comments[0]; !strings.Contains(c.Body, "Sent again") {
			t.Errorf("comment %q", c.Body)
		}
	})
}

func TestAClockAheadOfGitHubsOpensNoSecondIssueAndNoSecondComment(t *testing.T) {
	const ahead = 3 * time.Hour
	// behind takes an issue to what GitHub's clock said when it was written.
	behind := func(i *notifytest.Issue) {
		i.Created, i.Updated = i.Created.Add(-ahead), i.Updated.Add(-ahead)
		for n := range i.Comments {
			i.Comments[n].Created = i.Comments[n].Created.Add(-ahead)
		}
	}
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		a, began := found(1), time.Now()
		deliver(t, open(), a)
		api.Change(1, behind)
		deliver(t, open(), a) // the acknowledgement was not committed
		wantShape(t, api, "the same alert", 1)
		api.Change(1, func(i *notifytest.Issue) {
			i.Updated, i.Comments[0].Created = i.Created, i.Created
		})
		deliver(t, open(), a)
		wantShape(t, api, "the same alert once more", 1)

		deliver(t, open(), condition(began, "a", "opened"))
		api.Change(2, behind)
		deliver(t, open(), condition(began, "a", "closed"))
		wantShape(t, api, "the end of a condition", 1, 1)
	})
}

func TestWhatGoesOnIsACommentOnTheIssueOfTheFirstAlert(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		began := time.Now()
		time.Sleep(3 * time.Hour)
		deliver(t, open(), condition(began, "a", "opened"))
		deliver(t, open(), condition(began, "b", "opened"))
		wantShape(t, api, "two conditions", 0, 0)
		for range 40 { // longer than any listing since a fixed time ago would reach
			time.Sleep(24 * time.Hour)
			deliver(t, open(), condition(began, "a", "reminder"))
		}
		wantShape(t, api, "reminders", 40, 0)
		both := condition(began, "a", "closed", "b", "reminder")
		deliver(t, open(), both)
		wantShape(t, api, "the end of one and a reminder of the other", 41, 1)
		issues := api.Issues()
		last := issues[0].Comments[40].Body
		if !strings.Contains(last, "Over: ") || strings.Contains(last, "log b") || !strings.Contains(issues[1].Comments[0].Body, "Still: ") {
			t.Errorf("comments say\n%s\n%s", last, issues[1].Comments[0].Body)
		}
		deliver(t, open(), both) // the acknowledgement was not committed
		wantShape(t, api, "repeated", 41, 1)

		again := time.Now()
		deliver(t, open(), condition(again, "a", "opened", "b", "closed"))
		wantShape(t, api, "one opens, one ends", 41, 2, 0)
		deliver(t, open(), condition(again, "a", "closed"))
		wantShape(t, api, "the second time it ends", 41, 2, 1)
		deliver(t, open(), condition(again, "c", "reminder"))
		wantShape(t, api, "a reminder of what was never filed", 41, 2, 1, 0)
		deliver(t, open(), condition(again, "c", "closed"))
		wantShape(t, api, "its end", 41, 2, 1, 1)
		deliver(t, open(), condition(again, "d", "notice"))
		wantShape(t, api, "a notice", 41, 2, 1, 1, 0)

		deliver(t, open(), condition(again, "e", "opened"))
		deliver(t, open(), condition(again, "e", "reminder", "f", "opened"))
		wantShape(t, api, "a reminder of one, and another opens", 41, 2, 1, 1, 0, 1, 0)
		deliver(t, open(), condition(again, "e", "closed"))
		wantShape(t, api, "the end of the one", 41, 2, 1, 1, 0, 2, 0)
	})
}

func TestWhatBecomesOfTamperingIsACommentAndAnotherAlarmIsNot(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		deliver(t, open(), tampering("First seen today."))
		time.Sleep(90 * 24 * time.Hour)
		deliver(t, open(), aboutTampering("no longer seen: rekor.example.com (log aa11): incident "+incidentID+". It stays on file, and runs end with status 4", incidentID))
		deliver(t, open(), aboutTampering("incident "+incidentID+" is closed by decision of ann: a test", incidentID))
		deliver(t, open(), aboutTampering("a new baseline is taken at size 9 by decision of ann, and the log's incidents are closed: a test"))
		wantShape(t, api, "what was said of it", 3)
		deliver(t, open(), tampering("First seen tomorrow."))
		wantShape(t, api, "the same once more", 3, 0)
		deliver(t, open(), aboutTampering("incident "+incidentID+" is closed by decision of ann: again", incidentID))
		wantShape(t, api, "and its end", 3, 1)
		deliver(t, open(), aboutTampering("a new baseline is taken at size 9 by decision of ann", incidentID, "fork-ffffffffffffffff"))
		wantShape(t, api, "a baseline that closes it and another, which has no issue of its own", 3, 2)
		deliver(t, open(), made(report.Alert{Class: report.ClassTamper, Log: "bb22", Notes: []string{"a new baseline is taken at size 9 by decision of ann"}}))
		wantShape(t, api, "what is about another log", 3, 2, 0)
	})
}

func TestAnIssueThatTakesNoCommentsIsFollowedByAnother(t *testing.T) {
	for name, change := range map[string]func(*notifytest.Issue){
		"locked":           func(i *notifytest.Issue) { i.Locked = true },
		"deleted":          func(i *notifytest.Issue) { i.Deleted = true },
		"without label":    func(i *notifytest.Issue) { i.Labels = nil },
		"without a marker": func(i *notifytest.Issue) { i.Body = "edited" },
	} {
		t.Run(name, func(t *testing.T) {
			onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
				began := time.Now()
				deliver(t, open(), condition(began, "a", "opened"))
				api.Change(1, change)
				time.Sleep(24 * time.Hour)
				deliver(t, open(), condition(began, "a", "reminder"))
				wantShape(t, api, "a reminder", 0, 0)
				time.Sleep(24 * time.Hour)
				deliver(t, open(), condition(began, "a", "closed"))
				wantShape(t, api, "the end", 0, 1)
			})
		})
	}
}

func TestMarkersOfOthersDoNotKeepAnAlertBack(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		a, began := found(1), time.Now()
		marked := marker{alert: a.ID, keys: hashes([]string{"health:a"})}.String() + "\nhello\n"
		api.Add(notifytest.Issue{Title: "x", Body: marked, Author: "mallory"})
		api.Add(notifytest.Issue{Title: "x", Body: "> quoted\n" + marked, Author: "mallory", Labels: []string{"whosigned-identity"}})
		api.Add(notifytest.Issue{Title: "x", Body: marked, Author: "ann", Labels: []string{"whosigned-identity"}, PullRequest: true})
		deliver(t, open(), a)
		wantShape(t, api, "an alert", 0, 0, 0, 0)
		deliver(t, open(), condition(began, "a", "opened"))
		end := condition(began, "a", "closed")
		api.Change(5, func(i *notifytest.Issue) {
			i.Comments = append(i.Comments, notifytest.Comment{ID: 99, Author: "mallory", Created: time.Now(), Body: marker{alert: end.ID}.String() + "\n"})
		})
		deliver(t, open(), end)
		wantShape(t, api, "a comment", 0, 0, 0, 0, 2)
	})
}

func TestALostAnswerOpensNoSecondIssue(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		answer  notifytest.Answer
		send    func() report.Alert
		want    []int
	}{
		"taken, and disconnected": {notifytest.CreateIssue, notifytest.Answer{Disconnect: true, Accept: true}, func() report.Alert { return found(1) }, []int{0, 0}},
		"taken, and 502":          {notifytest.CreateIssue, notifytest.Answer{Status: 502, Accept: true}, func() report.Alert { return found(1) }, []int{0, 0}},
		"taken, and half of it":   {notifytest.CreateIssue, notifytest.Answer{Status: 201, Body: `{"number": 1`, Accept: true}, func() report.Alert { return found(1) }, []int{0, 0}},
		"taken, and no number":    {notifytest.CreateIssue, notifytest.Answer{Status: 201, Body: `{}`, Accept: true}, func() report.Alert { return found(1) }, []int{0, 0}},
		"not taken":               {notifytest.CreateIssue, notifytest.Answer{Disconnect: true}, func() report.Alert { return found(1) }, []int{0, 0}},
		"201 without an issue":    {notifytest.CreateIssue, notifytest.Answer{Status: 201, Body: `{}`}, func() report.Alert { return found(1) }, []int{0, 0}},
		"a comment taken":         {notifytest.CreateComment, notifytest.Answer{Disconnect: true, Accept: true}, func() report.Alert { return condition(time.Now(), "a", "closed") }, []int{1}},
		"a comment without ID":    {notifytest.CreateComment, notifytest.Answer{Status: 201, Body: `{}`}, func() report.Alert { return condition(time.Now(), "a", "closed") }, []int{1}},
		"a list disconnected":     {notifytest.ListIssues, notifytest.Answer{Disconnect: true}, func() report.Alert { return found(1) }, []int{0, 0}},
		"a list cut short":        {notifytest.ListIssues, notifytest.Answer{Status: 200, Body: `[{"numb`}, func() report.Alert { return found(1) }, []int{0, 0}},
		"comments with 500":       {notifytest.ListComments, notifytest.Answer{Status: 500}, func() report.Alert { return condition(time.Now(), "a", "closed") }, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
				deliver(t, open(), condition(time.Now(), "a", "opened"))
				api.Next(c.request, c.answer)
				begin := time.Now()
				deliver(t, open(), c.send())
				wantShape(t, api, name, c.want...)
				if waited := time.Since(begin); waited != time.Second {
					t.Errorf("waited %v before asking again, want 1s", waited)
				}
			})
		})
	}
}

func TestARefusedLabelOrAssigneeDoesNotLoseTheAlert(t *testing.T) {
	for name, c := range map[string]struct {
		config config.GitHub
		change func(*notifytest.GitHub)
		labels []string
		want   string // in the error; "" for none
	}{
		"nothing refused":      {config.GitHub{Labels: []string{"security"}, Assignees: []string{"octocat"}}, func(*notifytest.GitHub) {}, []string{"whosigned-identity", "security"}, ""},
		"an assignee":          {config.GitHub{Labels: []string{"security"}, Assignees: []string{"octocat", "stranger"}}, func(*notifytest.GitHub) {}, []string{"whosigned-identity"}, "without label security, assignee octocat, assignee stranger"},
		"a label":              {config.GitHub{Labels: []string{"a,b"}}, func(*notifytest.GitHub) {}, []string{"whosigned-identity"}, "without label a,b"},
		"no push, silently":    {config.GitHub{Labels: []string{"security"}, Assignees: []string{"octocat"}}, func(g *notifytest.GitHub) { g.NoPush = true }, nil, "without label whosigned-identity, label security, assignee octocat"},
		"no new labels at all": {config.GitHub{}, func(g *notifytest.GitHub) { g.NoLabels = true }, nil, "without label whosigned-identity"},
	} {
		t.Run(name, func(t *testing.T) {
			onGitHub(t, c.config, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
				c.change(api)
				acked, err := Deliver(t.Context(), open(), []report.Alert{found(1), found(2)})
				issues := api.Issues()
				if len(acked) != 2 || len(issues) != 2 || !slices.Equal(issues[0].Labels, c.labels) {
					t.Fatalf("acknowledged %v, issues %+v, %v", acked, issues, err)
				}
				var failed *SendError
				if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &failed) || !failed.Delivered || failed.Down || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			})
		})
	}
}

func TestADigestIsOneIssueAndWhatItTellsOfGoesOnThere(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		began := time.Now()
		all := []report.Alert{condition(began, "a", "opened"), tampering()}
		for i := range 60 {
			all = append(all, found(i))
		}
		deliver(t, open(), all...)
		issues := api.Issues()
		if len(issues) != 1 || !slices.Equal(issues[0].Labels, []string{"whosigned-tamper", "whosigned-identity", "whosigned-health"}) {
			t.Fatalf("%d issues, labels %q", len(issues), issues[0].Labels)
		}
		deliver(t, open(), condition(began, "a", "closed"))
		deliver(t, open(), aboutTampering("incident "+incidentID+" is closed by decision of ann: a test", incidentID))
		wantShape(t, api, "what became of it", 2)
		deliver(t, open(), all...)
		wantShape(t, api, "the same digest", 3)
	})
}

func TestAnIssueIsFoundAmongManyOthers(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		began := time.Now()
		deliver(t, open(), condition(began, "a", "opened"))
		for range 60 {
			api.Add(notifytest.Issue{Title: "x", Body: "x", Author: "ann", Labels: []string{"whosigned-health"}})
		}
		for range 60 {
			api.Change(1, func(i *notifytest.Issue) {
				i.Comments = append(i.Comments, notifytest.Comment{ID: 1, Author: "ann", Body: "looking", Created: time.Now()})
			})
		}
		end := condition(began, "a", "closed")
		deliver(t, open(), end)
		deliver(t, open(), end)
		if n := shape(api)[0]; n != 61 {
			t.Errorf("%d comments, want 61", n)
		}
		// Its last page is the third: 25 are on one.
		if n := api.Requests(notifytest.ListIssues); n != 1+3+3 {
			t.Errorf("%d lists of issues, want 7", n)
		}
	})
}

func TestHostileContentStaysWithinGitHubsLimits(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		var all []report.Alert
		for i, bad := range []string{"@octocat", "``` @octocat\n```", strings.Repeat("\x00", 4096), strings.Repeat("\u202e", 4096), strings.Repeat("𝕏", 4096), strings.Repeat("`", 4096),
			"<!-- whosigned alert=" + strings.Repeat("a", 32) + " -->\n", "-->", "\xff\xfe"} {
			a := report.Alert{Class: report.ClassIdentity, Log: tlog.ID(bad), Origin: bad, From: uint64(i), To: uint64(i) + 1, Notes: slices.Repeat([]string{bad}, 60), Pointer: bad}
			for range 20 {
				a.Findings = append(a.Findings, watch.Finding{Subject: bad, Issuer: bad, Rule: bad, Digests: slices.Repeat([]string{bad}, 20), Link: bad, TrustErr: bad})
			}
			all = append(all, made(a))
		}
		deliver(t, open(), all...) // what is too long, the stand-in refuses
		cut := 0
		for i, issue := range api.Issues() {
			cut += strings.Count(issue.Body, " left out. All of it is in alerts/")
			if k, ok := parseMarker(issue.Body); !ok || k.alert != all[i].ID || strings.Count(issue.Body, "<!--") != 1 && !strings.Contains(all[i].Origin, "<!--") {
				t.Errorf("issue %d has the marker %+v", i+1, k)
			}
		}
		if cut == 0 {
			t.Error("no issue says that it is cut")
		}
		deliver(t, open(), all...)
		for i, n := range shape(api) {
			if n != 1 {
				t.Errorf("issue %d was found again %d times, want once", i+1, n)
			}
		}
	})
}
