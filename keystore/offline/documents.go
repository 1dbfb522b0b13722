package offline

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/durable"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

// header begins every document.
type header struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
}

// The kinds of documents.
const (
	kindRequest = "balancer ceremony request"
	kindBundle  = "balancer ceremony bundle"
	kindKeys    = "balancer ceremony keys"
)

// The versions of documents. The second, of bundles alone, has certificates of every
// hour; a bundle without any is of the first.
const (
	version       = 1
	versionHourly = 2
)

// MaxFile is the size in bytes of the largest document that is read.
const MaxFile = 128 << 20

// Secret is bytes in documents that are never shown.
type Secret []byte

// String hides the bytes.
func (Secret) String() string { return "[secret]" }

// Format writes String whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// IsBundle reports whether raw says that it is a bundle. ParseBundle finds out
// whether it is.
func IsBundle(raw []byte) bool {
	var h header
	return json.Unmarshal(raw, &h) == nil && h.Kind == kindBundle
}

// decode reads the document raw of a kind into doc, and refuses any text that differs
// from the output of encode, except in white space: so there is one text for
// each content, and nothing in it is ignored.
func decode(raw []byte, kind string, doc any) error {
	if len(raw) > MaxFile {
		return fmt.Errorf("%d bytes, more than %d", len(raw), MaxFile)
	}
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return fmt.Errorf("no %s, or a damaged one: %w", kind, err)
	}
	switch {
	case h.Kind != kind && h.Kind != "":
		return fmt.Errorf("this is a %q, want a %q", h.Kind, kind)
	case h.Kind == "":
		return fmt.Errorf("this is no %s", kind)
	case h.Version != version && (kind != kindBundle || h.Version != versionHourly):
		return fmt.Errorf("version %d, which this balancer does not know: it is older than the one that wrote it", h.Version)
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(doc); err != nil {
		return err
	}
	again, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	defer clear(again)
	var squeezed bytes.Buffer
	if err := json.Compact(&squeezed, raw); err != nil {
		return err
	}
	defer func() { clear(squeezed.Bytes()) }()
	if at := firstDifference(squeezed.Bytes(), again); at >= 0 {
		return fmt.Errorf("not as balancer writes it, from character %d on (white space left out): was it edited?", at+1)
	}
	return nil
}

// firstDifference returns where a and b differ first, -1 if they do not.
func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

// encode writes doc for people, indented, if it is not too large to be read
// again; compact writes it for QR codes.
func encode(doc any) ([]byte, error) {
	raw, err := json.MarshalIndent(doc, "", " ")
	if err == nil && len(raw) >= MaxFile {
		err = fmt.Errorf("a document of %d bytes, which is over the limit of %d: use fewer periods or addresses at once", len(raw), MaxFile)
	}
	return append(raw, '\n'), err
}

func compact(doc any) ([]byte, error) { return json.Marshal(doc) }

// checkTime refuses times that are not whole seconds of UTC, or nonsense.
func checkTime(t time.Time) error {
	if t.Unix() <= 0 || t.Unix() > endOfTime*60 || t.Nanosecond() != 0 || t.Location() != time.UTC {
		return fmt.Errorf("the time %s, want whole seconds of UTC", t.Format(time.RFC3339Nano))
	}
	return nil
}

// stamp returns t as documents have it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// ReadFile reads a document from a file: at most MaxFile bytes of a regular one.
func ReadFile(path string) ([]byte, error) {
	raw, _, err := readFile(path)
	return raw, err
}

func readFile(path string) ([]byte, os.FileInfo, error) {
	f, info, err := openFile(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return raw, info, nil
}

func openFile(path string) (*os.File, os.FileInfo, error) {
	f, info, err := openfile.Regular(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("%w: %w", err, strictmodes.Current().Denied(path))
	}
	if err != nil {
		return nil, nil, err
	}
	switch size := info.Size(); {
	case size > MaxFile:
		err = fmt.Errorf("%s has %d bytes, more than %d", path, size, MaxFile)
	case size == 0:
		err = fmt.Errorf("reading %s: the file is empty", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Fingerprint is for comparison by eye: the first 120 bits of a SHA-256,
// as six groups of four characters.
type Fingerprint string

const (
	fingerprintGroups = 6
	fingerprintGroup  = 4
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// fingerprint hashes parts, groups characters of which are shown.
func fingerprint(groups int, parts ...[]byte) Fingerprint {
	h := sha256.New()
	for _, part := range parts {
		h.Write(part)
	}
	text := base32Lower.EncodeToString(h.Sum(nil))
	list := make([]string, groups)
	for i := range list {
		list[i] = text[i*fingerprintGroup : (i+1)*fingerprintGroup]
	}
	return Fingerprint(strings.Join(list, "-"))
}

// KeyFingerprint returns the short fingerprint of a public key, two groups.
func KeyFingerprint(key []byte) Fingerprint {
	return fingerprint(2, []byte("balancer ceremony signing key\x00"), key)
}

// Is compares f with what somebody typed, who may have left out the hyphens.
func (f Fingerprint) Is(typed string) bool { return plain(typed) == plain(string(f)) }

// EndsWith compares what somebody typed with the last group of f, or with all of
// it.
func (f Fingerprint) EndsWith(typed string) bool {
	all := plain(string(f))
	return plain(typed) == all[len(all)-fingerprintGroup:] || f.Is(typed)
}

func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(s))
}

// valid says whether f has the form of one.
func (f Fingerprint) valid() bool {
	groups := strings.Split(string(f), "-")
	for _, g := range groups {
		if len(g) != fingerprintGroup || strings.Trim(g, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			return false
		}
	}
	return len(groups) == fingerprintGroups
}

// Creatable returns an error if one of the paths cannot be a new file, as far as
// can be told before: documents never take the place of anything.
func Creatable(paths ...string) error {
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s exists already, and nothing is overwritten: %w", path, os.ErrExist)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		dir := filepath.Dir(path)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("no file can be made in %s: %w", dir, err)
		}
	}
	return nil
}

// WriteNew writes a new file that only its owner can read, and syncs it.
func WriteNew(path string, content []byte) error {
	if err := durable.WriteNew(path, content, privateFile); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
