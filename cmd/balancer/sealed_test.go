package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
	"onionbalancer/testnet/sim"
)

// TestNothingLegibleInEtcd: neither etcd's files nor what managers say to it have an onion
// address, a name or a key in them, after they began, took over from each other, heard words
// of the operator and added customers.
func TestNothingLegibleInEtcd(t *testing.T) {
	t.Parallel()
	store := etcdtest.Start(t, etcdlab.Config{Members: 3})
	wire := new(recorder)
	var endpoints []string
	for _, e := range store.Endpoints() {
		endpoints = append(endpoints, fmt.Sprintf("%q", "http://"+wire.listen(t, e)))
	}
	root, err := os.MkdirTemp("", "sealed") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	network := sim.New(sim.Config{Seed: 1, Latency: 20 * time.Millisecond})
	t.Cleanup(network.Close)
	web := network.AddInstance(sim.InstanceConfig{Start: time.Millisecond}).Address().String()
	in := func(dir string, args ...string) string {
		t.Helper()
		cmd := exec.Command("balancer", args...)
		cmd.Dir = filepath.Join(root, dir)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("balancer %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	const first, second = "amsterdam", "bergen"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(root, first), 0o700))
	in(first, "key", "new", "front")
	in(first, "cluster", "key", "cluster.key")
	var shard shardNew
	must(json.Unmarshal([]byte(in(first, "shard", "new", "gallery", "--customers", "customers", "--keys", "3", "--replica", "oslo", "--json")), &shard))
	must(exec.Command("cp", "-r", filepath.Join(root, first), filepath.Join(root, second)).Run())
	processes := map[string]*exec.Cmd{}
	for _, name := range []string{first, second} {
		text := fmt.Sprintf("state_dir = \"state\"\n[tor]\ncontrol = \"unix:%s/%s/tor\"\n[cluster]\nstore = \"etcd\"\nname = \"europe\"\nmanager = %q\nendpoints = [%s]\nkey = \"cluster.key\"\n"+
			"[[service]]\nkey = \"front\"\n[[service.instance]]\nname = \"helsinki\"\naddress = %q\n%s", root, name, name, strings.Join(endpoints, ", "), web, shard.Configuration)
		must(os.WriteFile(filepath.Join(root, name, "balancer.toml"), []byte(text), 0o600))
		l, err := net.Listen("unix", filepath.Join(root, name, "tor"))
		must(err)
		t.Cleanup(func() { l.Close() })
		go network.AddTor(sim.TorConfig{}).Serve(l)
		cmd := exec.Command("balancer", "run", "--config", filepath.Join(root, name, "balancer.toml"))
		cmd.Stderr = t.Output()
		must(cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		processes[name] = cmd
		await(t, name+" is in the cluster", func() error {
			s, err := status.QueryCluster(t.Context(), filepath.Join(root, name, "state", status.SocketName))
			if err == nil && !s.Joined {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
	in(first, "shard", "installed", "gallery", "--config", "balancer.toml")
	customer := in(first, "customer", "add", "shop.example", "--config", "balancer.toml")
	in(second, "weight", "helsinki", "0.5", "--config", "balancer.toml")
	must(processes[first].Process.Kill())
	await(t, second+" owns everything", func() error {
		s, err := status.QueryCluster(t.Context(), filepath.Join(root, second, "state", status.SocketName))
		if err == nil && (s.Owned != 2 || len(s.Members) != 1) {
			err = fmt.Errorf("%d owned by one of %d", s.Owned, len(s.Members))
		}
		return err
	})

	address := regexp.MustCompile(`[a-z2-7]{56}\.onion`)
	front, err := os.ReadFile(filepath.Join(root, first, "front", "hostname"))
	must(err)
	words := []string{first, second, "europe", "gallery", "helsinki", "oslo", "shop.example", web, address.FindString(string(front)), address.FindString(customer)}
	needles := spellings(words)
	err = filepath.WalkDir(filepath.Join(root, first), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "hs_ed25519_secret_key" {
			secret, err := os.ReadFile(path)
			needles = append(needles, secret[len(secret)-64:len(secret)-32])
			return err
		}
		return err
	})
	must(err)
	if len(needles) < len(words)+2*3+4 || slices.ContainsFunc(needles, func(n []byte) bool { return len(n) < 4 }) {
		t.Fatalf("%d needles: %q", len(needles), needles)
	}
	for n := range store.Members() {
		read, found, err := search(store.DataDir(n), needles)
		if err != nil || read == 0 || len(found) > 0 {
			t.Errorf("etcd's files: %v, %q in %d bytes", err, found, read)
		}
	}
	said := wire.said()
	if len(said) < 10_000 || !bytes.Contains(said, []byte("/balancer/")) {
		t.Fatalf("%d bytes were recorded, with what is in base64", len(said))
	}
	for _, n := range needles {
		if i := bytes.Index(said, n); i >= 0 {
			t.Errorf("%q was said: %q", n, said[max(0, i-40):min(len(said), i+60)])
		}
	}
	t.Logf("%d needles in %d bytes of what was said", len(needles), len(said))
}

// recorder records what goes through its proxies.
type recorder struct {
	mu      sync.Mutex
	streams []*bytes.Buffer
}

// listen makes a proxy for an endpoint, and returns its address.
func (r *recorder) listen(t *testing.T, endpoint string) string {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", u.Host)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(way[1], io.TeeReader(way[0], r.stream()))
					in.Close()
					out.Close()
				}()
			}
		}
	}()
	return l.Addr().String()
}

// stream returns where one way of a connection is recorded.
func (r *recorder) stream() io.Writer {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams = append(r.streams, new(bytes.Buffer))
	return guarded{&r.mu, r.streams[len(r.streams)-1]}
}

// guarded writes under a lock.
type guarded struct {
	mu *sync.Mutex
	to io.Writer
}

func (g guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.to.Write(p)
}

// said returns everything that was recorded, and behind it what was in base64, as keys and
// values are.
func (r *recorder) said() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []byte
	for _, s := range r.streams {
		all = append(all, s.Bytes()...)
	}
	for _, m := range regexp.MustCompile(`"([A-Za-z0-9+/]{8,}=*)"`).FindAllSubmatch(all, -1) {
		if clear, err := base64.StdEncoding.DecodeString(string(m[1])); err == nil {
			all = append(append(all, '\n'), clear...)
		}
	}
	return all
}
