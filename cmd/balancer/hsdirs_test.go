package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/testnet/sim"
)

// In this directory: a consensus of a private network of tor 0.4.9.11 and its
// microdescriptors as the control port gave them, and where that tor uploaded
// the descriptors of a service at the time.
const hsdirsTestdata = "testdata/hsdirs"

func hsdirsFile(name string) string { return filepath.Join(hsdirsTestdata, name) }

func runHSDirs(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newHSDirsCommand()
	complete(cmd)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

type observed struct {
	Address string
	Uploads map[string][]string // by blinded key: "fingerprint index", in order
}

func readObserved(t *testing.T) (o observed) {
	t.Helper()
	raw, err := os.ReadFile(hsdirsFile("uploads.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &o); err != nil || len(o.Uploads) != 2 {
		t.Fatalf("%d descriptors, %v", len(o.Uploads), err)
	}
	return o
}

// parsedRing is what a program sees of a descriptor.
type parsedRing struct {
	Period       uint64 `json:"period"`
	Minutes      uint64 `json:"period_length_minutes"`
	SharedRandom string `json:"shared_random"`
	Blinded      string `json:"blinded_key"`
	Replicas     [][]struct {
		Fingerprint, Index, Nickname string
	} `json:"replicas"`
}

func TestHSDirsFromFiles(t *testing.T) {
	want := readObserved(t)
	out, err := runHSDirs(t, want.Address, "--json", "--testing", "--consensus", hsdirsFile("consensus"), "--microdescs", hsdirsFile("microdescs"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ First, Second parsedRing }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.First.Period+1 != got.Second.Period || got.First.Minutes != 4 || got.First.SharedRandom == got.Second.SharedRandom {
		t.Errorf("periods %d and %d of %d minutes", got.First.Period, got.Second.Period, got.First.Minutes)
	}
	for _, r := range []parsedRing{got.First, got.Second} {
		var list []string
		for _, replica := range r.Replicas {
			for _, h := range replica {
				list = append(list, strings.ToUpper(h.Fingerprint+" "+h.Index))
			}
		}
		if len(r.Replicas) != 2 || !slices.Equal(list, want.Uploads[r.Blinded]) {
			t.Errorf("period %d, blinded key %s: HSDirs\n%s\nbut tor uploaded to\n%s", r.Period, r.Blinded,
				strings.Join(list, "\n"), strings.Join(want.Uploads[r.Blinded], "\n"))
		}
	}
}

// TestHSDirsTable looks for what a person would look for.
func TestHSDirsTable(t *testing.T) {
	o := readObserved(t)
	out, err := runHSDirs(t, o.Address, "--testing", "--consensus", hsdirsFile("consensus"), "--microdescs", hsdirsFile("microdescs"))
	if err != nil {
		t.Fatal(err)
	}
	wants := []string{o.Address, "13 of 13 HSDirs known", "first descriptor", "second descriptor", "clients fetch", "stands in for a missing one"}
	for blinded, uploads := range o.Uploads {
		wants = append(wants, blinded)
		for _, u := range uploads {
			wants = append(wants, strings.ToLower(strings.Fields(u)[0]))
		}
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("the table does not show %q:\n%s", want, out)
		}
	}
	if stars := strings.Count(out, "\n* "); stars != 12 {
		t.Errorf("%d HSDirs marked, want 12:\n%s", stars, out)
	}
}

// TestHSDirsLineEnds takes the documents as they look on the wire.
func TestHSDirsLineEnds(t *testing.T) {
	address, dir := readObserved(t).Address, t.TempDir()
	plain, err := runHSDirs(t, address, "--testing", "--consensus", hsdirsFile("consensus"), "--microdescs", hsdirsFile("microdescs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"consensus", "microdescs"} {
		text, err := os.ReadFile(hsdirsFile(name))
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(bytes.TrimRight(text, "\n"), []byte("\n"), []byte("\r\n"))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wire, err := runHSDirs(t, address, "--testing", "--consensus", filepath.Join(dir, "consensus"), "--microdescs", filepath.Join(dir, "microdescs"))
	if err != nil || wire != plain {
		t.Errorf("with CR LF: %v\n%s", err, wire)
	}
}

// TestHSDirsFromTor asks a control port, behind which is another
// implementation of the ring.
func TestHSDirsFromTor(t *testing.T) {
	// With a fixed delay, tor begins with the newest consensus, whose HSDirs
	// Responsible returns, and not perhaps with the one before.
	n := sim.New(sim.Config{Tor: sim.TorConfig{ConsensusDelay: time.Minute}})
	defer n.Close()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go bridge(t, n, conn)
		}
	}()
	address, err := descriptor.ParseAddress(readObserved(t).Address)
	if err != nil {
		t.Fatal(err)
	}
	out, err := runHSDirs(t, address.String(), "--json", "--control", "unix:"+listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ First, Second parsedRing }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	first, second, err := n.Responsible(address)
	if err != nil {
		t.Fatal(err)
	}
	for i, relays := range [][]*sim.Relay{first, second} {
		var list, want []string
		for _, replica := range []parsedRing{got.First, got.Second}[i].Replicas {
			for _, h := range replica {
				list = append(list, strings.ToUpper(h.Fingerprint))
			}
		}
		for _, r := range relays {
			want = append(want, strings.ToUpper(r.Fingerprint()))
		}
		slices.Sort(list)
		slices.Sort(want)
		if len(list) == 0 || !slices.Equal(list, want) {
			t.Errorf("descriptor %d: HSDirs %v, want %v", i, list, want)
		}
	}
}

// bridge joins a connection with the network's control port.
func bridge(t *testing.T, n *sim.Network, conn net.Conn) {
	defer conn.Close()
	tor, err := n.Dial(t.Context())
	if err != nil {
		return
	}
	defer tor.Close()
	go func() {
		_, _ = io.Copy(tor, conn)
		tor.Close()
	}()
	_, _ = io.Copy(conn, tor)
}

func TestHSDirsRefuses(t *testing.T) {
	address := readObserved(t).Address
	consensus, microdescs := hsdirsFile("consensus"), hsdirsFile("microdescs")
	for _, test := range []struct {
		name   string
		args   []string
		misuse bool
		says   string
	}{
		{"no address", nil, true, "accepts 1 arg"},
		{"mistyped address", []string{"b" + address[1:], "--consensus", consensus, "--microdescs", microdescs}, true, "checksum"},
		{"no tor", []string{address}, true, "--control"},
		{"one file", []string{address, "--consensus", consensus}, true, "go together"},
		{"the other file", []string{address, "--microdescs", microdescs}, true, "go together"},
		{"files and tor", []string{address, "--consensus", consensus, "--microdescs", microdescs, "--control", "127.0.0.1:1"}, true, "not from both"},
		{"testing tor", []string{address, "--testing", "--control", "127.0.0.1:1"}, true, "--testing is for files"},
		{"no such file", []string{address, "--consensus", "testdata/none", "--microdescs", microdescs}, false, "no such file"},
		{"no such other file", []string{address, "--consensus", consensus, "--microdescs", "testdata/none"}, false, "no such file"},
		{"mixed up", []string{address, "--consensus", microdescs, "--microdescs", consensus}, false, "line 1"},
		{"no microdescriptors", []string{address, "--consensus", consensus, "--microdescs", os.DevNull}, false, "0 of 13 HSDirs known"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runHSDirs(t, test.args...)
			if err == nil || errors.As(err, new(usageError)) != test.misuse || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("error %v, misuse wanted %v; output %q", err, test.misuse, out)
			}
		})
	}
}
