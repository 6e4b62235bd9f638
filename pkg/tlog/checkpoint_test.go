package tlog_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// hint is how a signature line names its key.
type hint func(t testing.TB, name string, public crypto.PublicKey) uint32

// spkiHint is Rekor v1's.
func spkiHint(t testing.TB, _ string, public crypto.PublicKey) uint32 {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	sum := sha256.Sum256(spki)
	return binary.BigEndian.Uint32(sum[:])
}

// c2spHint is that of https://c2sp.org/signed-note for Ed25519.
func c2spHint(t testing.TB, name string, public crypto.PublicKey) uint32 {
	t.Helper()
	sum := sha256.Sum256(append([]byte(name+"\n\x01"), public.(ed25519.PublicKey)...))
	return binary.BigEndian.Uint32(sum[:])
}

// rsaHint is Rekor v2's for RSA.
func rsaHint(t testing.TB, name string, public crypto.PublicKey) uint32 {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	sum := sha256.Sum256(append([]byte(name+"\n\xffPKIX-RSA-PKCS#1v1.5"), spki...))
	return binary.BigEndian.Uint32(sum[:])
}

func strange(testing.TB, string, crypto.PublicKey) uint32 { return 0x01020304 }

// sigLine signs a text.
func sigLine(t testing.TB, text, name string, key crypto.Signer, hint hint) string {
	t.Helper()
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	must(t, err)
	sig, err := signer.SignMessage(strings.NewReader(text))
	must(t, err)
	raw := binary.BigEndian.AppendUint32(nil, hint(t, name, key.Public()))
	return fmt.Sprintf("— %s %s\n", name, base64.StdEncoding.EncodeToString(append(raw, sig...)))
}

// strangers are signature lines that no key of ours made.
func strangers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "— witness%d %s\n", i, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(i)}, 68)))
	}
	return b.String()
}

func checkpointText(origin string, size uint64, root []byte, further ...string) string {
	return string(formats.Checkpoint{Origin: origin, Size: size, Hash: root}.Marshal()) + strings.Join(further, "")
}

func newKey(t testing.TB, signer crypto.Signer) tlog.Key {
	t.Helper()
	key, err := tlog.NewKey(signer.Public())
	must(t, err)
	return key
}

var (
	testRoot  = bytes.Repeat([]byte{0xab}, 32)
	emptyRoot = rfc6962.DefaultHasher.EmptyRoot()
)

func TestACheckpointOpensUnderEveryKindOfKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	ed := edKey(t)
	other := newKey(t, ecKey(t))
	for _, tt := range []struct {
		name, origin, signer string // as the note names it
		key                  crypto.Signer
		hint                 hint
		further              []string
		frozen               bool
	}{
		{name: "ECDSA", origin: "rekor.example.com - 42", signer: "rekor.example.com", key: ecKey(t), hint: spkiHint},
		{name: "ECDSA P-384", origin: "rekor.example.com - 42", signer: "rekor.example.com", key: p384, hint: spkiHint},
		{name: "Ed25519 by SPKI", origin: "rekor.example.com - 42", signer: "rekor.example.com", key: ed, hint: spkiHint},
		{name: "Ed25519 by origin", origin: "log.example/2026", signer: "log.example/2026", key: ed, hint: c2spHint},
		{name: "Ed25519 under another name", origin: "log.example/2026", signer: "pod-7", key: ed, hint: c2spHint},
		{name: "RSA by SPKI", origin: "rekor.example.com - 42", signer: "rekor.example.com", key: rsaKey, hint: spkiHint},
		{name: "RSA by origin", origin: "log.example/2026", signer: "log.example/2026", key: rsaKey, hint: rsaHint},
		{name: "a pod's host name", origin: "rekor-00001-deployment-56bf7777c9-jds5x - 6364419738405537866",
			signer: "rekor-00001-deployment-56bf7777c9-jds5x", key: ecKey(t), hint: spkiHint},
		{name: "time stamp", origin: "rekor.example.com - 42", signer: "rekor.example.com", key: ecKey(t), hint: spkiHint,
			further: []string{"Timestamp: 1692374735595899989\n"}},
		{name: "frozen", origin: "log.example/2026", signer: "log.example/2026", key: ed, hint: c2spHint,
			further: []string{"Timestamp: 1\n", "Log frozen — Mon Jan  1 00:00:00 UTC 2026\n"}, frozen: true},
		{name: "frozen in other words", origin: "log.example/2026", signer: "log.example/2026", key: ed, hint: c2spHint,
			further: []string{"Not: Log frozen — never\n", "log frozen — never\n"}},
		{name: "frozen as origin", origin: "Log frozen — never", signer: "log.example/2026", key: ed, hint: c2spHint},
	} {
		text := checkpointText(tt.origin, 7, testRoot, tt.further...)
		for place, raw := range map[string]string{
			"alone": text + "\n" + sigLine(t, text, tt.signer, tt.key, tt.hint),
			"first": text + "\n" + sigLine(t, text, tt.signer, tt.key, tt.hint) + strangers(99),
			"last":  text + "\n" + strangers(99) + sigLine(t, text, tt.signer, tt.key, tt.hint),
		} {
			key := newKey(t, tt.key)
			cp, by, err := tlog.OpenCheckpoint([]byte(raw), []tlog.Key{other, key})
			if err != nil {
				t.Errorf("%s, signature %s: %v", tt.name, place, err)
				continue
			}
			if cp.Origin != tt.origin || cp.Size != 7 || cp.Root != tlog.Hash(testRoot) || cp.Frozen != tt.frozen || string(cp.Note) != raw {
				t.Errorf("%s, signature %s: got %+v", tt.name, place, cp)
			}
			if by.LogID != key.LogID {
				t.Errorf("%s, signature %s: by key %s, want %s", tt.name, place, by.Hex(), key.Hex())
			}
		}
	}
}

