// Package keystore is who can certify: the custodians of services' identity
// keys, and the making of new ones.
//
// A custodian does three things: it says which onion address it stands for, it
// certifies a descriptor-signing key for a period, and it gives the key of that
// period's revision counters. It never gives an identity secret or a blinded
// one away. All else that publishing needs is computed from the address.
//
// A key on disk is the only custodian so far. It reads its file when it opens
// it and again for every period it certifies for, and wipes what it read, so
// that the secret is in memory for milliseconds a day. Wiping is best effort:
// copies that the runtime or the curve arithmetic made are not reached.
package keystore
