package descriptor

import (
	"errors"
	"fmt"
)

// firstLayer is the parsed plaintext of the first layer (rend-spec-v3,
// section 2.5.1).
type firstLayer struct {
	ephemeral [32]byte
	clients   []AuthClient
	caa       bool
	blob      []byte // the second layer, encrypted
	blobLine  int
}

var firstGrammar = grammar[firstLayer]{
	first: kwAuthType,
	rules: []rule[firstLayer]{
		{keyword: kwAuthType, required: true, take: (*firstLayer).takeAuthType},
		{keyword: kwAuthEphemeral, required: true, take: (*firstLayer).takeEphemeral},
		{keyword: kwAuthClient, required: true, repeats: true, take: (*firstLayer).takeClient},
		{keyword: kwCAACritical, repeats: true, take: (*firstLayer).takeCAACritical},
		{keyword: kwEncrypted, required: true, take: (*firstLayer).takeBlob},
	},
}

// parseFirst reads the plaintext of the first layer.
func parseFirst(text []byte) (*firstLayer, error) {
	f := new(firstLayer)
	if err := firstGrammar.parse(&scanner{layer: LayerFirst, text: text}, f); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *firstLayer) takeAuthType(it *item) error {
	var word []byte
	if _, err := it.firstArgs(&word); err != nil {
		return err
	}
	if string(word) != authTypeWord {
		return fmt.Errorf("unknown type, want %q", authTypeWord)
	}
	return nil
}

func (f *firstLayer) takeEphemeral(it *item) error {
	var key []byte
	if _, err := it.firstArgs(&key); err != nil {
		return err
	}
	return decodeValue(f.ephemeral[:], key)
}

// takeCAACritical takes any line of the keyword, as clients do, who ignore it.
func (f *firstLayer) takeCAACritical(it *item) error {
	f.caa = true
	return it.checkUnknown()
}

func (f *firstLayer) takeClient(it *item) error {
	var id, iv, cookie []byte
	if _, err := it.firstArgs(&id, &iv, &cookie); err != nil {
		return err
	}
	var c AuthClient
	if err := errors.Join(decodeValue(c.ID[:], id), decodeValue(c.IV[:], iv), decodeValue(c.EncryptedCookie[:], cookie)); err != nil {
		return err
	}
	f.clients = append(f.clients, c)
	return nil
}

func (f *firstLayer) takeBlob(it *item) (err error) {
	f.blobLine = it.line
	f.blob, err = it.onlyObject(labelMessage)
	return err
}
