package offline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

// header begins every document.
type header struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
}

// The kinds of documents, all of the same version.
const (
	kindRequest = "balancer ceremony request"
	kindBundle  = "balancer ceremony bundle"
	kindKeys    = "balancer ceremony keys"

	version = 1
)

// MaxFile is the size in bytes of the largest document that is read.
const MaxFile = 64 << 20

// Secret is bytes that documents hold and nothing else shows.
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

// decode reads the document raw of a kind into doc, and refuses whatever encode
// would write in another way, white space excepted: so there is one text for
// each content, and nothing in it that is passed over.
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
	case h.Version != version:
		return fmt.Errorf("version %d, and this balancer knows version %d", h.Version, version)
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
		err = fmt.Errorf("a document of %d bytes, which nobody would read, as %d are the most: do with fewer periods or addresses at once", len(raw), MaxFile)
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
