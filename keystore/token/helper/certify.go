package helper

import (
	"crypto/ed25519"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// certify signs for the blinded keys, which live no longer than it takes. First the token
// unwraps the data keys, one after the other, and what several files have in common once;
// they live for this one request. The rest is computing. An error of one file is its own.
func (s *server) certify(request *token.Request, _ *locked.Buffer, response *token.Response) (*locked.Buffer, error) {
	defer runtime.GC() // see withIdentity
	all, err := certifications(request)
	if err != nil {
		return nil, err
	}
	keys := dataKeys{hsm: s.hsm, object: request.Object, known: map[string]dataKey{}}
	defer keys.wipe()
	var computing errgroup.Group
	computing.SetLimit(runtime.GOMAXPROCS(0))
	for _, c := range all {
		if c.err == nil {
			c.err = recovered(request.Op, func() error { return keys.unwrap(c.file) })
		}
	}
	for _, c := range all {
		if c.err == nil {
			computing.Go(func() error {
				c.err = recovered(request.Op, func() error { return c.certify(&keys) })
				return nil
			})
		}
	}
	_ = computing.Wait()
	return answerAll(all, response), nil
}

// certification is a token.Order on its way.
type certification struct {
	token.Order
	file     *sealed.File
	certs    []byte
	revision *locked.Buffer
	err      error
}

// certifications reads the orders of a request, and their files.
func certifications(request *token.Request) ([]*certification, error) {
	if n := len(request.Certify); n == 0 || n > token.MaxBatch {
		return nil, token.Errorf(token.CodeMisuse, "certify by %d files, want 1 to %d", n, token.MaxBatch)
	}
	all, data := make([]*certification, len(request.Certify)), request.Data
	for i, order := range request.Certify {
		if order.Size < 0 || order.Size > len(data) {
			return nil, token.Errorf(token.CodeMisuse, "certify by a file of %d bytes, of which there are %d", order.Size, len(data))
		}
		c := &certification{Order: order}
		if len(order.Signing) != ed25519.PublicKeySize || order.Period.Minutes() == 0 {
			c.err = token.Errorf(token.CodeMisuse, "certify without a signing key of %d bytes and a period", ed25519.PublicKeySize)
		} else {
			c.file, c.err = sealed.Parse(data[:order.Size])
		}
		all[i], data = c, data[order.Size:]
	}
	if len(data) > 0 {
		return nil, token.Errorf(token.CodeMisuse, "certify with %d bytes more than the files", len(data))
	}
	return all, nil
}

// certify computes. It is called by several goroutines at once, each for its own c.
func (c *certification) certify(keys *dataKeys) error {
	key, err := c.file.Open(keys.get)
	if err != nil {
		return err
	}
	defer key.Wipe()
	c.revision = locked.New(token.RevisionSize)
	locked.Do(func() { err = c.sign(key) })
	return err
}

func (c *certification) sign(key *descriptor.IdentityKey) error {
	blinded, err := key.Blind(c.Period)
	if err != nil {
		return err
	}
	defer blinded.Wipe()
	certs, err := blinded.CertifyHours([32]byte(c.Signing), c.Expiries)
	if err != nil {
		return err
	}
	c.certs = certs.Bytes()
	counters := blinded.RevisionKey().Bytes()
	c.revision.Use(func(revision []byte) { copy(revision, counters) })
	clear(counters)
	return nil
}

// answerAll fills in the response, and returns the secret that goes with it.
func answerAll(all []*certification, response *token.Response) *locked.Buffer {
	done := 0
	response.Certified = make([]token.Certified, len(all))
	for i, c := range all {
		if c.err != nil {
			response.Certified[i].Error = asError(c.err)
			continue
		}
		response.Certified[i].Size = len(c.certs)
		response.Data = append(response.Data, c.certs...)
		done++
	}
	if done == 0 {
		return nil
	}
	secret := locked.New(done * token.RevisionSize)
	secret.Use(func(secret []byte) {
		for _, c := range all {
			if c.err == nil {
				c.revision.Use(func(revision []byte) { secret = secret[copy(secret, revision):] })
			}
			wipe(c.revision)
		}
	})
	return secret
}

// dataKeys are those that the token unwrapped for one request.
type dataKeys struct {
	hsm    HSM
	object token.Object
	known  map[string]dataKey // by method and wrapped key
	gone   error              // why the token is not asked any more
}

type dataKey struct {
	plain *locked.Buffer
	err   error
}

func (d *dataKeys) name(m token.Method, wrapped []byte) string {
	return string(m) + " " + string(wrapped)
}

// unwrap makes sure that the data key of a file is known.
func (d *dataKeys) unwrap(f *sealed.File) error {
	m, wrapped := f.Wrapped()
	name := d.name(m, wrapped)
	key, known := d.known[name]
	switch {
	case known:
	case d.gone != nil:
		return d.gone
	default:
		key.plain, key.err = d.hsm.Unwrap(d.object, m, wrapped)
		d.known[name] = key
		if key.err != nil && asError(key.err).Code.OfToken() {
			d.gone = key.err
		}
	}
	if key.err != nil {
		return fmt.Errorf("unsealing the key of %s: %w", f.Address().Short(), key.err)
	}
	return nil
}

// get returns a copy of a data key that is known, as sealed.File.Open wants it.
func (d *dataKeys) get(m token.Method, wrapped []byte) (*locked.Buffer, error) {
	return d.known[d.name(m, wrapped)].plain.Clone(), nil
}

func (d *dataKeys) wipe() {
	for _, key := range d.known {
		wipe(key.plain)
	}
}
