package helper

import (
	"runtime"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// handler carries out one kind of request: it fills in the response, and
// returns the secret that goes with it, if any.
type handler func(s *server, request *token.Request, payload *locked.Buffer, response *token.Response) (*locked.Buffer, error)

var handlers = map[token.Op]handler{
	token.OpOpen: (*server).open,
	token.OpPing: func(*server, *token.Request, *locked.Buffer, *token.Response) (*locked.Buffer, error) {
		return nil, nil
	},
	token.OpInfo: func(s *server, _ *token.Request, _ *locked.Buffer, response *token.Response) (_ *locked.Buffer, err error) {
		response.Info, err = s.hsm.Info()
		return nil, err
	},
	token.OpWrappingKey: func(s *server, request *token.Request, _ *locked.Buffer, response *token.Response) (_ *locked.Buffer, err error) {
		response.Wrapping, err = s.hsm.WrappingKey(request.Object)
		return nil, err
	},
	token.OpWrap:         (*server).wrap,
	token.OpUnseal:       (*server).unseal,
	token.OpCertify:      (*server).certify,
	token.OpSignIdentity: (*server).signIdentity,
	token.OpGenerate: func(s *server, request *token.Request, _ *locked.Buffer, response *token.Response) (_ *locked.Buffer, err error) {
		response.Signing, err = s.hsm.Generate(request.Object)
		return nil, err
	},
	token.OpKeys: func(s *server, request *token.Request, _ *locked.Buffer, response *token.Response) (_ *locked.Buffer, err error) {
		response.Keys, err = s.hsm.SigningKeys(request.Prefix)
		return nil, err
	},
	token.OpSign: func(s *server, request *token.Request, _ *locked.Buffer, response *token.Response) (_ *locked.Buffer, err error) {
		response.Data, err = s.hsm.Sign(request.Object, request.Data)
		return nil, err
	},
	token.OpDestroy: func(s *server, request *token.Request, _ *locked.Buffer, _ *token.Response) (*locked.Buffer, error) {
		return nil, s.hsm.Destroy(request.Object)
	},
}

func (s *server) wrap(request *token.Request, plain *locked.Buffer, response *token.Response) (_ *locked.Buffer, err error) {
	if plain == nil {
		return nil, token.Errorf(token.CodeMisuse, "wrap without a data key")
	}
	defer runtime.GC() // see withIdentity
	plain.Use(func(plain []byte) { response.Data, err = s.hsm.Wrap(request.Object, request.Method, plain) })
	return nil, err
}

// withIdentity opens the sealed file for use, which computes inside of
// locked.Do, and wipes the key. The module is called outside: it wipes for
// itself. What was allocated in Do is erased when it is collected, so that is
// done at once; such requests are rare, and the heap is small.
func (s *server) withIdentity(request *token.Request, use func(*descriptor.IdentityKey) error) error {
	defer runtime.GC()
	file, err := sealed.Parse(request.Sealed)
	if err != nil {
		return err
	}
	key, err := file.Open(func(m token.Method, wrapped []byte) (*locked.Buffer, error) {
		return s.hsm.Unwrap(request.Object, m, wrapped)
	})
	if err != nil {
		return err
	}
	defer key.Wipe()
	locked.Do(func() { err = use(key) })
	return err
}

func (s *server) unseal(request *token.Request, _ *locked.Buffer, _ *token.Response) (*locked.Buffer, error) {
	var secret *locked.Buffer
	err := s.withIdentity(request, func(key *descriptor.IdentityKey) error {
		secret = key.Secret()
		return nil
	})
	return secret, err
}

func (s *server) signIdentity(request *token.Request, _ *locked.Buffer, response *token.Response) (*locked.Buffer, error) {
	return nil, s.withIdentity(request, func(key *descriptor.IdentityKey) (err error) {
		response.Data, err = key.Sign(request.Data)
		return err
	})
}
