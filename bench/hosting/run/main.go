// Command run simulates hosting with several numbers of customers, one process for each, and
// writes the figures into doc/hosting.md. It runs in the module's root.
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

	"onionbalancer/bench/hosting"
)

func main() {
	runs := flag.String("runs", "10:30,100:30,1000:30,10000:30", "what to simulate: CUSTOMERS:DAYS, separated by commas")
	lines := flag.Bool("json", false, "print one JSON object a line, and write nothing")
	flag.Parse()
	if err := run(strings.Split(*runs, ","), *lines); err != nil {
		fmt.Fprintln(os.Stderr, "bench-hosting:", err)
		os.Exit(1)
	}
}

func run(runs []string, lines bool) error {
	dir, err := os.MkdirTemp("", "balancer-hosting-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "balance.test")
	build := exec.Command(cmp.Or(os.Getenv("GO"), "go"), "test", "-c", "-o", binary, "./internal/balance")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, said)
	}
	var results []hosting.Result
	for _, size := range runs {
		customers, days, _ := strings.Cut(size, ":")
		fmt.Fprintf(os.Stderr, "%s customers, %s days\n", customers, cmp.Or(days, "30"))
		r, err := simulate(binary, customers, days)
		if err != nil {
			return fmt.Errorf("simulating %s customers: %w", customers, err)
		}
		if lines {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			fmt.Println(string(line))
		}
		results = append(results, r)
	}
	if lines {
		return nil
	}
	table := hosting.Table(results)
	fmt.Print(table.Markdown())
	return hosting.Write(results)
}

// simulate runs one simulation.
func simulate(binary, customers, days string) (r hosting.Result, err error) {
	cmd := exec.Command(binary, "-test.run", "^TestMonthOfHosting$", "-test.timeout", "12h")
	cmd.Env = append(os.Environ(), "BALANCER_HOSTING="+customers, "BALANCER_HOSTING_DAYS="+days, "GOGC="+cmp.Or(os.Getenv("GOGC"), "400"))
	said, err := cmd.CombinedOutput()
	_, rest, found := strings.Cut(string(said), hosting.Mark)
	line, _, _ := strings.Cut(rest, "\n")
	if err == nil && !found {
		err = errors.New("it printed no figures")
	}
	if err == nil {
		err = json.Unmarshal([]byte(line), &r)
	}
	if err != nil {
		return r, fmt.Errorf("%w\n%s", err, said)
	}
	return r, nil
}
