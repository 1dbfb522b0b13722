package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/sim"
)

// TestDocsCluster types what doc/cluster.md has an operator type, from top to bottom: on three
// real etcd, with TLS and users, and three managers on a simulated network.
func TestDocsCluster(t *testing.T) {
	t.Parallel()
	program, err := etcdlab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	// A socket's path must be short, and the test's own directory is not.
	root, err := os.MkdirTemp("", "docs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	machines := newMachines(t, root)
	script, typed := machines.script()
	if typed < 80 {
		t.Errorf("%d commands, want at least 80", typed)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = filepath.Join(root, "desk")
	cmd.Env = append(os.Environ(), "ROOT="+root, "ETCD="+program, "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What the script starts has its output elsewhere, and lives longer.
	defer func() {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	began := time.Now()
	out, err := cmd.CombinedOutput()
	said := string(out)
	if err != nil {
		t.Errorf("%v\n%s", err, said)
		for n := 1; n <= 3; n++ {
			for _, unit := range []string{"etcd", "balancer"} {
				log, _ := os.ReadFile(filepath.Join(root, fmt.Sprint(n), unit+".log"))
				t.Logf("%s of machine %d: %s", unit, n, log[max(0, len(log)-3000):])
			}
		}
	}
	for what, least := range map[string]int{
		"ok       etcd role: reads, writes and deletes below /balancer/": 3,
		"cluster main: 3 managers":                                       1, "owns nothing any more": 4, "wrote what it knows into the store again": 1,
	} {
		if n := strings.Count(said, what); n < least {
			t.Errorf("%q is said %d times, want %d at least", what, n, least)
		}
	}
	t.Logf("%d commands in %.0f s\n%s", typed, time.Since(began).Seconds(), said)
}

// machines are three machines of doc/cluster.md.
type machines struct {
	t    *testing.T
	root string
	net  string // the first three numbers of their addresses
	web  string // the onion address of an instance
}

// newMachines makes the machines as step 1 of doc/cluster.md has them.
func newMachines(t *testing.T, root string) machines {
	t.Helper()
	m := machines{t: t, root: root, net: fmt.Sprintf("127.%d.%d", 1+rand.IntN(250), rand.IntN(250))}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	network := sim.New(sim.Config{Seed: 1, Latency: 20 * time.Millisecond})
	t.Cleanup(network.Close)
	m.make("desk/bin")
	m.make("bin")
	m.link(self, filepath.Join(root, "bin", "balancer"))
	m.link(self, filepath.Join(root, "desk/bin/balancer"))
	front := filepath.Join(root, "front")
	if code := run([]string{"key", "new", front}); code != exitDone {
		t.Fatalf("key new: exit status %d", code)
	}
	for n := 1; n <= 3; n++ {
		home := fmt.Sprint(n)
		for _, dir := range []string{"bin", "etc/balancer/front", "etc/default", "var/lib/balancer", "var/lib/etcd"} {
			m.make(home + "/" + dir)
		}
		for _, file := range []string{"hs_ed25519_secret_key", "hostname"} {
			content, err := os.ReadFile(filepath.Join(front, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(root, home, "etc/balancer/front", file), content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		l, err := net.Listen("unix", filepath.Join(root, home, "tor"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go network.AddTor(sim.TorConfig{}).Serve(l)
	}
	m.web = network.AddInstance(sim.InstanceConfig{Name: "web1"}).Address().String()
	return m
}

func (m *machines) make(dir string) {
	if err := os.MkdirAll(filepath.Join(m.root, dir), 0o700); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machines) link(to, name string) {
	if err := os.Symlink(to, name); err != nil {
		m.t.Fatal(err)
	}
}

// script is what is typed: the commands of doc/cluster.md, and its files where their names stand.
func (m *machines) script() (script string, typed int) {
	m.t.Helper()
	functions, err := os.ReadFile("testdata/machines.sh")
	if err != nil {
		m.t.Fatal(err)
	}
	here := strings.NewReplacer("10.0.0.", m.net+".", "zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion", m.web)
	var out strings.Builder
	out.WriteString("set -eu -o pipefail\n" + string(functions) + "trap 'echo \"$ $BASH_COMMAND\" >&2' DEBUG\n")
	doc, _, _ := strings.Cut(readDoc(m.t, "doc/cluster.md"), "\n## Two machines without etcd\n")
	fence := regexp.MustCompile("(?ms)^( *)```(sh|toml|etcd)\n(.*?)^ *```$")
	names := map[string]string{"toml": "balancer.toml", "etcd": "etcd.env"}
	for _, b := range fence.FindAllStringSubmatch(doc, -1) {
		text := strings.ReplaceAll(here.Replace("\n"+b[3]), "\n"+b[1], "\n")[1:]
		if name, is := names[b[2]]; is {
			fmt.Fprintf(&out, "cat > %s <<'END'\n%sEND\n", name, text)
			continue
		}
		typed += strings.Count(text, "\n")
		out.WriteString(text)
	}
	return out.String(), typed
}
