package sim

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
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

// The same conversation with the simulated tor as the one that was recorded
// with a real one: every line has the same shape, in the same order.
func TestConversationAsRealTor(t *testing.T) {
	sample, err := os.ReadFile("testdata/conversation.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, exchange := range strings.Split(strings.TrimSpace(string(sample)), "> ")[1:] {
		command, heard, _ := strings.Cut(exchange, "\n")
		want = append(want, shape(command, heard))
	}
	inNetwork(t, Config{Seed: 3, Relays: 12, Testing: true}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Second)
		var unknown *Relay // not responsible for a service that nobody runs
		nobody := newService(t, n).key.Address()
		ring := n.Consensus().current()
		absent, err := nobody.Keys(ring.key.period)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range n.Relays() {
			if !slices.Contains(ring.fetch(&n.cfg, absent.Blinded), r) {
				unknown = r
			}
		}
		keys, err := i.Address().Keys(ring.key.period)
		if err != nil {
			t.Fatal(err)
		}
		var has, lacks *Relay
		var body []byte
		for _, r := range n.Relays() {
			if stored, _ := r.Stored(keys.Blinded); stored != nil {
				has, body = r, stored
			} else {
				lacks = r
			}
		}
		address := i.Address().Label()
		post := append([]string{"+HSPOST SERVER=" + lacks.Fingerprint() + " HSADDRESS=" + address},
			append(strings.Split(strings.TrimSuffix(string(body), "\n"), "\n"), ".")...)
		commands := [][]string{
			{"SETEVENTS HS_DESC HS_DESC_CONTENT STATUS_CLIENT"},
			{"HSFETCH " + address + " SERVER=" + has.Fingerprint()},
			{"HSFETCH " + address + " SERVER=" + lacks.Fingerprint()},
			post, post,
			{"HSFETCH " + address + " SERVER=$" + lacks.Fingerprint() + "~whatever"},
			{"HSFETCH " + address},
			{"HSFETCH " + nobody.Label() + " SERVER=" + unknown.Fingerprint()},
			{"HSFETCH " + nobody.Label()},
		}
		if len(commands) != len(want) {
			t.Fatalf("%d commands, %d in the sample", len(commands), len(want))
		}
		c := dial(t, n)
		c.expect("AUTHENTICATE", "250 OK")
		for k, lines := range commands {
			c.say(lines...)
			time.Sleep(6 * time.Second)
			command := lines[0]
			if len(lines) > 1 {
				command += `\n...\n.`
			}
			if got := shape(command, c.heard()); got != want[k] {
				t.Errorf("%s:\n got\n%s\nwant\n%s", lines[0], got, want[k])
			}
		}
	})
}

var shapes = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\b[a-z2-7]{56}\b`), "ADDRESS"},
	{regexp.MustCompile(`HSDIR_INDEX=[0-9A-F]{64}\b`), "HSDIR_INDEX=INDEX"},
	{regexp.MustCompile(`\$[0-9A-F]{40}~[a-z]+[0-9]+`), "RELAY"},
	{regexp.MustCompile(`\b[0-9A-F]{40}\b`), "FINGERPRINT"},
	{regexp.MustCompile(`(^| )[A-Za-z0-9+/]{43}( |$)`), "${1}BLINDED$2"},
	{regexp.MustCompile(`(?s)< hs-descriptor 3\n.*?\n< \.\n`), "< (a descriptor)\n< .\n"},
}

// shape is an exchange with everything replaced that differs between networks.
// A new consensus may arrive at any time.
func shape(command, heard string) string {
	text := "> " + command + "\n" + strings.TrimRight(heard, "\n") + "\n"
	text = strings.ReplaceAll(text, "< 650 STATUS_CLIENT NOTICE CONSENSUS_ARRIVED\n", "")
	lines := strings.Split(shapes[len(shapes)-1].pattern.ReplaceAllString(text, shapes[len(shapes)-1].name), "\n")
	for i := range lines {
		for _, s := range shapes[:len(shapes)-1] {
			lines[i] = s.pattern.ReplaceAllString(lines[i], s.name)
		}
	}
	return strings.Join(lines, "\n")
}

// The documents have the keywords of real ones, in the same order, with as
// many arguments.
func TestDocumentsAsRealTor(t *testing.T) {
	sample, err := os.ReadFile("testdata/documents.txt")
	if err != nil {
		t.Fatal(err)
	}
	inNetwork(t, Config{Testing: true, Relays: 12}, func(t *testing.T, n *Network) {
		n.WithholdSharedRandom(true) // the sample's network was too young to have a value
		time.Sleep(time.Minute)
		c := dial(t, n)
		c.expect("AUTHENTICATE", "250 OK")
		exchanges := strings.Split(string(sample), "> ")[1:]
		if len(exchanges) != 4 {
			t.Fatalf("%d exchanges in the sample", len(exchanges))
		}
		for _, exchange := range exchanges {
			command, want, _ := strings.Cut(exchange, "\n")
			c.say(command)
			if got, want := outline(c.heard()), outline(want); got != want {
				t.Errorf("%s:\n got\n%s\nwant\n%s", command, got, want)
			}
		}
	})
}

// counted are the keywords whose number of arguments is fixed; those of others
// depend on the network.
var counted = []string{"valid-after", "fresh-until", "valid-until", "voting-delay", "consensus-method",
	"dir-source", "vote-digest", "r", "m", "v", "directory-signature", "onion-key", "ntor-onion-key", "id",
	"bandwidth-weights"}

// outline lists the keywords of a document, groups that repeat once, without
// what is between BEGIN and END.
func outline(heard string) string {
	var words []string
	object := false
	for _, line := range strings.Split(strings.TrimSpace(heard), "\n") {
		line = strings.TrimPrefix(line, "< ")
		word, _, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "-----BEGIN"):
			object = true
			word = line
		case strings.HasPrefix(line, "-----END"):
			object = false
			continue
		case object:
			continue
		case slices.Contains(counted, word):
			word = fmt.Sprintf("%s/%d", word, len(strings.Fields(line)))
		case strings.HasPrefix(line, "250"):
			word = line
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, "\n")
}
