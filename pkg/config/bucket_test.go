package config

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
)

const inTheBucket = "gs://acme/config/who/whosigned.yaml"

// upload puts a configuration, and what the tests' configurations name, into a bucket.
func upload(t *testing.T, s *buckettest.Server, text string) {
	t.Helper()
	dir := folder(t)
	for at, file := range map[string]string{
		"config/who/rekor1.pub": "rekor1.pub", "config/who/keys/rekor2.pub": "rekor2.pub", "config/shared.pub": "rekor1.pub",
		"config/who/trusted_root.json": "trusted_root.json",
	} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		s.Put("acme", at, string(data))
		if at == "config/shared.pub" {
			s.Put("elsewhere", "rekor.pub", string(data))
		}
	}
	s.Put("acme", "config/who/whosigned.yaml", text)
}

func TestWhatAConfigurationInABucketNamesIsReadFromThere(t *testing.T) {
	s := buckettest.New(t, "acme", "elsewhere")
	upload(t, s, `trustedRoot: trusted_root.json
logs:
  - {type: rekor-v1, url: "https://one.example", key: [./rekor1.pub, gs://acme/config/who/keys/rekor2.pub]}
  - {type: rekor-v2, url: "https://two.example", key: keys/rekor2.pub}
  - {type: rekor-v1, url: "https://three.example", key: ../shared.pub}
  - {type: rekor-v1, url: "https://four.example", key: gs://elsewhere/rekor.pub}
watch: [{name: a, subject: {exact: a}}]
alerts: {email: {via: sendgrid, from: a@b.c, to: d@e.f}}
`)
	cfg, err := Load(t.Context(), inTheBucket)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Logs) != 4 || len(cfg.Logs[0].Keys) != 2 || cfg.Chains.Len() != 2 || len(cfg.Warnings) != 0 {
		t.Errorf("got %d logs, %d authorities, warnings %q", len(cfg.Logs), cfg.Chains.Len(), cfg.Warnings)
	}
	// The deployment says where state is.
	if cfg.State != "" || cfg.Path != inTheBucket || cfg.Logs[1].Where != inTheBucket+":4" {
		t.Errorf("got state %q, path %q, a log at %q", cfg.State, cfg.Path, cfg.Logs[1].Where)
	}
}

func TestStateIsInABucketOrInAFolder(t *testing.T) {
	s := buckettest.New(t, "acme")
	for _, tc := range []struct{ state, local, bucket, warning string }{
		{"gs://acme-state", "gs://acme-state", "gs://acme-state", ""},
		{"gs://acme-state/who/", "gs://acme-state/who", "gs://acme-state/who", ""},
		{"file:///var/lib/who", "file:///var/lib/who", "file:///var/lib/who", "state: a folder is lost with the instance"},
		{"/var/lib/../who", "file:///var/who", "file:///var/who", "state: a folder is lost with the instance"},
		{"below", "file://DIR/below", "gs://acme/config/who/below", ""},
	} {
		text := "state: " + tc.state + "\nlogs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\nwatch: [{name: a, subject: {exact: a}}]\nalerts: {email: {via: sendgrid, from: a@b.c, to: d@e.f}}\n"
		dir := folder(t)
		if got := load(t, dir, text); got.State != strings.Replace(tc.local, "DIR", dir, 1) || len(got.Warnings) != 0 {
			t.Errorf("%s in a file: got %s and warnings %q, want %s", tc.state, got.State, got.Warnings, tc.local)
		}
		upload(t, s, text)
		cfg, err := Load(t.Context(), inTheBucket)
		if err != nil {
			t.Fatal(err)
		}
		if warned := strings.Join(cfg.Warnings, "\n"); cfg.State != tc.bucket || (warned == "") != (tc.warning == "") || !strings.Contains(warned, tc.warning) {
			t.Errorf("%s in a bucket: got %s and warnings %q, want %s and %q", tc.state, cfg.State, warned, tc.bucket, tc.warning)
		}
	}
}

