package offline

import (
	"bytes"
	"testing"

	"onionbalancer/internal/locked/lockedtest"
)

// fuzzDocument: what parses is written again as it was, but for white space,
// and parses once more; what does not parse is an error and nothing worse.
func fuzzDocument(f *testing.F, parse func([]byte) (any, error)) {
	for name := range parsers {
		f.Add(readGolden(f, name))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := parse(raw)
		if err != nil {
			return
		}
		once, err := encodeDocument(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(once)
		if err != nil {
			t.Fatalf("%s\n%v", once, err)
		}
		if twice, err := encodeDocument(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s\n%s\n%v", once, twice, err)
		}
		if kept := bytes.Join(bytes.Fields(once), nil); !bytes.Equal(kept, bytes.Join(bytes.Fields(raw), nil)) {
			t.Fatalf("%s\nis taken for\n%s", raw, once)
		}
	})
}

// encodeDocument writes a document as its file has it.
func encodeDocument(doc any) ([]byte, error) {
	keys, ok := doc.(*keysFile)
	if !ok {
		return encode(doc)
	}
	raw, err := keys.encode()
	if err != nil {
		return nil, err
	}
	return lockedtest.Bytes(raw), nil
}

func FuzzRequest(f *testing.F) { fuzzDocument(f, parsers["request.json"]) }
func FuzzBundle(f *testing.F)  { fuzzDocument(f, parsers["bundle.json"]) }
func FuzzKeys(f *testing.F)    { fuzzDocument(f, parsers["keys.json"]) }
