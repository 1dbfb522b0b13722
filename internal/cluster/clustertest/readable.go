package clustertest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"onionbalancer/descriptor"
)

// Readable returns which of the addresses and names somebody can read in content: an address
// as text or as bytes, also in hexadecimal or base64, half of it at least. Names are to be
// long enough to be found nowhere by chance.
func Readable(content []byte, addresses []descriptor.Address, names []string) (found []string) {
	lower := bytes.ToLower(content)
	for _, a := range addresses {
		key := a[:]
		for form, needle := range map[string][]byte{
			"text": []byte(a.Label()[:28]), "hexadecimal": []byte(hex.EncodeToString(key)[:32]),
		} {
			if bytes.Contains(lower, needle) {
				found = append(found, fmt.Sprintf("%s as %s", a.Label(), form))
			}
		}
		for form, needle := range map[string][]byte{
			"bytes": key[:16], "base64": []byte(base64.StdEncoding.EncodeToString(key)[:20]), "base64 for URLs": []byte(base64.URLEncoding.EncodeToString(key)[:20]),
		} {
			if bytes.Contains(content, needle) {
				found = append(found, fmt.Sprintf("%s as %s", a.Label(), form))
			}
		}
	}
	for _, name := range names {
		for form, needle := range map[string]string{"text": name, "base64": base64.StdEncoding.EncodeToString([]byte(name))[:len(name)*4/3]} {
			if bytes.Contains(content, []byte(needle)) {
				found = append(found, fmt.Sprintf("%s as %s", name, form))
			}
		}
	}
	return found
}
