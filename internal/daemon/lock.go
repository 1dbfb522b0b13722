package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"onionbalancer/internal/filelock"
)

// lockFile is held while a daemon runs, inside state_dir.
const lockFile = "lock"

// lockState claims state_dir for this process: two balancers that publish the
// same address would overtake each other's revision counters for ever. The
// kernel releases the claim when the process ends, however it ends. A
// directory that cannot be written is no error: what that costs is reported
// where it shows.
func lockState(dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}, nil
	}
	if err := filelock.TryLock(f); err != nil {
		f.Close()
		if errors.Is(err, filelock.ErrLocked) {
			return nil, fmt.Errorf("another balancer is running with state_dir %s: stop it, or give this one a state_dir of its own", dir)
		}
		return func() {}, nil
	}
	return func() { f.Close() }, nil
}
