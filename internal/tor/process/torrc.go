package process

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/renameio/v2"
)

// write writes torrc, and an empty file for tor's defaults, so that nothing of
// the system's tor comes in.
func (f *files) write(cfg Config) error {
	text, err := f.render(cfg, os.Getpid())
	if err != nil {
		return fmt.Errorf("writing torrc: %w", err)
	}
	for name, content := range map[string]string{torrcFile: text, defaultsFile: ""} {
		if err := renameio.WriteFile(name, []byte(content), 0o600, renameio.WithRoot(f.root)); err != nil {
			return fmt.Errorf("writing torrc: %w", err)
		}
	}
	return nil
}

// render makes the text of torrc.
func (f *files) render(cfg Config, owner int) (string, error) {
	socks := cfg.SocksPort
	if socks == "" {
		socks = "0"
	}
	lines := append([]string{
		"DataDirectory " + quote(f.data),
		"ControlPort unix:" + quote(f.socket),
		"CookieAuthentication 1",
		"CookieAuthFile " + quote(f.cookie),
		"SocksPort " + socks,
		"ClientOnly 1",
		fmt.Sprintf("__OwningControllerProcess %d", owner),
		"Log notice stdout",
		"SafeLogging 1",
		"UseMicrodescriptors 1",
		// A client fetches a consensus an hour or two after it was made, and a
		// cache within half an hour; whoever asks a cache for the first time
		// has it before us. These two have us ask the authorities within
		// minutes, so that descriptors are where such a client looks. The
		// price: the authorities, and who sees our traffic, see a host that is
		// no relay and asks early. They learn nothing of what we fetch or
		// post, which goes over circuits as ever.
		"FetchDirInfoEarly 1",
		"FetchDirInfoExtraEarly 1",
		// Without streams tor would fall asleep after a day: fetches and posts
		// by the control port are no activity to it.
		"DormantTimeoutEnabled 0",
		"DormantCanceledByStartup 1",
	}, cfg.ExtraLines...)
	for _, line := range lines {
		if strings.ContainsAny(line, "\r\n\x00") || strings.HasSuffix(line, `\`) {
			return "", fmt.Errorf("line %q has a line break or ends in a backslash", line)
		}
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// quote writes a path as torrc wants it where it has spaces and the like.
func quote(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`).Replace(path) + `"`
}