func TestACheckpointThatIsNotInOrderDoesNotOpen(t *testing.T) {
	key, other := ecKey(t), ecKey(t)
	sign := func(text string) string { return text + "\n" + sigLine(t, text, "log", key, spkiHint) }
	good := checkpointText("log - 1", 7, testRoot)
	long := checkpointText("log - 1", 7, testRoot, strings.Repeat("x", tlog.MaxCheckpoint)+"\n")
	for name, raw := range map[string]string{
		"nothing":                       "",
		"a blank line":                  "\n\n",
		"unsigned":                      good,
		"unsigned, with a blank line":   good + "\n",
		"signed by strangers":           good + "\n" + strangers(3),
		"signed by another key":         good + "\n" + sigLine(t, good, "log", other, spkiHint),
		"another key's under our hint":  good + "\n" + sigLine(t, good, "log", other, func(t testing.TB, name string, _ crypto.PublicKey) uint32 { return spkiHint(t, name, key.Public()) }),
		"ours under a strange hint":     good + "\n" + sigLine(t, good, "log", key, strange),
		"our signature of another text": checkpointText("log - 1", 8, testRoot) + "\n" + sigLine(t, good, "log", key, spkiHint),
		"101 signatures":                good + "\n" + strangers(100) + sigLine(t, good, "log", key, spkiHint),
		"a line that is no signature":   sign(good) + "Log frozen — today\n",
		"a second block":                sign(good) + "\n" + strangers(1),
		"too long":                      sign(long),
		"too long with signatures":      sign(good) + strangers(1) + strings.Repeat(" ", tlog.MaxCheckpoint),
		"no origin":                     sign("\n7\n" + base64.StdEncoding.EncodeToString(testRoot) + "\n"),
		"two lines":                     sign("log - 1\n7\n"),
		"a negative size":               sign("log - 1\n-7\n" + base64.StdEncoding.EncodeToString(testRoot) + "\n"),
		"a size beyond 64 bits":         sign("log - 1\n18446744073709551616\n" + base64.StdEncoding.EncodeToString(testRoot) + "\n"),
		"a size beyond any log's":       sign(checkpointText("log - 1", 1<<62+1, testRoot)),
		"a root of 31 bytes":            sign(checkpointText("log - 1", 7, testRoot[:31])),
		"a root of 33 bytes":            sign(checkpointText("log - 1", 7, append(bytes.Clone(testRoot), 1))),
		"no root":                       sign("log - 1\n7\n\n"),
		"a root that is not base64":     sign("log - 1\n7\n!!!!\n"),
		"size 0 with a root":            sign(checkpointText("log - 1", 0, testRoot)),
		"size 0 with a root of zeros":   sign(checkpointText("log - 1", 0, make([]byte, 32))),
		"control characters":            sign(checkpointText("log\x1b[2J - 1", 7, testRoot)),
		"not UTF-8":                     sign(checkpointText("log\xff - 1", 7, testRoot)),
	} {
		if cp, _, err := tlog.OpenCheckpoint([]byte(raw), []tlog.Key{newKey(t, key)}); err == nil {
			t.Errorf("%s: it opens, as %+v", name, cp)
		}
	}
	if _, _, err := tlog.OpenCheckpoint([]byte(sign(good)), nil); err == nil {
		t.Error("it opens without keys")
	}
}

