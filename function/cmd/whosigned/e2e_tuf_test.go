//go:build e2e && linux

package main_test

import (
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rfc6962"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/trust/trusttest"
)

// deployment is a private Sigstore: a CA and logs, and the TUF repository that says
// which they are.
type deployment struct {
	*trusttest.Repo
	ca        *tlogtest.CA
	tlogs, ct []*transparencyLog
}

type transparencyLog = trustpb.TransparencyLogInstance

func newDeployment(t testing.TB) *deployment {
	t.Helper()
	d := &deployment{Repo: trusttest.New(t), ca: newCA(t)}
	d.publish(t)
	return d
}

// listed is a log as a trusted root lists it.
func listed(url string, key, id []byte, details commonpb.PublicKeyDetails) *transparencyLog {
	return &transparencyLog{
		BaseUrl: url, HashAlgorithm: commonpb.HashAlgorithm_SHA2_256, LogId: &commonpb.LogId{KeyId: id},
		PublicKey: &commonpb.PublicKey{RawBytes: key, KeyDetails: details, ValidFor: sinceLastYear()},
	}
}

func sinceLastYear() *commonpb.TimeRange {
	return &commonpb.TimeRange{Start: timestamppb.New(time.Now().AddDate(-1, 0, 0))}
}

// addRekorV1 lists every key that a service has now.
func (d *deployment) addRekorV1(t testing.TB, r *rekorV1) {
	t.Helper()
	d.unlist(r.url)
	for _, key := range r.watched("").keys {
		d.tlogs = append(d.tlogs, listed(r.url, key.spki(t), key.logID(t, r.watched("")), commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256))
	}
	d.publish(t)
}

// unlist takes out the logs at a URL.
func (d *deployment) unlist(url string) {
	d.tlogs = slices.DeleteFunc(d.tlogs, func(l *transparencyLog) bool { return l.BaseUrl == url })
}

// addShard lists a shard under the key that it has now, and no other.
func (d *deployment) addShard(t testing.TB, s *shard) {
	t.Helper()
	d.unlist(s.url)
	d.tlogs = append(d.tlogs, listed(s.url, s.key.spki(t), s.key.logID(t, s.watched("")), commonpb.PublicKeyDetails_PKIX_ED25519))
	d.publish(t)
}

// addCT lists a CT log under the URL that readers use, as a trusted root does.
func (d *deployment) addCT(t testing.TB, url string, l ctLog) {
	t.Helper()
	id := l.tlogKey(t).LogID
	d.ct = append(d.ct, listed(url, l.key.spki(t), id[:], commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256))
	d.publish(t)
}

// publish gives out a trusted root of what there is.
func (d *deployment) publish(t testing.TB) {
	t.Helper()
	d.SetTrustedRoot(trustedRoot(t, d.ca, d.tlogs, d.ct))
}

