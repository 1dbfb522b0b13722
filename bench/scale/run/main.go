// Command run measures how a balancer grows with its services, one process for
// each number of them, and prints the figures. It runs in the module's root.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"onionbalancer/bench/scale"
)

func main() {
	lines := flag.Bool("json", false, "print one JSON object a line")
	sizes := flag.String("services", "10,100,1000,10000", "numbers of services")
	hours := flag.String("hours", "3", "virtual hours that the steady state is watched for")
	flag.Parse()
	if err := run(*lines, strings.Split(*sizes, ","), *hours); err != nil {
		fmt.Fprintln(os.Stderr, "bench-scale:", err)
		os.Exit(1)
	}
}

const header = `Customers in shards of 250 on 2 instances each, over 5 tors; in virtual time, store not synced.
CPU is the process's less the simulated network's: the time on its thread that each call into
the network takes. Copies through pipes and the collection of the network's garbage count as ours.
RSS is VmRSS in the steady state, garbage included, less what the network took before the first
service began; KiB each is what each service takes more than those of the line before; peak is
VmHWM from there on, the first publication included, less the same.
`

func run(lines bool, sizes []string, hours string) error {
	dir, err := os.MkdirTemp("", "balancer-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "scale.test")
	build := exec.Command(cmp.Or(os.Getenv("GO"), "go"), "test", "-c", "-o", binary, "./bench/scale")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, said)
	}
	if !lines {
		fmt.Printf("%s\n%8s %8s %8s %8s %20s %8s %11s %21s %12s\n", header, "services", "RSS MiB", "KiB each", "peak MiB", "CPU ms/service/hour", "queue s", "fetches/min", "uploads/service/hour", "publish min")
	}
	var errs []error
	var before scale.Result
	for _, size := range sizes {
		cmd := exec.Command(binary, "-test.run", "^TestScale$", "-test.timeout", "60m")
		cmd.Env = append(os.Environ(), "BALANCER_SCALE="+size, "BALANCER_SCALE_HOURS="+hours)
		said, err := cmd.CombinedOutput()
		_, rest, found := strings.Cut(string(said), scale.Mark)
		line, _, _ := strings.Cut(rest, "\n")
		var r scale.Result
		if err == nil && !found {
			err = errors.New("it printed no figures")
		}
		if err == nil {
			err = json.Unmarshal([]byte(line), &r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("measuring %s services: %w\n%s", size, err, said))
			continue
		}
		if lines {
			fmt.Println(line)
		} else {
			fmt.Printf("%8d %8.0f %8.1f %8.0f %20.2f %8.3f %11.1f %21.1f %12.1f\n", r.Services, r.RSS, (r.RSS-before.RSS)*1024/float64(r.Services-before.Services), r.Peak, r.CPU, r.Queue, r.Fetches, r.Uploads, r.Publish)
		}
		before = r
	}
	return errors.Join(errs...)
}
