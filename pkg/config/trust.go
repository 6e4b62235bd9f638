package config

import (
	"net/url"
	"path/filepath"
	"strings"

	"github.com/whosigned/whosigned/pkg/bucket"
	"github.com/whosigned/whosigned/pkg/trust"
)

func (d *document) state(n node, optional bool) string {
	if n.none() {
		if !optional && !inBucket(d.base) {
			n.warn("missing; say where to keep what was proven, such as state: file:///var/lib/whosigned or state: gs://bucket/prefix, unless WHOSIGNED_STATE in the environment does")
		}
		return ""
	}
	text := n.text()
	if text == "" {
		return ""
	}
	folder := func(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
	scheme, _, hasScheme := strings.Cut(text, "://")
	if !hasScheme && !filepath.IsAbs(text) {
		at := d.locate(n, text)
		if inBucket(at) || at == "" {
			return at
		}
		return folder(at)
	}
	if scheme == "gs" {
		if _, _, err := bucket.Split(text); err != nil {
			n.fail("%v", err)
			return ""
		}
		return strings.TrimSuffix(text, "/")
	}
	if inBucket(d.base) {
		n.warn("a folder is lost with the instance that a function runs in; use gs://bucket/prefix")
	}
	if !hasScheme {
		return folder(filepath.Clean(text))
	}
	u, err := url.Parse(text)
	switch {
	case scheme != "file" || err != nil:
		n.fail("%q is not a place for state; use file:///absolute/path or gs://bucket/prefix", text)
	case u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "":
		n.fail("%q is not absolute; write file:///absolute/path, or a path relative to this file without file://", text)
	default:
		return folder(filepath.Clean(u.Path))
	}
	return ""
}

// trust is where the trusted root comes from: a TUF repository, or a file.
func (d *document) trust(n, file node) (*trust.Repository, *trust.Root) {
	if n.none() {
		return nil, d.trustedRoot(file)
	}
	if !file.none() {
		file.fail("a trusted root comes from one place: keep either trust or trustedRoot")
	}
	f := n.fields("tuf", "root")
	name := f["tuf"].required("name the TUF repository: public-good, staging or its URL")
	switch name {
	case "":
		return nil, nil
	case "public-good", "staging":
		if !f["root"].none() {
			f["root"].fail("%s has a root of its own; remove the key, or give the repository's URL", name)
		}
		r := trust.PublicGood()
		if name == "staging" {
			r = trust.Staging()
		}
		return &r, nil
	}
	at := f["root"].required("name the file with the repository's root.json, which everything else is verified from")
	if at == "" {
		return nil, nil
	}
	if at = d.locate(f["root"], at); at == "" {
		return nil, nil
	}
	data, err := d.read(at)
	if err != nil {
		f["root"].fail("%v", err)
		return nil, nil
	}
	r, err := trust.NewRepository(name, data)
	if err != nil {
		f["tuf"].fail("%v", err)
		return nil, nil
	}
	return &r, nil
}

// trustedRoot reads the trusted root; nil if there is none.
func (d *document) trustedRoot(n node) *trust.Root {
	text := n.text()
	if text == "" {
		return nil
	}
	at := d.locate(n, text)
	if at == "" {
		return nil
	}
	root, err := trust.ReadTrustedRoot(at, d.read)
	if err != nil {
		n.fail("%v", err)
		return nil
	}
	for _, w := range root.Warnings {
		n.warn("%s", w)
	}
	return root
}

// chains are the CA certificates of caRootsFile, else the trusted root's.
func (d *document) chains(root *trust.Root, roots, intermediates node) *trust.Chains {
	if roots.none() {
		if !intermediates.none() {
			intermediates.fail("needs caRootsFile beside it; intermediates alone anchor nothing")
		}
		if root != nil {
			return root.Chains
		}
		return &trust.Chains{}
	}
	before := len(d.problems)
	first := d.locate(roots, roots.text())
	second := intermediates.text()
	if second != "" {
		second = d.locate(intermediates, second)
	}
	if len(d.problems) > before {
		return &trust.Chains{}
	}
	chains, err := trust.ReadChains(first, second, d.read)
	if err != nil {
		roots.fail("%v", err)
		return &trust.Chains{}
	}
	return chains
}
