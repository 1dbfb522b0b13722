package testnet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// makeVotingKeys has tor-gencert fill the keys directory of a new authority,
// and returns the fingerprint of the identity that certifies its voting key.
func makeVotingKeys(ctx context.Context, gencert, dir, dirPort string) (string, error) {
	keys := filepath.Join(dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return "", fmt.Errorf("making an authority's keys: %w", err)
	}
	cmd := exec.CommandContext(ctx, gencert, "--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", dirPort)
	cmd.Dir = keys
	cmd.Stdin = strings.NewReader("\n") // no passphrase
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("making an authority's keys: %s: %w\n%s", gencert, err, out)
	}
	certificate, err := os.ReadFile(filepath.Join(keys, "authority_certificate"))
	if err != nil {
		return "", fmt.Errorf("making an authority's keys: %w", err)
	}
	v3ident, err := certificateFingerprint(certificate)
	if err != nil {
		return "", fmt.Errorf("making an authority's keys: %w", err)
	}
	return v3ident, nil
}

// certificateFingerprint reads the identity out of a key certificate
// (dir-spec, "Creating key certificates").
func certificateFingerprint(certificate []byte) (string, error) {
	lines := bufio.NewScanner(bytes.NewReader(certificate))
	for lines.Scan() {
		if fingerprint, ok := strings.CutPrefix(lines.Text(), "fingerprint "); ok && len(fingerprint) == 40 {
			return fingerprint, nil
		}
	}
	return "", fmt.Errorf("reading the key certificate: no fingerprint in it")
}

// makeRelayKey writes the RSA identity key of a relay, 1024 bits as tor has
// them, and returns its fingerprint: SHA-1 over the PKCS #1 public key. Tor
// would make one by itself, but then nobody knew it before tor has run.
func makeRelayKey(dir string) (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		return "", fmt.Errorf("making a relay's key: %w", err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return "", fmt.Errorf("making a relay's key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "secret_id_key"), pem.EncodeToMemory(block), 0o600); err != nil {
		return "", fmt.Errorf("making a relay's key: %w", err)
	}
	digest := sha1.Sum(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	return fmt.Sprintf("%X", digest), nil
}

// writeBandwidths writes what the authorities measured (bandwidth-file-spec,
// version 1.0.0): every relay is as quick as any other, so that each is chosen
// as often as any other.
func writeBandwidths(path string, now time.Time, fingerprints []string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%d\n", now.Unix())
	for _, fingerprint := range fingerprints {
		fmt.Fprintf(&text, "node_id=$%s bw=10000\n", fingerprint)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("writing the bandwidths: %w", err)
	}
	return nil
}

// writeStability writes what an authority remembers of the relays' uptime, the
// file router-stability: that they have been up for long. Without it only the
// relays that started first would be stable, and services choose their
// introduction points among the stable ones.
func writeStability(dir string, now time.Time, fingerprints []string) error {
	const run = 60 * 24 * time.Hour // far beyond what makes a relay stable for certain
	stamp := func(t time.Time) string { return t.UTC().Format(time.DateTime) }
	var text strings.Builder
	fmt.Fprintf(&text, "format 2\nstored-at %s\ntracked-since %s\nlast-downrated %s\ndata\n", stamp(now), stamp(now.Add(-run)), stamp(now))
	for _, fingerprint := range fingerprints {
		fmt.Fprintf(&text, "R %s\n+MTBF %d 1.00000\n+WFU 0 0\n", fingerprint, int(run.Seconds()))
	}
	text.WriteString(".\n")
	if err := os.WriteFile(filepath.Join(dir, "router-stability"), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("writing the relays' stability: %w", err)
	}
	return nil
}
