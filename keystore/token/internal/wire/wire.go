// Package wire frames what a process and its helper say to each other on a
// stream socket. A frame is
//
//	uint32 n     big-endian, 1 to MaxHeader
//	uint32 d     big-endian, 0 to MaxData
//	uint32 m     big-endian, 0 to MaxSecret
//	[n]byte      header: one JSON object, with no field that the reader does not know
//	[d]byte      data: what would be long in JSON, and is no secret
//	[m]byte      secret: the one secret of the message, if it has any
//
// A secret is read from the socket into locked memory and written from there;
// it never becomes JSON or text.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"onionbalancer/internal/locked"
)

// Sizes in bytes.
const (
	MaxHeader = 512 << 10 // a list of a thousand keys with long labels
	MaxData   = 512 << 10 // a message to sign, many sealed files, many certificates
	MaxSecret = 4 << 10   // a PIN, a data key, an identity key, many revision keys

	prefixSize = 12
)

// Write writes one frame, at once where w is a socket. Data and secret may be
// nil, and stay the caller's.
func Write(w io.Writer, header any, data []byte, secret *locked.Buffer) error {
	text, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	if secret == nil {
		secret = &locked.Buffer{}
	}
	secret.Use(func(bare []byte) { err = write(w, text, data, bare) })
	if err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	return nil
}

func write(w io.Writer, text, data, bare []byte) error {
	if len(text) > MaxHeader || len(data) > MaxData || len(bare) > MaxSecret {
		return fmt.Errorf("%d, %d and %d bytes are too many", len(text), len(data), len(bare))
	}
	frame := make([]byte, 0, prefixSize+len(text))
	for _, part := range [][]byte{text, data, bare} {
		frame = binary.BigEndian.AppendUint32(frame, uint32(len(part)))
	}
	// Skip empty parts: a write of no bytes blocks on a net.Pipe.
	parts := slices.DeleteFunc(net.Buffers{append(frame, text...), data, bare}, func(part []byte) bool { return len(part) == 0 })
	_, err := parts.WriteTo(w)
	return err
}

// Read reads one frame, its header into a pointer to a zero value. Data and
// secret are nil if they are empty; the caller wipes the secret. The error is
// io.EOF alone if the stream ended between two frames.
func Read(r io.Reader, header any) (data []byte, secret *locked.Buffer, err error) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(r, prefix[:]); errors.Is(err, io.EOF) {
		return nil, nil, io.EOF
	} else if err != nil {
		return nil, nil, fmt.Errorf("reading frame: %w", err)
	}
	n, d, m := binary.BigEndian.Uint32(prefix[:4]), binary.BigEndian.Uint32(prefix[4:8]), binary.BigEndian.Uint32(prefix[8:])
	if n == 0 || n > MaxHeader || d > MaxData || m > MaxSecret {
		return nil, nil, fmt.Errorf("reading frame: sizes of %d, %d and %d bytes are not of this protocol", n, d, m)
	}
	open := make([]byte, n+d)
	if _, err := io.ReadFull(r, open); err != nil {
		return nil, nil, fmt.Errorf("reading frame: %w", noEOF(err))
	}
	if d > 0 {
		data = open[n:]
	}
	if m > 0 {
		secret = locked.New(int(m))
		_, err = secret.Fill(r)
	}
	if err = noEOF(err); err == nil {
		err = decode(open[:n], header)
	}
	if err != nil {
		if secret != nil {
			secret.Wipe()
		}
		return nil, nil, fmt.Errorf("reading frame: %w", err)
	}
	return data, secret, nil
}

// noEOF makes an end within a frame an unexpected one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func decode(text []byte, header any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(header); err != nil {
		return err
	}
	if rest := bytes.TrimLeft(text[decoder.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return errors.New("there is more than one JSON value")
	}
	return nil
}
