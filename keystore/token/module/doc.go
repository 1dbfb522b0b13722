// Package module uses keys on a PKCS #11 token by the vendor's own module, a
// shared library. It belongs in a process of its own (see package token): the
// library may crash, hang and read all memory of the process, and the process
// must not fork after Load.
//
//	m, err := module.Load("/usr/lib/softhsm/libsofthsm2.so")
//	t, err := m.Open(token.Selector{Label: "front"}, pin, false)
//	wrapped, err := t.Wrap(token.Object{Label: "seal"}, token.MethodAESGCM, dataKey)
//
// One call to the library is in flight at a time. Sessions that die, and tokens
// that are pulled out and put back, are opened again, and the request is
// retried once. A wrong PIN is tried once, ever.
//
// Every error is a *token.Error. The package is empty in programs built without
// cgo.
package module
