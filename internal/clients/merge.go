package clients

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
)

// Named are clients by their names.
type Named map[string]descriptor.AuthorizedClient

// NamedOf returns the clients of a list.
func NamedOf(list []Client) Named {
	all := Named{}
	for _, c := range list {
		all[c.Name] = c.Key
	}
	return all
}

// Merge returns theirs with the changes that turned base into ours.
func Merge(base, ours, theirs Named) Named {
	merged := maps.Clone(theirs)
	if merged == nil {
		merged = Named{}
	}
	for name, key := range ours {
		if was, there := base[name]; !there || was != key {
			merged[name] = key
		}
	}
	for name := range base {
		if _, there := ours[name]; !there {
			delete(merged, name)
		}
	}
	return merged
}

// Write has the directory, which has the clients before, have others. Where it fails, the rest
// is written all the same.
func Write(dir string, before, after Named) error {
	var failed error
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if was, there := before[name]; there && was == after[name] {
			continue
		}
		if err := set(dir, Client{name, after[name]}); err != nil && failed == nil {
			failed = fmt.Errorf("writing client %q: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, stays := after[name]; !stays {
			if err := Remove(dir, name); err != nil && failed == nil {
				failed = err
			}
		}
	}
	return failed
}

// set writes the file of a client, in the place of one that may be there.
func set(dir string, c Client) error {
	if c.Name == "" || filepath.Base(c.Name) != c.Name || strings.HasPrefix(c.Name, ".") {
		return CheckName(c.Name)
	}
	return durable.ReplaceChecked(Path(dir, c.Name), []byte(c.Key.String()+"\n"), func(string) error { return nil })
}
