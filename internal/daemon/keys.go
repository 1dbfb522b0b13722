package daemon

import (
	"errors"

	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/keystore"
)

// Where the descriptor-signing keys of a service are.
const (
	signingMemory = "memory"
	signingDisk   = "disk"
	signingToken  = "token"
)

// openKeys opens the keys of a service. No token is asked for anything yet: one
// that is absent must not keep the daemon from starting.
func openKeys(s config.Service, stateDir string) (credential.Keys, error) {
	custodian, err := keystore.Open(s.Key)
	if err != nil {
		return credential.Keys{}, err
	}
	keys := credential.Keys{Custodian: custodian, Form: string(custodian.Form())}
	// The references name no secret. Neither can contain the line end between.
	keys.Reference = s.Key + "\n" + s.Signing
	own, prepared := keystore.Custodian(custodian).(credential.SigningKeys)
	switch {
	case s.Signing != "":
		// A ceremony has keys named by the salt of its own directory.
		dirs := []string{stateDir}
		if prepared {
			dirs = []string{s.Key, stateDir}
		}
		signing, err := keystore.OpenSigning(s.Signing, custodian.Address(), dirs[0], dirs[1:]...)
		if err != nil {
			return credential.Keys{}, errors.Join(err, custodian.Close())
		}
		keys.Signing, keys.Where = signing, signingToken
	case prepared:
		keys.Signing, keys.Where = own, signingDisk
	default:
		keys.Signing, keys.Where = credential.Memory{}, signingMemory
	}
	return keys, nil
}
