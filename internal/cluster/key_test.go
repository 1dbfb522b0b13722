package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/locked/lockedtest"
)

func text(k *cluster.Key) string { return string(lockedtest.Bytes(k.Text())) }

func parse(t *testing.T, text string) *cluster.Key {
	t.Helper()
	k, err := cluster.ParseKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKey(t *testing.T) {
	one := cluster.NewKey()
	two, err := one.Add()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Add(); err == nil {
		t.Error("a third was added")
	}
	path := filepath.Join(t.TempDir(), "cluster.key")
	for _, k := range []*cluster.Key{one, two} {
		if err := os.WriteFile(path, []byte(text(k)), 0o600); err != nil {
			t.Fatal(err)
		}
		read, err := cluster.ReadKey(path)
		if err != nil || text(read) != text(k) {
			t.Errorf("%v", err)
		}
		if shown := fmt.Sprintf("%v %+v %#v", k, read, *read); strings.Contains(shown, text(k)[30:40]) {
			t.Errorf("printed: %s", shown)
		}
	}
	if !strings.HasPrefix(text(two), text(one)) || !strings.HasPrefix(text(one), "balancer-cluster-key-1 ") || strings.Count(text(two), "\n") != 2 {
		t.Errorf("%s", text(two))
	}
	parse(t, strings.TrimSuffix(text(one), "\n"))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.ReadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error(err)
	}
	if _, err := cluster.ReadKey(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	one, other := text(cluster.NewKey()), text(cluster.NewKey())
	secret := one[30:80]
	for in, want := range map[string]string{
		"": "it is empty", "\n": "does not begin with", one + "\n": "does not begin with", one + one: "both lines are the same",
		one + other: "two clusters", one[:80]: "a line of 80 bytes", one[:50] + "!" + one[51:]: "base64", strings.Replace(one, "-1 ", "-2 ", 1): "does not begin with",
		strings.Replace(one, "\n", "\r\n", 1): "a line of", one + "x": "does not begin with",
	} {
		if _, err := cluster.ParseKey([]byte(in)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%d bytes: %v, want %q", len(in), err, want)
		}
	}
	two, err := cluster.NewKey().Add()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.ParseKey([]byte(text(two) + text(two))); err == nil || !strings.Contains(err.Error(), "more than 2") {
		t.Error(err)
	}
}
