package keystore

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/shell"
)

// The files of a tor service's directory.
const (
	torSecretFile   = "hs_ed25519_secret_key"
	torPublicFile   = "hs_ed25519_public_key"
	torHostnameFile = "hostname"
)

// Tor's key files begin with a tag, filled up with NULs.
const (
	torFamily    = "== ed25519"
	torSecretTag = "== ed25519v1-secret: type0 =="
	torPublicTag = "== ed25519v1-public: "
	torPublicTyp = torPublicTag + "type0 =="
	torTagSize   = 32
)

// torHeader is a tag as it stands in a file.
func torHeader(tag string) []byte {
	header := make([]byte, torTagSize)
	copy(header, tag)
	return header
}

// parseTor reads the content of hs_ed25519_secret_key: the header and an
// expanded secret key. It is as strict as tor, which puts a new key in the
// place of a file that it cannot read. file is its quoted path.
func parseTor(raw []byte, file string) (*descriptor.IdentityKey, error) {
	if len(raw) < torTagSize || !bytes.Equal(raw[:torTagSize], torHeader(torSecretTag)) {
		return nil, fmt.Errorf("the header is %q, want %q: not the secret key of an onion service",
			printable(raw[:min(len(raw), torTagSize)]), torSecretTag)
	}
	key := raw[torTagSize:]
	const keepTor = "and keep tor from the file, which would overwrite it"
	switch more := len(key) - descriptor.ExpandedKeySize; {
	case more == 0:
		return descriptor.NewIdentityKey(key)
	case len(key) == ed25519.SeedSize:
		return nil, fmt.Errorf("behind tor's header, want %d bytes, and there are %w", descriptor.ExpandedKeySize, ambiguous(key, "tail -c 32 "+file))
	case more > 0 && len(bytes.TrimSpace(key[descriptor.ExpandedKeySize:])) == 0:
		return nil, fmt.Errorf("%d bytes, want %d: an editor added a line end; run: (umask 077; head -c %[2]d %s > NEWFILE); %s",
			len(raw), torTagSize+descriptor.ExpandedKeySize, file, keepTor)
	case more > 0:
		return nil, fmt.Errorf("%d bytes, want %d: something was added or changed, as by copying it as text; copy it again as it is, %s",
			len(raw), torTagSize+descriptor.ExpandedKeySize, keepTor)
	}
	return nil, fmt.Errorf("%d bytes, want %d: the file is cut short; copy it again, or take the backup, %s",
		len(raw), torTagSize+descriptor.ExpandedKeySize, keepTor)
}

// printable cuts NULs off, and everything that is no tag.
func printable(header []byte) string {
	text, _, _ := strings.Cut(string(header), "\x00")
	if !strings.HasPrefix(text, torFamily) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return torFamily + "…"
	}
	return text
}

// checkNeighbours also checks the files that show the address: the files that tor
// keeps beside its key, or the key file's own name, as OnionBalance gives it.
func checkNeighbours(path string, address descriptor.Address) error {
	dir, name := filepath.Split(path)
	if named, err := descriptor.ParseAddress(strings.TrimSuffix(name, filepath.Ext(name))); err == nil && named != address {
		return fmt.Errorf("the file is named after %s, and the key in it is that of %s", named.Short(), address.Short())
	}
	if strings.HasPrefix(name, artiBlindedPrefix) {
		return fmt.Errorf("this is a blinded key of Arti's, which stands for a service in one period; the service's own is %s", artiSecretFile)
	}
	if name != torSecretFile {
		return nil
	}
	return errors.Join(
		checkNeighbour(filepath.Join(dir, torPublicFile), address, parsePublic),
		checkNeighbour(filepath.Join(dir, torHostnameFile), address, parseHostname),
	)
}

func checkNeighbour(path string, address descriptor.Address, parse func([]byte) (descriptor.Address, error)) error {
	raw, err := readSmall(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s beside it: %w", filepath.Base(path), err)
	}
	found, err := parse(raw)
	if err != nil {
		return fmt.Errorf("reading %s beside it: %w; if the secret key is the right one, move %s away", filepath.Base(path), err, path)
	}
	if found != address {
		return fmt.Errorf("%s beside it is of %s, and the secret key is that of %s: were files of two services mixed up? If the secret key is the right one, move %s away",
			filepath.Base(path), found.Short(), address.Short(), path)
	}
	return nil
}

func parsePublic(raw []byte) (descriptor.Address, error) {
	if len(raw) != torTagSize+32 || !bytes.Equal(raw[:torTagSize], torHeader(torPublicTyp)) {
		return descriptor.Address{}, fmt.Errorf("not a public key of an onion service in %d bytes", torTagSize+32)
	}
	address := descriptor.Address(raw[torTagSize:])
	return address, address.Validate()
}

