//go:build cgo

package helper

import (
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/module"
)

// adapter adapts a module.Module to the interface of package serve.
type adapter struct{ *module.Module }

func load(path string) (Module, error) {
	m, err := module.Load(path)
	if err != nil {
		return nil, err
	}
	return adapter{m}, nil
}

// Open implements Module.
func (a adapter) Open(sel token.Selector, pin *locked.Buffer, inDoubt bool) (HSM, error) {
	t, err := a.Module.Open(sel, pin, inDoubt)
	if err != nil {
		return nil, err
	}
	return t, nil
}