func TestWhatIsWrongInABucketIsPointedAt(t *testing.T) {
	s := buckettest.New(t, "acme", "elsewhere")
	const outside = " is outside; the configuration is in a bucket, and so must be what it names: put it beside the configuration and give its name, or write gs://bucket/object"
	const secret = "a secret in a bucket is for all to read who may read the bucket, in its old versions too: remove it, revoke it, and " + newSecretRemedy
	rules := "logs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\nmonitoredValues: {subjects: [a]}\n"
	for _, tc := range []struct{ name, text, want string }{
		{"a path on a machine", logWith(`{type: rekor-v1, url: "http://localhost:1", key: /etc/rekor.pub}`), `3: logs[0].key: "/etc/rekor.pub"` + outside},
		{"a file URL", ok + "trustedRoot: file:///root.json\n", `4: trustedRoot: "file:///root.json"` + outside},
		{"above the bucket", ok + "caRootsFile: ../../../ca.pem\n", `4: caRootsFile: "../../../ca.pem"` + outside},
		{"intermediates outside", ok + "caRootsFile: rekor1.pub\ncaIntermediatesFile: /ca.pem\n", `5: caIntermediatesFile: "/ca.pem"` + outside},
		{"a key that is not there", logWith(`{type: rekor-v1, url: "http://localhost:1", key: gone.pub}`), "3: logs[0].key: cannot read the key: reading gs://acme/config/who/gone.pub: file does not exist"},
		{"a key in a bucket that is not there", logWith(`{type: rekor-v1, url: "http://localhost:1", key: gs://gone-bucket/a.pub}`),
			"3: logs[0].key: cannot read the key: reading gs://gone-bucket/a.pub: storage: bucket doesn't exist: create the bucket gone-bucket, or correct its name"},
		{"a folder beside it", strings.Replace(ok, "path: m", "path: ./m", 1), `3: alerts.folder.path: "./m" is not absolute, and the configuration is in a bucket, which has no folders; write the whole path`},
		{"rekor-monitor's secrets", rules + "emailNotificationSendGrid:\n  recipientEmailAddress: a@b.c\n  senderEmailAddress: a@b.c\n  sendGridAPIKey: hunter2\nemailNotificationSMTP: {senderEmailAddress: a@b.c, recipientEmailAddress: a@b.c, SMTPHostURL: h, senderSMTPUsername: x, senderSMTPPassword: hunter2, password: hunter2}\ngithubIssue:\n  repositoryOwner: acme\n  repositoryName: x\n  authenticationToken: hunter2\n",
			"6: emailNotificationSendGrid.sendGridAPIKey: " + secret + "\n7: emailNotificationSMTP.password: " + secret + "\n7: emailNotificationSMTP.senderSMTPUsername: " + secret + "\n7: emailNotificationSMTP.senderSMTPPassword: " + secret + "\n11: githubIssue.authenticationToken: " + secret},
		{"secrets in keys that mean nothing", rules + "sendGridAPIKey: hunter2\nnotify:\n- {to: a, auth: {token: hunter2}}\nanchored: &a\n  password: hunter2\ntrustedCAs: *a\n",
			"3: sendGridAPIKey: " + secret + "\n5: notify[0].auth.token: " + secret + "\n7: anchored.password: " + secret},
		{"a secret where it never belongs", strings.Replace(ok, "alerts: {folder: {path: m}}", "alerts: {email: {via: sendgrid, from: a@b.c, to: d@e.f, api_key: hunter2}}", 1),
			"3: alerts.email.api_key: " + secret},
		{"a secret among rekor-monitor's values", "logs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\nmonitoredValues: {subjects: [a], token: hunter2}\n", "2: monitoredValues.token: " + secret},
	} {
		t.Run(tc.name, func(t *testing.T) {
			upload(t, s, strings.Replace(tc.text, "folder: {path: m}", "email: {via: sendgrid, from: a@b.c, to: d@e.f}", 1))
			_, err := Load(t.Context(), inTheBucket)
			want := inTheBucket + ":" + strings.ReplaceAll(tc.want, "\n", "\n"+inTheBucket+":")
			var all *Error
			if !errors.As(err, &all) || err.Error() != want || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
		})
	}
}

