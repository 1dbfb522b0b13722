package config

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// StateDir returns the state directory that the file at path names, for a file
// that Load refuses: a daemon that read it while it was good still uses that
// one. What cannot be told from the file is the default. It goes by lines, since
// a file with one bad line cannot be read as a whole.
func StateDir(path string) string {
	root := &table{dir: filepath.Dir(path)}
	f, err := os.Open(path)
	if err != nil {
		return root.absolute(defaultState)
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxSize)) // as much as there is
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "[") {
			break // of a table: no key of the file itself comes any more
		}
		var found struct {
			StateDir string `toml:"state_dir"`
		}
		if _, err := toml.Decode(line, &found); err == nil && pathProblem(found.StateDir) == nil {
			return root.absolute(found.StateDir)
		}
	}
	return root.absolute(defaultState)
}
