package keystore

import "regexp"

// strangers are files that people take for a key, told by a piece of their text.
var strangers = []struct {
	text *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`(?m)^\s*\[\[?[A-Za-z_.]+\]\]?\s*(#.*)?$|^\s*(state_dir|key|signing|strategy|address|control)\s*=`),
		"this is TOML, balancer's configuration for one, and no key; the key is in the file that a line key = \"PATH\" in it names"},
	{regexp.MustCompile(`(?m)^kind:\s*Secret\b`), "this is a manifest of Kubernetes, and no key; mount the secret, and name the file in the volume"},
	{regexp.MustCompile(`(?m)^\s*-?\s*(services|instances|key|address):(\s|$)`),
		"this is YAML, OnionBalance's configuration for one, and no key; the key is in the file that a line key: PATH in it names"},
	{regexp.MustCompile(`(?m)^MasterOnionAddress\s`), "this is a backend's ob_config, and no key"},
	{regexp.MustCompile(`(?mi)^\s*(HiddenService[A-Za-z]+|SocksPort|ControlPort|ControlSocket|DataDirectory)\s`),
		"this is a torrc, and no key; the key is hs_ed25519_secret_key in the directory that HiddenServiceDir names"},
	{regexp.MustCompile(`(?i)^(([a-z2-7]{56}:)?descriptor:x25519:)?[a-z2-7]{52}$`),
		"this is a key of client authorization, and not of a service; in the configuration it belongs to client_key of an instance"},
	{regexp.MustCompile(`^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA`), "this is a public key of OpenSSH, and not of an onion service"},
	{regexp.MustCompile(`^PuTTY-User-Key-File-`), "this is a key of PuTTY, and not of an onion service"},
	{regexp.MustCompile(`^age-encryption\.org/`), "the file is encrypted by age; decrypt it with: age -d -o NEWFILE FILE"},
	{regexp.MustCompile(`^RSA1024:`), foreign["RSA PRIVATE KEY"]},
	{regexp.MustCompile(`BEGIN [A-Z ]*PRIVATE KEY`), "the dashes around BEGIN and END are not the five plain ones that they were: write -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----"},
	{regexp.MustCompile(`(?i)^\s*<(!doctype|html|\?xml)`), "this is a web page, and no key"},
	{regexp.MustCompile(`^[{\[]`), "this is JSON, and no key"},
}

// recognise says what a text is that is known to be no key; empty if it may be
// one. FILE in it stands for the path.
func recognise(text []byte) string {
	for _, s := range strangers {
		if s.text.Match(text) {
			return s.what
		}
	}
	return ""
}
