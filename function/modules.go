//go:build modules

package function

// Google's builder tidies go.mod without our tests. What only they import, and
// what still decides the version of a module that the function has, is named here,
// so that it builds from the versions that we tested.
import _ "github.com/sigstore/sigstore-go/pkg/root"
