package entry

import (
	"crypto/x509"
	"strings"
)

// arc is Fulcio's branch of the OID tree; see oid-info.md in sigstore/fulcio.
const arc = "1.3.6.1.4.1.57264.1."

// arcDER is the DER encoding of arc.
const arcDER = "\x2b\x06\x01\x04\x01\x83\xbf\x30\x01"

// lastExtension is the highest number assigned under arc.
const lastExtension = 24

// fulcio gives the OID and the name of the n-th extension under arc. The names
// are those of oid-info.md in kebab case, which is also how rekor-monitor spells
// them in its configuration.
func fulcio(n byte) (oid, name string) {
	switch n {
	case 1:
		return arc + "1", "issuer"
	case 2:
		return arc + "2", "github-workflow-trigger"
	case 3:
		return arc + "3", "github-workflow-sha"
	case 4:
		return arc + "4", "github-workflow-name"
	case 5:
		return arc + "5", "github-workflow-repository"
	case 6:
		return arc + "6", "github-workflow-ref"
	case 7:
		return arc + "7", "other-name"
	case 8:
		return arc + "8", "issuer"
	case 9:
		return arc + "9", "build-signer-uri"
	case 10:
		return arc + "10", "build-signer-digest"
	case 11:
		return arc + "11", "runner-environment"
	case 12:
		return arc + "12", "source-repository-uri"
	case 13:
		return arc + "13", "source-repository-digest"
	case 14:
		return arc + "14", "source-repository-ref"
	case 15:
		return arc + "15", "source-repository-identifier"
	case 16:
		return arc + "16", "source-repository-owner-uri"
	case 17:
		return arc + "17", "source-repository-owner-identifier"
	case 18:
		return arc + "18", "build-config-uri"
	case 19:
		return arc + "19", "build-config-digest"
	case 20:
		return arc + "20", "build-trigger"
	case 21:
		return arc + "21", "run-invocation-uri"
	case 22:
		return arc + "22", "source-repository-visibility-at-signing"
	case 23:
		return arc + "23", "deployment-environment"
	case 24:
		return arc + "24", "token-subject"
	}
	return "", ""
}

// ExtensionName is Fulcio's name for an extension in kebab case
// ("build-signer-uri"), or "" if the OID, dotted, is not one of
// 1.3.6.1.4.1.57264.1.1–1.24. The raw-encoded issuer 1.1 and the issuer 1.8 are
// both "issuer".
func ExtensionName(oid string) string {
	if !strings.HasPrefix(oid, arc) {
		return ""
	}
	for n := byte(1); n <= lastExtension; n++ {
		if o, name := fulcio(n); o == oid {
			return name
		}
	}
	return ""
}

// ExtensionOID is the dotted OID of the extension that Fulcio calls name, in
// kebab case. For "issuer" it is 1.8; certificates older than 2023 have only 1.1, so
// compare issuers by [Extension].Name or by [Signer].Issuer.
func ExtensionOID(name string) (oid string, ok bool) {
	// Downwards, so that "issuer" is the newer of its two.
	for n := byte(lastExtension); n >= 1; n-- {
		if oid, known := fulcio(n); known == name {
			return oid, true
		}
	}
	return "", false
}

// oidText gives the dotted form of an OID's DER contents and Fulcio's name for
// it. Those that a Fulcio certificate has cost no allocation.
func oidText(der []byte) (oid, name string, ok bool) {
	if len(der) == len(arcDER)+1 && string(der[:len(arcDER)]) == arcDER {
		if oid, name = fulcio(der[len(arcDER)]); oid != "" {
			return oid, name, true
		}
	}
	switch string(der) {
	case "\x55\x1d\x0e":
		return "2.5.29.14", "", true
	case "\x55\x1d\x0f":
		return "2.5.29.15", "", true
	case oidSAN:
		return "2.5.29.17", "", true
	case "\x55\x1d\x13":
		return "2.5.29.19", "", true
	case "\x55\x1d\x23":
		return "2.5.29.35", "", true
	case "\x55\x1d\x25":
		return "2.5.29.37", "", true
	case oidSCTList:
		return "1.3.6.1.4.1.11129.2.4.2", "", true
	}
	if len(der) > maxOID {
		return "", "", false
	}
	// An asn1.ObjectIdentifier cannot hold arcs beyond 31 bits; this one can.
	var parsed x509.OID
	if err := parsed.UnmarshalBinary(der); err != nil {
		return "", "", false
	}
	return parsed.String(), "", true
}
