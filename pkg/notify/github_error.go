package notify

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-github/v84/github"

	"github.com/whosigned/whosigned/pkg/report"
)

// GitHubError is an answer of GitHub's that is no acknowledgement.
type GitHubError struct {
	Op         string // "creating an issue"
	Status     int
	Repository string // owner/name
	// Message and Errors are GitHub's own words.
	Message string
	Errors  []string
	// Until is when GitHub wants to be asked again, if it is one of its rate limits
	// that was met.
	Until time.Time
	// Token is where the token came from: GITHUB_TOKEN, or the file of GITHUB_TOKEN_FILE.
	Token string

	limited bool // by a rate limit
}

func (e *GitHubError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s: GitHub answered %d %s", e.Op, e.Repository, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		b.WriteString(": " + report.Safe(e.Message))
	}
	for _, text := range e.Errors {
		b.WriteString(": " + report.Safe(text))
	}
	switch {
	case e.limited:
		b.WriteString("; a rate limit of " + e.Token + " is used up")
		if !e.Until.IsZero() {
			b.WriteString(" until " + e.Until.UTC().Format("2006-01-02 15:04:05 UTC"))
		}
	case 300 <= e.Status && e.Status < 400:
		b.WriteString("; the repository was renamed or moved: give its new name as repository")
	case e.Status == http.StatusUnauthorized:
		b.WriteString("; " + e.Token + " is wrong, revoked or expired")
	case e.Status == http.StatusForbidden:
		b.WriteString("; " + e.Token + " needs the permission Issues: write for this repository (classic tokens: the scope repo), and where single sign-on is enforced to be authorized for it")
	case e.Status == http.StatusNotFound:
		b.WriteString("; there is no such repository, or " + e.Token + " may not see it: check repository, base_url and the token's repositories")
	case e.Status == http.StatusNotAcceptable:
		b.WriteString("; check base_url: it is that of a GitHub Enterprise Server, as in https://ghe.example.com")
	case e.Status == http.StatusGone:
		b.WriteString("; issues are disabled in this repository: enable them in its settings, or name another")
	}
	return b.String()
}

// maxReasons bounds what is told of GitHub's words.
const maxReasons = 5

// heard makes of what go-github returns an error that says what to do: nil for 200
// to a list and 201 to a creation, a *GitHubError for any other answer, inside a
// *later one if it may pass.
func (g *gitHub) heard(op string, resp *github.Response, err error) error {
	e := &GitHubError{Op: op, Repository: g.owner + "/" + g.repo, Token: g.token}
	if resp != nil && resp.Response != nil {
		e.Status = resp.StatusCode
	}
	var (
		primary   *github.RateLimitError
		secondary *github.AbuseRateLimitError
		answer    *github.ErrorResponse
		twoFactor *github.TwoFactorAuthError
		accepted  *github.AcceptedError
		moved     *github.RedirectionError
	)
	var wait time.Duration
	switch {
	case err == nil:
		want := http.StatusCreated
		if strings.HasPrefix(op, "listing") {
			want = http.StatusOK
		}
		if e.Status == want {
			return nil
		}
	case errors.As(err, &primary):
		e.Message, e.limited = primary.Message, true
		// A second more: the time is told in whole ones.
		wait = time.Until(primary.Rate.Reset.Time) + time.Second
	case errors.As(err, &secondary):
		e.Message, e.limited = secondary.Message, true
		wait = asked(secondary.Response.Header)
		if wait == 0 && secondary.RetryAfter != nil {
			wait = *secondary.RetryAfter
		}
	case errors.As(err, &answer):
		e.tell(answer)
		// Older Enterprise Servers name no documentation for their limits.
		if e.Status == http.StatusTooManyRequests || e.Status == http.StatusForbidden && answer.Response.Header.Get("Retry-After") != "" {
			e.limited, wait = true, asked(answer.Response.Header)
		}
	case errors.As(err, &twoFactor):
		e.tell((*github.ErrorResponse)(twoFactor))
	case errors.As(err, &accepted), errors.As(err, &moved):
	default:
		return &later{err: fmt.Errorf("%s in %s: asking GitHub: %w", op, e.Repository, err)}
	}
	if e.limited {
		if wait <= 0 {
			wait = time.Minute // as GitHub's documentation says if it names no time
		}
		e.Until = time.Now().Add(wait)
		return &later{e, wait}
	}
	if passes(e.Status) {
		return &later{err: e}
	}
	return e
}

func (e *GitHubError) tell(answer *github.ErrorResponse) {
	e.Message = answer.Message
	for i, r := range answer.Errors {
		if i == maxReasons {
			break
		}
		e.Errors = append(e.Errors, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Resource, r.Field, r.Code, r.Message)))
	}
}
