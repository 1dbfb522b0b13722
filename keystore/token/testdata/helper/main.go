// Command helper is the helper process as balancer runs it, but for one thing:
// its memory can be read by a test that is not root.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token/helper"
)

func main() {
	go func() {
		for ; ; time.Sleep(time.Millisecond) {
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		}
	}()
	if err := helper.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
