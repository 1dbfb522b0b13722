package offline

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Fingerprint is what people compare by eye: the first 120 bits of a SHA-256,
// as six groups of four characters.
type Fingerprint string

const (
	fingerprintGroups = 6
	fingerprintGroup  = 4
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// fingerprint hashes parts, groups characters of which are shown.
func fingerprint(groups int, parts ...[]byte) Fingerprint {
	h := sha256.New()
	for _, part := range parts {
		h.Write(part)
	}
	text := base32Lower.EncodeToString(h.Sum(nil))
	list := make([]string, groups)
	for i := range list {
		list[i] = text[i*fingerprintGroup : (i+1)*fingerprintGroup]
	}
	return Fingerprint(strings.Join(list, "-"))
}

// KeyFingerprint returns the short fingerprint of a public key, two groups.
func KeyFingerprint(key []byte) Fingerprint {
	return fingerprint(2, []byte("balancer ceremony signing key\x00"), key)
}

// Is compares f with what somebody typed, who may have left out the hyphens.
func (f Fingerprint) Is(typed string) bool { return plain(typed) == plain(string(f)) }

// EndsWith compares what somebody typed with the last group of f, or with all of
// it.
func (f Fingerprint) EndsWith(typed string) bool {
	all := plain(string(f))
	return plain(typed) == all[len(all)-fingerprintGroup:] || f.Is(typed)
}

func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(s))
}

// valid says whether f has the form of one.
func (f Fingerprint) valid() bool {
	groups := strings.Split(string(f), "-")
	for _, g := range groups {
		if len(g) != fingerprintGroup || strings.Trim(g, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			return false
		}
	}
	return len(groups) == fingerprintGroups
}