func TestTheLimitsOfCheckpointsAreInclusive(t *testing.T) {
	key := edKey(t)
	for name, further := range map[string]func(size int) []string{
		"alone":  func(int) []string { return nil },
		"filled": func(n int) []string { return []string{strings.Repeat("x", n-1) + "\n"} },
	} {
		for _, row := range []struct {
			size uint64
			root []byte
		}{{0, emptyRoot}, {1, testRoot}, {1 << 62, testRoot}} {
			bare := checkpointText("log", row.size, row.root)
			room := tlog.MaxCheckpoint - len(bare) - 1 - len(sigLine(t, bare, "log", key, c2spHint))
			text := bare + strings.Join(further(room), "")
			raw := text + "\n" + sigLine(t, text, "log", key, c2spHint)
			if name == "filled" && len(raw) != tlog.MaxCheckpoint {
				t.Fatalf("the note has %d bytes, want %d", len(raw), tlog.MaxCheckpoint)
			}
			cp, _, err := tlog.OpenCheckpoint([]byte(raw), []tlog.Key{newKey(t, key)})
			if err != nil || cp.Size != row.size || !bytes.Equal(cp.Root[:], row.root) {
				t.Errorf("%s, size %d: got size %d, root %s, %v", name, row.size, cp.Size, cp.Root, err)
			}
		}
	}
}

func TestAKeyWithoutSupportIsRefused(t *testing.T) {
	spki, err := x509.MarshalPKIXPublicKey(ecKey(t).Public())
	must(t, err)
	good := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	key, err := tlog.ParseKeyPEM(good)
	if err != nil || key.LogID != sha256.Sum256(spki) {
		t.Errorf("got log ID %s, %v, want SHA-256 of the SPKI", key.Hex(), err)
	}
	for name, raw := range map[string][]byte{
		"nothing":       nil,
		"not PEM":       []byte("key"),
		"a private key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: spki}),
		"not DER":       pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki[1:]}),
	} {
		if _, err := tlog.ParseKeyPEM(raw); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := tlog.NewKey("key"); err == nil {
		t.Error("a string is taken for a key")
	}
}

// FuzzOpenCheckpoint opens what the fuzzer makes both as it is and signed as text, so
// that it gets past the signature.
func FuzzOpenCheckpoint(f *testing.F) {
	ed, ec := edKey(f), ecKey(f)
	keys := []tlog.Key{newKey(f, ed), newKey(f, ec)}
	for _, text := range []string{
		checkpointText("log", 0, emptyRoot),
		checkpointText("log", 0, testRoot),
		checkpointText("log - 42", 1<<62, testRoot, "Timestamp: 1\n", "Log frozen — now\n"),
		"log\n007\n" + base64.StdEncoding.EncodeToString(testRoot) + "\n",
		"\n\n", "log\n1\n",
	} {
		f.Add([]byte(text), []byte(nil))
		f.Add([]byte(text), []byte(strangers(2)))
		f.Add([]byte(text+"\n"+sigLine(f, text, "log", ed, c2spHint)), []byte("— log AAAA\n"))
	}
	f.Fuzz(func(t *testing.T, text, tail []byte) {
		signed := string(text) + "\n" + sigLine(t, string(text), "log", ed, c2spHint) + string(tail)
		for _, raw := range [][]byte{text, append(bytes.Clone(text), tail...), []byte(signed)} {
			cp, by, err := tlog.OpenCheckpoint(raw, keys)
			if err != nil {
				continue
			}
			if len(raw) > tlog.MaxCheckpoint || !bytes.Equal(cp.Note, raw) {
				t.Fatalf("opened %d bytes, kept %d", len(raw), len(cp.Note))
			}
			// Written anew and signed, it says the same.
			further := ""
			if cp.Frozen {
				further = "Log frozen — then\n"
			}
			anew := checkpointText(cp.Origin, cp.Size, cp.Root[:], further)
			again, _, err := tlog.OpenCheckpoint([]byte(anew+"\n"+sigLine(t, anew, "log", ed, c2spHint)), keys)
			if err != nil || again.Size != cp.Size || again.Root != cp.Root || again.Origin != cp.Origin || again.Frozen != cp.Frozen {
				t.Fatalf("%q says %d, %s; written anew %d, %s (%v)", raw, cp.Size, cp.Root, again.Size, again.Root, err)
			}
			// And what says it is what was signed: note finds the signature too.
			end := bytes.LastIndex(raw, []byte("\n\n")) + 1
			if !signs(by, raw[end+1:], raw[:end]) {
				t.Fatalf("%q opens, and no signature in it is over its text", raw)
			}
		}
	})
}

