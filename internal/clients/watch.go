package clients

import (
	"crypto/sha256"
	"fmt"
	"os"

	"onionbalancer/internal/openfile"
)

// Watch notices changes of a directory of clients.
type Watch struct {
	InForce []Client // what was read last, and then authorized

	dir    string
	seen   stamp // at the last look
	read   stamp // of what was last read
	failed bool  // to be read
}

// NewWatch returns a Watch that finds all of a directory new.
func NewWatch(dir string) *Watch { return &Watch{dir: dir} }

// Look reads the directory if it changed since it was last read, or could not be read
// then. A change is read only if the look before saw the same one: until then
// somebody may be at work.
func (w *Watch) Look() (list []Client, changed bool, err error) {
	now := stampOf(w.dir)
	settled := now == w.seen
	w.seen = now
	if !settled || now == w.read && !w.failed {
		return nil, false, nil
	}
	list, err = Read(w.dir)
	w.read, w.failed = now, err != nil
	return list, true, err
}

// stamp identifies the state of a directory of clients.
type stamp [sha256.Size]byte

// stampOf looks at no more than the names and stamps of files.
func stampOf(dir string) (s stamp) {
	h := sha256.New()
	names, err := list(dir)
	fmt.Fprintln(h, err)
	for _, name := range names {
		// The file itself, not a link to it: in a volume of Kubernetes, links stay as
		// they are when files change.
		info, err := os.Stat(Path(dir, name))
		if err != nil {
			fmt.Fprintf(h, "%q %v\n", name, err)
			continue
		}
		fmt.Fprintf(h, "%q %v\n", name, openfile.StampOf(info))
	}
	h.Sum(s[:0])
	return s
}
