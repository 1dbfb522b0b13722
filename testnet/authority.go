package testnet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
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

// writeBandwidths writes the authorities' measurements (bandwidth-file-spec,
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

// writeStability writes an authority's record of the relays' uptime, the
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

// Consensus is what an authority publishes of the network's state, as far as
// tests of onion services want to know it.
type Consensus struct {
	ValidAfter time.Time
	FreshUntil time.Time
	ValidUntil time.Time
	Relays     int // in the consensus, authorities included
	HSDirs     int // relays with the HSDir flag
	Stable     int // relays that services take as introduction points: with the Stable flag

	SharedRandomCurrent  []byte // 32 bytes; nil before the first run has ended
	SharedRandomPrevious []byte
}

// roundsPerPeriod is the length of a time period, and of a shared random run,
// in voting intervals (rend-spec-v3, "Time periods"; srv-spec).
const roundsPerPeriod = 24

// VotingInterval is the time from one consensus to the next.
func (c *Consensus) VotingInterval() time.Duration { return c.FreshUntil.Sub(c.ValidAfter) }

// NextPeriod is when the time period changes. On a testing network a period is
// 24 voting intervals, and begins 12 intervals after a multiple of that.
func (c *Consensus) NextPeriod() time.Time {
	length := int64(roundsPerPeriod * c.VotingInterval() / time.Second)
	offset := length / 2
	number := (c.ValidAfter.Unix() - offset) / length
	return time.Unix((number+1)*length+offset, 0).UTC()
}

// NextSharedRandom is when the next shared random run begins: the valid-after
// time of the first consensus with a new value.
func (c *Consensus) NextSharedRandom() time.Time {
	interval := int64(c.VotingInterval() / time.Second)
	round := c.ValidAfter.Unix() / interval % roundsPerPeriod
	return c.ValidAfter.Add(time.Duration(roundsPerPeriod-round) * c.VotingInterval())
}

// parseConsensus reads the lines that Consensus has fields for (dir-spec,
// "Consensus status documents").
func parseConsensus(document []byte) (*Consensus, error) {
	c := new(Consensus)
	lines := bufio.NewScanner(bytes.NewReader(document))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		keyword, rest, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch keyword {
		case "valid-after":
			c.ValidAfter, err = time.Parse(time.DateTime, rest)
		case "fresh-until":
			c.FreshUntil, err = time.Parse(time.DateTime, rest)
		case "valid-until":
			c.ValidUntil, err = time.Parse(time.DateTime, rest)
		case "shared-rand-current-value":
			c.SharedRandomCurrent, err = parseSharedRandom(rest)
		case "shared-rand-previous-value":
			c.SharedRandomPrevious, err = parseSharedRandom(rest)
		case "r":
			c.Relays++
		case "s":
			flags := " " + rest + " "
			c.HSDirs += strings.Count(flags, " HSDir ")
			c.Stable += strings.Count(flags, " Stable ")
		}
		if err != nil {
			return nil, fmt.Errorf("reading the consensus: %s: %w", keyword, err)
		}
	}
	if !c.ValidAfter.Before(c.FreshUntil) {
		return nil, fmt.Errorf("reading the consensus: fresh-until %v is not after valid-after %v", c.FreshUntil, c.ValidAfter)
	}
	return c, nil
}

// parseSharedRandom reads "reveals value".
func parseSharedRandom(rest string) ([]byte, error) {
	_, value, _ := strings.Cut(rest, " ")
	raw, err := base64.StdEncoding.DecodeString(value)
	if err == nil && len(raw) != 32 {
		err = fmt.Errorf("%d bytes instead of 32", len(raw))
	}
	return raw, err
}

// Consensus is the current one, or an error when there is none yet.
func (n *Network) Consensus(ctx context.Context) (*Consensus, error) {
	var c *Consensus
	var err error
	for _, a := range n.authorities {
		if c, err = FetchConsensus(ctx, a.dirPort); err == nil {
			break
		}
	}
	return c, err
}

// DirectoryAddress is the directory port of an authority, as "host:port", for
// FetchConsensus in other processes.
func (n *Network) DirectoryAddress() string { return n.authorities[0].dirPort }

// FetchConsensus asks an authority for the current consensus.
func FetchConsensus(ctx context.Context, directory string) (*Consensus, error) {
	document, err := fetchDirectory(ctx, directory, "/tor/status-vote/current/consensus-microdesc")
	if err != nil {
		return nil, fmt.Errorf("fetching the consensus: %w", err)
	}
	return parseConsensus(document)
}

// directoryClient asks for documents as they are, each over a connection of its
// own: what tor compresses, it compresses in its own way.
var directoryClient = &http.Client{
	Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	Timeout:   5 * time.Second,
}

// fetchDirectory fetches a document from the directory port of an authority.
func fetchDirectory(ctx context.Context, directory, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+directory+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := directoryClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("authority at %s: %s", directory, response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, 16<<20))
}