func parseHostname(raw []byte) (descriptor.Address, error) {
	return descriptor.ParseAddress(strings.TrimSpace(string(raw)))
}

func isHostname(raw []byte) bool {
	_, err := parseHostname(raw)
	return err == nil
}

// readSmall reads a public file of at most maxKeyFile bytes.
func readSmall(path string) ([]byte, error) {
	f, _, err := openfile.Regular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

const (
	privateDir  = 0o700
	privateFile = 0o600
)

// Fresh is an identity key that is nowhere yet but in locked memory. It neither
// prints nor marshals.
type Fresh struct {
	key  *descriptor.IdentityKey
	seed *locked.Buffer
}

// New makes an identity key with the given source of randomness,
// crypto/rand.Reader but in tests. The caller writes it, then wipes it.
func New(random io.Reader) (*Fresh, error) {
	seed := locked.New(ed25519.SeedSize)
	if _, err := seed.Fill(random); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	var key *descriptor.IdentityKey
	var err error
	seed.Use(func(seed []byte) { key, err = descriptor.IdentityKeyFromSeed(seed) })
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return &Fresh{key: key, seed: seed}, nil
}

// Address returns the onion address.
func (f *Fresh) Address() descriptor.Address { return f.key.Address() }

// Identity returns the key itself, which Wipe wipes.
func (f *Fresh) Identity() *descriptor.IdentityKey { return f.key }

// Wipe overwrites the secret; f is useless afterwards.
func (f *Fresh) Wipe() {
	f.key.Wipe()
	f.seed.Wipe()
}

// WriteTor writes the key as WriteTor does.
func (f *Fresh) WriteTor(dir string) error { return WriteTor(dir, f.key) }

// WritePEM writes the key to a new file at path, in the form that OnionBalance
// uses, with mode 0600. It never overwrites. Missing directories are made.
func (f *Fresh) WritePEM(path string) error {
	text, err := encodePEM(f.seed)
	if err != nil {
		return err
	}
	defer text.Wipe()
	if err := os.MkdirAll(filepath.Dir(path), privateDir); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	text.Use(func(text []byte) { err = writeNew([]file{{path, text}}) })
	return err
}

// WriteTor writes key as a tor service's directory: hs_ed25519_secret_key,
// hs_ed25519_public_key and hostname, with mode 0600. The directory is made
// with mode 0700 if it is missing, and refused if others can use it, as tor
// would. No file is ever overwritten, and the files are on the disk when
// WriteTor returns.
func WriteTor(dir string, key *descriptor.IdentityKey) error {
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return fmt.Errorf("writing key: others than its owner can use the directory %q (mode %04o), and tor would refuse it: run: chmod 700 %s",
			dir, info.Mode().Perm(), shell.Quote(dir))
	}
	secret := key.Secret()
	defer secret.Wipe()
	content := locked.New(torTagSize + secret.Len())
	defer content.Wipe()
	address := key.Address()
	content.Use(func(content []byte) {
		copy(content, torHeader(torSecretTag))
		secret.Use(func(secret []byte) { copy(content[torTagSize:], secret) })
		err = writeNew([]file{
			// The secret first: tor can make the others from it, but not the reverse.
			{filepath.Join(dir, torSecretFile), content},
			{filepath.Join(dir, torPublicFile), append(torHeader(torPublicTyp), address[:]...)},
			{filepath.Join(dir, torHostnameFile), []byte(address.String() + "\n")},
		})
	})
	return err
}

type file struct {
	path    string
	content []byte
}

// writeNew writes all files or, on an error, none of them.
func writeNew(files []file) (err error) {
	for _, f := range files {
		if _, err := os.Lstat(f.path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("writing key: %q exists already, and keys are never overwritten: %w", f.path, os.ErrExist)
		}
	}
	for i, f := range files {
		if err := durable.WriteNew(f.path, f.content, privateFile); err != nil {
			for _, made := range files[:i] {
				err = errors.Join(err, os.Remove(made.path))
			}
			return fmt.Errorf("writing key: %w", err)
		}
	}
	dir := filepath.Dir(files[0].path)
	// The parent too, since the directory itself may be new.
	return errors.Join(durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir)))
}

var errSecretText = errors.New("keystore: a secret key has no text form")

// String, Format and the marshallers keep the secret from being shown.
func (f *Fresh) String() string { return "[secret]" }

// Format writes String for all verbs.
func (f *Fresh) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(f.String())) }

// MarshalText refuses.
func (f *Fresh) MarshalText() ([]byte, error) { return nil, errSecretText }
