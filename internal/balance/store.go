package balance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
)

// Floor is the highest revision counter used in a period of a service. No
// descriptor of that period may carry it, or a lower one, again.
type Floor struct {
	Period   uint64 `json:"period"`
	Minutes  uint64 `json:"period_length_minutes"`
	Revision uint64 `json:"revision_counter"`
}

// Held is the last good descriptor of an instance, as the HSDir sent it.
type Held struct {
	Instance descriptor.Address `json:"instance"`
	Period   uint64             `json:"period"`
	Minutes  uint64             `json:"period_length_minutes"`
	Renewed  time.Time          `json:"renewed"` // when its revision was first seen
	Raw      []byte             `json:"descriptor"`
	Points   []HeldPoint        `json:"introduction_points,omitempty"` // of Raw
}

// HeldPoint is what is known of an introduction point beside what the descriptor
// says.
type HeldPoint struct {
	AuthKey   []byte    `json:"auth_key"` // 32 bytes
	EncKey    []byte    `json:"enc_key"`  // 32 bytes
	Relay     string    `json:"relay"`    // RSA fingerprint
	FirstSeen time.Time `json:"first_seen"`
	Place     int       `json:"place,omitempty"` // in the published descriptor, from 1
}

// Store keeps what must outlive the process. Loading what was never saved gives
// nothing and no error. A Store is safe for concurrent use by several services.
type Store interface {
	LoadFloors(service descriptor.Address) ([]Floor, error)
	SaveFloors(service descriptor.Address, floors []Floor) error
	LoadHeld(service descriptor.Address) ([]Held, error)
	SaveHeld(service descriptor.Address, held []Held) error
	LoadClaims(service descriptor.Address) ([]Claim, error)
	SaveClaims(service descriptor.Address, claims []Claim) error
}

// Dir is a Store in a directory: three files for each service, readable by their
// owner alone. A file is replaced as a whole and synced to the disk, so that a
// power cut leaves the old one or the new one.
type Dir string

const (
	floorsFile = "revision-floors.json"
	heldFile   = "instance-descriptors.json"
	claimsFile = "introduction-keys.json"

	stateVersion = 1
	maxStateFile = 64 << 20 // 64 MiB
)

// stateFile is the form of each file.
type stateFile[T any] struct {
	Version int                `json:"version"`
	Service descriptor.Address `json:"service"`
	Entries []T                `json:"entries"`
}

// LoadFloors reads the floors of a service.
func (d Dir) LoadFloors(service descriptor.Address) ([]Floor, error) {
	return load[Floor](d, service, floorsFile)
}

// SaveFloors replaces the floors of a service.
func (d Dir) SaveFloors(service descriptor.Address, floors []Floor) error {
	return save(d, service, floorsFile, floors)
}

// LoadHeld reads the instances' descriptors held for a service.
func (d Dir) LoadHeld(service descriptor.Address) ([]Held, error) {
	return load[Held](d, service, heldFile)
}

// SaveHeld replaces the instances' descriptors held for a service.
func (d Dir) SaveHeld(service descriptor.Address, held []Held) error {
	return save(d, service, heldFile, held)
}

// LoadClaims reads which instance of a service has which keys.
func (d Dir) LoadClaims(service descriptor.Address) ([]Claim, error) {
	return load[Claim](d, service, claimsFile)
}

// SaveClaims replaces what is stored of which instance of a service has which keys.
func (d Dir) SaveClaims(service descriptor.Address, claims []Claim) error {
	return save(d, service, claimsFile, claims)
}

func (d Dir) path(service descriptor.Address, name string) string {
	return filepath.Join(string(d), "services", service.Label(), name)
}

// load reads one file. A damaged one is put aside, never overwritten: it may be
// the only witness of the last revision counter.
func load[T any](d Dir, service descriptor.Address, name string) ([]T, error) {
	path := d.path(service, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxStateFile {
		err = fmt.Errorf("%d bytes, more than %d", info.Size(), maxStateFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s of %s: %w", name, service.Short(), err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s of %s: %w", name, service.Short(), err)
	}
	var file stateFile[T]
	err = json.Unmarshal(raw, &file)
	switch {
	case err == nil && file.Version != stateVersion:
		err = fmt.Errorf("version %d, this balancer writes %d", file.Version, stateVersion)
	case err == nil && file.Service != service:
		err = fmt.Errorf("it belongs to %s", file.Service.Short())
	}
	if err != nil {
		aside := path + ".damaged"
		return nil, fmt.Errorf("reading %s of %s: %w; put aside as %s",
			name, service.Short(), errors.Join(err, os.Rename(path, aside)), filepath.Base(aside))
	}
	return file.Entries, nil
}

func save[T any](d Dir, service descriptor.Address, name string, entries []T) error {
	path := d.path(service, name)
	raw, err := json.Marshal(stateFile[T]{Version: stateVersion, Service: service, Entries: entries})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(path, raw, 0o600)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing %s of %s: %w", name, service.Short(), err)
	}
	return nil
}
