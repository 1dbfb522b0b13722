// Package wire frames what a process and its helper say to each other on a
// stream socket. A frame is
//
//	uint32 n     big-endian, 1 to MaxHeader
//	uint32 m     big-endian, 0 to MaxPayload
//	[n]byte      header: one JSON object, with no field that the reader does not know
//	[m]byte      payload: the one secret of the message, if it has any
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

	"onionbalancer/internal/locked"
)

// Sizes in bytes.
const (
	MaxHeader  = 512 << 10 // a request to sign 128 KiB, in base64, or a list of a thousand keys
	MaxPayload = 1 << 10   // a PIN, a data key, an identity key

	prefixSize = 8
)

// Write writes one frame. The payload may be nil; it stays the caller's.
func Write(w io.Writer, header any, payload *locked.Buffer) error {
	text, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	var secret []byte
	if payload != nil {
		secret = payload.Bytes()
	}
	if len(text) > MaxHeader || len(secret) > MaxPayload {
		return fmt.Errorf("writing frame: %d and %d bytes are too many", len(text), len(secret))
	}
	frame := make([]byte, 0, prefixSize+len(text))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(text)))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(secret)))
	if _, err := w.Write(append(frame, text...)); err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	if len(secret) > 0 {
		if _, err := w.Write(secret); err != nil {
			return fmt.Errorf("writing frame: %w", err)
		}
	}
	return nil
}

// Read reads one frame into header, a pointer to a zero value. The payload is
// nil if it is empty; the caller wipes it. The error is io.EOF alone if the
// stream ended between two frames.
func Read(r io.Reader, header any) (payload *locked.Buffer, err error) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(r, prefix[:]); errors.Is(err, io.EOF) {
		return nil, io.EOF
	} else if err != nil {
		return nil, fmt.Errorf("reading frame: %w", err)
	}
	n, m := binary.BigEndian.Uint32(prefix[:4]), binary.BigEndian.Uint32(prefix[4:])
	if n == 0 || n > MaxHeader || m > MaxPayload {
		return nil, fmt.Errorf("reading frame: sizes of %d and %d bytes are not of this protocol", n, m)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("reading frame: %w", noEOF(err))
	}
	if m > 0 {
		payload = locked.New(int(m))
		if _, err := io.ReadFull(r, payload.Bytes()); err != nil {
			payload.Wipe()
			return nil, fmt.Errorf("reading frame: %w", noEOF(err))
		}
	}
	if err := decode(text, header); err != nil {
		if payload != nil {
			payload.Wipe()
		}
		return nil, fmt.Errorf("reading frame: %w", err)
	}
	return payload, nil
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
