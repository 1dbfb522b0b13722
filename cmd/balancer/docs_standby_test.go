package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/standby"
	"onionbalancer/testnet/sim"
)

// TestDocsStandby runs the machines of the last section of doc/cluster.md, as real processes
// on a simulated network, types its commands on each, and asks the first for its heartbeat.
func TestDocsStandby(t *testing.T) {
	t.Parallel()
	_, doc, found := strings.Cut(readDoc(t, "doc/cluster.md"), "\n## Two machines without etcd\n")
	if !found {
		t.Fatal("doc/cluster.md has no section on two machines")
	}
	blocks := map[string][]string{}
	for _, b := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(doc, -1) {
		blocks[b[1]] = append(blocks[b[1]], b[2])
	}
	if len(blocks["toml"]) != 3 || len(blocks["sh"]) != 1 || !strings.Contains(blocks[""][0], "HiddenServicePort 9100 127.0.0.1:9100") {
		t.Fatalf("the section has other blocks: %q", blocks)
	}
	first, second, third := blocks["toml"][0], blocks["toml"][1], blocks["toml"][2]

	root, err := os.MkdirTemp("", "docs") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	network := sim.New(sim.Config{Seed: 1, Latency: 20 * time.Millisecond})
	defer network.Close()
	web := network.AddInstance(sim.InstanceConfig{Start: time.Millisecond})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := free.Addr().String()
	_ = free.Close()
	start := func(name, text string) *exec.Cmd {
		dir := filepath.Join(root, name)
		here := strings.NewReplacer("/var/lib/balancer", dir+"/state", "127.0.0.1:9100", listen, "\"front\"", fmt.Sprintf("%q", root+"/front"),
			"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion", web.Address().String())
		text = here.Replace(text) + fmt.Sprintf("\n[tor]\ncontrol = \"unix:%s/tor\"\n", dir)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "balancer.toml"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(dir, "tor"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go network.AddTor(sim.TorConfig{}).Serve(l)
		cmd := exec.Command("balancer", "run", "--config", filepath.Join(dir, "balancer.toml"))
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	if out, err := exec.Command("balancer", "key", "new", filepath.Join(root, "front")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	active := start("active", first)
	await(t, "the heartbeat", func() error { return heartbeat(listen) })
	start("standby", second)
	start("watch", third)
	says := func(name, command string) string {
		out, _ := exec.Command("bash", "-c", strings.ReplaceAll(command, "/etc/balancer", filepath.Join(root, name))).CombinedOutput()
		return string(out)
	}
	check, status, _ := strings.Cut(strings.TrimSpace(blocks["sh"][0]), "\n")
	if got := says("active", check); !strings.Contains(got, "this machine publishes all services") {
		t.Errorf("check on the active one: %s", got)
	}
	if got := says("standby", check+" --offline"); !strings.Contains(got, `two machines without a store, of which this one is "standby"`) {
		t.Errorf("check on the other: %s", got)
	}
	for name, want := range map[string]string{"active": "this is the active machine", "standby": "this machine is on standby: 1 service watched, 0 published here", "watch": "this machine is on watch: 1 service watched"} {
		await(t, name, func() error {
			if got := says(name, status); !strings.Contains(got, want) {
				return fmt.Errorf("it has no %q: %s", want, got)
			}
			return nil
		})
	}
	if err := active.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "the silence of who is stopped", func() error { // the signal takes a moment
		if err := heartbeat(listen); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("heartbeat: %v", err)
		}
		return nil
	})
	_ = active.Process.Kill()
	_ = active.Wait()
	if err := heartbeat(listen); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the heartbeat of who is killed: %v", err)
	}
}

// heartbeat asks for a heartbeat, and returns an error unless it is a good one.
func heartbeat(listen string) error {
	conn, err := net.Dial("tcp", listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	fit, err := standby.ReadBeat(conn)
	if err == nil && !fit {
		err = io.ErrNoProgress
	}
	return err
}

// await waits until try succeeds.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
