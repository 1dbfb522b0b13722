package state

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/owner"
)

// Earlier versions kept three JSON files for each service, in services/LABEL.
const (
	oldDir      = "services"
	importedDir = "services.imported"

	floorsFile = "revision-floors.json"
	heldFile   = "instance-descriptors.json"
	claimsFile = "introduction-keys.json"

	oldVersion = 1
	maxOldFile = 64 << 20
)

type oldFile[T any] struct {
	Version int                `json:"version"`
	Service descriptor.Address `json:"service"`
	Entries []T                `json:"entries"`
}

// oldHeld is the last good descriptor of an instance, as one service saw it.
type oldHeld struct {
	Instance descriptor.Address `json:"instance"`
	Period   uint64             `json:"period"`
	Minutes  uint64             `json:"period_length_minutes"`
	Renewed  time.Time          `json:"renewed"`
	Raw      []byte             `json:"descriptor"`
	Points   []struct {
		AuthKey   []byte    `json:"auth_key"`
		EncKey    []byte    `json:"enc_key"`
		Relay     string    `json:"relay"`
		FirstSeen time.Time `json:"first_seen"`
		Place     int       `json:"place"` // in the published descriptor, from 1
	} `json:"introduction_points"`
}

type oldClaim struct {
	Key      []byte             `json:"key"`
	Instance descriptor.Address `json:"instance"`
	Period   uint64             `json:"period"`
	Minutes  uint64             `json:"period_length_minutes"`
}

// oldState is the state of earlier versions, as records.
type oldState struct {
	services  map[descriptor.Address]Service
	instances map[descriptor.Address]Instance
	claims    map[descriptor.Period]Claims
}

// readOld reads the files of earlier versions; nil if there are none. Damaged ones
// are left out and reported to warn. It fails if a file cannot be read, or
// that it is a newer version's.
func readOld(dir string, warn func(path string, err error)) (*oldState, error) {
	paths, err := oldFiles(filepath.Join(dir, oldDir))
	if err != nil {
		return nil, fmt.Errorf("looking for the state of an earlier version: %w", owner.Explain(err, dir))
	}
	if len(paths) == 0 {
		return nil, nil
	}
	o := &oldState{make(map[descriptor.Address]Service), make(map[descriptor.Address]Instance), make(map[descriptor.Period]Claims)}
	for _, kind := range []struct {
		name string
		read func(path string) error
	}{
		{floorsFile, func(path string) error { return readOldFile(path, o.addFloors) }},
		{heldFile, func(path string) error { return readOldFile(path, o.addHeld) }}, // needs the floors
		{claimsFile, func(path string) error { return readOldFile(path, o.addClaims) }},
	} {
		for _, path := range paths {
			if filepath.Base(path) != kind.name {
				continue
			}
			if err := kind.read(path); errors.Is(err, ErrDamaged) {
				warn(path, err)
			} else if err != nil {
				return nil, fmt.Errorf("reading the state of an earlier version: %s: %w", path, err)
			}
		}
	}
	return o, nil
}

// oldFiles lists the files in the directories of dir.
func oldFiles(dir string) ([]string, error) {
	services, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	var paths []string
	for _, service := range services {
		if !service.IsDir() || err != nil {
			continue
		}
		var files []fs.DirEntry
		files, err = os.ReadDir(filepath.Join(dir, service.Name()))
		for _, f := range files {
			if filepath.Ext(f.Name()) == ".json" {
				paths = append(paths, filepath.Join(dir, service.Name(), f.Name()))
			}
		}
	}
	return paths, err
}

