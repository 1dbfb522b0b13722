package descriptor

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// hexBytes is a byte string of the vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

func (h hexBytes) key() [32]byte { return [32]byte(h) }

// loadJSON reads one of the vector files; testdata/README.md tells their origin.
func loadJSON[T any](t testing.TB, name string) T {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// enough fails the test when a list of vectors is shorter than it was when the
// test was written: an empty list would prove anything.
func enough(t testing.TB, what string, n, want int) {
	t.Helper()
	if n < want {
		t.Fatalf("%d vectors of %s, want at least %d", n, what, want)
	}
}

// corpus is testdata/descriptors/index.json.
type corpus struct {
	Descriptors []goodVector `json:"descriptors"`
	Bad         []badVector  `json:"bad"`
}

// subject is what the good and the bad vectors have in common.
type subject struct {
	File          string `json:"file"`
	Verdict       string `json:"verdict"`
	Address       string `json:"onion_address"`
	PeriodNumber  uint64 `json:"time_period_number"`
	PeriodMinutes uint64 `json:"time_period_length_minutes"`
	CheckAt       int64  `json:"check_at_unix"`
}

func (s subject) raw(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "descriptors", s.File))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (s subject) keys(t testing.TB) PeriodKeys {
	t.Helper()
	a, err := ParseAddress(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := a.Keys(Period{Number: s.PeriodNumber, Length: time.Duration(s.PeriodMinutes) * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func (s subject) now() time.Time { return time.Unix(s.CheckAt, 0) }

type goodVector struct {
	subject
	IdentitySecret hexBytes       `json:"identity_secret_key_expanded"`
	Clients        []clientVector `json:"client_authorization"`
	WithoutKey     string         `json:"without_client_key"`
	Expected       expected       `json:"expected"`
}

type clientVector struct {
	Secret       hexBytes `json:"x25519_secret_key"`
	Public       hexBytes `json:"x25519_public_key"`
	SecretText   string   `json:"secret_key_base32"`
	PublicText   string   `json:"public_key_base32"`
	ID           hexBytes `json:"client_id"`
	CookieKey    hexBytes `json:"cookie_key"`
	Cookie       hexBytes `json:"descriptor_cookie"`
	LineOfClient int      `json:"auth_client_line_index"`
}

type expected struct {
	Lifetime      int64         `json:"descriptor_lifetime_minutes"`
	Revision      uint64        `json:"revision_counter"`
	SigningCert   certVector    `json:"signing_key_cert"`
	Blinded       hexBytes      `json:"blinded_public_key"`
	SigningKey    hexBytes      `json:"signing_public_key"`
	Signature     hexBytes      `json:"signature"`
	TotalLength   int           `json:"total_length"`
	BlobLength    int           `json:"superencrypted_length"`
	Subcredential hexBytes      `json:"subcredential"`
	Padded        int           `json:"superencrypted_plaintext_length_padded"`
	Ephemeral     hexBytes      `json:"desc_auth_ephemeral_key"`
	AuthCount     int           `json:"auth_client_count"`
	AuthClients   []authVector  `json:"auth_clients"`
	SecondLength  int           `json:"encrypted_length"`
	Create2       []int         `json:"create2_formats"`
	IntroAuth     []string      `json:"intro_auth_required"`
	SingleOnion   bool          `json:"single_onion_service"`
	FlowControl   *string       `json:"flow_control"`
	PowParams     []string      `json:"pow_params"`
	PointCount    int           `json:"intro_point_count"`
	Points        []introVector `json:"intro_points"`
	FirstFile     string        `json:"superencrypted_plaintext_file"`
	SecondFile    string        `json:"encrypted_plaintext_file"`
}

type authVector struct {
	ID     hexBytes `json:"client_id"`
	IV     hexBytes `json:"iv"`
	Cookie hexBytes `json:"encrypted_cookie"`
}

type certVector struct {
	Type       byte        `json:"cert_type"`
	Hours      int64       `json:"expiration_hours"`
	KeyType    byte        `json:"key_type"`
	Key        hexBytes    `json:"certified_key"`
	Extensions []extVector `json:"extensions"`
	Signature  hexBytes    `json:"signature"`
	SigningKey hexBytes    `json:"signing_key"`
	Valid      *bool       `json:"signature_valid_with_included_key"`
	Raw        hexBytes    `json:"raw"`
}

type extVector struct {
	Type  byte     `json:"type"`
	Flags byte     `json:"flags"`
	Data  hexBytes `json:"data"`
}

type introVector struct {
	Specifiers []struct {
		Type byte     `json:"type"`
		Raw  hexBytes `json:"raw"`
	} `json:"link_specifiers"`
	SpecifiersRaw hexBytes   `json:"link_specifiers_raw"`
	OnionKey      hexBytes   `json:"onion_key_ntor"`
	AuthKey       hexBytes   `json:"auth_key"`
	AuthCert      certVector `json:"auth_key_cert"`
	EncKey        hexBytes   `json:"enc_key_ntor"`
	EncCert       certVector `json:"enc_key_cert"`
}

type badVector struct {
	subject
	What          string   `json:"what"`
	TorVerdict    *string  `json:"tor_verdict"`
	TorUsable     *int     `json:"tor_usable_intro_points"`
	Usable        *int     `json:"recommended_usable_intro_points"`
	SigningSecret hexBytes `json:"descriptor_signing_secret_key_expanded"`
}

// loadCorpus reads the descriptor vectors and fails when there are few.
func loadCorpus(t testing.TB) corpus {
	t.Helper()
	c := loadJSON[corpus](t, "descriptors/index.json")
	enough(t, "good descriptors", len(c.Descriptors), 45)
	enough(t, "bad descriptors", len(c.Bad), 154)
	return c
}

// plain reads one of the decrypted layers.
func plain(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "descriptors", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// clientKeys returns the keys with which to try a vector: those of its clients,
// or none for a public service.
func (v goodVector) clientKeys(t testing.TB) []*ClientKey {
	t.Helper()
	if len(v.Clients) == 0 {
		return []*ClientKey{nil}
	}
	var keys []*ClientKey
	for _, c := range v.Clients {
		k, err := ParseClientKey([]byte(c.SecretText))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}
