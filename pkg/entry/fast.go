package entry

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
)

// What the fast path reads is in canonical JSON (RFC 8785), which is how both
// Rekors write leaves: no space, members sorted, each form of an entry spelled in
// one way only. So it need not be a JSON parser. It compares a leaf with the forms it
// knows, and anything else (another member, member order, escape, kind, PEM type)
// is for the library. Nothing can mean one thing here and another to a JSON
// parser, duplicate members included.

// material is where a leaf carries a certificate or key.
type material struct {
	base64 []byte
	form   form
}

type form int

const (
	formPEM         form = iota // a certificate, a chain, or a public key
	formCertificate             // DER
	formKey                     // SPKI DER
)

// fast parses a leaf of the forms it knows; ok is false if it is not one of
// them. With an error the entry has what could be read.
func fast(leaf []byte) (e *Entry, ok bool, err error) {
	c := canonical{rest: leaf}
	c.expect(`{"apiVersion":"`)
	version := c.text()
	c.expect(`,"kind":"`)
	kind := c.text()
	c.expect(`,"spec":{`)
	e = &Entry{Kind: string(kind), Version: string(version)}
	var array [4]material
	found := array[:0]
	switch {
	case e.Kind == "hashedrekord" && e.Version == "0.0.1":
		found = c.hashedrekord1(e, found)
	case e.Kind == "hashedrekord" && e.Version == "0.0.2":
		found = c.hashedrekord2(e, found)
	case e.Kind == "dsse" && e.Version == "0.0.1":
		found = c.dsse1(e, found)
	case e.Kind == "dsse" && e.Version == "0.0.2":
		found = c.dsse2(e, found)
	case e.Kind == "intoto" && e.Version == "0.0.1":
		found = c.intoto1(e, found)
	case e.Kind == "intoto" && e.Version == "0.0.2":
		found = c.intoto2(e, found)
	default:
		return nil, false, nil
	}
	c.expect(`}}`)
	if c.bad || len(c.rest) != 0 {
		return nil, false, nil
	}
	var problems []error
	e.Signers = make([]Signer, 0, min(len(found), 16)) // as many as a hostile leaf says, once they are seen to be some
	for _, m := range found {
		s, ok, err := m.signer()
		if !ok {
			return nil, false, nil
		}
		e.Signers = append(e.Signers, s)
		if err != nil {
			problems = append(problems, err)
		}
	}
	return e, true, errors.Join(problems...)
}

// maxSigners is how many signatures are read here: the library is given, or refused, a
// leaf that says to have more.
const maxSigners = 1 << 16

func (c *canonical) hashedrekord1(e *Entry, found []material) []material {
	c.expect(`"data":{"hash":`)
	e.Digests = c.digest(e.Digests)
	c.expect(`},"signature":{"content":"`)
	c.text()
	c.expect(`,"publicKey":{"content":"`)
	found = append(found, material{c.base64(), formPEM})
	c.expect(`}}`)
	return found
}

func (c *canonical) dsse1(e *Entry, found []material) []material {
	c.expect(`"envelopeHash":`)
	c.digest(nil)
	c.expect(`,"payloadHash":`)
	e.Digests = c.digest(e.Digests)
	c.expect(`,"signatures":[`)
	for more := true; more && len(found) < maxSigners; more = c.has(`,`) {
		c.expect(`{"signature":"`)
		c.text()
		c.expect(`,"verifier":"`)
		found = append(found, material{c.base64(), formPEM})
		c.expect(`}`)
	}
	c.expect(`]`)
	return found
}

func (c *canonical) intoto1(e *Entry, found []material) []material {
	c.expect(`"content":{"hash":`)
	c.intotoDigests(e)
	c.expect(`},"publicKey":"`)
	return append(found, material{c.base64(), formPEM})
}

