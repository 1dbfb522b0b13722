package control

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"onionbalancer/internal/locked"
)

// clientKey is a key, and as tor's commands have it.
func clientKey() (*locked.Buffer, string) {
	secret := []byte("an x25519 key that is 32 bytes!!")
	text := base64.StdEncoding.EncodeToString(secret)
	return locked.Copy(secret), text
}

// viewing makes a tor answer that it has these keys.
func viewing(lines ...string) func(c *fakeConn, line, body string) {
	return func(c *fakeConn, line, _ string) {
		c.say(append(append([]string{"250-" + line}, lines...), "250 OK")...)
	}
}

func TestClientKey(t *testing.T) {
	key, text := clientKey()
	ours := "250-CLIENT " + addressA + " x25519:" + text + " ClientName=" + clientName
	for name, test := range map[string]struct {
		view                  []string
		gives, added, revokes bool
	}{
		"none":            {nil, true, true, false},
		"ours":            {[]string{ours}, true, false, true},
		"the operator's":  {[]string{"250-CLIENT " + addressA + " x25519:" + text}, false, false, false},
		"kept on disk":    {[]string{"250-CLIENT " + addressA + " x25519:" + text + " Flags=Permanent"}, false, false, false},
		"another program": {[]string{"250-CLIENT " + addressA + " x25519:" + text + " ClientName=x" + clientName}, false, false, false},
	} {
		tor := &fakeTor{}
		tor.on("ONION_CLIENT_AUTH_VIEW", viewing(test.view...))
		tor.on("ONION_CLIENT_AUTH_ADD", func(c *fakeConn, _, _ string) { c.say("252 Registered client and decrypted desc") })
		withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
			added, err := c.AddClientKey(t.Context(), addressA, key)
			want := "ONION_CLIENT_AUTH_ADD " + addressA + " x25519:" + text + " ClientName=balancer"
			if err != nil || added != test.added || (tor.count(want) == 1) != test.gives {
				t.Errorf("%s: added %v, %v, %q", name, added, err, tor.commands)
			}
			err = c.RemoveClientKey(t.Context(), addressA)
			if err != nil || (tor.count("ONION_CLIENT_AUTH_REMOVE "+addressA) == 1) != test.revokes {
				t.Errorf("%s: removing: %v, %q", name, err, tor.commands)
			}
		})
	}
}

// TestClientKeyIsNotTold: errors have no key, whatever tor says.
func TestClientKeyIsNotTold(t *testing.T) {
	key, text := clientKey()
	for name, test := range map[string]struct {
		view, add string
		lost      bool // the connection
	}{
		"refused":     {"250 OK", `553 Invalid private key "` + text + `"`, false},
		"no command":  {`510 Unrecognized command "ONION_CLIENT_AUTH_VIEW"`, "", false},
		"strange":     {"650 x25519:" + text, "", true},
		"stranger":    {"x25519:" + text, "", true},
		"no code":     {"x25 " + text, "", true},
		"long":        {"250-CLIENT " + strings.Repeat(text, 1000), "", true},
		"unasked for": {"250 OK\r\n250 " + text, "250 OK", true},
	} {
		tor := &fakeTor{}
		tor.on("ONION_CLIENT_AUTH_VIEW", func(c *fakeConn, _, _ string) { c.say(test.view) })
		tor.on("ONION_CLIENT_AUTH_ADD", func(c *fakeConn, _, _ string) { c.say(test.add) })
		withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
			_, err := c.AddClientKey(t.Context(), addressA, key)
			if err == nil || strings.Contains(err.Error(), text[:8]) || strings.Contains(err.Error(), addressA) {
				t.Errorf("%s: %v", name, err)
			}
			if errors.Is(err, ErrNotConnected) != test.lost {
				t.Errorf("%s: lost the connection: %v", name, err)
			}
		})
	}
	if _, err := New(Config{Dial: (&fakeTor{}).dial}).AddClientKey(t.Context(), "x\r\nQUIT", key); err == nil {
		t.Error("a command instead of an address is taken")
	}
}

// TestClientKeyIsSentWhole: though its caller gives up and wipes it meanwhile.
func TestClientKeyIsSentWhole(t *testing.T) {
	key, text := clientKey()
	tor := &fakeTor{}
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		proceed := make(chan struct{})
		tor.on("ONION_CLIENT_AUTH_VIEW", func(c *fakeConn, line, _ string) { <-proceed; c.say("250 OK") })
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { _, err := c.AddClientKey(ctx, addressA, key); result <- err }()
		synctest.Wait()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		key.Wipe()
		close(proceed)
		if err := c.Signal(t.Context(), "ACTIVE"); err != nil { // after it
			t.Error(err)
		}
		if tor.count("ONION_CLIENT_AUTH_ADD "+addressA+" x25519:"+text) != 1 {
			t.Errorf("sent %q", tor.commands)
		}
	})
}
