package testnet

import "testing"

// TestEndedIsNoCrash: while a tor that was ended is started again, it has not ended by
// itself, in the eyes of others who wait.
func TestEndedIsNoCrash(t *testing.T) {
	before := &process{exited: make(chan struct{})}
	close(before.exited)
	d := &node{net: &Network{config: Config{TorBinary: "/no/such/program"}}, dir: t.TempDir(), process: before, ending: true}
	if err := d.start(t.Context()); err == nil {
		t.Fatal("started")
	}
	if err := d.crashed(); err != nil {
		t.Error(err)
	}
}
