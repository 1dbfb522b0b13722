package sim

import "onionbalancer/descriptor"

// keyring remembers what is costly to compute of addresses, which the control
// port and the clients ask for again and again. Network.mu protects it.
type keyring struct {
	addresses map[string]descriptor.Address
	keys      map[addressPeriod]descriptor.PeriodKeys
}

type addressPeriod struct {
	address descriptor.Address
	period  descriptor.Period
}

// remembered bounds both maps.
const remembered = 20000

// parse reads an address as the control protocol names it: 56 characters.
func (k *keyring) parse(label string) (descriptor.Address, bool) {
	if a, known := k.addresses[label]; known {
		return a, true
	}
	a, err := descriptor.ParseAddress(label)
	if err != nil || len(label) != labelLength {
		return descriptor.Address{}, false
	}
	if k.addresses == nil || len(k.addresses) >= remembered {
		k.addresses = make(map[string]descriptor.Address)
	}
	k.addresses[label] = a
	return a, true
}

const labelLength = 56

// of returns the keys of an address for a period.
func (k *keyring) of(a descriptor.Address, p descriptor.Period) (descriptor.PeriodKeys, error) {
	if keys, known := k.keys[addressPeriod{a, p}]; known {
		return keys, nil
	}
	keys, err := a.Keys(p)
	if err != nil {
		return keys, err
	}
	if k.keys == nil || len(k.keys) >= remembered {
		k.keys = make(map[addressPeriod]descriptor.PeriodKeys)
	}
	k.keys[addressPeriod{a, p}] = keys
	return keys, nil
}
