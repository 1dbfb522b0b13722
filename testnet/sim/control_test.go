package sim

import (
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The sample is what real tor answered before it had a consensus.
func TestRefusalsAsRealTor(t *testing.T) {
	sample, err := os.ReadFile("testdata/refusals.txt")
	if err != nil {
		t.Fatal(err)
	}
	conversations := strings.Split(strings.TrimSpace(string(sample)), "---\n")
	if len(conversations) < 3 {
		t.Fatalf("%d conversations in the sample", len(conversations))
	}
	inNetwork(t, Config{Tor: TorConfig{Bootstrap: time.Hour}}, func(t *testing.T, n *Network) {
		for _, conversation := range conversations {
			c := dial(t, n)
			for _, exchange := range strings.Split(conversation, "> ")[1:] {
				command, want, _ := strings.Cut(exchange, "\n")
				c.say(strings.Split(command, `\n`)...)
				if got := c.heard(); got != strings.TrimRight(want, "\n") {
					t.Errorf("%s:\n got %q\nwant %q", command, got, want)
				}
			}
			_ = c.conn.Close()
		}
	})
}

// heard returns what the tor has to say before it waits for the next command,
// in the form of the sample.
func (c *controller) heard() string {
	c.t.Helper()
	var lines []string
	for {
		synctest.Wait()
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // fails once tor has closed
		line, err := c.in.ReadString('\n')
		switch {
		case err == io.EOF:
			return strings.Join(append(lines, "< <closed>"), "\n")
		case err != nil:
			return strings.Join(lines, "\n")
		}
		lines = append(lines, "< "+strings.TrimSuffix(line, "\r\n"))
	}
}

func TestPassword(t *testing.T) {
	inNetwork(t, Config{Tor: TorConfig{Password: `a "secret"`}}, func(t *testing.T, n *Network) {
		c := dial(t, n)
		c.expect("PROTOCOLINFO 1", "250-PROTOCOLINFO 1", "250-AUTH METHODS=HASHEDPASSWORD", `250-VERSION Tor="0.4.9.11"`, "250 OK")
		c.expect(`AUTHENTICATE "a \"secret\""`, "250 OK")
		c.expect("GETINFO version", "250-version=0.4.9.11", "250 OK")
		c = dial(t, n)
		c.expect(`AUTHENTICATE "wrong"`, "515 Authentication failed: Password did not match HashedControlPassword value from configuration")
		if line := c.line(); line != "" {
			t.Errorf("after a wrong password tor says %q", line)
		}
	})
}

func TestDots(t *testing.T) {
	for data, want := range map[string]string{
		"":             ".\r\n",
		"a\n":          "a\r\n.\r\n",
		"a":            "a\r\n.\r\n",
		".\n..x\nb.\n": "..\r\n...x\r\nb.\r\n.\r\n",
		"a\r\n":        "a\r\n.\r\n",
	} {
		if got := string(appendDotted(nil, []byte(data))); got != want {
			t.Errorf("%q is sent as %q, want %q", data, got, want)
		}
	}
	for sent, want := range map[string]string{"..\r\n...x\r\nb.\r\n": ".\n..x\nb.\n", "a\nb": "a\nb", ".a\r\n": "a\n"} {
		if got := string(undot([]byte(sent))); got != want {
			t.Errorf("%q is read as %q, want %q", sent, got, want)
		}
	}
}
