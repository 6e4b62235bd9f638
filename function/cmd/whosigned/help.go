package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// moved is where something of rekor-monitor's is found here.
type moved struct{ theirs, ours, note string }

// peerFlags are the flags of rekor_monitor and ct_monitor, v1.4 to v1.5.
var peerFlags = []moved{
	{"--config-file FILE", "--config FILE", "the same file; paths in it are relative to it, not to the\nworking directory"},
	{"--config YAML", "--config FILE", "put the YAML into a file, or an object: gs://bucket/object"},
	{"--once", "whosigned run", "one pass is the default here too"},
	{"--once=false --interval 5m", "whosigned run --every 5m", "an error with startIndex or endIndex, which make the run a scan"},
	{"--file FILE", "logInfoFile: FILE", "state is kept in the folder FILE.whosigned; the first run goes on\nfrom FILE, and whosigned import takes others"},
	{"--url URL", "logs: [{type: rekor-v1, url: \"https://rekor.sigstore.dev\"}]", "as many logs as you like; types are rekor-v1, rekor-v2, rfc6962,\nstatic-ct"},
	{"--tuf-repository default", "trust: {tuf: public-good}", "the default for a rekor-monitor file"},
	{"--tuf-repository staging", "trust: {tuf: staging}", ""},
	{"--tuf-repository URL --tuf-root-path FILE", "trust: {tuf: URL, root: FILE}", "or trustedRoot: FILE for a trusted_root.json of your own"},
	{"--ca-roots FILE", "caRootsFile: FILE", "what does not chain to them is reported as untrusted, not dropped"},
	{"--ca-intermediates FILE", "caIntermediatesFile: FILE", ""},
	{"--trusted-ca FILE", "caRootsFile: FILE", "one file with all of them"},
	{"--https-cert-chain FILE", "SSL_CERT_FILE=FILE in the environment", ""},
	{"--monitor-port 9464", "whosigned run --json", "there is no metrics server: the result is JSON, the exit status\nsays how it went, and whosigned status looks at the function"},
	{"--user-agent TEXT", "(none)", "requests say whosigned and its version"},
}

// peerKeys are the keys of its configuration.
var peerKeys = []moved{
	{"monitoredValues", "the same, or watch", "certIdentities, subjects, fingerprints, oidMatchers with\nfulcioExtensions, oidExtensions, customExtensions; expressions are\nunanchored, as there"},
	{"startIndex, endIndex", "whosigned scan --from N --to M", "in the file they make the run a scan, of both ends and of index 0;\nwithout startIndex it begins at 0, not at the last checkpoint; it\nwrites outputIdentities and identityMetadataFile, and alerts\nnobody"},
	{"outputIdentities", "the same", "takes findings only; a line may come again after a crash. After its\nfields stand the log's origin (in text where there is no UUID) and,\nin JSON, Origin and Unproven"},
	{"outputIdentitiesFormat", "the same", "text or json, by the file's name if it is missing"},
	{"logInfoFile", "state", "see --file; only the first run reads it; an empty file is none"},
	{"identityMetadataFile", "the same", "the last entry's index;\nof several logs the first Rekor v1 service, else the first log.\nOf one that is not read in full it is not written"},
	{"githubIssue, gitHubIssue", "alerts: {github: …}", "GITHUB_TOKEN; one issue for each alert, a comment on a repeat"},
	{"emailNotificationSMTP", "alerts: {email: {via: smtp, …}}", "port 25 with STARTTLS, as there, and it logs in;\nSMTP_USERNAME, SMTP_PASSWORD. SMTPCustomOptions is no YAML"},
	{"emailNotificationMailgun", "alerts: {email: {via: mailgun, …}}", "MAILGUN_API_KEY"},
	{"emailNotificationSendGrid", "alerts: {email: {via: sendgrid, …}}", "SENDGRID_API_KEY"},
	{"caRootsFile", "the same", ""},
	{"caIntermediatesFile", "the same", ""},
	{"ctShards", "logs: [{type: static-ct, url: \"https://ct.example.com/2026\"}]", "each is read in full, not the newest alone"},
	{"serverURL, interval, trustedCAs", "logs, --every, caRootsFile", "rekor-monitor itself passes over them since v1.4"},
}

