package descriptor

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// appendPointName writes what stands for all that goes into the text of an
// introduction point.
func appendPointName(b []byte, p *IntroductionPoint) []byte {
	b = append(append(append(b, p.OnionKey[:]...), p.AuthKey[:]...), p.EncKey[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Expires.Unix()))
	return appendLinkSpecifiers(b, p.LinkSpecifiers)
}

// appendPoints writes the introduction points, each with certificates that the
// descriptor-signing key signed: now, or for an earlier descriptor.
func (e *Encoder) appendPoints(b []byte, points []IntroductionPoint, sign signFunc) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.points) > keptPoints {
		clear(e.points)
	}
	var name []byte
	for i := range points {
		p := &points[i]
		name = appendPointName(name[:0], p)
		text, ok := e.points[string(name)]
		if !ok {
			var err error
			if text, err = e.certify(p, sign); err != nil {
				return nil, fmt.Errorf("introduction point %d: %w", i+1, err)
			}
			e.points[string(name)] = text
		}
		b = append(b, text...)
	}
	return b, nil
}

// certify makes the text of a point, its two certificates signed.
func (e *Encoder) certify(p *IntroductionPoint, sign signFunc) (string, error) {
	if err := p.check(); err != nil {
		return "", err
	}
	plain := func(message []byte) ([]byte, error) { return sign(message) }
	auth, err := NewCertificate(CertIntroAuth, p.AuthKey, e.public, p.Expires, plain)
	if err != nil {
		return "", err
	}
	enc, err := NewCertificate(CertIntroEnc, p.edwardsEncKey(), e.public, p.Expires, plain)
	if err != nil {
		return "", err
	}
	return string(appendPoint(make([]byte, 0, pointRoom), p, auth, enc)), nil
}

// check refuses a point that clients could not use.
func (p *IntroductionPoint) check() error {
	if p.Legacy {
		return errors.New("has a legacy key")
	}
	if len(p.LinkSpecifiers) > 255 {
		return fmt.Errorf("%d link specifiers", len(p.LinkSpecifiers))
	}
	for _, l := range p.LinkSpecifiers {
		if len(l.Data) > 255 {
			return fmt.Errorf("a link specifier of %d bytes", len(l.Data))
		}
	}
	if err := checkLinkSpecifiers(p.LinkSpecifiers); err != nil {
		return err
	}
	if err := checkX25519(p.OnionKey); err != nil {
		return fmt.Errorf("%s: %w", kwOnionKey, err)
	}
	if err := checkX25519(p.EncKey); err != nil {
		return fmt.Errorf("%s: %w", kwEncKey, err)
	}
	// The certificate that the point was decoded with was accepted with its key.
	if p.authCert.IsZero() || p.authCert.key != p.AuthKey {
		if err := checkEd25519(p.AuthKey); err != nil {
			return fmt.Errorf("%s: %w", kwAuthKey, err)
		}
	}
	return nil
}

// edwardsEncKey returns the Ed25519 form of the enc-key with sign bit 0.
func (p *IntroductionPoint) edwardsEncKey() [32]byte {
	if known := p.encCert.Key(); !p.encCert.IsZero() && isEdwardsOf(known, p.EncKey) {
		known[31] &= 0x7f
		return known
	}
	return edwardsFromX25519(p.EncKey)
}