// readOldFile reads one file and hands it to add.
func readOldFile[T any](path string, add func(descriptor.Address, []T)) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxOldFile {
		return fmt.Errorf("%w: %s of %d bytes", ErrDamaged, info.Mode(), info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(raw, &version) == nil && version.Version > oldVersion {
		return fmt.Errorf("%w: version %d, this one knows %d", ErrNewer, version.Version, oldVersion)
	}
	var file oldFile[T]
	err = json.Unmarshal(raw, &file)
	switch label := filepath.Base(filepath.Dir(path)); {
	case err == nil && file.Version != oldVersion:
		err = fmt.Errorf("version %d", file.Version)
	case err == nil && file.Service.Label() != label:
		err = fmt.Errorf("it belongs to %s", file.Service.Short())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	add(file.Service, file.Entries)
	return nil
}

func (o *oldState) addFloors(service descriptor.Address, floors []Ceiling) {
	s := o.services[service]
	for _, f := range floors {
		s.Ceilings = raise(s.Ceilings, f)
	}
	o.services[service] = s
}

// raise returns the ceilings with c, or the higher one that is there.
func raise(ceilings []Ceiling, c Ceiling) []Ceiling {
	for i := range ceilings {
		if ceilings[i].Period == c.Period && ceilings[i].Minutes == c.Minutes {
			ceilings[i].Counter = max(ceilings[i].Counter, c.Counter)
			return ceilings
		}
	}
	return append(ceilings, c)
}

func (o *oldState) addHeld(service descriptor.Address, held []oldHeld) {
	type placed struct {
		place int
		point Published
	}
	var published []placed
	for _, h := range held {
		i := Instance{Period: h.Period, Minutes: h.Minutes, Revision: revisionOf(h.Raw), Renewed: h.Renewed, Raw: h.Raw}
		for _, p := range h.Points {
			if len(p.AuthKey) != 32 || len(p.EncKey) != 32 {
				continue
			}
			auth, enc := Bytes32(p.AuthKey), Bytes32(p.EncKey)
			i.Points = append(i.Points, Point{auth, enc, p.Relay, p.FirstSeen})
			if p.Place > 0 {
				published = append(published, placed{p.Place, Published{Instance: Address(h.Instance), AuthKey: auth, EncKey: enc, Relay: p.Relay}})
			}
		}
		o.instances[h.Instance] = merge(o.instances[h.Instance], i)
	}
	if len(published) == 0 {
		return
	}
	slices.SortStableFunc(published, func(a, b placed) int { return cmp.Compare(a.place, b.place) })
	s := o.services[service]
	s.Points = nil
	for _, p := range published {
		s.Points = append(s.Points, p.point)
	}
	// They are in the descriptors of the newest two periods.
	newest := slices.SortedFunc(slices.Values(s.Ceilings), func(a, b Ceiling) int { return cmp.Compare(b.Period, a.Period) })
	for _, c := range newest[:min(2, len(newest))] {
		s.Made = append(s.Made, Made{Period: c.Period, Minutes: c.Minutes, Revision: c.Counter})
	}
	o.services[service] = s
}

// merge returns the newer of two records of an instance, with the earliest times
// of both for their common points.
func merge(a, b Instance) Instance {
	newer, other := a, b
	if cmp.Or(cmp.Compare(a.Period*a.Minutes, b.Period*b.Minutes), cmp.Compare(a.Revision, b.Revision)) < 0 {
		newer, other = b, a
	}
	if newer.Period == other.Period && newer.Minutes == other.Minutes && newer.Revision == other.Revision && other.Renewed.Before(newer.Renewed) {
		newer.Renewed = other.Renewed
	}
	newer.Points = slices.Clone(newer.Points)
	for n := range newer.Points {
		p := &newer.Points[n]
		for _, q := range other.Points {
			if p.AuthKey == q.AuthKey && p.EncKey == q.EncKey && p.Relay == q.Relay && q.FirstSeen.Before(p.FirstSeen) {
				p.FirstSeen = q.FirstSeen
			}
		}
	}
	return newer
}

// revisionOf returns the revision counter of a descriptor, 0 if it has none.
func revisionOf(raw []byte) uint64 {
	for line := range bytes.Lines(raw) {
		if text, found := bytes.CutPrefix(line, []byte("revision-counter ")); found {
			revision, _ := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
			return revision
		}
	}
	return 0
}

func (o *oldState) addClaims(_ descriptor.Address, claims []oldClaim) {
	for _, c := range claims {
		if len(c.Key) != 32 {
			continue
		}
		p := descriptor.Period{Number: c.Period, Length: time.Duration(c.Minutes) * time.Minute}
		if o.claims[p].Keys == nil {
			o.claims[p] = Claims{make(map[Bytes32][]Address)}
		}
		o.claims[p].claim(Bytes32(c.Key), Address(c.Instance))
	}
}

// claim adds an instance to those that offered a key.
func (c Claims) claim(key Bytes32, instance Address) {
	if !slices.Contains(c.Keys[key], instance) {
		c.Keys[key] = append(c.Keys[key], instance)
	}
}

// changes returns the changes that merge the stored records and those that
// earlier versions left. The store has some of them if the move of the old files
// failed, or if an earlier version ran again after this one.
func (o *oldState) changes(s source) ([]Change, error) {
	services, err1 := mergeAll(s, o.services, ServiceKey, mergeService)
	instances, err2 := mergeAll(s, o.instances, InstanceKey, merge)
	claims, err3 := mergeAll(s, o.claims, ClaimsKey, mergeClaims)
	if err := cmp.Or(err1, err2, err3); err != nil {
		return nil, err
	}
	changes := slices.Concat(services, instances, claims)
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Key, b.Key) })
	return changes, nil
}

