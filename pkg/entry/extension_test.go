package entry

import (
	"strconv"
	"testing"
)

func TestExtensionNamesAreFulcios(t *testing.T) {
	// oid-info.md of sigstore/fulcio, in kebab case.
	names := []string{1: "issuer", 2: "github-workflow-trigger", 3: "github-workflow-sha", 4: "github-workflow-name",
		5: "github-workflow-repository", 6: "github-workflow-ref", 7: "other-name", 8: "issuer", 9: "build-signer-uri",
		10: "build-signer-digest", 11: "runner-environment", 12: "source-repository-uri", 13: "source-repository-digest",
		14: "source-repository-ref", 15: "source-repository-identifier", 16: "source-repository-owner-uri",
		17: "source-repository-owner-identifier", 18: "build-config-uri", 19: "build-config-digest", 20: "build-trigger",
		21: "run-invocation-uri", 22: "source-repository-visibility-at-signing", 23: "deployment-environment", 24: "token-subject"}
	for n := 1; n <= 24; n++ {
		oid := "1.3.6.1.4.1.57264.1." + strconv.Itoa(n)
		if got := ExtensionName(oid); got != names[n] {
			t.Errorf("ExtensionName(%s): got %q, want %q", oid, got, names[n])
		}
		if n == 1 {
			oid = "1.3.6.1.4.1.57264.1.8" // the issuer of today
		}
		if got, ok := ExtensionOID(names[n]); got != oid || !ok {
			t.Errorf("ExtensionOID(%s): got %q, %v, want %q", names[n], got, ok, oid)
		}
	}
	for _, oid := range []string{"", "1.3.6.1.4.1.57264.1", "1.3.6.1.4.1.57264.1.", "1.3.6.1.4.1.57264.1.0", "1.3.6.1.4.1.57264.1.25",
		"1.3.6.1.4.1.57264.1.01", "1.3.6.1.4.1.57264.1.8.1", "1.3.6.1.4.1.57264.2", "2.5.29.17"} {
		if got := ExtensionName(oid); got != "" {
			t.Errorf("ExtensionName(%q): got %q, want none", oid, got)
		}
	}
	for _, name := range []string{"", "Issuer", "build_signer_uri", "1.3.6.1.4.1.57264.1.8"} {
		if got, ok := ExtensionOID(name); ok || got != "" {
			t.Errorf("ExtensionOID(%q): got %q, want none", name, got)
		}
	}
}
