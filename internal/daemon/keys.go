package daemon

import (
	"errors"

	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/keystore"
)

// Where the descriptor-signing keys of a service are.
const (
	signingMemory = "memory"
	signingDisk   = "disk"
	signingToken  = "token"
)

// entrust opens the keys of a service. No token is asked for anything yet: one
// that is absent shall not keep the daemon from starting.
func entrust(out *balance.Config, s config.Service, stateDir string) error {
	custodian, err := keystore.Open(s.Key)
	if err != nil {
		return err
	}
	out.Custodian = custodian
	// The references name no secret. Neither can contain the line end between.
	out.Custody = balance.Custody{Reference: s.Key + "\n" + s.Signing, Form: string(custodian.Form())}
	own, prepared := keystore.Custodian(custodian).(balance.SigningKeys)
	switch {
	case s.Signing != "":
		// A ceremony has keys named by the salt of its own directory.
		dirs := []string{stateDir}
		if prepared {
			dirs = []string{s.Key, stateDir}
		}
		signing, err := keystore.OpenSigning(s.Signing, custodian.Address(), dirs[0], dirs[1:]...)
		if err != nil {
			return errors.Join(err, custodian.Close())
		}
		out.Signing, out.Custody.Signing = signing, signingToken
	case prepared:
		out.Signing, out.Custody.Signing = own, signingDisk
	default:
		out.Signing, out.Custody.Signing = balance.MemoryKeys{}, signingMemory
	}
	return nil
}
