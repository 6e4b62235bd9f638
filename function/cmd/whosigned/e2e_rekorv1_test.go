//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// trillian is a Trillian log on a MariaDB of its own, for all Rekor v1 logs of the
// suite.
type trillian struct {
	socket string // MariaDB's; it listens nowhere else
	port   string // gRPC, on loopback
}

func startTrillian(t testing.TB) *trillian {
	t.Helper()
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "whosigned-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	command(t, nil, "mariadb-install-db", "--no-defaults", "--user="+me.Username, "--datadir="+data,
		"--auth-root-authentication-method=normal", "--skip-test-db", "--tmpdir="+dir)

	tr := &trillian{socket: filepath.Join(dir, "mariadb.sock"), port: freePort(t)}
	db := start(t, "mariadb", "mariadbd", "--no-defaults", "--user="+me.Username, "--datadir="+data,
		"--socket="+tr.socket, "--pid-file="+filepath.Join(dir, "mariadb.pid"), "--skip-networking",
		"--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M")
	db.await(t, func() error { _, err := os.Stat(tr.socket); return err })
	tr.sql(t, "CREATE DATABASE trillian")
	schema, err := os.Open(filepath.Join(moduleDir(t, "github.com/google/trillian@v1.7.2"), "storage/mysql/schema/storage.sql"))
	if err != nil {
		t.Fatal(err)
	}
	defer schema.Close()
	command(t, schema, "mariadb", "--no-defaults", "--socket="+tr.socket, "--user=root", "trillian")

	bin := filepath.Join(serversDir(t), "bin")
	uri := "--mysql_uri=root@unix(" + tr.socket + ")/trillian"
	health := freePort(t)
	server := start(t, "trillian_log_server", filepath.Join(bin, "trillian_log_server"), uri, "--quota_system=noop",
		"--rpc_endpoint=127.0.0.1:"+tr.port, "--http_endpoint=127.0.0.1:"+health)
	start(t, "trillian_log_signer", filepath.Join(bin, "trillian_log_signer"), uri, "--quota_system=noop", "--force_master",
		"--sequencer_interval=100ms", "--batch_size=500", "--rpc_endpoint=127.0.0.1:"+freePort(t), "--http_endpoint=")
	server.await(t, func() error { _, err := get("http://127.0.0.1:" + health + "/healthz"); return err })
	return tr
}

// moduleDir downloads a module and returns the folder that its files are in.
func moduleDir(t testing.TB, module string) string {
	t.Helper()
	var m struct{ Dir string }
	if err := json.Unmarshal(command(t, nil, "go", "mod", "download", "-json", module), &m); err != nil {
		t.Fatal(err)
	}
	return m.Dir
}

// sql runs statements in Trillian's database and returns the rows.
func (tr *trillian) sql(t testing.TB, statements string) string {
	t.Helper()
	args := []string{"--no-defaults", "--socket=" + tr.socket, "--user=root", "--batch", "--skip-column-names"}
	if !strings.HasPrefix(statements, "CREATE DATABASE") {
		args = append(args, "trillian")
	}
	return strings.TrimSpace(string(command(t, strings.NewReader(statements), "mariadb", args...)))
}

// createTree makes a log and returns its tree ID in decimal.
func (tr *trillian) createTree(t testing.TB) string {
	t.Helper()
	out := command(t, nil, filepath.Join(serversDir(t), "bin", "createtree"), "--admin_server=127.0.0.1:"+tr.port)
	return strings.TrimSpace(string(out))
}

// dump returns all that the database holds of a tree, as SQL that restore takes.
func (tr *trillian) dump(t testing.TB, tree string) []byte {
	t.Helper()
	return command(t, nil, "mariadb-dump", "--no-defaults", "--socket="+tr.socket, "--user=root", "--single-transaction",
		"--no-create-info", "--hex-blob", "--skip-add-locks", "--where=TreeId="+tree, "trillian")
}

// restore puts a tree back to a dump.
func (tr *trillian) restore(t testing.TB, tree string, dump []byte) {
	t.Helper()
	tables := []string{"Unsequenced", "SequencedLeafData", "LeafData", "TreeHead", "Subtree", "TreeControl", "Trees"}
	var script bytes.Buffer
	script.WriteString("SET FOREIGN_KEY_CHECKS=0; START TRANSACTION;\n")
	for _, table := range tables {
		fmt.Fprintf(&script, "DELETE FROM %s WHERE TreeId=%s;\n", table, tree)
	}
	script.Write(dump)
	script.WriteString("\nCOMMIT;\n")
	command(t, &script, "mariadb", "--no-defaults", "--socket="+tr.socket, "--user=root", "trillian")
}

// keyPair is a log's signing key, as files that servers and configurations name.
type keyPair struct{ private, public string }

// newKeyPair writes an ECDSA P-256 key, the kind that the public Rekor v1 has.
func newKeyPair(t testing.TB) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return writeKeyPair(t, key, key.Public())
}

