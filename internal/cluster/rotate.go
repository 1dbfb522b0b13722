package cluster

import (
	"errors"

	"onionbalancer/internal/locked"
)

// errOneHalf says that a key has one half for values, of which there is nothing to choose.
var errOneHalf = errors.New("there is one cluster key; add another first")

// Turn returns k with its two halves for values the other way round: the second one seals.
func (k *Key) Turn() (*Key, error) {
	if len(k.seals) < maxSeals {
		return nil, errOneHalf
	}
	return &Key{names: k.names, seals: []*locked.Buffer{k.seals[1], k.seals[0]}}, nil
}

// Drop returns k without the half for values that does not seal: what it sealed does not
// open any more.
func (k *Key) Drop() (*Key, error) {
	if len(k.seals) < maxSeals {
		return nil, errOneHalf
	}
	return &Key{names: k.names, seals: k.seals[:1:1]}, nil
}
