// Package custody has the benchmarks of the custodians of keys: certifications by each
// custodian, and signatures and descriptors with descriptor-signing keys here
// and in a token. No operation repeats another: every certification is for a new
// period and a new key, every message and every descriptor is another. Only what
// was certified offline comes round again, after a thousand periods.
//
// Tokens are of SoftHSM, in a helper process of this test binary, as balancer
// has them in one of its own. What the helper takes is reported apart from what
// the benchmark's own process takes.
package custody
