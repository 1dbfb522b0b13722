// Package sealed is the format of files in which an identity key lies sealed by
// a token's key. It is pure: it reads no file, and reaches the token through a
// function that is handed in.
//
// A random data key of 32 bytes is wrapped by a key that never leaves the token.
// The data key seals the identity key, in the expanded form of 64 bytes that
// tor's files have:
//
//	key  = HKDF-SHA256(data key, salt, "balancer sealed identity key\x00" version address method), 32 bytes
//	seal = AES-256-GCM(key, nonce 0, expanded identity key, header)
//
// where version is one byte, address the 32 bytes of the public key, and method
// its name. A key is used for one file only, so the nonce may be fixed. The
// header that is authenticated along with the key is everything else that the
// file says, each item behind its length in four bytes, big-endian: the format's
// name, version, address, method, the token's label, serial, manufacturer and
// model, the object's label and ID, the time of sealing, salt, wrapped data key.
//
// So the file is bound to its address whatever the method of wrapping is, and
// cannot be changed by who cannot use the token. The file is JSON, to be looked
// at by people, and has one form only: Parse refuses what Encode would not
// write, byte for byte.
package sealed