// signs looks for a key's signature over text with nothing of the code under test.
func signs(key tlog.Key, block, text []byte) bool {
	for line := range strings.Lines(string(block)) {
		fields := strings.Fields(line)
		sig, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
		if err == nil && len(sig) > 4 && key.Verify(text, sig[4:]) {
			return true
		}
	}
	return false
}

func TestFrontiersAreTheSameReadBack(t *testing.T) {
	tree := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r := tree.NewEmptyRange(0)
	for size := range uint64(300) {
		f := tlog.Save(r)
		raw, err := json.Marshal(f)
		must(t, err)
		var back tlog.Frontier
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatalf("size %d: %s: %v", size, raw, err)
		}
		got, err := rootOf(back)
		must(t, err)
		want, err := tlog.Root(r)
		must(t, err)
		if back.Size != size || got != want {
			t.Errorf("size %d: read back as %d with root %s, want %s", size, back.Size, got, want)
		}
		must(t, r.Append(rfc6962.DefaultHasher.HashLeaf(leafAt(size)), nil))
	}
}

func TestAFrontierThatCannotBeIsRefused(t *testing.T) {
	h := strings.Repeat("ab", 32)
	for raw, ok := range map[string]bool{
		`{"size":0,"hashes":null}`:                      true,
		`{"size":0}`:                                    true,
		`{"size":1,"hashes":["` + h + `"]}`:             true,
		`{"size":3,"hashes":["` + h + `","` + h + `"]}`: true,
		`{"size":0,"hashes":["` + h + `"]}`:             false,
		`{"size":1,"hashes":[]}`:                        false,
		`{"size":4,"hashes":["` + h + `","` + h + `"]}`: false,
		`{"size":1,"hashes":["` + h[1:] + `"]}`:         false,
		`{"size":1,"hashes":["` + h + `00"]}`:           false,
		`{"size":1,"hashes":["` + "zz" + h[2:] + `"]}`:  false,
		`{"size":1,"hashes":[""]}`:                      false,
		`{"size":1,"hashes":[null]}`:                    false,
		`{"size":-1,"hashes":[]}`:                       false,
		`{"size":18446744073709551615,"hashes":[]}`:     false,
		`{"size":18446744073709551616,"hashes":[]}`:     false,
		`[]`:                                  false,
		`{"size":1,"hashes":["` + h + `"]`:    false,
		`{"size":"1","hashes":["` + h + `"]}`: false,
		`{"size":2,"hashes":["` + h + `"],"further": 1}`: true,
	} {
		var f tlog.Frontier
		if err := json.Unmarshal([]byte(raw), &f); (err == nil) != ok {
			t.Errorf("%s: got error %v, want one: %v", raw, err, !ok)
		}
	}
}

func TestALogIDIsSafeInAPath(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for s, ok := range map[string]bool{
		id:                                 true,
		id + "-1":                          true,
		id + "-1193050959916656506":        true,
		id + "-18446744073709551615":       true,
		"":                                 false,
		id[1:]:                             false,
		id + "0":                           false,
		strings.ToUpper(id):                false,
		id + "-":                           false,
		id + "--1":                         false,
		id + "-1-2":                        false,
		id + "-0x1":                        false,
		id + "-" + strings.Repeat("1", 21): false,
		id + "\n":                          false,
		id + "-1\n":                        false,
		"\n" + id:                          false,
		id[:62] + "..":                     false,
		id[:61] + "/..":                    false,
		id + "/x":                          false,
		"../" + id:                         false,
		id + "\x00":                        false,
		strings.Repeat("٠", 64):            false,
	} {
		got, err := tlog.ParseID(s)
		if (err == nil) != ok || ok && string(got) != s || !ok && got != "" {
			t.Errorf("%q: got %q, %v, want it taken: %v", s, got, err, ok)
		}
	}
}
