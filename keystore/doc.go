// Package keystore is who can certify: the custodians of services' identity
// keys, and the making of new ones.
//
// A custodian does three things: it says which onion address it stands for, it
// certifies a descriptor-signing key for a period, and it gives the key of that
// period's revision counters. It never gives an identity secret or a blinded
// one away. All else that publishing needs is computed from the address.
//
//   - DiskKey reads a file for every period it certifies for. The secret is in
//     locked memory meanwhile, for milliseconds a day, and what computing with
//     it leaves behind is erased (package locked).
//   - SealedKey has a token open a sealed file (package sealed), in the memory of
//     the token's helper process (package token), which certifies and forgets.
//   - OfflineKey hands out what was certified where there is no network (package
//     offline).
//
// TokenKeys has the keys that sign descriptors made and used in a token, beside
// any of these. Opening a custodian asks no token: one that is absent stops
// nothing until it is needed, and then only its own service.
//
// Load gives an identity key itself, for commands that seal it or sign with it
// by hand. Nothing in a daemon calls it.
package keystore
