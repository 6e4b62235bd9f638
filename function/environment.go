package function

import (
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

// The timeouts that the function may have: Scheduler waits for at most 30 minutes,
// and in less than three a run gets nothing done.
const (
	minTimeout = 180 * time.Second
	maxTimeout = 1800 * time.Second
)

// environment is what the Terraform module has set. Secrets are not in it: they are
// read when sinks are opened.
type environment struct {
	config   string // gs://bucket/object, a path, or the configuration itself
	state    string // "": where the configuration says
	evidence string // "": nowhere
	timeout  time.Duration
	every    time.Duration
}

// readEnvironment says of a variable that is missing or wrong which it is, and what
// to do.
func readEnvironment(getenv func(string) string) (environment, error) {
	env := environment{config: getenv("WHOSIGNED_CONFIG"), state: getenv("WHOSIGNED_STATE"), evidence: getenv("WHOSIGNED_EVIDENCE")}
	if strings.TrimSpace(env.config) == "" {
		return env, fmt.Errorf("WHOSIGNED_CONFIG is not set: give the configuration as gs://bucket/whosigned.yaml, as a path, or as YAML; %s", byTerraform)
	}
	var err error
	if env.timeout, err = duration(getenv, "WHOSIGNED_TIMEOUT", "1740s"); err != nil {
		return env, err
	}
	if env.timeout < minTimeout || env.timeout > maxTimeout {
		return env, fmt.Errorf("WHOSIGNED_TIMEOUT is %v, and must be from %.0f s to %.0f s, as Cloud Scheduler waits no longer and a run needs no less: "+
			"set timeout_seconds of the Terraform module, which sets the timeout of function, job and variable alike", env.timeout, minTimeout.Seconds(), maxTimeout.Seconds())
	}
	if env.every, err = duration(getenv, "WHOSIGNED_EVERY", "60m"); err != nil {
		return env, err
	}
	return env, nil
}

const byTerraform = "the Terraform module sets it: apply it again"

func duration(getenv func(string) string, name, example string) (time.Duration, error) {
	text := getenv(name)
	if text == "" {
		return 0, fmt.Errorf("%s is not set: give a Go duration such as %s; %s", name, example, byTerraform)
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s is %.100q, and not a Go duration above 0 such as %s; %s", name, text, example, byTerraform)
	}
	return d, nil
}

// inline says whether the configuration itself was given.
func (env environment) inline() bool {
	return strings.Contains(env.config, "\n") || strings.HasPrefix(strings.TrimSpace(env.config), "{")
}

// name is what messages call the configuration.
func (env environment) name() string {
	if env.inline() {
		return "WHOSIGNED_CONFIG"
	}
	return env.config
}

var (
	versionForm = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}\z`)
	jobName     = regexp.MustCompile(`\A[A-Za-z0-9_/.:-]{1,500}\z`)
)

// version is that of the code: as the deployment names it, else the module's as the
// go command recorded it, which in a build by Google is a module that another requires.
func version(getenv func(string) string) string {
	if v := getenv("WHOSIGNED_VERSION"); versionForm.MatchString(v) {
		return v
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == "github.com/whosigned/whosigned" && m.Version != "" {
				return m.Version
			}
		}
	}
	return "(devel)"
}

// trigger is the name of the Scheduler job that sent a request; "" if it does not
// say, or not in the way of Scheduler.
func trigger(h http.Header) string {
	if name := h.Get("X-CloudScheduler-JobName"); jobName.MatchString(name) {
		return name
	}
	return ""
}