// trustedRoot is a trusted_root.json with one CA.
func trustedRoot(t testing.TB, ca *tlogtest.CA, tlogs, ct []*transparencyLog) []byte {
	t.Helper()
	raw, err := protojson.Marshal(&trustpb.TrustedRoot{
		MediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		CertificateAuthorities: []*trustpb.CertificateAuthority{{
			Subject: &commonpb.DistinguishedName{Organization: "acme.test", CommonName: "fulcio"}, Uri: "https://fulcio.acme.test", ValidFor: sinceLastYear(),
			CertChain: &commonpb.X509CertificateChain{Certificates: []*commonpb.X509Certificate{{RawBytes: ca.Intermediate.Raw}, {RawBytes: ca.Root.Raw}}},
		}},
		Tlogs: tlogs, Ctlogs: ct,
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// known is what sigstore-go, as any other client, learns from the repository: the log
// IDs and their URLs.
func (d *deployment) known() (logs map[string]string, err error) {
	client, err := tuf.New(&tuf.Options{Root: d.InitialRoot(), RepositoryBaseURL: d.URL, DisableLocalCache: true})
	if err != nil {
		return nil, err
	}
	trusted, err := root.GetTrustedRoot(client)
	if err != nil {
		return nil, err
	}
	logs = map[string]string{}
	for _, list := range []map[string]*root.TransparencyLog{trusted.RekorLogs(), trusted.CTLogs()} {
		for id, l := range list {
			logs[id] = l.BaseURL
		}
	}
	return logs, nil
}

// logsOf is the same of what whosigned read.
func logsOf(r *trust.Root) map[string]string {
	logs := map[string]string{}
	for _, l := range slices.Concat(r.Rekor, r.CT) {
		logs[hex.EncodeToString(l.Key.LogID[:])] = l.URL
	}
	return logs
}

// testTUF follows a deployment's repository through what happens to one, beside
// sigstore-go's client, and opens the real logs that it lists.
func (s *suite) testTUF(t *testing.T) {
	d := newDeployment(t)
	v1, shard, next := startRekorV1(t, s.trillian), startShard(t, "v2.2.1"), startShard(t, "v2.3.0")
	static, rfc := startStatic(t, d.ca), startRFC6962(t, s.trillian, d.ca)
	d.addRekorV1(t, v1)
	d.addShard(t, shard)
	d.addCT(t, static.url, static.ctLog)
	d.addCT(t, rfc.url, rfc.ctLog)

	repository, err := trust.NewRepository(d.URL, d.InitialRoot())
	if err != nil {
		t.Fatal(err)
	}
	fetch := tlog.NewClient(tlog.ClientOptions{})
	client := fetch.HTTP()
	var saved *trust.Metadata
	// refresh is one update; both clients must see want logs.
	refresh := func(want int) *trust.Root {
		t.Helper()
		m, r, err := repository.Refresh(t.Context(), client, saved, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		saved = m
		theirs, err := d.known()
		if err != nil {
			t.Fatalf("sigstore-go: %v", err)
		}
		if ours := logsOf(r); len(ours) != want || !maps.Equal(ours, theirs) || len(r.Warnings) > 0 {
			t.Errorf("got logs %v, warnings %q; want %d, and sigstore-go has %v", ours, r.Warnings, want, theirs)
		}
		return r
	}
	r := refresh(4)
	for _, l := range r.Rekor {
		if want := map[string]tlog.Type{v1.url: tlog.RekorV1, shard.url: tlog.RekorV2}[l.URL]; l.Type != want || l.Origin != strings.TrimPrefix(l.URL, "http://") {
			t.Errorf("the log at %s is taken for %q with origin %q, want %q", l.URL, l.Type, l.Origin, want)
		}
	}
	for at, open := range map[string]func(trust.Log) (tlog.Log, error){
		shard.url: func(l trust.Log) (tlog.Log, error) {
			return tiles.New(fetch, tiles.Config{URL: l.URL, Origin: l.Origin, Key: l.Key})
		},
		static.url: func(l trust.Log) (tlog.Log, error) {
			return tiles.New(fetch, tiles.Config{Type: tlog.StaticCT, URL: l.URL, Key: l.Key})
		},
		rfc.url: func(l trust.Log) (tlog.Log, error) {
			return rfc6962.New(fetch, rfc6962.Config{URL: l.URL, Key: l.Key})
		},
	} {
		lists := append(r.At(at), r.CTAt(at)...)
		if len(lists) != 1 {
			t.Fatalf("%d logs are listed at %s, want 1", len(lists), at)
		}
		if log, err := open(lists[0]); err != nil {
			t.Error(err)
		} else if _, err := log.Checkpoint(t.Context()); err != nil {
			t.Errorf("what the log at %s signs, under its key: %v", at, err)
		}
	}

	d.addShard(t, next)
	if got := refresh(5).At(next.url); len(got) != 1 || got[0].Type != tlog.RekorV2 {
		t.Errorf("a shard that was added: %+v", got)
	}
	d.RotateRoot()
	d.RotateRoot()
	d.RotateKeys("timestamp", "snapshot", "targets")
	refresh(5)

	before := *saved
	failing := func(t *testing.T, as any) {
		t.Helper()
		m, r, err := repository.Refresh(t.Context(), client, saved, time.Now())
		if !errors.As(err, as) {
			t.Errorf("error %v, want a %T", err, as)
		}
		if r == nil || len(logsOf(r)) != 5 || m.Target != before.Target {
			t.Errorf("got trusted root %+v; want the last that was verified", r)
		}
	}
	t.Run("rollback", func(t *testing.T) {
		d.Renew()
		refresh(5)
		d.Rollback()
		failing(t, new(*trust.RejectedError))
		d.Renew()
	})
	t.Run("expired timestamp", func(t *testing.T) {
		d.ExpireTimestamp()
		if _, err := d.known(); err == nil {
			t.Error("sigstore-go takes an expired timestamp")
		}
		failing(t, new(*trust.ExpiredError))
		d.Heal("timestamp")
	})
	t.Run("unreachable", func(t *testing.T) {
		defer d.Inject(nil, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) })()
		failing(t, new(*trust.UnreachableError))
	})
	refresh(5)
	if saved.Target != before.Target {
		t.Error("what happened to the repository changed the trusted root")
	}
}
