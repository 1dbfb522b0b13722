package cluster

import (
	"errors"

	"onionbalancer/internal/locked"
)

var (
	// errOneHalf says that a key has one half for values, of which there is nothing to choose.
	errOneHalf = errors.New("there is one cluster key; add another first")
	// errTwoHalves says that a key has two already.
	errTwoHalves = errors.New("there are two cluster keys; drop the older one first")
)

// Add returns k with a new half for values, which opens what others seal with it and does
// not seal yet.
func (k *Key) Add() (*Key, error) {
	if len(k.seals) == maxSeals {
		return nil, errTwoHalves
	}
	return &Key{names: k.names, seals: []*locked.Buffer{k.seals[0], random()}}, nil
}

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
