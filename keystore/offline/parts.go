package offline

import (
	"bytes"
	"fmt"
	"slices"

	"onionbalancer/descriptor"
)

// MaxPart is the most bytes that a QR code of version 40 with medium error
// correction holds.
const MaxPart = 2331

// Piece is which part of an entry's certificates there is: Number, counted from 1, of
// Of.
type Piece struct {
	Number int `json:"number"`
	Of     int `json:"of"`
}

// pieceSize is how many bytes of certificates a part of a bundle has room for.
const pieceSize = 1230

const maxPieces = (singleLength+descriptor.MaxHours*64)/pieceSize + 1

func (p Piece) valid() bool {
	return p.Of >= 2 && p.Of <= maxPieces && p.Number >= 1 && p.Number <= p.Of
}

// Pieces returns the entries cut up so that each is small enough for a QR code. None
// can be used before Install, which is given all of them, has put them together again.
func (b *Bundle) Pieces() (list []Entry) {
	for _, e := range b.Entries {
		whole := slices.Collect(slices.Chunk(e.Certificate, pieceSize))
		for n, piece := range whole {
			if len(whole) > 1 {
				e.Certificate, e.Piece = piece, Piece{Number: n + 1, Of: len(whole)}
			}
			list = append(list, e)
		}
	}
	return list
}

// Split returns the bundle in parts smaller than MaxPart, one for each of Pieces.
func (b *Bundle) Split() ([][]byte, error) {
	var parts [][]byte
	for _, e := range b.Pieces() {
		part, err := encodePart(newBundle(b.Schedule, []Entry{e}))
		if err != nil {
			return nil, fmt.Errorf("splitting a bundle: %w", err)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func encodePart(doc any) ([]byte, error) {
	part, err := compact(doc)
	if err == nil && len(part) >= MaxPart {
		err = fmt.Errorf("a part of %d bytes, want less than %d", len(part), MaxPart)
	}
	return part, err
}

// joinBundles puts the pieces in bundles together, in whatever order they come. It
// verifies nothing; what is put together wrongly has no valid signature.
func joinBundles(bundles []*Bundle) ([]*Bundle, error) {
	type cut struct {
		Schedule
		address   descriptor.Address
		period    uint64
		of        int
		signature string
	}
	var order []cut
	pieces := map[cut][]Entry{}
	var joined []*Bundle
	for _, b := range bundles {
		var whole []Entry
		for _, e := range b.Entries {
			if e.Piece == (Piece{}) {
				whole = append(whole, e)
				continue
			}
			if err := e.validate(); err != nil {
				return nil, fmt.Errorf("%s, period %d: %w", e.Address.Short(), e.Period, err)
			}
			of := cut{b.Schedule, e.Address, e.Period, e.Piece.Of, string(e.Signature)}
			if pieces[of] == nil {
				order = append(order, of)
				pieces[of] = make([]Entry, of.of)
			}
			pieces[of][e.Piece.Number-1] = e
		}
		if len(whole) == len(b.Entries) {
			joined = append(joined, b)
		} else if len(whole) > 0 {
			joined = append(joined, newBundle(b.Schedule, whole))
		}
	}
	for _, of := range order {
		e, err := joinPieces(pieces[of])
		if err != nil {
			return nil, fmt.Errorf("%s, period %d: %w", of.address.Short(), of.period, err)
		}
		joined = append(joined, newBundle(of.Schedule, []Entry{e}))
	}
	return joined, nil
}

// joinPieces returns the entry that was cut into pieces.
func joinPieces(pieces []Entry) (Entry, error) {
	whole := pieces[0]
	whole.Piece = Piece{}
	var certificates [][]byte
	for n, p := range pieces {
		if p.Piece.Number == 0 {
			return whole, fmt.Errorf("part %d of %d is missing", n+1, len(pieces))
		}
		certificates = append(certificates, p.Certificate)
	}
	whole.Certificate = bytes.Join(certificates, nil)
	return whole, nil
}
