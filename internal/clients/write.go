package clients

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"

	"onionbalancer/internal/durable"
)

// aName is what a client may be called: what no shell and no log needs to quote.
var aName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)

// CheckName returns an error if Add refuses the name.
func CheckName(name string) error {
	if !aName.MatchString(name) {
		return fmt.Errorf("%q cannot be the name of a client: want up to 64 letters, digits and any of . _ -, not beginning with . or -", name)
	}
	return nil
}

// Add writes the file of a new client, which appears with all of its content or not
// at all, and makes the directory if it is not there.
func Add(dir string, c Client) error {
	err := CheckName(c.Name)
	if err == nil {
		err = durable.WriteChecked(Path(dir, c.Name), []byte(c.Key.String()+"\n"), func(string) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("adding client %s: %w", c.Name, err)
	}
	return nil
}

// Remove removes the file of a client that is in the directory.
func Remove(dir, name string) error {
	names, err := list(dir)
	switch {
	case err != nil:
	case !slices.Contains(names, name):
		err = fmt.Errorf("there is none of this name in %s: %w", dir, fs.ErrNotExist)
	default:
		err = errors.Join(os.Remove(Path(dir, name)), durable.SyncDir(dir))
	}
	if err != nil {
		return fmt.Errorf("removing client %q: %w", name, err)
	}
	return nil
}
