package config

import (
	"errors"
	"strings"
	"testing"
)

// ok is a configuration that only lacks what a row adds, at line 4.
const ok = `state: s
logs: [{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub}]
alerts: {folder: {path: m}}
`

func logWith(fields string) string {
	return "state: s\nlogs:\n  - " + fields + "\nalerts: {folder: {path: m}}\n"
}

func mailWith(fields string) string {
	return "state: s\nlogs: [{type: rekor-v1, url: \"http://localhost:1\", key: rekor1.pub}]\nalerts:\n  email: {" + fields + "}\n"
}

func TestWhatIsWrongIsPointedAtWithARemedy(t *testing.T) {
	const v1 = `{type: rekor-v1, key: rekor1.pub, url: `
	for _, tc := range []struct {
		name, text string
		want       string // each problem in a line, after "c.yaml:"; DIR is the folder
	}{
		{"nothing", "", " the configuration is empty"},
		{"a comment", "# nothing\n", " the configuration is empty"},
		{"not a mapping", "- a\n", "1: want keys with values (key: value), not a list\n" +
			`1: logs: no logs to watch; list them, such as logs: [{type: rekor-v1, url: "https://rekor.example.com", key: rekor.pub}], or watch all of a trusted root: trust: {tuf: public-good} and logs: [{discover: all}]`},
		{"two documents", ok + "---\na: b\n", " 2 YAML documents; a configuration is one"},
		{"not YAML", ok + "watch: [", "4: not valid YAML: sequence end token ']' not found"},
		{"two documents, the second native", "monitoredValues: {subjects: [a]}\n---\n" + ok, " 2 YAML documents; a configuration is one"},
		{"a directive and two documents", "%YAML 1.1\n---\n" + ok + "---\na: b\n", " 2 YAML documents; a configuration is one"},
		{"a key twice", ok + "state: t\n", "4: state: this key is given at line 1 too; keep one of them"},
		{"a mapping twice", ok + "trust: {tuf: staging}\ntrust: {tuf: staging}\n", "5: trust: this key is given at line 4 too; keep one of them"},
		{"a key of a log twice", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, type: rekor-v2}`), "3: logs[0].type: this key is given at line 3 too; keep one of them"},
		{"a key of monitoredValues twice", ok + "monitoredValues:\n  subjects: [a]\n  subjects: [b]\n", "6: monitoredValues.subjects: this key is given at line 5 too; keep one of them"},
		{"<< twice", "x: &x {fingerprints: [a]}\nmonitoredValues:\n  <<: *x\n  <<: {fingerprints: [b]}\n", "2: monitoredValues: << is given twice; give it once, with a list: <<: [*a, *b]"},
		{"unknown key", ok + "wach: []\n", `4: wach: unknown key; did you mean "watch"?`},
		{"unknown key in a log", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, acceptLag: true}`), `3: logs[0].acceptLag: unknown key; did you mean "accept_lag"?`},
		{"unknown key like none", ok + "watch:\n- name: a\n  subject: {exact: a}\n  zzzzzzzz: 1\n", `7: watch[0].zzzzzzzz: unknown key; known here: name, subject, issuer, fingerprint, key, digest, extensions, signer, expect`},
		{"state in no bucket", strings.Replace(ok, "state: s", "state: gs://B/p", 1), `1: state: "gs://B/p": "B" is not the name of a bucket; it has 3 to 63 lower-case letters, digits, - and _, as in gs://acme-whosigned`},
		{"an object in no bucket", ok + "trustedRoot: gs://acme\n", `4: trustedRoot: "gs://acme" is a bucket; name an object in it`},
		{"an object for an inline configuration", ok + "caRootsFile: gs://acme/ca.pem\n", "4: caRootsFile: CA certificates: gs://acme/ca.pem: an inline configuration names no objects of buckets; write what it holds inline, or put both into the bucket"},
		{"state elsewhere", strings.Replace(ok, "state: s", "state: s3://b", 1), `1: state: "s3://b" is not a place for state; use file:///absolute/path or gs://bucket/prefix`},
		{"state not absolute", strings.Replace(ok, "state: s", "state: file://a/b", 1), `1: state: "file://a/b" is not absolute; write file:///absolute/path, or a path relative to this file without file://`},
		{"no logs", "state: s\nlogs: []\n", `2: logs: no logs to watch; list them, such as logs: [{type: rekor-v1, url: "https://rekor.example.com", key: rekor.pub}], or watch all of a trusted root: trust: {tuf: public-good} and logs: [{discover: all}]`},
		{"no type", logWith(`{url: "http://localhost:1", key: rekor1.pub}`), "3: logs[0].type: missing; use rekor-v1, rekor-v2, rfc6962 or static-ct"},
		{"unknown type", logWith(`{type: rekor, url: "http://localhost:1", key: rekor1.pub}`), `3: logs[0].type: unknown type "rekor"; use rekor-v1, rekor-v2, rfc6962 or static-ct`},
		{"no URL", logWith(`{type: rekor-v1, key: rekor1.pub}`), "3: logs[0].url: missing; give the log's base URL, such as https://rekor.example.com"},
		{"no scheme", logWith(v1 + `"rekor.example.com"}`), `3: logs[0].url: "rekor.example.com" is not an http:// or https:// URL`},
		{"bad URL", logWith(v1 + `"https://a b"}`), `3: logs[0].url: "https://a b" is not a URL; write it like https://rekor.example.com`},
		{"a password in the URL", logWith(v1 + `"https://u:hunter2@h"}`), `3: logs[0].url: "https://u:xxxxx@h" has a user, query or fragment; give the base URL alone`},
		{"http elsewhere", logWith(v1 + `"http://rekor.example.com"}`), "3: logs[0].url: http:// to rekor.example.com can be altered on the way; use https://, or say insecure: true"},
		{"bad start", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, start: -1}`), `3: logs[0].start: "-1" is not an index; write head, or the index to start from, 0 or more`},
		{"bad coverage", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, coverage: most}`), `3: logs[0].coverage: unknown coverage "most"; use full, consistency or, for Rekor v1, index`},
		{"index of a log that has none", logWith(`{type: static-ct, url: "http://localhost:1", key: rekor1.pub, coverage: index}`), "3: logs[0].coverage: only Rekor v1 has a search index, and this log is of type static-ct; use full or consistency"},
		{"exclude without discover", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, exclude: true}`), "3: logs[0].exclude: only beside {discover: all}; a log that is not listed is not watched"},
		{"discover without a root", logWith(`{discover: all}`), "3: logs[0]: there is no trusted root to find logs in; add trust: {tuf: public-good}, or trustedRoot: FILE"},
		{"discover what", logWith(`{discover: some}`), `3: logs[0].discover: unknown value "some"; use all, and change or exclude single logs by items of their own`},
		{"ID of a tree", logWith(`{id: 1111111111111111111111111111111111111111111111111111111111111111-7, coverage: full}`), `3: logs[0].id: "1111111111111111111111111111111111111111111111111111111111111111-7" names one tree of a service; give the ID of the service's key, its first 64 digits
