package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/report"
)

func TestGitHubIsAskedAgainWhenItsLimitsSay(t *testing.T) {
	const secondary = "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	const noon2000 = 946684800 // when a bubble begins
	abuse := notifytest.GitHubErrorBody("You have exceeded a secondary rate limit", secondary+"#secondary-rate-limits")
	for name, c := range map[string]struct {
		answer notifytest.Answer
		waited time.Duration
		acked  bool
		want   string
	}{
		"secondary, soon":         {notifytest.Answer{Status: 403, Header: header("Retry-After", "7"), Body: abuse}, 7 * time.Second, true, ""},
		"secondary, as 429":       {notifytest.Answer{Status: 429, Header: header("Retry-After", "7"), Body: abuse}, 7 * time.Second, true, ""},
		"secondary, late":         {notifytest.Answer{Status: 403, Header: header("Retry-After", "600"), Body: abuse}, 0, false, "2000-01-01 00:10:00 UTC"},
		"secondary, no word":      {notifytest.Answer{Status: 403, Body: abuse}, 0, false, "2000-01-01 00:01:00 UTC"},
		"secondary, beyond 2^63":  {notifytest.Answer{Status: 403, Header: header("Retry-After", "9223372036854775807"), Body: abuse}, 0, false, "rate limit"},
		"primary, soon":           {notifytest.Answer{Status: 403, Header: header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", fmt.Sprint(noon2000+9)), Body: "{}"}, 10 * time.Second, true, ""},
		"primary, late":           {notifytest.Answer{Status: 429, Header: header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", fmt.Sprint(noon2000+1800)), Body: `{"message": "API rate limit exceeded"}`}, 0, false, "2000-01-01 00:30:01 UTC"},
		"primary, beyond 2^62":    {notifytest.Answer{Status: 403, Header: header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "4611686018427387904"), Body: "{}"}, 0, false, "rate limit"},
		"429 of a proxy":          {notifytest.Answer{Status: 429, Header: header("Retry-After", "5"), Body: "<html>"}, 5 * time.Second, true, ""},
		"an older Enterprise one": {notifytest.Answer{Status: 403, Header: header("Retry-After", "5"), Body: `{"message": "abuse"}`}, 5 * time.Second, true, ""},
	} {
		for _, request := range []string{notifytest.ListIssues, notifytest.CreateIssue} {
			t.Run(name+", "+request, func(t *testing.T) {
				onGitHub(t, config.GitHub{Labels: []string{"security"}}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
					api.Next(request, c.answer)
					sink, begin := open(), time.Now()
					acked, err := Deliver(t.Context(), sink, []report.Alert{found(1), found(2)})
					if waited := time.Since(begin); waited != c.waited || c.acked != (err == nil) || len(acked) != map[bool]int{true: 2}[c.acked] {
						t.Fatalf("acknowledged %d after %v, %v; want to wait %v", len(acked), waited, err, c.waited)
					}
					if c.acked {
						wantShape(t, api, "delivered", 0, 0)
						return
					}
					var failed *SendError
					if !errors.As(err, &failed) || !failed.Down || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "ghp_test") {
						t.Errorf("error %q, want the sink down and %q", err, c.want)
					}
					if n := api.Requests(request); n != 1 {
						t.Errorf("%d requests of the kind, want none after the limit was met", n)
					}
					time.Sleep(time.Hour)
					deliver(t, open(), found(1))
				})
			})
		}
	}
}

func TestALimitOnCommentsIsWaitedForAndOpensNoIssue(t *testing.T) {
	for _, request := range []string{notifytest.ListComments, notifytest.CreateComment} {
		onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
			began := time.Now()
			deliver(t, open(), condition(began, "a", "opened"))
			limit := notifytest.Answer{Status: 403, Header: http.Header{"Retry-After": {"7"}}, Body: `{"message": "slow down"}`}
			api.Next(request, limit)
			deliver(t, open(), condition(began, "a", "closed"))
			if waited := time.Since(began); waited != 7*time.Second {
				t.Errorf("%s: waited %v, want 7s", request, waited)
			}
			wantShape(t, api, request, 1)
		})
	}
}

