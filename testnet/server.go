package testnet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// server is a tor that runs services.
type server struct {
	*node
	controlPort string
	services    []*Service
}

// launch starts the services' tor and reads their addresses.
func (v *server) launch(ctx context.Context) error {
	t := v.net.clientConfig(v.dir, "", v.controlPort)
	for _, s := range v.services {
		s.torrc(t)
	}
	if err := t.write(v.dir); err != nil {
		return err
	}
	if err := v.start(ctx); err != nil {
		return err
	}
	for _, s := range v.services {
		hostname, err := os.ReadFile(filepath.Join(s.dir, "hostname"))
		if err != nil {
			return err
		}
		s.address = string(bytes.TrimSpace(hostname))
	}
	return nil
}

// torrc adds the service's lines.
func (s *Service) torrc(t *torrc) {
	t.path("HiddenServiceDir", s.dir)
	t.set("HiddenServiceVersion", 3)
	t.set("HiddenServicePort", "80 "+s.backend.address)
	if len(s.config.Masters) > 0 {
		t.set("HiddenServiceOnionBalanceInstance", 1)
	}
	if s.config.IntroductionPoints > 0 {
		t.set("HiddenServiceNumIntroductionPoints", s.config.IntroductionPoints)
	}
	for _, option := range s.config.Options {
		key, value, _ := strings.Cut(option, " ")
		t.set(key, value)
	}
}

// writeMasters writes ob_config. Tor crashes on one without an address, and
// may read it at any time, so there is either a whole one or none.
func (s *Service) writeMasters() error {
	if len(s.config.Masters) == 0 {
		return nil
	}
	var text strings.Builder
	for _, master := range s.config.Masters {
		if len(master) != 56+len(".onion") || !strings.HasSuffix(master, ".onion") {
			return fmt.Errorf("%q is no onion address", master)
		}
		fmt.Fprintf(&text, "MasterOnionAddress %s\n", master)
	}
	path := filepath.Join(s.dir, "ob_config")
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