3: logs[0].id: only beside {discover: all}, to change a log of the trusted root`},
		{"insecure without url", "state: s\ntrust: {tuf: public-good}\nlogs: [{discover: all}, {origin: rekor.example.com, insecure: true}]\n", "3: logs[1].insecure: only beside url: it is said of a host, and the trusted root may list another later"},
		{"trust of two places", ok + "trust: {tuf: public-good}\ntrustedRoot: root.json\n", "5: trustedRoot: a trusted root comes from one place: keep either trust or trustedRoot"},
		{"TUF without a root", ok + "trust: {tuf: \"https://tuf.example.com\"}\n", "4: trust.root: missing; name the file with the repository's root.json, which everything else is verified from"},
		{"not a bool", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, insecure: 1}`), "3: logs[0].insecure: want true or false, not a number"},
		{"not a duration", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, quiet_after: 1d}`), `3: logs[0].quiet_after: "1d" is not a length of time; write it like 90m or 24h`},
		{"negative duration", ok + "patience: -1h\n", `4: patience: "-1h" is not a length of time; write it like 90m or 24h`},
		{"bad quiet_after for all", ok + "quiet_after: soon\n", `4: quiet_after: "soon" is not a length of time; write it like 90m or 24h`},
		{"origin of v1", logWith(`{type: rekor-v1, url: "http://localhost:1", key: rekor1.pub, origin: x}`), "3: logs[0].origin: a rekor-v1 service has an origin per tree, and it may change; remove the key"},
		{"no key", logWith(`{type: rekor-v1, url: "http://localhost:1"}`), "3: logs[0].key: missing; give the log's public key (a file, or PEM inline), or name a trusted root that has it: trust or trustedRoot"},
		{"no key file", logWith(`{type: rekor-v1, url: "http://localhost:1", key: gone.pub}`), "3: logs[0].key: cannot read the key: stat DIR/gone.pub: no such file or directory"},
		{"a key that is a folder", logWith(`{type: rekor-v1, url: "http://localhost:1", key: .}`), "3: logs[0].key: cannot read the key: DIR is not a regular file"},
		{"bad PEM", logWith("{type: rekor-v1, url: \"http://localhost:1\", key: [rekor1.pub,\n     bad.pub]}"), "4: logs[0].key[1]: not a PEM public key: PEM decoding failed; want a PEM block of type PUBLIC KEY"},
		{"bad inline PEM", logWith(`{type: rekor-v1, url: "http://localhost:1", key: "-----BEGIN X"}`), "3: logs[0].key: not a PEM public key: PEM decoding failed; want a PEM block of type PUBLIC KEY"},
		{"no keys", logWith(`{type: rekor-v1, url: "http://localhost:1", key: []}`), "3: logs[0].key: the list is empty; name the log's public key, or remove the key to look it up in the trusted root"},
		{"a key twice", logWith(`{type: rekor-v1, url: "http://localhost:1", key: [rekor1.pub, rekor1.pub]}`), "3: logs[0].key[1]: this key is listed twice; remove one"},
		{"two keys of a shard", logWith(`{type: rekor-v2, url: "http://localhost:1", key: [rekor1.pub, rekor2.pub]}`), "3: logs[0].key: 2 keys; a log has one, which its ID is made of (only a rekor-v1 service has several): keep that one, list other shards as logs of their own, and take a new key of this one with whosigned accept --key"},
		{"not in the trusted root", "state: s\ntrustedRoot: trusted_root.json\nlogs:\n - {type: rekor-v1, url: https://rekor.example.com}\n", "4: logs[0].key: missing, and the trusted root has no log at https://rekor.example.com, only https://rekor.sigstore.dev, https://log2025-1.rekor.sigstore.dev"},
		{"another type in the trusted root", "state: s\ntrustedRoot: trusted_root.json\nlogs:\n - {type: rekor-v2, url: https://rekor.sigstore.dev}\n", "4: logs[0].key: the trusted root's log at https://rekor.sigstore.dev is of type rekor-v1, not rekor-v2"},
		{"no trusted root file", ok + "trustedRoot: gone.json\n", "4: trustedRoot: trusted root: stat DIR/gone.json: no such file or directory"},
		{"not a trusted root", ok + "trustedRoot: rekor1.pub\n", "4: trustedRoot: trusted root DIR/rekor1.pub: not a trusted root: invalid character '-' in numeric literal"},
		{"no CA file", ok + "caRootsFile: gone.pem\n", "4: caRootsFile: CA certificates: stat DIR/gone.pem: no such file or directory"},
		{"intermediates alone", ok + "caIntermediatesFile: a.pem\n", "4: caIntermediatesFile: needs caRootsFile beside it; intermediates alone anchor nothing"},
		{"one URL twice", logWith(v1 + "\"http://localhost:1\"}\n  - " + v1 + `"http://LOCALHOST:1/"}`), "4: logs[1]: two entries for one log: http://localhost:1 is listed at c.yaml:3 too; remove one"},
		{"one shard twice", logWith("{type: rekor-v2, url: \"http://localhost:1\", origin: a, key: rekor2.pub}\n  - {type: rekor-v2, url: \"http://localhost:2\", origin: a, key: rekor2.pub}"), "4: logs[1]: two entries for one log: http://localhost:2 is listed at c.yaml:3 too; remove one"},
		{"bad regex", ok + "watch:\n- name: a\n  subject: {regex: \"(\"}\n", "6: watch[0].subject.regex: error parsing regexp: missing closing ): `(`"},
		{"bad regex in a list in expect", ok + "watch:\n- name: a\n  subject: {exact: a}\n  expect:\n  - issuer:\n    - exact: a\n    - regex: '['\n", "10: watch[0].expect[0].issuer[1].regex: error parsing regexp: missing closing ]: `[`"},
		{"bad regex in an extension", ok + "watch:\n- name: a\n  extensions:\n    build-signer-uri: {regex: '['}\n", "7: watch[0].extensions.build-signer-uri.regex: error parsing regexp: missing closing ]: `[`"},
		{"unknown extension", ok + "watch:\n- name: a\n  extensions:\n    build-signer: {exact: a}\n", `7: watch[0].extensions.build-signer: unknown extension "build-signer"; use one of Fulcio's names, such as build-signer-uri, or a dotted OID`},
		{"bare text", ok + "watch:\n- {name: a, subject: me}\n", `5: watch[0].subject: say how "me" is meant: {exact: "me"}, {glob: "me"} or {regex: "me"}`},
		{"two ways", ok + "watch:\n- {name: a, subject: {exact: a, glob: b}}\n", "5: watch[0].subject.glob: a pattern is one of exact, glob and regex; for any of several, write a list"},
		{"unknown way", ok + "watch:\n- {name: a, subject: {search: a}}\n", "5: watch[0].subject.search: unknown way to match; use exact, glob or regex"},
		{"no way", ok + "watch:\n- {name: a, subject: {}}\n", "5: watch[0].subject: empty pattern; write {exact: …}, {glob: …} or {regex: …}"},
		{"empty pattern", ok + "watch:\n- {name: a, subject: {exact: ''}}\n", "5: watch[0].subject.exact: the pattern is empty; leave the key out to match anything"},
		{"a rule that fits all", ok + "watch:\n- name: a\n", "5: watch[0]: the rule would fit every signer; give it a subject, issuer, fingerprint, key, digest or extensions"},
		{"expect that fits all", ok + "watch:\n- {name: a, subject: {exact: a}, expect: [{}]}\n", "5: watch[0].expect[0]: the clause would fit every signer and silence the rule; give it a subject, issuer, fingerprint or extensions"},
		{"no name", ok + "watch:\n- subject: {exact: a}\n", "5: watch[0].name: missing; a rule needs a name; findings carry it"},
		{"one name twice", ok + "watch:\n- {name: a, subject: {exact: a}}\n- {name: a, subject: {exact: b}}\n", `6: watch[1].name: "a" is the name of rule 0 too; give each rule a name of its own`},
		{"unknown class of signers", ok + "watch:\n- {name: a, signer: pgp, subject: {exact: a}}\n", `5: watch[0].signer: "pgp" is not one of certificate, key`},
		{"bad certSubject", ok + "monitoredValues:\n  certIdentities:\n  - certSubject: '('\n    issuers: [a, '[']\n", "6: monitoredValues.certIdentities[0].certSubject: error parsing regexp: missing closing ): `(`\n7: monitoredValues.certIdentities[0].issuers[1]: error parsing regexp: missing closing ]: `[`"},
		{"empty monitored values", ok + "monitoredValues:\n  certIdentities: [{issuers: ['']}]\n  subjects: ['']\n  fingerprints: [null]\n",
			"5: monitoredValues.certIdentities[0].certSubject: missing; the subject is empty\n5: monitoredValues.certIdentities[0].issuers[0]: missing; the issuer is empty; without issuers any will do\n6: monitoredValues.subjects[0]: missing; the subject is empty\n7: monitoredValues.fingerprints[0]: missing; the fingerprint is empty"},
		{"bad OIDs", ok + "monitoredValues:\n  oidMatchers:\n    oidExtensions: [{objectIdentifier: [1, x], extensionValues: [a]}]\n    customExtensions: [{objectIdentifier: 1.2.3}]\n",
			"6: monitoredValues.oidMatchers.oidExtensions[0].objectIdentifier: unknown extension \"1.x\"; use one of Fulcio's names, such as build-signer-uri, or a dotted OID\n7: monitoredValues.oidMatchers.customExtensions[0].extensionValues: no values to match; list them"},
		{"scan backwards", ok + "startIndex: 2\nendIndex: 1\n", "5: endIndex: endIndex 1 is before startIndex 2"},
		{"bad index", ok + "startIndex: a\n", `4: startIndex: "a" is not an index; write a whole number, 0 or more`},
		{"a negative index", ok + "startIndex: -5\n", `4: startIndex: "-5" is not an index; write a whole number, 0 or more`},
		{"an index with a fraction", ok + "endIndex: 5.7\n", `4: endIndex: "5.7" is not an index; write a whole number, 0 or more`},
		{"an index beyond all", ok + "startIndex: 9223372036854775808\n", `4: startIndex: "9223372036854775808" is not an index; write a whole number, 0 or more`},
		{"an index that is only nearly known", ok + "startIndex: 1e17\n", `4: startIndex: "1e17" is not an index; write a whole number, 0 or more`},
		{"an infinite index", ok + "startIndex: .inf\n", `4: startIndex: ".inf" is not an index; write a whole number, 0 or more`},
		{"no way to send", mailWith("from: a@b.c, to: [d@e.f]"), "4: alerts.email.via: missing; use sendgrid, mailgun or smtp"},
		{"unknown way to send", mailWith("via: pigeon, from: a@b.c, to: [d@e.f]"), `4: alerts.email.via: unknown way to send "pigeon"; use sendgrid, mailgun or smtp`},
		{"bad addresses", mailWith(`via: sendgrid, from: "a", to: [d@e.f, "x\r\nBcc: y@z"]`), "4: alerts.email.from: \"a\" is not an email address; write it like security@example.com\n" +
			`4: alerts.email.to[1]: "x\r\nBcc: y@z" is not an email address; write it like security@example.com`},
		{"nobody", mailWith("via: sendgrid, from: a@b.c, to: []"), "4: alerts.email.to: missing; list who is to be told"},
		{"a secret", mailWith("via: sendgrid, from: a@b.c, to: d@e.f, api_key: hunter2"), "4: alerts.email.api_key: secrets do not belong in the configuration; " + secretRemedy},
		{"host of SendGrid", mailWith("via: sendgrid, from: a@b.c, to: d@e.f, host: h"), "4: alerts.email.host: only for via: smtp; SendGrid's endpoint is overridden by SENDGRID_HOST in the environment"},
		{"no host", mailWith("via: smtp, from: a@b.c, to: d@e.f"), "4: alerts.email.host: missing; give the mail server, such as smtp.example.com:587"},
		{"no port", mailWith("via: smtp, from: a@b.c, to: d@e.f, host: h"), `4: alerts.email.host: "h" is not host:port; write it like smtp.example.com:587`},
		{"in the clear", mailWith(`via: smtp, from: a@b.c, to: d@e.f, host: "h:25", tls: none`), "4: alerts.email.tls: none sends alerts in the clear, and is for loopback only; use starttls or implicit"},
		{"bad TLS", mailWith(`via: smtp, from: a@b.c, to: d@e.f, host: "h:25", tls: ssl`), `4: alerts.email.tls: "ssl" is not one of starttls, implicit, none`},
		{"bad class", mailWith("via: sendgrid, from: a@b.c, to: d@e.f, classes: [tamper, all]"), `4: alerts.email.classes[1]: unknown class "all"; use tamper, identity or health`},
		{"no class", mailWith("via: sendgrid, from: a@b.c, to: d@e.f, classes: []"), "4: alerts.email.classes: the list is empty and the sink would take nothing; remove the key to take all classes"},
		{"one sink name twice", strings.Replace(ok, "{path: m}", "[{path: m}, {path: n}]", 1), `3: alerts.folder[1].name: the sink at line 3 has the name "folder" too; give each sink a name of its own`},
		{"bad sink name", strings.Replace(ok, "path: m", "path: m, name: a/b", 1), `3: alerts.folder.name: "a/b" is not a name for a sink; use up to 64 lower-case letters, digits, - and _`},
		{"no folder", strings.Replace(ok, "path: m", "name: a", 1), "3: alerts.folder.path: missing; name the folder to write .eml files to"},
		{"several at once, in order", "state: s3://x\nlogs:\n  - {type: x, url: y}\nwach: 1\n", "1: state: \"s3://x\" is not a place for state; use file:///absolute/path or gs://bucket/prefix\n3: logs[0].type: unknown type \"x\"; use rekor-v1, rekor-v2, rfc6962 or static-ct\n3: logs[0].url: \"y\" is not an http:// or https:// URL\n4: wach: unknown key; did you mean \"watch\"?"},
		{"an alias of nothing", ok + "watch: *gone\n", "4: *gone has no anchor &gone before it"},
		{"a text for a list", ok + "watch: all\n", "4: watch: want a list, not a text"},
		{"a list for a text", strings.Replace(ok, "state: s", "state: [s]", 1), "1: state: want a text, not a list"},
		{"merged without end", "state: s\nlogs:\n- &x {<<: [*x, *x, *x]}\n", "3: logs[0]: more than 1000 merged keys; write them out\n3: logs[0].type: missing; use rekor-v1, rekor-v2, rfc6962 or static-ct\n3: logs[0].url: missing; give the log's base URL, such as https://rekor.example.com"},
		{"an alias of itself", "state: s\nlogs: &x [*x]\n", "2: logs[0]: want keys with values (key: value), not a list\n2: logs[0].type: missing; use rekor-v1, rekor-v2, rfc6962 or static-ct\n2: logs[0].url: missing; give the log's base URL, such as https://rekor.example.com"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := folder(t)
			t.Chdir(dir)
			_, err := Parse("c.yaml", []byte(tc.text))
			var all *Error
			if !errors.As(err, &all) {
				t.Fatalf("got %v, want an *Error", err)
			}
			want := strings.ReplaceAll("c.yaml:"+strings.ReplaceAll(tc.want, "\n", "\nc.yaml:"), "DIR", dir)
			if tc.want != "" && err.Error() != want {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
		})
	}
}
