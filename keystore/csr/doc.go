// Package csr makes certificate requests by which a CA lets an operator prove
// that an onion address is his: PKCS #10 (RFC 2986), signed by the address's
// identity key, with two nonces among its attributes.
//
//   - CA/Browser Forum, Baseline Requirements, appendix B, item 2.b: the request
//     is signed with the onion service's private key and has the attributes
//     caSigningNonce, a random value that the CA made, and applicantSigningNonce.
//     Each is a single OCTET STRING. One request validates the address and every
//     name below it, wildcards too. The CA's value is good for 30 days at most.
//   - RFC 9799, section 3.2, challenge onion-csr-01: the same request, answered
//     to an ACME server. The nonce stands in the challenge in base64 and in the
//     request as raw bytes. The request's public key is that of the address, and
//     must not be the key that the certificate is for: that one has a request of
//     its own, which finalizes the order. The key authorization of other
//     challenges plays no part (section 8.3), and the subject means nothing.
//
// The subject is empty, so the extension subjectAltName is critical (RFC 5280,
// section 4.2.1.6); it names the address for people and for CAs without ACME.
package csr
