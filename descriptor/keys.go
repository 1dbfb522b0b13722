package descriptor

import "fmt"

// PeriodKeys is all that an onion address and a period determine, and all public:
// what finds, verifies and decrypts the descriptors of a service during that
// period. Computed once and passed around; comparable.
type PeriodKeys struct {
	Address       Address
	Period        Period
	Blinded       BlindedPublicKey
	Subcredential Subcredential
}

// Keys derives the public keys of a for period p. It fails if a is no valid
// address.
func (a Address) Keys(p Period) (PeriodKeys, error) {
	blinded, err := a.Blind(p)
	if err != nil {
		return PeriodKeys{}, fmt.Errorf("deriving the keys of period %s: %w", p, err)
	}
	return PeriodKeys{Address: a, Period: p, Blinded: blinded, Subcredential: a.Subcredential(blinded)}, nil
}