func (c *canonical) intoto2(e *Entry, found []material) []material {
	c.expect(`"content":{"envelope":{"payloadType":"`)
	c.text()
	c.expect(`,"signatures":[`)
	for more := true; more && len(found) < maxSigners; more = c.has(`,`) {
		c.expect(`{`)
		if c.has(`"keyid":"`) {
			c.text()
			c.expect(`,`)
		}
		c.expect(`"publicKey":"`)
		found = append(found, material{c.base64(), formPEM})
		c.expect(`,"sig":"`)
		c.text()
		c.expect(`}`)
	}
	c.expect(`]},"hash":`)
	c.intotoDigests(e)
	c.expect(`}`)
	return found
}

// intotoDigests reads the envelope's digest and the payload's, which early
// entries lack, and puts the payload's first.
func (c *canonical) intotoDigests(e *Entry) {
	e.Digests = c.digest(e.Digests)
	if c.has(`,"payloadHash":`) {
		e.Digests = append(c.digest(nil), e.Digests...)
	}
}

func (c *canonical) hashedrekord2(e *Entry, found []material) []material {
	c.expect(`"hashedRekordV002":{"data":`)
	e.Digests = c.protoDigest(e.Digests)
	c.expect(`,"signature":`)
	found = c.protoSignature(found)
	c.expect(`}`)
	return found
}

func (c *canonical) dsse2(e *Entry, found []material) []material {
	c.expect(`"dsseV002":{"payloadHash":`)
	e.Digests = c.protoDigest(e.Digests)
	c.expect(`,"signatures":[`)
	for more := true; more && len(found) < maxSigners; more = c.has(`,`) {
		found = c.protoSignature(found)
	}
	c.expect(`]}`)
	return found
}

func (c *canonical) protoSignature(found []material) []material {
	c.expect(`{"content":"`)
	c.text()
	c.expect(`,"verifier":{"keyDetails":"`)
	c.text()
	form := formKey
	if c.has(`,"x509Certificate":{"rawBytes":"`) {
		form = formCertificate
	} else {
		c.expect(`,"publicKey":{"rawBytes":"`)
	}
	found = append(found, material{c.base64(), form})
	c.expect(`}}}`)
	return found
}

// digest reads {"algorithm":"sha256","value":"<hex>"}.
func (c *canonical) digest(to []string) []string {
	c.expect(`{"algorithm":"`)
	algorithm := string(c.text())
	c.expect(`,"value":"`)
	value := c.text()
	c.expect(`}`)
	size, ok := digestSize(algorithm)
	if !ok || len(value) != 2*size || !isHex(value) {
		c.fail()
		return to
	}
	return append(to, strings.ToLower(algorithm+":"+string(value)))
}

// protoDigest reads {"algorithm":"SHA2_256","digest":"<base64>"}.
func (c *canonical) protoDigest(to []string) []string {
	c.expect(`{"algorithm":"`)
	algorithm := hashName(string(c.text()))
	c.expect(`,"digest":"`)
	value, err := base64.StdEncoding.AppendDecode(make([]byte, 0, 64), c.base64())
	c.expect(`}`)
	if size, ok := digestSize(algorithm); !ok || err != nil || len(value) != size {
		c.fail()
		return to
	}
	return append(to, algorithm+":"+hex.EncodeToString(value))
}

func digestSize(algorithm string) (bytes int, ok bool) {
	switch algorithm {
	case "sha256", "sha3-256":
		return 32, true
	case "sha384", "sha3-384":
		return 48, true
	case "sha512":
		return 64, true
	}
	return 0, false
}

// hashName is the usual name of a hash algorithm of Sigstore's protobufs.
func hashName(enum string) string {
	switch enum {
	case "SHA2_256":
		return "sha256"
	case "SHA2_384":
		return "sha384"
	case "SHA2_512":
		return "sha512"
	case "SHA3_256":
		return "sha3-256"
	case "SHA3_384":
		return "sha3-384"
	}
	return strings.ToLower(enum)
}

