package config

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"onionbalancer/descriptor"
	"onionbalancer/internal/shell"
)

// torrcLine is a line as only a torrc or an ob_config has it.
var torrcLine = regexp.MustCompile(`(?mi)^\s*(HiddenService\w+|MasterOnionAddress|SocksPort|ControlPort|ControlSocket|UseBridges|Bridge|ClientTransportPlugin)[ \t]+\S`)

// foreign recognises a file that is not a configuration at all, and says what it
// is and what to do; nil if it may be one.
func foreign(data []byte, path string) *Error {
	fault := func(format string, args ...any) *Error { return &Error{File: path, Err: fmt.Errorf(format, args...)} }
	text := strings.TrimSpace(strings.TrimPrefix(string(data), "\ufeff"))
	switch {
	case utf16(data):
		return fault("is UTF-16 text; run: iconv -f UTF-16 -t UTF-8 %s > %s", shell.Quote(path), shell.Quote(path+".utf8"))
	case strings.HasPrefix(text, "== ed25519v1-"), strings.HasPrefix(text, "-----BEGIN"):
		return fault("is a key, and no configuration; name it in one: %s", write("key", path))
	case strings.HasPrefix(text, "{"), strings.HasPrefix(text, "[{"):
		return fault("is JSON; the configuration is TOML, as doc/balancer.example.toml shows it")
	}
	if _, err := descriptor.ParseAddress(text); err == nil {
		return fault("is a hostname file, and no configuration; its address goes into one: %s", write("address", text))
	}
	return nil
}

// utf16 recognises UTF-16, by its mark or by the zero bytes of its first letters.
func utf16(data []byte) bool {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return true
	}
	return len(data) >= 4 && (data[0] != 0 && data[1] == 0 && data[3] == 0 || data[0] == 0 && data[1] != 0 && data[2] == 0)
}

// otherFormat recognises the configurations of other programs in what is no
// TOML; nil if it knows none.
func otherFormat(data []byte, path string) *Error {
	if converted := fromOnionBalance(data, filepath.Dir(path)); converted != "" {
		return &Error{File: path, Instead: converted,
			Err: fmt.Errorf("is OnionBalance's, in YAML; balancer's is TOML. This prints the same as TOML: balancer check --offline --config %s", shell.Quote(path))}
	}
	if torrcLine.Match(data) {
		return &Error{File: path, Err: errors.New("is a file of tor's; balancer's configuration is TOML, as doc/balancer.example.toml shows it")}
	}
	return nil
}

// onionBalance is what config.yaml of OnionBalance 0.2 has for us.
type onionBalance struct {
	Services []struct {
		Key       string
		Instances []struct{ Name, Address string }
	}
}

// fromOnionBalance converts OnionBalance's config.yaml, in the directory dir, to
// a configuration of ours; "" if it is none.
func fromOnionBalance(data []byte, dir string) string {
	var from onionBalance
	if err := yaml.Unmarshal(data, &from); err != nil || len(from.Services) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString(write("state_dir", "/var/lib/balancer") + "\n")
	for _, s := range from.Services {
		key := s.Key
		if key != "" && !filepath.IsAbs(key) {
			key = filepath.Join(dir, key)
		}
		fmt.Fprintf(&out, "\n[[service]]\n%s\n", write("key", key))
		for _, i := range s.Instances {
			out.WriteString("\n  [[service.instance]]\n")
			if i.Name != "" {
				fmt.Fprintf(&out, "  %s\n", write("name", i.Name))
			}
			address := i.Address
			if a, err := descriptor.ParseAddress(address); err == nil {
				address = a.String()
			}
			fmt.Fprintf(&out, "  %s\n", write("address", address))
		}
	}
	return out.String()
}
