// Command run simulates hosting with several numbers of customers, one process for each, and
// writes the figures into doc/hosting.md. It runs in the module's root.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	"onionbalancer/bench/harness"
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
	binary, err := harness.BuildTest(dir, "./internal/balance")
	if err != nil {
		return err
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
	err = harness.Figures(binary, "TestMonthOfHosting", "12h", hosting.Mark, &r,
		"BALANCER_HOSTING="+customers, "BALANCER_HOSTING_DAYS="+days, "GOGC="+cmp.Or(os.Getenv("GOGC"), "400"))
	return r, err
}