// peerInputs are the inputs of its reusable workflows.
var peerInputs = []moved{
	{"config, once, url", "see the flags", ""},
	{"file_issue", "alerts: {github: …}", "tampering, findings and trouble, each an issue"},
	{"artifact_retention_days", "state: gs://BUCKET/PREFIX", "state is not an artifact that expires; lost state is an error,\nnot a new start"},
}

const peerIntro = `A rekor-monitor configuration works as it is:

  whosigned check --config rekor-monitor.yaml    what is watched, and what is said of it
  whosigned import --config rekor-monitor.yaml logInfo.v1.txt
  whosigned run --config rekor-monitor.yaml

Without logs it means what rekor-monitor's flags do by default, as far as that can be
read. That is https://rekor.sigstore.dev, of which an hour is more than a run can read:
so with monitoredValues all logs of the trusted root are watched, Fulcio's CT logs,
where every certificate is, and Rekor v2 in full, and Rekor v1 by its search index;
without them Rekor v1 is only proven to grow; with ctShards those CT logs are watched;
with startIndex or endIndex that range of Rekor v1 is scanned.
`

const peerOutro = `
Safer now
  - the exit status is not 0 when a check, a scan or a send failed
  - an alert is kept and sent again until the sink has acknowledged it; SendGrid's,
    Mailgun's and GitHub's refusals are failures, and one sink does not hide another
  - what a log serves is hashed into the root that it signed; tree heads are verified
    from the first run on
  - get-entries is asked until the range is read; a shard that retires is read to its
    end, and the one that follows from its beginning
  - an entry that cannot be parsed is reported, and holds up nothing
  - secrets belong in the environment; in a file they work with a warning, in a bucket
    they are refused

Different on purpose
  - a certificate that does not chain to a trusted CA is reported as untrusted, not
    dropped
  - index 0 can be scanned, and startIndex is scanned too
  - with startIndex or endIndex nobody is alerted and no state is kept; the files
    that it asks for are written; it does not go on monitoring after that, and run
    --every is refused; endIndex alone is a scan from entry 0
  - outputIdentities is a file, and tells nobody: an alert that only the file took is
    sent again to the other sinks, and the run fails until one of them took it
  - subjects and fingerprints are looked for in CT logs too
  - an extension that stands twice in a certificate is matched in both places
  - a certificate that rekor-monitor cannot parse is matched by what can be read of it
  - a sink that could not send, for want of a recipient, is an error at the start
  - keys that are given twice and further YAML documents mean what they mean there,
    with a warning; in a file with state, logs, watch or alerts they are errors
  - keys go before those that << takes over, also where they stand before it
  - a file in UTF-16, an index with a fraction (5.7), << twice in one mapping, and a
    second document that is no YAML are errors
`

// newFromRekorMonitor is a help topic: whosigned help from-rekor-monitor.
func newFromRekorMonitor() *cobra.Command {
	var b strings.Builder
	b.WriteString(peerIntro)
	for _, part := range []struct {
		title string
		rows  []moved
	}{
		{"Flags of rekor_monitor and ct_monitor", peerFlags},
		{"Keys of its configuration", peerKeys},
		{"Inputs of its workflows", peerInputs},
	} {
		fmt.Fprintf(&b, "\n%s\n", part.title)
		for _, r := range part.rows {
			theirs := r.theirs
			if len(theirs) > 28 { // on a line of its own
				fmt.Fprintf(&b, "  %s\n", theirs)
				theirs = ""
			}
			fmt.Fprintf(&b, "  %-28s %s\n", theirs, r.ours)
			for line := range strings.Lines(r.note) {
				fmt.Fprintf(&b, "  %-28s   %s\n", "", strings.TrimSuffix(line, "\n"))
			}
		}
	}
	b.WriteString(peerOutro)
	return &cobra.Command{Use: "from-rekor-monitor", Short: "What rekor-monitor's flags and keys are here", Long: b.String()}
}