// mergeAll returns the changes that merge old into the records, where it changes
// anything.
func mergeAll[K comparable, T any](s source, old map[K]T, keyOf func(K) Key, merge func(present, old T) T) (changes []Change, err error) {
	for k, record := range old {
		key := keyOf(k)
		e, err := s.entry(key)
		if err != nil {
			return nil, err
		}
		if e.Version != 0 {
			var present T
			if err := decode(key, e.Value, &present); err != nil {
				return nil, err
			}
			record = merge(present, record)
		}
		c, err := Put(key, e.Version, record)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(c.Value, e.Value) {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func mergeService(present, old Service) Service {
	for _, c := range old.Ceilings {
		present.Ceilings = raise(present.Ceilings, c)
	}
	newer := compareMade(newest(old.Made), newest(present.Made)) > 0
	for _, m := range old.Made {
		m.Slots = nil // they are of other points
		i := slices.IndexFunc(present.Made, func(p Made) bool { return p.Period == m.Period && p.Minutes == m.Minutes })
		switch {
		case i >= 0 && present.Made[i].Revision < m.Revision:
			present.Made[i] = m
		case i < 0 && newer:
			present.Made = append(present.Made, m)
		}
	}
	if newer {
		present.Points = old.Points
		for n := range present.Made {
			present.Made[n].Slots = nil
		}
	}
	return present
}

// newest returns the last that was made, zero if none was.
func newest(list []Made) (last Made) {
	for _, m := range list {
		if compareMade(m, last) > 0 {
			last = m
		}
	}
	return last
}

func compareMade(a, b Made) int {
	return cmp.Or(cmp.Compare(a.Period*a.Minutes, b.Period*b.Minutes), cmp.Compare(a.Revision, b.Revision))
}

func mergeClaims(present, old Claims) Claims {
	if present.Keys == nil {
		present.Keys = make(map[Bytes32][]Address)
	}
	for key, instances := range old.Keys {
		for _, i := range instances {
			present.claim(key, i)
		}
	}
	return present
}

// moveAway renames the directory of the old files, and returns its name.
func (o *oldState) moveAway(dir string) (string, error) {
	for n := 1; ; n++ {
		name := importedDir
		if n > 1 {
			name = fmt.Sprintf("%s.%d", importedDir, n)
		}
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		return path, os.Rename(filepath.Join(dir, oldDir), path)
	}
}