func writeKeyPair(t testing.TB, private, public any) keyPair {
	t.Helper()
	privatePEM, err := cryptoutils.MarshalPrivateKeyToPEM(private)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair := keyPair{filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem")}
	writeFile(t, pair.private, privatePEM)
	writeFile(t, pair.public, publicPEM)
	return pair
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// rekorV1 is a rekor-server with its trees. It keeps its URL when it rotates.
type rekorV1 struct {
	*trillian
	url, port string
	trees     []tree // oldest first; the last is the active one
	index     string // the search index's database; "" for none
	server    *process
}

// tree is one Rekor v1 log.
type tree struct {
	id  string // decimal
	key keyPair
}

func startRekorV1(t testing.TB, tr *trillian) *rekorV1 {
	t.Helper()
	return newRekorV1(t, tr, "")
}

func newRekorV1(t testing.TB, tr *trillian, index string) *rekorV1 {
	t.Helper()
	r := &rekorV1{trillian: tr, port: freePort(t), trees: []tree{{tr.createTree(t), newKeyPair(t)}}, index: index}
	r.url = "http://127.0.0.1:" + r.port
	r.restart(t)
	return r
}

// rotate retires the active tree and starts another, signed by key or, if that is
// nil, by the same key as before.
func (r *rekorV1) rotate(t testing.TB, key *keyPair) {
	t.Helper()
	next := tree{r.createTree(t), r.active().key}
	if key != nil {
		next.key = *key
	}
	r.trees = append(r.trees, next)
	r.restart(t)
}

func (r *rekorV1) active() tree { return r.trees[len(r.trees)-1] }

// restart starts the server over its trees. Every start has a host name of its
// own, as every replica of the public service has: it ends up in the origins.
func (r *rekorV1) restart(t testing.TB) {
	t.Helper()
	if r.server != nil {
		r.server.stop(t)
	}
	args := []string{"serve", "--rekor_server.address=127.0.0.1", "--port=" + r.port,
		"--rekor_server.hostname=rekor-" + freePort(t), "--rekor_server.signer=" + r.active().key.private,
		"--trillian_log_server.address=127.0.0.1", "--trillian_log_server.port=" + r.trillian.port,
		"--trillian_log_server.tlog_id=" + r.active().id, "--log_type=prod",
		"--enable_retrieve_api=" + strconv.FormatBool(r.index != "")}
	if r.index != "" {
		args = append(args, "--search_index.storage_provider=mysql", "--search_index.mysql.dsn=root@unix("+r.socket+")/"+r.index)
	}
	var sharding strings.Builder
	for _, old := range r.trees[:len(r.trees)-1] {
		fmt.Fprintf(&sharding, "- treeID: %s\n  signingConfig: {signingSchemeOrKeyPath: %q}\n", old.id, old.key.private)
	}
	if sharding.Len() > 0 {
		path := filepath.Join(t.TempDir(), "sharding.yaml")
		writeFile(t, path, []byte(sharding.String()))
		args = append(args, "--trillian_log_server.sharding_config="+path)
	}
	r.server = start(t, "rekor-server", filepath.Join(serversDir(t), "bin", "rekor-server"), args...)
	r.server.await(t, func() error { _, err := r.info(); return err })
}

// info is the part of Rekor v1's log info that the suite looks at. Its tree size
// is unsigned, which is good enough to know what was uploaded.
type info struct {
	TreeID   string
	TreeSize uint64
}

func (r *rekorV1) info() (info, error) {
	body, err := get(r.url + "/api/v1/log")
	if err != nil {
		return info{}, err
	}
	var i info
	if err := json.Unmarshal(body, &i); err != nil {
		return info{}, err
	}
	if i.TreeID == "" {
		return info{}, errors.New("log info without a tree ID")
	}
	return i, nil
}

// size is the number of entries in the active tree.
func (r *rekorV1) size(t testing.TB) uint64 {
	t.Helper()
	i, err := r.info()
	if err != nil {
		t.Fatal(err)
	}
	return i.TreeSize
}

// served is an entry as rekor-server gives it.
type served struct{ uuid, body string }

// retrieve asks for an entry of a service that has only one tree.
func (r *rekorV1) retrieve(t testing.TB, index uint64) served {
	t.Helper()
	answer, err := post(r.url+"/api/v1/log/entries/retrieve", fmt.Appendf(nil, `{"logIndexes": [%d]}`, index))
	if err != nil {
		t.Fatal(err)
	}
	var entries []map[string]struct{ Body []byte }
	if err := json.Unmarshal(answer, &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for uuid, e := range e {
			return served{uuid, string(e.Body)}
		}
	}
	t.Fatalf("entry %d is not served: %s", index, answer)
	return served{}
}

// replaceLeaf changes the stored bytes of a leaf in the active tree and leaves all
// hashes as they were, so the server goes on serving it with a valid proof.
func (r *rekorV1) replaceLeaf(t testing.TB, index uint64, body []byte) {
	t.Helper()
	r.sql(t, fmt.Sprintf(`UPDATE LeafData SET LeafValue=x'%x' WHERE TreeId=%[2]s AND LeafIdentityHash=
		(SELECT LeafIdentityHash FROM SequencedLeafData WHERE TreeId=%[2]s AND SequenceNumber=%[3]d)`, body, r.active().id, index))
}

// leaf returns the stored bytes of a leaf in the active tree.
func (r *rekorV1) leaf(t testing.TB, index uint64) []byte {
	t.Helper()
	row := r.sql(t, fmt.Sprintf(`SELECT HEX(LeafValue) FROM LeafData JOIN SequencedLeafData USING (TreeId, LeafIdentityHash)
		WHERE TreeId=%s AND SequenceNumber=%d`, r.active().id, index))
	body, err := hex.DecodeString(row)
	if err != nil || len(body) == 0 {
		t.Fatalf("leaf %d of tree %s is not in the database: %v", index, r.active().id, err)
	}
	return body
}