func isHex(text []byte) bool {
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// signer reads the certificate or key; ok is false if it is neither.
func (m material) signer() (s Signer, ok bool, err error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(m.base64)))
	n, err := base64.StdEncoding.Decode(raw, m.base64)
	if err != nil || n == 0 {
		return Signer{}, false, nil
	}
	raw = raw[:n]
	switch m.form {
	case formCertificate:
		s, err = FromCertificate(raw)
		return s, true, err
	case formKey:
		s, err = fromKey(raw)
		return s, err == nil, nil
	}
	return fromPEM(raw)
}

// fromPEM reads one public key, or a certificate with the rest of its chain
// after it; ok is false if the text is something else.
func fromPEM(text []byte) (s Signer, ok bool, err error) {
	if raw, ok := canonicalPEM(text); ok {
		s, err = FromCertificate(raw)
		return s, true, err
	}
	block, rest := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return Signer{}, false, nil
	}
	if block.Type == "PUBLIC KEY" && len(rest) == 0 {
		s, err = fromKey(block.Bytes)
		return s, err == nil, nil
	}
	var chain [][]byte
	head := block
	for {
		if block == nil || block.Type != "CERTIFICATE" {
			return Signer{}, false, nil
		}
		if block != head {
			chain = append(chain, block.Bytes)
		}
		if len(rest) == 0 {
			break
		}
		block, rest = pem.Decode(rest)
	}
	s, err = FromCertificate(head.Bytes)
	s.Chain = chain
	return s, true, err
}

// canonicalPEM decodes one certificate in the form that Go and OpenSSL write.
// encoding/pem, which reads far more, would take as long as all the rest.
func canonicalPEM(text []byte) (raw []byte, ok bool) {
	var err error
	text, ok = bytes.CutPrefix(text, []byte("-----BEGIN CERTIFICATE-----\n"))
	if !ok {
		return nil, false
	}
	text, ok = bytes.CutSuffix(text, []byte("\n-----END CERTIFICATE-----\n"))
	if !ok {
		return nil, false
	}
	raw = make([]byte, 0, base64.StdEncoding.DecodedLen(len(text)))
	for more := true; more; {
		var line []byte
		line, text, more = bytes.Cut(text, []byte("\n"))
		before := len(raw)
		// What base64 accepts can be neither a header nor another block.
		if raw, err = base64.StdEncoding.AppendDecode(raw, line); err != nil {
			return nil, false
		}
		if more && len(raw)-before != len(line)/4*3 {
			return nil, false // padding, or a line end that base64 skips, before the last line
		}
	}
	return raw, true
}

// canonical is a cursor over canonical JSON. Once something is not as expected
// it is bad and stays so.
type canonical struct {
	rest []byte
	bad  bool
}

func (c *canonical) fail() {
	c.bad, c.rest = true, nil
}

// expect moves past the given JSON.
func (c *canonical) expect(json string) {
	if !c.has(json) {
		c.fail()
	}
}

// has moves past the given JSON if it is next.
func (c *canonical) has(json string) bool {
	if len(c.rest) < len(json) || string(c.rest[:len(json)]) != json {
		return false
	}
	c.rest = c.rest[len(json):]
	return true
}

// text reads a string of printable ASCII without escapes, from after its opening
// quote to past its closing one.
func (c *canonical) text() []byte {
	for i, b := range c.rest {
		if b == '"' {
			text := c.rest[:i]
			c.rest = c.rest[i+1:]
			return text
		}
		if b < ' ' || b > '~' || b == '\\' {
			break
		}
	}
	c.fail()
	return nil
}

// base64 reads a string like text, leaving all to base64's decoder but the line
// ends, which that skips.
func (c *canonical) base64() []byte {
	end := bytes.IndexByte(c.rest, '"')
	if end < 0 {
		c.fail()
		return nil
	}
	text := c.rest[:end]
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		c.fail()
		return nil
	}
	c.rest = c.rest[end+1:]
	return text
}