func TestOnly201IsAnAcknowledgementOfGitHubs(t *testing.T) {
	page := "<html>" + strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct {
		answer notifytest.Answer
		down   bool
		want   string
	}{
		"200":                    {notifytest.Answer{Status: 200, Body: `{"number": 7}`}, true, "answered 200"},
		"202":                    {notifytest.Answer{Status: 202, Body: `{}`}, true, "answered 202"},
		"204":                    {notifytest.Answer{Status: 204}, true, "answered 204"},
		"renamed":                {notifytest.Answer{Status: 307, Header: http.Header{"Location": {"https://127.0.0.1:1/"}}, Body: `{"message": "Moved Permanently"}`}, true, "give its new name"},
		"400":                    {notifytest.Answer{Status: 400, Body: `{"message": "Problems parsing JSON"}`}, false, "Problems parsing JSON"},
		"401":                    {notifytest.Answer{Status: 401, Body: `{"message": "Bad credentials"}`}, true, "Bad credentials; GITHUB_TOKEN is wrong"},
		"401, second factor":     {notifytest.Answer{Status: 401, Header: http.Header{"X-Github-Otp": {"required; app"}}, Body: `{"message": "Must specify two-factor"}`}, true, "two-factor"},
		"403":                    {notifytest.Answer{Status: 403, Body: `{"message": "Resource not accessible by personal access token\u001b[2J"}`}, true, `\u{001b}[2J; GITHUB_TOKEN needs the permission Issues: write`},
		"404":                    {notifytest.Answer{Status: 404, Body: `{"message": "Not Found"}`}, true, "may not see it"},
		"406":                    {notifytest.Answer{Status: 406, Body: page}, true, "base_url"},
		"410":                    {notifytest.Answer{Status: 410, Body: `{"message": "Issues are disabled for this repo"}`}, true, "enable them"},
		"413":                    {notifytest.Answer{Status: 413, Body: page}, false, "413"},
		"422":                    {notifytest.Answer{Status: 422, Body: `{"message": "Validation Failed", "errors": [{"resource": "Issue", "field": "body", "code": "custom", "message": "body is too long"}]}`}, false, "Validation Failed: Issue body custom body is too long"},
		"422 with a text":        {notifytest.Answer{Status: 422, Body: `{"message": "Validation Failed", "errors": ["odd"]}`}, false, "odd"},
		"451, blocked":           {notifytest.Answer{Status: 451, Body: `{"message": "Repository access blocked"}`}, true, "451"},
		"500, again and again":   {notifytest.Answer{Status: 500, Body: page}, true, "answered 500"},
		"never, again and again": {notifytest.Answer{Disconnect: true}, true, "connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
				for range 8 {
					api.Next(notifytest.CreateIssue, c.answer)
				}
				acked, err := Deliver(t.Context(), open(), []report.Alert{found(1), found(2)})
				var failed *SendError
				if !errors.As(err, &failed) || failed.Down != c.down || len(acked) != 0 || len(api.Issues()) != 0 {
					t.Fatalf("acknowledged %v, issues %v, error %v; want down %v", acked, shape(api), err, c.down)
				}
				if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "ghp_test") || len(err.Error()) > 8<<10 {
					t.Errorf("error %q lacks %q, or tells the token", err, c.want)
				}
			})
		})
	}
}

func TestAGitHubThatNeverAnswersIsGivenUp(t *testing.T) {
	onGitHub(t, config.GitHub{}, func(t *testing.T, api *notifytest.GitHub, open func() Sink) {
		sink := open()
		rerouteTo(sink.(*gitHub), hanging{})
		begin := time.Now()
		var failed *SendError
		if err := sink.Send(t.Context(), message(1)); !errors.As(err, &failed) || !failed.Down || time.Since(begin) > 3*time.Minute {
			t.Errorf("got %v after %v, want the sink down", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if err := sink.Send(ctx, message(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("with a deadline of 1s: %v after %v", err, time.Since(begin))
		}
	})
}

func TestGitHubEnterpriseIsAskedAtItsOwnPath(t *testing.T) {
	api := &notifytest.GitHub{Token: "ghp_test", Repository: "acme/alerts", Prefix: "/api/v3", User: "acme-bot"}
	server := httptest.NewServer(api)
	defer server.Close()
	for _, base := range []string{server.URL, server.URL + "/", server.URL + "/api/v3"} {
		sinks, err := Open(config.Alerts{GitHubs: []config.GitHub{{Repository: "acme/alerts", BaseURL: base}}}, env("GITHUB_TOKEN", "ghp_test"))
		if err != nil {
			t.Fatal(err)
		}
		deliver(t, sinks[0], alert(report.ClassHealth, len(base)))
	}
	wantShape(t, api, "three spellings of the URL", 0, 0, 0)
}

func TestGitHubsAnswersAreReadUpToALimitAndItsTokenGoesNowhereElse(t *testing.T) {
	var reached atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer elsewhere.Close()
	const most = 256 << 20
	written := make(chan int, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v3/repos/acme/moved/") {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		total, chunk := 0, make([]byte, 1<<20)
		for total < most {
			n, err := w.Write(chunk)
			total += n
			if err != nil {
				break
			}
		}
		written <- total
	}))
	defer server.Close()
	for _, repository := range []string{"acme/endless", "acme/moved"} {
		sinks, err := Open(config.Alerts{GitHubs: []config.GitHub{{Repository: repository, BaseURL: server.URL}}}, env("GITHUB_TOKEN", "ghp_test"))
		if err != nil {
			t.Fatal(err)
		}
		var answer *GitHubError
		if err := sinks[0].Send(t.Context(), message(1)); !errors.As(err, &answer) || len(err.Error()) > 4096 {
			t.Errorf("%s: got %.200v", repository, err)
		}
	}
	if n := <-written; n >= most {
		t.Errorf("all %d bytes of the answer were read", n)
	}
	if reached.Load() {
		t.Error("a redirect was followed")
	}
}
