package descriptor

import (
	"errors"
	"time"
)

// MaxSize is the length in bytes that a descriptor must stay below, unless the
// consensus parameter HSV3MaxDescriptorSize says otherwise.
const MaxSize = 50000

// Decoder decodes descriptors, and remembers, within bounds, what it verified,
// so that the same bytes are not verified twice. The zero value is ready; it
// is safe for concurrent use.
type Decoder struct {
	// MaxSize is the limit in bytes; 0 stands for the constant MaxSize. It is
	// set before the first Decode.
	MaxSize int
}

// Decode verifies and decrypts raw as a client of the service would that keys
// belong to, at the moment now. client is nil, or the key of an authorized
// client. Errors are of type *ParseError.
func (d *Decoder) Decode(raw []byte, keys Keys, client *ClientKey, now time.Time) (*Descriptor, error) {
	return nil, errors.New("pending")
}
