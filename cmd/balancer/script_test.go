package main

import (
	"context"
	"crypto/sha256"
	be "encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/bbolt"

	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
)

// TestMain lets the scripts run this very binary as the command "balancer".
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"balancer": func() { os.Exit(run(os.Args[1:])) },
	})
}

// TestScripts runs what is in testdata/script, each file in a directory of its
// own: the command line as an operator meets it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"newerstate": newerState, "answers": answers},
		Condition: func(cond string) (bool, error) {
			if cond != "pkcs11" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return withPKCS11, nil
		},
	})
}

// answers SOCKET waits until a balancer answers there.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: answers SOCKET")
	}
	for range 1000 {
		s, err := status.Query(context.Background(), ts.MkAbs(args[0]))
		if err == nil && !slices.ContainsFunc(s.Services, func(s status.Service) bool { return len(s.Instances) == 0 }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("no balancer answers")
}

// newerState DIR makes a store there, and makes it one of a newer balancer: all but
// the number of its layout may be another.
func newerState(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: newerstate DIR")
	}
	dir := ts.MkAbs(args[0])
	store, err := state.Open(dir, state.Options{NoSync: true})
	ts.Check(err)
	ts.Check(store.Close())
	db, err := bbolt.Open(filepath.Join(dir, state.File), 0o600, nil)
	ts.Check(err)
	ts.Check(db.Update(func(tx *bbolt.Tx) error {
		bucket, key := []byte("meta"), []byte("layout")
		number := be.BigEndian.AppendUint64(nil, 2)
		h := sha256.New()
		h.Write(number)
		for _, part := range [][]byte{bucket, key, nil} {
			h.Write(be.BigEndian.AppendUint32(nil, uint32(len(part))))
			h.Write(part)
		}
		return tx.Bucket(bucket).Put(key, append(number, h.Sum(nil)[:8]...))
	}))
	ts.Check(db.Close())
}
