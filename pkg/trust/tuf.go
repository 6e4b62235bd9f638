package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// targetName is the target that every Sigstore repository gives out.
	targetName = "trusted_root.json"
	// maxDelegations bounds the roles that are asked for it; Sigstore's has one.
	maxDelegations = 8
	// maxRefresh bounds one Refresh, whatever the repository does.
	maxRefresh = 2 * time.Minute
)

// Repository is a TUF repository (https://theupdateframework.github.io/specification)
// that gives out a Sigstore trusted root.
type Repository struct {
	Name string // "public-good", "staging", or the URL
	URL  string // of the metadata, without a trailing slash; targets are below targets/
	Root []byte // a root.json, which everything else is verified from
}

// PublicGood is the repository of the Sigstore that everybody uses, with the root that
// sigstore-go has built in.
func PublicGood() Repository { return Repository{"public-good", tuf.DefaultMirror, tuf.DefaultRoot()} }

// Staging is the repository of Sigstore's staging instance.
func Staging() Repository { return Repository{"staging", tuf.StagingMirror, tuf.StagingRoot()} }

// NewRepository is the repository at a URL (https://, or http:// on loopback) with its
// initial root.json, which must be signed by its own root keys. It may have expired: it
// is where the chain of roots begins.
func NewRepository(location string, root []byte) (Repository, error) {
	u, err := url.Parse(location)
	if err != nil {
		return Repository{}, fmt.Errorf("%q is not a URL; write it like https://tuf.example.com", location)
	}
	ip := net.ParseIP(u.Hostname())
	switch {
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return Repository{}, fmt.Errorf("%q is not an https:// URL, nor public-good or staging", location)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return Repository{}, fmt.Errorf("%q has a user, query or fragment; give the repository's URL alone", u.Redacted())
	case u.Scheme == "http" && !strings.EqualFold(u.Hostname(), "localhost") && (ip == nil || !ip.IsLoopback()):
		return Repository{}, fmt.Errorf("http:// to %s can be altered on the way; use https://", u.Hostname())
	}
	u.Host = strings.ToLower(u.Host)
	base := strings.TrimRight(u.String(), "/")
	if _, err := openRoot(string(root)); err != nil {
		return Repository{}, fmt.Errorf("the file given as root of %s is not a TUF root.json that signs itself: %w", base, err)
	}
	return Repository{Name: base, URL: base, Root: root}, nil
}

// ID names the repository in state: its host, and a hash of URL and initial root. A
// built-in root counts by its name, not its bytes: a release with a newer one goes on
// from what the release before has verified.
func (r Repository) ID() string {
	anchor := r.Root
	if r.Name != r.URL {
		anchor = []byte(r.Name)
	}
	sum := sha256.Sum256(append([]byte(r.URL+"\n"), anchor...))
	host := "unknown"
	if u, err := url.Parse(r.URL); err == nil {
		host = unsafeInID.ReplaceAllString(strings.ToLower(u.Hostname()), "-")
	}
	return host + "-" + hex.EncodeToString(sum[:16])
}

var unsafeInID = regexp.MustCompile(`^\.|[^a-z0-9.-]`)

// Refresh makes one TUF update: from saved, what the last one returned (nil: from the
// initial root), through the chain of roots to the newest trusted_root.json, as of now.
// Requests are made with client, which must follow no redirect and bound each one's
// time; their size and number are bounded here. What fails is fetched once more with
// caches bypassed, see [tlog.Fresh].
//
// It returns what to save in saved's place, and the trusted root. When it fails that is
// the one verified last, nil if none was, beside an error that is an *UnreachableError,
// *ExpiredError or *RejectedError; the metadata then still holds what TUF lets a client
// keep of an update that ends early, newer roots above all, and nothing is ever older
// than in saved. If what was verified last has itself expired, an *ExpiredError is found
// in the error too, whatever the reason is. If saved is damaged, both are nil and the
// error is a *DamagedError: to begin anew would forget which versions were seen.
func (r Repository) Refresh(ctx context.Context, client *http.Client, saved *Metadata, now time.Time) (*Metadata, *Root, error) {
	m, err := r.begin(saved)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxRefresh)
	defer cancel()
	m, root, err := r.update(ctx, client, m, now)
	if err != nil && ctx.Err() == nil {
		m, root, err = r.update(tlog.Fresh(ctx), client, m, now)
	}
	if err == nil {
		return m, root, nil
	}
	if m.Target == "" {
		return m, nil, err
	}
	if expired := r.expired(m, now); expired != nil && !errors.As(err, new(*ExpiredError)) {
		err = fmt.Errorf("%w; and %w", err, expired)
	}
	root, damaged := ParseTrustedRoot([]byte(m.Target))
	if damaged != nil { // begin has parsed it
		return m, nil, errors.Join(err, damaged)
	}
	return m, root, err
}

