package config

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Secrets are those that a rekor-monitor file holds in clear. They are used where
// the environment has none, and no way of printing shows them.
type Secrets struct {
	values map[string]string // by the name that the environment gives each
}

const redacted = "[redacted]"

// Or returns getenv with the secrets behind it: one that the environment sets, in
// itself or by the name of a file, hides that of the configuration.
func (s Secrets) Or(getenv func(string) string) func(string) string {
	if len(s.values) == 0 {
		return getenv
	}
	return func(name string) string {
		if value := getenv(name); value != "" || getenv(name+"_FILE") != "" {
			return value
		}
		return s.values[name]
	}
}

// Format prints that there are secrets, whatever the verb.
func (s Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText keeps secrets out of JSON and YAML.
func (s Secrets) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue keeps secrets out of logs.
func (s Secrets) LogValue() slog.Value { return slog.StringValue(redacted) }

// keep takes a secret from the configuration, and says that it should not be there.
// From a bucket it is refused.
func (s *Secrets) keep(n node, name string) {
	text := n.text()
	if text == "" {
		return
	}
	if inBucket(n.doc.base) {
		n.refuseSecret()
		return
	}
	n.warn("it is used unless %s is set in the environment, but whoever may read this file may read it: put it there, or in a file named by %s_FILE", name, name)
	if s.values == nil {
		s.values = map[string]string{}
	}
	s.values[name] = text
}

func (n node) refuseSecret() {
	n.fail("a secret in a bucket is for all to read who may read the bucket, in its old versions too: remove it, revoke it, and %s", newSecretRemedy)
}

// refuseSecrets points at every secret in or below a key that has no meaning here,
// if the configuration is in a bucket, and reports whether there are any.
func (d *document) refuseSecrets(e field) bool {
	if !inBucket(d.base) {
		return false
	}
	secrets := e.secrets(0)
	if e.isSecret() {
		secrets = []node{e.node}
	}
	for _, s := range secrets {
		s.refuseSecret()
	}
	return len(secrets) > 0
}

func (e field) isSecret() bool {
	text, scalar := e.scalar()
	return looksSecret(e.name) && !e.none() && (text != "" || !scalar)
}

// secrets are the values below n whose keys look like those of secrets. An alias's
// are found where its anchor stands.
func (n node) secrets(depth int) []node {
	if _, alias := n.raw.(*ast.AliasNode); alias || depth > maxIndirect {
		return nil
	}
	var found []node
	switch n.value().(type) {
	case *ast.SequenceNode:
		for _, item := range n.list() {
			found = append(found, item.secrets(depth+1)...)
		}
	case *ast.MappingNode, *ast.MappingValueNode:
		for _, e := range n.entries() {
			if e.isSecret() {
				found = append(found, e.node)
			} else {
				found = append(found, e.secrets(depth+1)...)
			}
		}
	}
	return found
}

// The environment's names of secrets.
const (
	sendGridKey  = "SENDGRID_API_KEY"
	mailgunKey   = "MAILGUN_API_KEY"
	smtpUser     = "SMTP_USERNAME"
	smtpPassword = "SMTP_PASSWORD"
	gitHubToken  = "GITHUB_TOKEN"
)

const (
	secretNames     = "(" + sendGridKey + "; " + mailgunKey + "; " + smtpUser + " and " + smtpPassword + "; " + gitHubToken + "), or in a file named by the same name with _FILE"
	secretRemedy    = "put it in the environment " + secretNames
	newSecretRemedy = "put the new one in the environment " + secretNames
)

func looksSecret(key string) bool {
	key = plainKey(key)
	return key == "username" || strings.HasSuffix(key, "smtpusername") || slices.ContainsFunc([]string{"apikey", "password", "passwd", "secret", "token", "credential"},
		func(word string) bool { return strings.Contains(key, word) })
}

// plainKey is a key without what spellings differ in.
func plainKey(key string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key))
}
