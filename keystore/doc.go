// Package keystore is who can certify: the custodians of services' identity
// keys, and the making of new ones.
//
// A custodian does three things: it says which onion address it stands for, it
// certifies a descriptor-signing key for a period, and it gives the key of that
// period's revision counters. It never gives an identity secret or a blinded
// one away. All else that publishing needs is computed from the address.
//
// A key on disk is read when it is opened and again for every period it
// certifies for. The secret is in locked memory meanwhile, for milliseconds a
// day, and what computing with it leaves behind is erased (package locked).
package keystore