// begin is where an update starts from: saved, or the initial root if that is newer.
func (r Repository) begin(saved *Metadata) (*Metadata, error) {
	initial, err := openRoot(string(r.Root))
	if err != nil {
		return nil, fmt.Errorf("root of TUF repository %s: %w", r.Name, err)
	}
	if saved == nil {
		return &Metadata{Root: string(r.Root)}, nil
	}
	root, err := saved.check()
	if err != nil {
		return nil, &DamagedError{ID: r.ID(), URL: r.URL, Err: err}
	}
	m := *saved
	if initial.Signed.Version > root.Signed.Version {
		m.Root = string(r.Root)
		m.prune(initial)
	}
	return &m, nil
}

// update runs go-tuf's client, which works on a folder, between two Metadata.
func (r Repository) update(ctx context.Context, client *http.Client, m *Metadata, now time.Time) (*Metadata, *Root, error) {
	dir, err := os.MkdirTemp("", "whosigned-tuf-")
	if err != nil {
		return m, nil, fmt.Errorf("TUF repository %s: a folder to work in: %w", r.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for role, text := range m.rest() {
		if *text == "" {
			continue
		}
		if err := os.WriteFile(file(dir, role), []byte(*text), 0o600); err != nil {
			return m, nil, fmt.Errorf("TUF repository %s: %w", r.Name, err)
		}
	}
	f := &fetcher{ctx: ctx, client: client, base: r.URL}
	target, walked := r.walk(f, dir, m, now)
	var root *Root
	if walked == nil {
		if root, err = ParseTrustedRoot(target); err != nil {
			walked = &RejectedError{URL: r.URL, Role: targetName, Err: err}
		}
	}
	next := *m
	if err := next.take(dir); err != nil {
		return m, nil, errors.Join(walked, fmt.Errorf("TUF repository %s: %w", r.Name, err))
	}
	if walked != nil {
		next.Targets = m.Targets // they go together with the target
		if verified, err := openRoot(next.Root); err == nil {
			next.prune(verified)
		}
		return &next, nil, walked
	}
	next.Target, next.Verified = string(target), now.UTC().Round(0)
	return &next, root, nil
}

// walk is the client workflow of the specification, section 5, with the target's bytes
// at its end.
func (r Repository) walk(f *fetcher, dir string, m *Metadata, now time.Time) (target []byte, err error) {
	cfg, err := config.New(r.URL, []byte(m.Root))
	if err != nil {
		return nil, fmt.Errorf("TUF repository %s: %w", r.Name, err)
	}
	cfg.Fetcher, cfg.LocalMetadataDir, cfg.LocalTargetsDir, cfg.MaxDelegations = f, dir, dir, maxDelegations
	client, err := updater.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("TUF repository %s: %w", r.Name, err)
	}
	client.UnsafeSetRefTime(now.UTC())
	defer func() {
		if err != nil {
			err = r.judge(err, f, client, m, now)
		}
	}()
	defer guard(&err)
	if err := client.Refresh(); err != nil {
		return nil, err
	}
	info, err := client.GetTargetInfo(targetName)
	if err != nil {
		return nil, err
	}
	if err := info.VerifyLengthHashes([]byte(m.Target)); err == nil {
		return []byte(m.Target), nil
	}
	_, target, err = client.DownloadTarget(info, "", "")
	return target, err
}

// guard turns a panic of go-tuf into an error: as of v2.4.2 it follows null where it
// expects an object, in metadata whose signature it has not looked at yet.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the TUF client does not survive it: %v", p)
	}
}

// judge says which of the three errors it is.
func (r Repository) judge(err error, f *fetcher, client *updater.Updater, m *Metadata, now time.Time) error {
	if errors.As(err, new(*UnreachableError)) {
		return err
	}
	if f.name == "" || errors.As(err, new(*fs.PathError)) {
		return fmt.Errorf("TUF repository %s: %w", r.Name, err) // it is about our folder
	}
	role, served := f.role(), headOf(string(f.data))
	trusted := client.GetTrustedMetadataSet()
	if errors.As(err, new(*metadata.ErrExpiredMetadata)) {
		expired := &ExpiredError{URL: r.URL, Role: role, Version: served.version, Expired: served.expires}
		// It may be found out only after something else was fetched.
		switch {
		case trusted.Root.Signed.IsExpired(now):
			expired.Role, expired.Version, expired.Expired = metadata.ROOT, trusted.Root.Signed.Version, trusted.Root.Signed.Expires
		case trusted.Timestamp != nil && trusted.Timestamp.Signed.IsExpired(now):
			expired.Role, expired.Version, expired.Expired = metadata.TIMESTAMP, trusted.Timestamp.Signed.Version, trusted.Timestamp.Signed.Expires
		}
		return expired
	}
	rejected := &RejectedError{URL: r.URL, Role: role, Served: served.version, Err: err}
	if role == metadata.ROOT {
		rejected.Trusted = trusted.Root.Signed.Version
	} else if text := m.rest()[role]; text != nil {
		rejected.Trusted = headOf(*text).version
	}
	return rejected
}

