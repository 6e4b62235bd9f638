package monitor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// A log that answers just in time, each time, takes no more of the workers that all logs
// share than one that does not answer.
func TestIssuersThatComeSlowlyAreAskedForOnlySoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		leaf := tlog.Leaf{Submission: func(ctx context.Context) (tlog.Submission, error) {
			if ctx.Err() != nil {
				return tlog.Submission{Precertificate: []byte("here")}, ctx.Err()
			}
			asked++
			time.Sleep(issuerTime - time.Millisecond)
			return tlog.Submission{Precertificate: []byte("here"), Chain: [][]byte{{1}}}, nil
		}}
		x := &issuers{ctx: t.Context(), one: issuerTime, all: issuersTime}
		began := time.Now()
		var last error
		for range 100 {
			sub, err := x.fetch(leaf)
			if last = err; string(sub.Precertificate) != "here" {
				t.Fatal("what needs no asking is lost")
			}
		}
		if took := time.Since(began); took > issuersTime+issuerTime || asked != 3 || last == nil {
			t.Errorf("asked %d times in %s, last error %v; want 3 times in at most %s, and why no more", asked, took, last, issuersTime+issuerTime)
		}
	})
}
