package token

import (
	"crypto/ed25519"
	"iter"

	"onionbalancer/descriptor"
)

// The protocol between a process and its helper, on one page.
//
// The process makes a stream socket pair, keeps one end, and executes its own
// program as "balancer pkcs11-helper" with the other end as descriptor 3. Then it
// sends requests, one at a time; the helper answers each with one response of the
// same number. Frames are those of package wire: a JSON header and data, which
// hold nothing secret, and the one secret of the message. The first request is
// open. The helper ends when its end of the socket does.
//
//	op             header has               and               answer
//	open           version, module, token,  secret: any PIN   info
//	               in_doubt
//	ping                                                      (nothing)
//	info                                                      info
//	wrapping-key   object                                     wrapping
//	wrap           object, method           secret: data key  data: it, wrapped
//	unseal         object, sealed                             secret: expanded identity key
//	certify        object, certify: of      data: the         certified: of each, size or error
//	               each file, size, period, sealed files      data: their hourly certificates
//	               signing, expiries                          secret: their revision keys
//	sign-identity  object, sealed           data: message     data: signature
//	generate       object                                     signing
//	keys           prefix                                     keys
//	sign           object                   data: message     data: signature
//	destroy        object                                     (nothing)
//
// A response with an error has no other answer. Anyone who reads a frame that is
// not of this protocol closes the connection: the helper exits, and the process kills it.

// HelperArgument is the argument by which this program becomes a helper.
const HelperArgument = "pkcs11-helper"

// HelperDescriptor is the descriptor of the helper's end of the socket.
const HelperDescriptor = 3

// ProtocolVersion is raised when the meaning of a message changes.
const ProtocolVersion = 3

// Op names a request.
type Op string

// The requests.
const (
	OpOpen         Op = "open"
	OpPing         Op = "ping"
	OpInfo         Op = "info"
	OpWrappingKey  Op = "wrapping-key"
	OpWrap         Op = "wrap"
	OpUnseal       Op = "unseal"
	OpCertify      Op = "certify"
	OpSignIdentity Op = "sign-identity"
	OpGenerate     Op = "generate"
	OpKeys         Op = "keys"
	OpSign         Op = "sign"
	OpDestroy      Op = "destroy"
)

// MaxMessage is the size in bytes of the longest message that is signed.
const MaxMessage = 128 << 10

// MaxBatch is how many files a request to certify has at most.
const MaxBatch = 64

// MaxText is the size in bytes of the longest error.
const MaxText = 2 << 10

// Request is the header of a request.
type Request struct {
	Op      Op       `json:"op"`
	Number  uint64   `json:"number"`
	Version int      `json:"version,omitempty"`
	Module  string   `json:"module,omitempty"` // path
	Token   Selector `json:"token,omitzero"`
	InDoubt bool     `json:"in_doubt,omitempty"` // nobody knows whether the token has refused this PIN
	Object  Object   `json:"object,omitzero"`
	Method  Method   `json:"method,omitempty"`
	Prefix  string   `json:"prefix,omitempty"`  // of labels
	Sealed  []byte   `json:"sealed,omitempty"`  // a sealed file
	Certify []Order  `json:"certify,omitempty"` // 1 to MaxBatch
	Data    []byte   `json:"-"`                 // bytes to be signed, or sealed files; a frame's data
}

// Order is a certificate that is wanted by the key in one sealed file.
type Order struct {
	Size     int                 `json:"size"` // of the file, in bytes
	Period   descriptor.Period   `json:"period"`
	Signing  ed25519.PublicKey   `json:"signing"`
	Expiries descriptor.Expiries `json:"expiries"`
}

// Certified is the answer to an Order.
type Certified struct {
	Size  int    `json:"size,omitempty"` // of the certificates, in bytes
	Error *Error `json:"error,omitempty"`
}

// RevisionSize is the size in bytes of a revision key.
const RevisionSize = 32

// Response is the header of a response.
type Response struct {
	Number    uint64       `json:"number"`
	Error     *Error       `json:"error,omitempty"`
	Info      Info         `json:"info,omitzero"`
	Wrapping  WrappingKey  `json:"wrapping,omitzero"`
	Signing   SigningKey   `json:"signing,omitzero"`
	Keys      []SigningKey `json:"keys,omitempty"`
	Certified []Certified  `json:"certified,omitempty"` // one for each Order
	Data      []byte       `json:"-"`                   // a frame's data
}

// secretSize returns the size in bytes of the secret that answers request.
func (r *Response) secretSize(request *Request) int {
	switch {
	case r.Error != nil:
		return 0
	case request.Op == OpUnseal:
		return descriptor.ExpandedKeySize
	}
	size := 0
	for _, c := range r.Certified {
		if c.Error == nil {
			size += RevisionSize
		}
	}
	return size
}

// answers reports whether r has an answer to each order, and their certificates in its data.
func (r *Response) answers(orders []Order) bool {
	size := 0
	for _, c := range r.Certified {
		if c.Size < 0 || c.Size > len(r.Data) || c.Error != nil && c.Size != 0 {
			return false
		}
		size += c.Size
	}
	return len(r.Certified) == len(orders) && (len(orders) == 0 || size == len(r.Data))
}

// errors yields the errors in r.
func (r *Response) errors() iter.Seq[*Error] {
	return func(yield func(*Error) bool) {
		if r.Error != nil && !yield(r.Error) {
			return
		}
		for _, c := range r.Certified {
			if c.Error != nil && !yield(c.Error) {
				return
			}
		}
	}
}