// fetcher is go-tuf's way to our HTTP client.
type fetcher struct {
	ctx    context.Context // DownloadFile is given none
	client *http.Client
	base   string

	name string // the file asked for last
	data []byte // and what came
}

// DownloadFile gets a file of at most limit bytes, which may be what the repository
// says its length is.
func (f *fetcher) DownloadFile(location string, limit int64, _ time.Duration) ([]byte, error) {
	f.name, f.data = path.Base(location), nil
	req, err := http.NewRequestWithContext(f.ctx, http.MethodGet, location, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, &UnreachableError{f.base, err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		// The end of the chain of roots is a 404, which go-tuf wants in this form.
		return nil, &UnreachableError{f.base, &metadata.ErrDownloadHTTP{StatusCode: resp.StatusCode, URL: location}}
	}
	limit = max(0, min(limit, MaxFile))
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, &UnreachableError{f.base, fmt.Errorf("reading %s: %w", location, err)}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than the %d bytes it may have", location, limit)
	}
	f.data = data
	if !utf8.Valid(data) { // the state keeps it as text
		return nil, fmt.Errorf("%s is not text", location)
	}
	return data, nil
}

// role is whose file was asked for last: N.ROLE.json, or the target.
func (f *fetcher) role() string {
	if strings.HasSuffix(f.name, targetName) {
		return targetName
	}
	return versionOf.ReplaceAllString(strings.TrimSuffix(f.name, ".json"), "")
}

var versionOf = regexp.MustCompile(`^[0-9]+\.`)

func file(dir, role string) string { return filepath.Join(dir, role+".json") }

// head is what all metadata says of itself.
type head struct {
	version int64
	expires time.Time
}

// headOf is zero for what is not metadata.
func headOf(text string) head {
	var m struct {
		Signed struct {
			Version int64     `json:"version"`
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if json.Unmarshal([]byte(text), &m) != nil {
		return head{}
	}
	return head{m.Signed.Version, m.Signed.Expires}
}

type tufRoot = metadata.Metadata[metadata.RootType]

// openRoot reads a root that is signed by its own keys.
func openRoot(text string) (root *tufRoot, err error) {
	defer guard(&err)
	if !utf8.ValidString(text) {
		return nil, errors.New("it is not text")
	}
	set, err := trustedmetadata.New([]byte(text))
	if err != nil {
		return nil, err
	}
	return set.Root, nil
}

// verify checks that a role's metadata is signed as root demands.
func verify(root *tufRoot, role, text string) (err error) {
	defer guard(&err)
	switch role {
	case metadata.TIMESTAMP:
		return verifyAs(root, role, text, metadata.Timestamp())
	case metadata.SNAPSHOT:
		return verifyAs(root, role, text, metadata.Snapshot())
	}
	return verifyAs(root, role, text, metadata.Targets())
}

func verifyAs[T metadata.Roles](root *tufRoot, role, text string, m *metadata.Metadata[T]) error {
	if _, err := m.FromBytes([]byte(text)); err != nil {
		return err
	}
	return root.VerifyDelegate(role, m)
}

// UnreachableError says that a repository gave nothing to judge: no answer, one other
// than 200, or one that broke off.
type UnreachableError struct {
	URL string // of the repository
	Err error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("TUF repository %s cannot be reached: %v", e.URL, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// ExpiredError says that metadata which is signed as it should be is no longer valid.
// Nobody has renewed it, or somebody keeps the renewal from us.
type ExpiredError struct {
	URL     string
	Role    string // "root", "timestamp", "snapshot", "targets" or a delegated role
	Version int64
	Expired time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("TUF repository %s: its %s (version %d) expired on %s", e.URL, e.Role, e.Version, e.Expired.UTC().Format(time.RFC3339))
}

// RejectedError says that what a repository serves is not what it must be: older than
// what was verified before, not signed by enough of the right keys, of another hash,
// too large, or no metadata at all.
type RejectedError struct {
	URL     string
	Role    string // as for ExpiredError, or "trusted_root.json"
	Trusted int64  // the version verified before; 0 if there is none
	Served  int64  // the version refused; 0 if it says none
	Err     error
}

func (e *RejectedError) Error() string {
	text := fmt.Sprintf("TUF repository %s: %s", e.URL, e.Role)
	if e.Served != 0 {
		text += fmt.Sprintf(" version %d", e.Served)
	}
	text += " is refused"
	if e.Trusted != 0 {
		text += fmt.Sprintf(", version %d was verified before", e.Trusted)
	}
	return fmt.Sprintf("%s: %v", text, e.Err)
}
func (e *RejectedError) Unwrap() error { return e.Err }

// DamagedError says that the metadata saved of a repository is not what was verified.
type DamagedError struct {
	ID  string // the repository's, in state
	URL string
	Err error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("what is saved of TUF repository %s, in trust/%s, is damaged: %v; restore it from a backup, or delete it to begin again at the initial root, with no memory of the versions seen",
		e.URL, e.ID, e.Err)
}
func (e *DamagedError) Unwrap() error { return e.Err }
