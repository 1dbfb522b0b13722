package hosting

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// killedChild names the directory in which TestKilledWhileAdding's child works.
const killedChild = "HOSTING_TEST_KILLED_CHILD"

const (
	killedAdds  = 1000
	killedAfter = 400 // answers
)

// A process that is killed with SIGKILL in the midst of 1,000 adds has every one that
// was answered, and no name, request or spare twice; the same requests are answered the same.
func TestKilledWhileAdding(t *testing.T) {
	if dir := os.Getenv(killedChild); dir != "" {
		addUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	for n, shard := range []string{"s1", "s2"} {
		spares(t, filepath.Join(dir, shard), n*killedAdds/2, killedAdds/2)
	}
	answered := map[string]string{} // customers and their addresses
	kills := 0
	for len(answered) < killedAdds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileAdding$")
		cmd.Env = append(os.Environ(), killedChild+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after, lines := rand.N(killedAfter), 0
		for in := bufio.NewScanner(out); in.Scan(); {
			var name, label string
			if parts, err := fmt.Sscanf(in.Text(), "%s %s .", &name, &label); parts != 2 || err != nil {
				t.Logf("%q", in.Text())
				continue // a line that was cut short, or what a test prints
			}
			if before := answered[name]; before != "" && before != label {
				t.Fatalf("%s has %s, and had %s", name, label, before)
			}
			if answered[name] == "" {
				if lines++; lines == after+1 {
					_ = cmd.Process.Kill()
				}
			}
			answered[name] = label
		}
		err = cmd.Wait()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			kills++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if kills == 0 {
		t.Error("no child was killed")
	}
	owners := map[string]string{}
	for name, label := range answered {
		if owners[label] != "" {
			t.Errorf("%s and %s have one address", name, owners[label])
		}
		owners[label] = name
	}
	store, err := state.Open(filepath.Join(dir, "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r := open(t, store, filepath.Join(dir, "s1"), filepath.Join(dir, "s2"))
	for _, c := range r.All() {
		if answered[c.Name] != c.Address.Label() || c.State != Active {
			t.Errorf("%+v; %s was answered", c, answered[c.Name])
		}
		if is, err := readAddress(filepath.Join(dir, c.Shard, c.Name)); err != nil || is != c.Address {
			t.Errorf("%s has the key of %s, %v", c.Name, is, err)
		}
	}
	total := Shard{}
	for _, s := range r.Shards() {
		total.Active, total.Spares = total.Active+s.Active, total.Spares+s.Spares
	}
	if total != (Shard{Active: killedAdds}) || len(r.warnings()) != 2 { // no spares are left
		t.Errorf("%+v, warnings %q", total, r.warnings())
	}
}

func readAddress(path string) (descriptor.Address, error) {
	dir, err := OpenDir(filepath.Dir(path))
	if err != nil {
		return descriptor.Address{}, err
	}
	return dir.Address(filepath.Base(path))
}

// addUntilKilled makes all adds, 50 at a time, and prints each that is answered.
func addUntilKilled(t *testing.T, dir string) {
	store, err := state.Open(filepath.Join(dir, "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r := open(t, store, filepath.Join(dir, "s1"), filepath.Join(dir, "s2"))
	var wait sync.WaitGroup
	for worker := range 50 {
		wait.Go(func() {
			for n := worker; n < killedAdds; n += 50 {
				name := fmt.Sprint("customer", n)
				c, _, err := r.Add(t.Context(), name, "", fmt.Sprint("request", n))
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Printf("%s %s .\n", c.Name, c.Address.Label())
			}
		})
	}
	wait.Wait()
}
