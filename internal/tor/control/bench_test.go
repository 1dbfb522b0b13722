package control

import (
	"bufio"
	"strings"
	"testing"
)

// A consensus of the size of the public network's, read the way GetInfo does
// when it has read one before.
func BenchmarkDocument(b *testing.B) {
	document := strings.Repeat("r relay AAAAAAAAAAAAAAAAAAAAAAAAAAA 2038-01-01 00:00:00 127.0.0.1 9001 0\n"+
		"m AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"+
		"s Fast Guard HSDir Running Stable V2Dir Valid\n", 16000)
	wire := "250+k=\r\n" + stuff([]byte(document)) + ".\r\n250 OK\r\n"
	b.SetBytes(int64(len(document)))
	b.ReportAllocs()
	for b.Loop() {
		value, err := readInfo(bufio.NewReader(strings.NewReader(wire)), "k", 1<<30, len(document))
		if err != nil || len(value) != len(document) {
			b.Fatal(len(value), err)
		}
	}
}
