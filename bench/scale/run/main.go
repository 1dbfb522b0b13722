// Command run measures how a balancer grows with its services, one process for
// each number of them, and prints the figures. It runs in the module's root.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"onionbalancer/bench/harness"
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
	binary, err := harness.BuildTest(dir, "./bench/scale")
	if err != nil {
		return err
	}
	if !lines {
		fmt.Printf("%s\n%8s %8s %8s %8s %20s %8s %11s %21s %12s\n", header, "services", "RSS MiB", "KiB each", "peak MiB", "CPU ms/service/hour", "queue s", "fetches/min", "uploads/service/hour", "publish min")
	}
	var errs []error
	var before scale.Result
	for _, size := range sizes {
		var r scale.Result
		if err := harness.Figures(binary, "TestScale", "60m", scale.Mark, &r, "BALANCER_SCALE="+size, "BALANCER_SCALE_HOURS="+hours); err != nil {
			errs = append(errs, fmt.Errorf("measuring %s services: %w", size, err))
			continue
		}
		if lines {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			fmt.Println(string(line))
		} else {
			fmt.Printf("%8d %8.0f %8.1f %8.0f %20.2f %8.3f %11.1f %21.1f %12.1f\n", r.Services, r.RSS, (r.RSS-before.RSS)*1024/float64(r.Services-before.Services), r.Peak, r.CPU, r.Queue, r.Fetches, r.Uploads, r.Publish)
		}
		before = r
	}
	return errors.Join(errs...)
}
