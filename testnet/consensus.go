package testnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

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
