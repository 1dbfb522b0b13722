package descriptor

// The keywords of the outer wrapper.
const (
	kwDescriptor     = "hs-descriptor"
	kwLifetime       = "descriptor-lifetime"
	kwSigningCert    = "descriptor-signing-key-cert"
	kwRevision       = "revision-counter"
	kwSuperencrypted = "superencrypted"
	kwSignature      = "signature"
)

// The keywords of the first layer.
const (
	kwAuthType      = "desc-auth-type"
	kwAuthEphemeral = "desc-auth-ephemeral-key"
	kwAuthClient    = "auth-client"
	kwEncrypted     = "encrypted"
	kwCAACritical   = "caa-critical"
)

// The keywords of the second layer, introduction points aside.
const (
	kwCreate2     = "create2-formats"
	kwIntroAuth   = "intro-auth-required"
	kwSingleOnion = "single-onion-service"
	kwFlowControl = "flow-control"
	kwPowParams   = "pow-params"
	kwCAA         = "caa"
)

// The keywords of an introduction point.
const (
	kwIntroPoint = "introduction-point"
	kwOnionKey   = "onion-key"
	kwAuthKey    = "auth-key"
	kwEncKey     = "enc-key"
	kwEncCert    = "enc-key-cert"
	kwLegacyKey  = "legacy-key"
	kwLegacyCert = "legacy-key-cert"
)

// The labels of objects.
const (
	labelCert      = "ED25519 CERT"
	labelMessage   = "MESSAGE"
	labelLegacyKey = "RSA PUBLIC KEY"
	labelCrossCert = "CROSSCERT"
)

// Words that stand as arguments.
const (
	versionWord   = "3"
	authTypeWord  = "x25519"
	ntorWord      = "ntor"
	introAuthWord = "ed25519"
	ntorFormat    = 2
)

const signaturePrefix = "Tor onion service descriptor sig v3"

var keywords = func() map[string]string {
	m := make(map[string]string)
	for _, k := range []string{
		kwDescriptor, kwLifetime, kwSigningCert, kwRevision, kwSuperencrypted, kwSignature,
		kwAuthType, kwAuthEphemeral, kwAuthClient, kwEncrypted, kwCAACritical,
		kwCreate2, kwIntroAuth, kwSingleOnion, kwFlowControl, kwPowParams, kwCAA,
		kwIntroPoint, kwOnionKey, kwAuthKey, kwEncKey, kwEncCert, kwLegacyKey, kwLegacyCert,
	} {
		m[k] = k
	}
	return m
}()
