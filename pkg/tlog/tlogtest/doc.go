// Package tlogtest runs transparency logs in memory, over real HTTP, with faults on
// demand. It speaks Rekor v1's REST with its search index ([RekorV1]),
// https://c2sp.org/tlog-tiles as Rekor v2 does ([Tiles]), RFC 6962 ([RFC6962]) and
// https://c2sp.org/static-ct-api ([StaticCT]); leaves are made by a Fulcio-shaped [CA]
// and by makers that give the bytes which the real servers would hash.
//
// What can go wrong is in two places. A [Log] lies: it forks, rewrites, rolls back,
// signs with another key, alters and withholds leaves, all properly signed, so that
// only a client that recomputes and remembers can tell. A [Gate] before it makes
// HTTP fail: statuses, delays, answers cut short, endless or compressed beyond
// measure. Both work while the log is being read.
//
// It keeps no promise itself; the tests of nearly all of them, and the demo, run on it.
package tlogtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Serve serves a log on a loopback port of its own until stop is called.
func Serve(ctx context.Context, h http.Handler) (url string, stop func() error, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("serving a log: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	stop = func() error {
		err := server.Close() // at once: a hanging fault must not hold it
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}
	return "http://" + l.Addr().String(), stop, nil
}
