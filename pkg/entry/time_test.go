package entry

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

func TestTimesReadAsCryptobyteReadsThem(t *testing.T) {
	texts := []string{
		"260101000000Z", "491231235959Z", "500101000000Z", "991231235959Z", "000229120000Z", "240229120000Z",
		"230229120000Z", "260431000000Z", "261301000000Z", "260001000000Z", "260100000000Z", "260101240000Z",
		"260101006000Z", "260101000060Z", "2601010000Z", "260101000000+0100", "260101000000", "260101000000z",
		"26010100000:Z", "26010100000/Z", "+60101000000Z", "", "Z",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		text := []byte(fmt.Sprintf("%02d%02d%02d%02d%02d%02dZ", random.IntN(100), random.IntN(14), random.IntN(33),
			random.IntN(26), random.IntN(62), random.IntN(62)))
		if random.IntN(10) == 0 {
			text[random.IntN(len(text))] = byte(random.Uint32())
		}
		texts = append(texts, string(text))
	}
	for _, text := range texts {
		for _, tag := range []der.Tag{der.UTCTime, der.GeneralizedTime} {
			if tag == der.GeneralizedTime {
				text = "20" + text
			}
			var b cryptobyte.Builder
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
			b.AddBytes([]byte("rest"))
			ours := cryptobyte.String(b.BytesOrPanic())
			theirs := ours
			var want time.Time
			read := theirs.ReadASN1UTCTime
			if tag == der.GeneralizedTime {
				read = theirs.ReadASN1GeneralizedTime
			}
			wantOK := read(&want)
			got, ok := readTime(&ours)
			if ok != wantOK || ok && (!got.Equal(want) || got.Location() != time.UTC || string(ours) != "rest") {
				t.Errorf("%q: got %v, %v, and %q is left; want %v, %v, \"rest\"", text, got, ok, ours, want, wantOK)
			}
		}
	}
}
