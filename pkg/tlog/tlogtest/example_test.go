package tlogtest_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// A log of one signed artifact forks its view: the same size, another root, and a
// signature that is as good as the first.
func Example() {
	ctx := context.Background()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	tiles, err := tlogtest.NewTiles("log.example.com", key)
	if err != nil {
		log.Fatal(err)
	}
	ca, err := tlogtest.NewCA("sigstore.example.com")
	if err != nil {
		log.Fatal(err)
	}
	signer, err := ca.Issue(tlogtest.Identity{Email: "me@example.com", Issuer: "https://accounts.google.com"})
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := tlogtest.HashedRekordV002(signer, []byte("artifact"))
	if err != nil {
		log.Fatal(err)
	}
	tiles.Append(leaf)
	if err := tiles.Publish(); err != nil {
		log.Fatal(err)
	}

	url, stop, err := tlogtest.Serve(ctx, tiles)
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	before := fetch(url + "/checkpoint")
	fork, err := tiles.Tree().Rewrite(0, []byte("forged"))
	if err != nil {
		log.Fatal(err)
	}
	tiles.Show(fork)
	after := fetch(url + "/checkpoint")

	fmt.Println("size", before[1], "and", after[1])
	fmt.Println("same root:", before[2] == after[2])
	// Output:
	// size 1 and 1
	// same root: false
}

func fetch(url string) (lines []string) {
	resp, err := http.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}
