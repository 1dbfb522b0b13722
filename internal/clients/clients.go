// Package clients reads and writes the directories of authorized clients, in the
// format of tor's authorized_clients: a file NAME.auth for each client, with
// "descriptor:x25519:" and the client's public key. Other files are ignored, as
// tor does.
package clients

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/openfile"
)

// extension ends the name of a client's file.
const extension = ".auth"

// maxFile bounds what is read of a client's file, in bytes.
const maxFile = 4096

// Client is one authorized client.
type Client struct {
	Name string
	Key  descriptor.AuthorizedClient
}

// ErrNone is wrapped by the error of Read about a directory without clients. With
// none, the service would be open to everybody.
var ErrNone = errors.New("no .auth file")

// Read returns the clients in a directory, by name. tor passes over a file that it
// cannot read, and opens the service to everybody if none is left; that is an error
// here, which names the file, beside the clients that could be read.
func Read(dir string) ([]Client, error) {
	names, err := list(dir)
	if err != nil {
		return nil, err
	}
	var all []Client
	var bad []error
	for _, name := range names {
		key, err := readFile(Path(dir, name))
		if err != nil {
			bad = append(bad, err)
			continue
		}
		all = append(all, Client{name, key})
	}
	switch {
	case len(bad) > 1:
		return all, fmt.Errorf("%w, and %d other files", bad[0], len(bad)-1)
	case len(bad) > 0:
		return all, bad[0]
	case len(all) == 0:
		return nil, fmt.Errorf("opening the authorized clients: %w in %s", ErrNone, dir)
	}
	return all, nil
}

// Path returns the path of a client's file.
func Path(dir, name string) string { return filepath.Join(dir, name+extension) }

// list returns the names of the clients in a directory, in order.
func list(dir string) (names []string, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the authorized clients: %w", err)
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), extension); ok && name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

func readFile(path string) (descriptor.AuthorizedClient, error) {
	f, _, err := openfile.Regular(path)
	if err != nil {
		return descriptor.AuthorizedClient{}, fmt.Errorf("opening the authorized clients: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	var key descriptor.AuthorizedClient
	if err == nil {
		key, err = descriptor.ParseAuthorizedClient(text)
	}
	if err != nil {
		return key, fmt.Errorf("reading the authorized client %s: %w", path, err)
	}
	return key, nil
}

// Keys returns the keys of clients, in order, each once: what a descriptor is made
// for does not depend on names.
func Keys(list []Client) (keys []descriptor.AuthorizedClient) {
	for _, c := range list {
		keys = append(keys, c.Key)
	}
	slices.SortFunc(keys, func(a, b descriptor.AuthorizedClient) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return slices.Compact(keys)
}

// CheckRoom returns an error if a descriptor with the CAA records has no room for all
// of the clients. It names those who have to leave: others than those in force, if
// it can.
func CheckRoom(list []Client, caa []descriptor.CAA, inForce []descriptor.AuthorizedClient) error {
	c := descriptor.Contents{CAA: caa}
	if err := c.CheckRoom(0); err != nil {
		return err
	}
	c.Clients = Keys(list)
	err := c.CheckRoom(0)
	if err == nil {
		return nil
	}
	added := Without(list, inForce)
	last := append(Without(list, Keys(added)), added...)[c.MaxClients(0):]
	return fmt.Errorf("%w: there is no room for %s", err, Names(last))
}

// maxNames is how many names a message lists.
const maxNames = 8

// Names lists the names of clients for a message.
func Names(list []Client) string {
	var names []string
	for _, c := range list[:min(len(list), maxNames)] {
		names = append(names, c.Name)
	}
	text := strings.Join(names, ", ")
	if more := len(list) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Without returns the clients of list whose keys are not among keys.
func Without(list []Client, keys []descriptor.AuthorizedClient) []Client {
	return slices.DeleteFunc(slices.Clone(list), func(c Client) bool { return slices.Contains(keys, c.Key) })
}
