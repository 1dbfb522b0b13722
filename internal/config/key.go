package config

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"onionbalancer/keystore/pkcs11uri"
)

// readKey reads the reference to a key: the path of a file or a directory, a
// credential of systemd's, or a PKCS #11 URI.
func readKey(t *table) string {
	s, there := get[string](t, "key", "the path of a key file, as a string")
	switch {
	case !there && t.values["key"] == nil:
		t.bad.add(t.at("key"), "is missing; it names the file of the service's identity key (\"balancer key new\" makes one)")
	case !there:
	case strings.Contains(s, "-----BEGIN"), bareKey.MatchString(s):
		t.bad.add(t.at("key"), "must be the path of a key file, never the key itself")
	case strings.HasSuffix(strings.TrimRight(s, "/"), ".onion"):
		t.bad.add(t.at("key"), "%q is an onion address; name the file of its private key, hs_ed25519_secret_key or the directory that it is in", s)
	case pkcs11uri.Is(s):
		return readURI(t, "key", s).String()
	default:
		return t.secret("key")
	}
	return ""
}

// readSigning reads the reference to the token of descriptor-signing keys.
func readSigning(t *table) string {
	s, there := get[string](t, "signing", `a PKCS #11 URI ("pkcs11:…"), as a string`)
	if !there {
		return ""
	}
	if !pkcs11uri.Is(s) {
		t.bad.add(t.at("signing"), "must be a PKCS #11 URI that names a token (\"pkcs11:…\"); leave it out to keep the keys in memory")
		return ""
	}
	u := readURI(t, "signing", s)
	if u.Object != "" || len(u.ID) > 0 || u.Sealed != "" {
		t.bad.add(t.at("signing"), "names a token and no key on it, since balancer makes keys of its own there: leave out object, id and x-sealed")
	}
	return u.String()
}

// readURI reads a PKCS #11 URI, the paths in it relative to the file.
func readURI(t *table, key, s string) *pkcs11uri.URI {
	u, err := pkcs11uri.Parse(s)
	if err == nil && u.ModulePath == "" {
		err = errors.New("module-path is missing: it names the library that comes with the token")
	}
	if err != nil {
		t.bad.add(t.at(key), "%w", err)
		return new(pkcs11uri.URI)
	}
	return u.Resolve(t.dir)
}

// sameKey returns what two references to one identity key have in common: the
// sealed file, if there is one, since one key on a token may open many.
func sameKey(ref string) string {
	if u, err := pkcs11uri.Parse(ref); err == nil && u.Sealed != "" {
		return filepath.Clean(u.Sealed)
	}
	return ref
}

// bareKey is a private key in the place of its path: 32, 64 or 96 bytes in hex or
// base64. It is never repeated.
var bareKey = regexp.MustCompile(`^(0x)?([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})$|^([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{128})$`)
