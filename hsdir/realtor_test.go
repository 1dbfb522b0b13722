package hsdir_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet"
)

// TestRealTor holds the rings to where a real tor uploads, and has descriptors
// of our own published and fetched through one.
func TestRealTor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	n, err := testnet.Start(ctx, testnet.Config{Relays: 10, Clients: []string{"manager"}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	client := control.New(control.Config{Dial: control.DialTarget(n.ControlTarget("manager"))})
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); client.Run(running) }()
	defer func() { stop(); <-done }()
	if err := client.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	n1 := &network{client: client}
	t.Run("where tor uploads", func(t *testing.T) { n1.testUploads(ctx, t, n.ControlTarget("manager")) })
	t.Run("publish and fetch", func(t *testing.T) { n1.testPublish(ctx, t) })
}

type network struct {
	client *control.Client
	parser hsdir.Parser
}

func (n *network) consensus(ctx context.Context, t *testing.T) *hsdir.Consensus {
	t.Helper()
	consensus, err := n.client.GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	if err != nil {
		t.Fatal(err)
	}
	microdescs, err := n.client.GetInfo(ctx, "md/all")
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.parser.Parse(consensus, microdescs, true)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testUploads adds an onion service to tor and compares where its descriptors
// go. The consensus may change meanwhile, so that a few tries are allowed.
func (n *network) testUploads(ctx context.Context, t *testing.T, target string) {
	for try := 1; ; try++ {
		before := n.consensus(ctx, t)
		address, uploads := addOnion(ctx, t, target)
		after := n.consensus(ctx, t)
		if before != after && try < 5 {
			continue
		}
		for _, role := range []hsdir.Role{hsdir.FirstRole, hsdir.SecondRole} {
			r, err := after.Ring(role)
			if err != nil {
				t.Fatal(err)
			}
			blinded, err := address.Blind(r.Period)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, h := range slices.Concat(r.Store(blinded)...) {
				want = append(want, h.Hex()+" "+strings.ToUpper(hex.EncodeToString(h.Index[:])))
			}
			got := uploads[blinded]
			slices.Sort(got)
			slices.Sort(want)
			if len(want) != 8 || !slices.Equal(got, want) {
				t.Errorf("%s descriptor: tor uploaded to\n%s\nwant\n%s", role, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		return
	}
}

// addOnion has tor make a service, and returns its address and, by blinded
// key, to which HSDirs its two descriptors went, with their indexes.
func addOnion(ctx context.Context, t *testing.T, target string) (descriptor.Address, map[descriptor.BlindedPublicKey][]string) {
	t.Helper()
	conn, err := control.DialTarget(target)(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	fmt.Fprintf(conn, "AUTHENTICATE %s\r\nSETEVENTS HS_DESC\r\nADD_ONION NEW:ED25519-V3 Port=80\r\n", cookie(t, conn))
	var label string
	uploads := map[descriptor.BlindedPublicKey][]string{}
	for count := 0; count < 16; {
		line := readLine(t, conn)
		if id, ok := strings.CutPrefix(line, "250-ServiceID="); ok {
			label = id
		}
		// 650 HS_DESC UPLOAD address auth hsdir blinded-key HSDIR_INDEX=...
		f := strings.Fields(line)
		if len(f) < 8 || f[2] != "UPLOAD" || f[3] != label {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(f[6])
		if err != nil || len(raw) != 32 {
			t.Fatalf("blinded key %q: %v", f[6], err)
		}
		hsdir, _, _ := strings.Cut(strings.TrimPrefix(f[5], "$"), "~")
		blinded := descriptor.BlindedPublicKey(raw)
		uploads[blinded] = append(uploads[blinded], hsdir+" "+strings.TrimPrefix(f[7], "HSDIR_INDEX="))
		count++
	}
	address, err := descriptor.ParseAddress(label)
	if err != nil {
		t.Fatal(err)
	}
	return address, uploads
}

// cookie asks tor where its cookie is, and returns it in hex.
func cookie(t *testing.T, conn net.Conn) string {
	t.Helper()
	fmt.Fprint(conn, "PROTOCOLINFO 1\r\n")
	var path string
	for line := ""; line != "250 OK"; line = readLine(t, conn) {
		if _, after, ok := strings.Cut(line, "COOKIEFILE="); ok {
			var err error
			if path, err = strconv.Unquote(after); err != nil {
				t.Fatalf("the cookie's path in %q: %v", line, err)
			}
		}
	}
	if path == "" {
		return ""
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(raw)
}

// readLine reads a line byte by byte, which is quick enough for a few events.
func readLine(t *testing.T, conn net.Conn) string {
	t.Helper()
	line, err := bufio.NewReaderSize(oneByte{conn}, 16).ReadString('\n')
	if err != nil {
		t.Fatalf("reading from tor: %v", err)
	}
	return strings.TrimRight(line, "\r\n")
}

// oneByte never reads ahead.
type oneByte struct{ net.Conn }

func (r oneByte) Read(b []byte) (int, error) { return r.Conn.Read(b[:1]) }

// testPublish publishes to all slots of both descriptors, fetches the one that
// clients would, and publishes the same revision counter once more.
func (n *network) testPublish(ctx context.Context, t *testing.T) {
	c := n.consensus(ctx, t)
	identity, err := descriptor.IdentityKeyFromSeed(slices.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	q := hsdir.NewUploadQueue(hsdir.UploadConfig{Poster: n.client, Patience: 10 * time.Second, RetryMin: 100 * time.Millisecond})
	defer q.Close()
	publish := func(role hsdir.Role, revision uint64) (reports chan hsdir.UploadResult, slots int) {
		r, err := c.Ring(role)
		if err != nil {
			t.Fatal(err)
		}
		encode, blinded := encoder(t, identity, r.Period, revision)
		list := r.Slots(blinded)
		reports = make(chan hsdir.UploadResult, 100)
		q.Upload(hsdir.Upload{Address: identity.Address(), Period: r.Period, Slots: list, Body: encode,
			Report: func(r hsdir.UploadResult) { reports <- r }})
		return reports, len(list)
	}
	settled := func(reports chan hsdir.UploadResult, slots int) (confirmed, rejected int) {
		for confirmed+rejected < slots {
			select {
			case r := <-reports:
				if r.Rejected {
					rejected++
				} else if r.Err == nil {
					confirmed++
				}
			case <-ctx.Done():
				t.Fatalf("%d confirmed, %d rejected of %d slots", confirmed, rejected, slots)
			}
		}
		return confirmed, rejected
	}
	began := time.Now()
	first, slots := publish(hsdir.FirstRole, 1000)
	second, slots2 := publish(hsdir.SecondRole, 1000)
	a, _ := settled(first, slots)
	b, _ := settled(second, slots2)
	t.Logf("%d and %d slots filled after %v", a, b, time.Since(began))
	if slots != 8 || a != 8 || slots2 != 8 || b != 8 {
		t.Fatalf("%d of %d and %d of %d slots filled, want all of 8", a, slots, b, slots2)
	}

	keys, err := identity.Address().Keys(c.CurrentPeriod())
	if err != nil {
		t.Fatal(err)
	}
	f := hsdir.NewFetcher(hsdir.FetchConfig{Getter: n.client})
	got, err := f.Fetch(ctx, c, keys, nil, 1000, time.Now())
	if err != nil || got.Descriptor.RevisionCounter != 1000 {
		t.Fatalf("fetching what was published: %+v, %v", got, err)
	}
	askAll := func(keys descriptor.PeriodKeys, revision uint64, want error) {
		for _, h := range slices.Concat(c.Current().Fetch(keys.Blinded)...) {
			got, err := f.AskOuter(ctx, c, keys, h.Fingerprint, time.Now())
			if !errors.Is(err, want) || len(got.HSDirs) != 1 || got.HSDirs[0].HSDir.Fingerprint != h.Fingerprint || got.HSDirs[0].Revision != revision {
				t.Errorf("HSDir %s alone: %+v, %v, want revision %d, %v", h.Hex(), got.HSDirs, err, revision, want)
			}
		}
	}
	askAll(keys, 1000, nil)
	other, err := descriptor.IdentityKeyFromSeed(slices.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := other.Address().Keys(c.CurrentPeriod())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.Fetch(ctx, c, unknown, nil, 0, time.Now()); !errors.Is(err, hsdir.ErrNotFound) {
		t.Errorf("fetching what was never published: %+v, %v", got, err)
	}

	askAll(unknown, 0, hsdir.ErrNotFound)

	if confirmed, rejected := settled(publish(hsdir.FirstRole, 1000)); confirmed != 0 || rejected != 8 {
		t.Errorf("the same revision counter: %d confirmed, %d rejected", confirmed, rejected)
	}
	if confirmed, rejected := settled(publish(hsdir.FirstRole, 1001)); confirmed != 8 || rejected != 0 {
		t.Errorf("a higher revision counter: %d confirmed, %d rejected", confirmed, rejected)
	}
	if c.CurrentPeriod() == c.Period(hsdir.FirstRole) {
		askAll(keys, 1001, nil)
	}
}

// encoder makes empty descriptors of a service.
func encoder(t *testing.T, identity *descriptor.IdentityKey, p descriptor.Period, revision uint64) (func(context.Context, hsdir.Slot) ([]byte, error), descriptor.BlindedPublicKey) {
	e, blinded := newEncoder(t, identity, p)
	return func(context.Context, hsdir.Slot) ([]byte, error) {
		return e.Encode(&descriptor.Contents{}, revision, rand.Reader)
	}, blinded
}

// newEncoder makes the descriptors of a service for a period.
func newEncoder(t *testing.T, identity *descriptor.IdentityKey, p descriptor.Period) (*descriptor.Encoder, descriptor.BlindedPublicKey) {
	t.Helper()
	keys, err := identity.Address().Keys(p)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(p)
	if err != nil {
		t.Fatal(err)
	}
	public, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(public), blinded.Public(), time.Now().Add(54*time.Hour),
		func(msg []byte) ([]byte, error) { return blinded.Sign(msg), nil })
	if err != nil {
		t.Fatal(err)
	}
	e, err := descriptor.NewEncoder(keys, cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	return e, keys.Blinded
}
