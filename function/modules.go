//go:build modules

package function

// Google's builder tidies go.mod without our tests, and a smaller module graph can
// have other versions. What only tests import is named here, so that what is deployed
// is built from the versions that were tested.
import (
	_ "github.com/fsouza/fake-gcs-server/fakestorage"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/sigstore/sigstore-go/pkg/root"
)
