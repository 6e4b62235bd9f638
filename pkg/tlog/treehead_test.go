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
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"filippo.io/sunlight"
	ct "github.com/google/certificate-transparency-go"
	"golang.org/x/mod/sumdb/note"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// headOf is a tree head as a CT log signs it (RFC 6962 section 3.5).
func headOf(t testing.TB, key crypto.Signer, size, timestamp uint64, root tlog.Hash) tlog.TreeHead {
	t.Helper()
	input, err := ct.SerializeSTHSignatureInput(ct.SignedTreeHead{
		Version: ct.V1, TreeSize: size, Timestamp: timestamp, SHA256RootHash: ct.SHA256Hash(root),
	})
	must(t, err)
	digest := sha256.Sum256(input)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	algorithms := []byte{4, 3}
	if _, ok := key.(*rsa.PrivateKey); ok {
		algorithms[1] = 1
	}
	sig = append(binary.BigEndian.AppendUint16(algorithms, uint16(len(sig))), sig...)
	return tlog.TreeHead{Size: size, Timestamp: timestamp, Root: root, Signature: sig}
}

func treeHeadKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return map[string]crypto.Signer{"ECDSA": e, "RSA": r}
}

func publicKey(t testing.TB, key crypto.Signer) tlog.Key {
	t.Helper()
	k, err := tlog.NewKey(key.Public())
	must(t, err)
	return k
}

// headTime is when the tree heads of these tests are from.
const headTime = 1_700_000_000_123

var headRoot = tlog.Hash(sha256.Sum256([]byte("root")))

func TestATreeHeadIsKeptAsANoteThatOpensAsItWasSigned(t *testing.T) {
	for name, signer := range treeHeadKeys(t) {
		key := publicKey(t, signer)
		for _, head := range []tlog.TreeHead{
			headOf(t, signer, 0, headTime, tlog.Hash(sha256.Sum256(nil))),
			headOf(t, signer, 1, 0, headRoot),
			headOf(t, signer, 1<<40, headTime, headRoot),
		} {
			const origin = "ctfe.example.com/2022"
			raw := head.Note(origin, key)
			cp, by, err := tlog.OpenTreeHead(raw, []tlog.Key{publicKey(t, treeHeadKeys(t)["ECDSA"]), key})
			want := time.UnixMilli(int64(head.Timestamp))
			if err != nil || cp.Size != head.Size || cp.Root != head.Root || cp.Origin != origin || !cp.Time.Equal(want) || cp.Frozen ||
				!bytes.Equal(cp.Note, raw) || by.LogID != key.LogID {
				t.Errorf("%s, size %d: got %+v under %x, %v; want it as signed", name, head.Size, cp, by.LogID, err)
			}
			if name == "RSA" {
				continue // sunlight v0.3.0 does not verify these
			}
			v, err := sunlight.NewRFC6962Verifier(origin, signer.Public())
			must(t, err)
			n, err := note.Open(raw, note.VerifierList(v))
			must(t, err)
			if at, err := sunlight.RFC6962SignatureTimestamp(n.Sigs[0]); err != nil || uint64(at) != head.Timestamp {
				t.Errorf("size %d: sunlight reads time %d, %v; want %d", head.Size, at, err, head.Timestamp)
			}
		}
	}
}

// pilotHead is a tree head of Google's Pilot log of 2014, and pilotKey its key.
var pilotHead = tlog.TreeHead{
	Size:      3721782,
	Timestamp: 1396609800587,
	Root:      tlog.Hash(unbase64("SxKOxksguvHPyUaKYKXoZHzXl91Q257+JQ0AUMlFfeo=")),
	Signature: unbase64("BAMARjBEAiBUYO2tODlUUw4oWGiVPUHqZadRRyXs9T2rSXchA79VsQIgLASkQv3cu4XdPFCZbgFkIUefniNPCpO3LzzHX53l+wg="),
}

const pilotKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfahLEimAoz2t01p3uMziiLOl/fHT
DM0YDOhBRuiBARsV4UvxG2LdNgoIGLrtCzWE0J5APC2em4JlvR8EEEFMoA==
-----END PUBLIC KEY-----`

func unbase64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestARealTreeHeadVerifiesUntilAnythingInItChanges(t *testing.T) {
	key, err := tlog.ParseKeyPEM([]byte(pilotKey))
	must(t, err)
	open := func(head tlog.TreeHead, origin string) error {
		cp, _, err := tlog.OpenTreeHead(head.Note(origin, key), []tlog.Key{key})
		if err == nil && (cp.Size != head.Size || cp.Root != head.Root) {
			t.Errorf("got %+v, want %+v", cp, head)
		}
		return err
	}
	for _, origin := range []string{"ct.googleapis.com/pilot", "any.other.name"} {
		if err := open(pilotHead, origin); err != nil {
			t.Errorf("as served, under %q: %v", origin, err)
		}
	}
	for name, change := range map[string]func(*tlog.TreeHead){
		"size":             func(h *tlog.TreeHead) { h.Size++ },
		"time":             func(h *tlog.TreeHead) { h.Timestamp++ },
		"a time beyond":    func(h *tlog.TreeHead) { h.Timestamp |= 1 << 63 },
		"root":             func(h *tlog.TreeHead) { h.Root[31]++ },
		"signature":        func(h *tlog.TreeHead) { h.Signature[20]++ },
		"hash algorithm":   func(h *tlog.TreeHead) { h.Signature[0]++ },
		"sig algorithm":    func(h *tlog.TreeHead) { h.Signature[1] = 1 },
		"signature length": func(h *tlog.TreeHead) { h.Signature[3]-- },
		"cut short":        func(h *tlog.TreeHead) { h.Signature = h.Signature[:30] },
		"something after":  func(h *tlog.TreeHead) { h.Signature = append(h.Signature, 0) },
		"no signature":     func(h *tlog.TreeHead) { h.Signature = nil },
	} {
		head := pilotHead
		head.Signature = bytes.Clone(head.Signature)
		change(&head)
		if open(head, "ct.googleapis.com/pilot") == nil {
			t.Errorf("another %s: it verifies", name)
		}
	}
}

func TestANoteThatNoTreeHeadCanBeIsRefused(t *testing.T) {
	keys := treeHeadKeys(t)
	signer := keys["ECDSA"]
	key := publicKey(t, signer)
	raw := string(headOf(t, signer, 7, headTime, headRoot).Note("log.example.com", key))
	text, sigs, _ := strings.Cut(raw, "\n\n")
	witness := "— witness.example.com " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 76)) + "\n"
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for _, row := range []struct {
		name, note string
		key        tlog.Key
		want       string // in the error; "" if it opens
	}{
		{"as it is", raw, key, ""},
		{"with a witness's signature", raw + witness, key, ""},
		{"with a witness's signature first", text + "\n\n" + witness + sigs, key, ""},
		{"under another key", raw, publicKey(t, treeHeadKeys(t)["ECDSA"]), "no tree head signature"},
		{"under another kind of key", raw, publicKey(t, keys["RSA"]), "no tree head signature"},
		{"under Ed25519", string(headOf(t, signer, 7, headTime, headRoot).Note("log.example.com", publicKey(t, edKey))), publicKey(t, edKey), "no tree head signature"},
		{"with a line that nobody signed", text + "\nLog frozen — today\n\n" + sigs, key, "three lines"},
		{"with another origin in the text alone", strings.Replace(raw, "log.", "lag.", 1), key, ""},
		{"with another origin in the signature line", strings.Replace(raw, "— log.", "— lag.", 1), key, "no tree head signature"},
		{"without signature", text + "\n\n", key, "no tree head signature"},
		{"without signature block", text + "\n", key, "signature block"},
		{"empty", "", key, "signature block"},
		{"too long", raw + strings.Repeat(witness, tlog.MaxCheckpoint/len(witness)+1), key, "longer"},
		{"with too many signatures", raw + strings.Repeat(witness, 100), key, "more than"},
		{"of size 0 with a root", string(headOf(t, signer, 0, headTime, headRoot).Note("log.example.com", key)), key, "size 0"},
		{"of an absurd size", string(headOf(t, signer, 1<<62+1, headTime, headRoot).Note("log.example.com", key)), key, "beyond any"},
		{"of a time before time", string(headOf(t, signer, 7, math.MaxUint64, headRoot).Note("log.example.com", key)), key, "no tree head signature"},
		{"of a time that JSON cannot say", string(headOf(t, signer, 7, 253402300800000, headRoot).Note("log.example.com", key)), key, "no tree head signature"},
		{"of the last time that it can", string(headOf(t, signer, 7, 253402300799999, headRoot).Note("log.example.com", key)), key, ""},
		{"with an origin of two words", string(headOf(t, signer, 7, headTime, headRoot).Note("log example", key)), key, "no tree head signature"},
		{"with a plus in its origin", string(headOf(t, signer, 7, headTime, headRoot).Note("log+example", key)), key, "no tree head signature"},
	} {
		cp, _, err := tlog.OpenTreeHead([]byte(row.note), []tlog.Key{row.key})
		if row.want == "" {
			if _, jsonErr := json.Marshal(cp.Time); err != nil || jsonErr != nil || cp.Root != headRoot {
				t.Errorf("%s: got %+v, %v, %v", row.name, cp, err, jsonErr)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %+v, %v; want an error with %q", row.name, cp, err, row.want)
		}
	}
}

// A note of either kind is not taken for the other.
func TestACheckpointIsNoTreeHead(t *testing.T) {
	signer := treeHeadKeys(t)["ECDSA"]
	key := publicKey(t, signer)
	text := fmt.Sprintf("log.example.com\n7\n%s\n", base64.StdEncoding.EncodeToString(headRoot[:]))
	plain := text + "\n" + sigLine(t, text, "log.example.com", signer, spkiHint)
	if _, _, err := tlog.OpenCheckpoint([]byte(plain), []tlog.Key{key}); err != nil {
		t.Fatal(err)
	}
	if cp, _, err := tlog.OpenTreeHead([]byte(plain), []tlog.Key{key}); err == nil {
		t.Errorf("a checkpoint opens as the tree head %+v", cp)
	}
	if cp, _, err := tlog.OpenCheckpoint(headOf(t, signer, 7, headTime, headRoot).Note("log.example.com", key), []tlog.Key{key}); err == nil {
		t.Errorf("a tree head opens as the checkpoint %+v", cp)
	}
}

func FuzzOpenTreeHeadTakesOnlyWhatWasSigned(f *testing.F) {
	key, err := tlog.ParseKeyPEM([]byte(pilotKey))
	must(f, err)
	f.Add(pilotHead.Note("ct.googleapis.com/pilot", key))
	f.Fuzz(func(t *testing.T, raw []byte) {
		cp, _, err := tlog.OpenTreeHead(raw, []tlog.Key{key})
		if err == nil && (cp.Size != pilotHead.Size || cp.Root != pilotHead.Root || uint64(cp.Time.UnixMilli()) != pilotHead.Timestamp) {
			t.Errorf("%q opens as %+v", raw, cp)
		}
	})
}