func TestARekorMonitorConfigurationWithoutSecretsWorksFromABucket(t *testing.T) {
	example, err := os.ReadFile("testdata/rekor-monitor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := buckettest.New(t, "acme")
	const logs = "\nlogs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\nemailNotificationSMTP: {senderEmailAddress: a@b.c, recipientEmailAddress: d@e.f, SMTPHostURL: localhost, senderSMTPPassword: ''}\n"
	upload(t, s, string(example)+logs)
	cfg, err := Load(t.Context(), inTheBucket)
	if err != nil {
		t.Fatal(err)
	}
	local := load(t, folder(t), string(example)+"\nstate: s"+logs)
	if ruleNames(cfg) != ruleNames(local) || cfg.Scan == nil || *cfg.Scan != *local.Scan {
		t.Errorf("got rules\n%s\nscan %v, want those from a file\n%s\n%v", ruleNames(cfg), cfg.Scan, ruleNames(local), local.Scan)
	}
}

func TestAFolderForAlertsIsLostInAFunction(t *testing.T) {
	s := buckettest.New(t, "acme")
	upload(t, s, strings.Replace(ok, "path: m", "path: /var/mail/../alerts", 1)+"watch: [{name: a, subject: {exact: a}}]\n")
	cfg, err := Load(t.Context(), inTheBucket)
	if err != nil {
		t.Fatal(err)
	}
	want := ":3: alerts.folder.path: a folder is lost with the instance that a function runs in, and its alerts with it; add a sink that sends them, such as email"
	if len(cfg.Warnings) != 1 || cfg.Warnings[0] != inTheBucket+want || cfg.Alerts.Folders[0].Path != "/var/alerts" {
		t.Errorf("got %q and %+v, want %q", cfg.Warnings, cfg.Alerts.Folders, want)
	}
}

func TestAnyChangeIsANewGeneration(t *testing.T) {
	key, err := os.ReadFile(filepath.Join(folder(t), "rekor1.pub"))
	if err != nil {
		t.Fatal(err)
	}
	const text = "logs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\n"
	s := buckettest.New(t, "acme")
	dir := t.TempDir()
	for _, place := range []struct {
		name, location string
		write          func(name, content string)
	}{
		{"a bucket", inTheBucket, func(name, content string) { s.Put("acme", "config/who/"+name, content) }},
		{"a folder", filepath.Join(dir, "whosigned.yaml"), func(name, content string) { write(t, dir, name, content) }},
	} {
		seen := map[string]string{}
		for _, step := range []struct {
			name, file, content string
			fails, same         bool
		}{
			{"without its key", "whosigned.yaml", "state: gs://acme\n" + text, true, false},
			{"with its key", "rekor1.pub", string(key), false, false},
			{"read again", "", "", false, true},
			{"another text of the key", "rekor1.pub", string(key) + "\n", false, false},
			{"invalid", "whosigned.yaml", "state: gs://acme\nwach: 1\n" + text, true, false},
			{"invalid, read again", "", "", true, true},
			{"not YAML", "whosigned.yaml", "[", true, false},
		} {
			if step.file != "" {
				place.write(step.file, step.content)
			}
			cfg, err := Load(t.Context(), place.location)
			var invalid *Error
			generation := ""
			switch {
			case errors.As(err, &invalid) && step.fails:
				generation = invalid.Generation
			case err == nil && !step.fails:
				generation = cfg.Generation
			default:
				t.Fatalf("%s, %s: %v", place.name, step.name, err)
			}
			if earlier := seen[generation]; generation == "" || (earlier != "") != step.same {
				t.Errorf("%s, %s: generation %q, that of %q", place.name, step.name, generation, earlier)
			}
			seen[generation] = step.name
		}
	}
}

func TestAConfigurationThatCannotBeReadSaysWhy(t *testing.T) {
	s := buckettest.New(t, "acme")
	for _, tc := range []struct {
		location string
		fault    buckettest.Fault
		want     string
	}{
		{inTheBucket, nil, "cannot be read: reading gs://acme/config/who/whosigned.yaml: file does not exist"},
		{"gs://gone-bucket/a.yaml", nil, "create the bucket gone-bucket, or correct its name"},
		{"gs://acme", nil, "gs://acme is a bucket; name an object in it"},
		{"gs://A/b", nil, `"A" is not the name of a bucket`},
		{inTheBucket, buckettest.Status(403, "no access"), "storage.objects.get on bucket acme"},
		{inTheBucket, buckettest.Corrupt, "CRC"},
	} {
		if tc.fault != nil {
			upload(t, s, "state: s\n")
		}
		s.Fail(func(*http.Request) buckettest.Fault { return tc.fault })
		_, err := Load(t.Context(), tc.location)
		var all *Error
		if !errors.As(err, &all) || !strings.HasPrefix(err.Error(), tc.location+": cannot be read: ") || !strings.Contains(err.Error(), tc.want) || all.Generation != "" {
			t.Errorf("%s: got %v, want an *Error without a generation that says %q", tc.location, err, tc.want)
		}
	}
}

func TestAlertsAreReadWhateverElseIsWrong(t *testing.T) {
	const email = "alerts: {email: {via: sendgrid, from: a@b.c, to: [d@e.f]}}\n"
	for _, tc := range []struct {
		name, text string
		want       int // emails
		fails      bool
	}{
		{"nothing else", email, 1, false},
		{"everything else is wrong", email + "wach: 1\nlogs: 7\nstate: [1]\n", 1, false},
		{"no alerts", "logs: []\n", 0, false},
		{"alerts that are wrong", "alerts: {email: {via: pigeon}}\n", 0, true},
		{"a secret in alerts", "alerts: {email: {via: sendgrid, from: a@b.c, to: [d@e.f], api_key: x}}\n", 0, true},
		{"not YAML", "alerts: [", 0, true},
	} {
		for _, location := range []string{"c.yaml", inTheBucket} {
			alerts, err := ParseAlerts(location, []byte(tc.text))
			if len(alerts.Emails) != tc.want || (err != nil) != tc.fails {
				t.Errorf("%s: got %+v, %v", tc.name, alerts, err)
			}
		}
		_, err := Parse("c.yaml", []byte(tc.text))
		var invalid *Error
		if !errors.As(err, &invalid) || len(invalid.Alerts.Emails) != tc.want {
			t.Errorf("%s: got %+v, want an *Error with %d sinks", tc.name, invalid, tc.want)
		}
	}
}
