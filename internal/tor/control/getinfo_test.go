package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestGetInfo(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, test := range map[string]struct{ reply, want string }{
		"line":           {"250-k=v=w x\r\n250 OK\r\n", "v=w x"},
		"empty":          {"250-k=\r\n250 OK\r\n", ""},
		"other case":     {"250-K=v\r\n250 OK\r\n", "v"},
		"document":       {"250+k=\r\na\r\n\r\nb\r\n.\r\n250 OK\r\n", "a\n\nb\n"},
		"stuffed dots":   {"250+k=\r\n..\r\n...x\r\n.y\r\n.\r\n250 OK\r\n", ".\n..x\ny\n"},
		"bare newlines":  {"250+k=\na\nb\n.\n250 OK\n", "a\nb\n"},
		"newlines after": {"250+k=\r\na\r\n\r\n\r\n.\r\n250 OK\r\n", "a\n\n\n"},
		"long lines":     {"250+k=\r\n." + "." + long + "\r\n" + long + "\r\n.\r\n250 OK\r\n", "." + long + "\n" + long + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			tor := new(fakeTor)
			tor.on("GETINFO", func(c *fakeConn, _, _ string) { c.raw(test.reply) })
			withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
				got, err := c.GetInfo(t.Context(), "k")
				if err != nil || string(got) != test.want {
					t.Errorf("got %q, %v, want %q", got, err, test.want)
				}
			})
		})
	}
}

// A line end may fall on the edge of the reader's buffer.
func TestGetInfoLineEndAtAnyPlace(t *testing.T) {
	tor := new(fakeTor)
	value := ""
	tor.on("GETINFO", func(c *fakeConn, _, _ string) {
		c.raw("250+k=\r\n" + strings.ReplaceAll(value, "\n", "\r\n") + ".\r\n250 OK\r\n")
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		for n := 4080; n < 4100; n++ {
			value = strings.Repeat("y", n) + "\nz\n"
			got, err := c.GetInfo(t.Context(), "k")
			if err != nil || string(got) != value {
				t.Fatalf("line of %d bytes came as %d bytes, %v", n, len(got), err)
			}
		}
	})
}

func TestGetInfoRefused(t *testing.T) {
	tor := new(fakeTor)
	tor.on("GETINFO", func(c *fakeConn, _, _ string) { c.say("551 Could not open cached consensus") })
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		_, err := c.GetInfo(t.Context(), "k")
		var reply *ReplyError
		if !errors.As(err, &reply) || reply.Code != 551 || reply.Text != "Could not open cached consensus" {
			t.Errorf("got %v, want tor's refusal", err)
		}
		if s := c.State(); !s.Connected || s.Connects != 1 {
			t.Errorf("a refusal cost the connection: %+v", s)
		}
	})
}

func TestGetConf(t *testing.T) {
	tor := new(fakeTor)
	answers := map[string]string{
		"GETCONF one":   "250 One=a b",
		"GETCONF unset": "250 Unset",
		"GETCONF empty": "250 Empty=",
		"GETCONF list":  "250-List=a\r\n250 List=b",
		"GETCONF no":    "552 Unrecognized configuration key \"no\"",
	}
	tor.on("GETCONF", func(c *fakeConn, line, _ string) { c.say(answers[line]) })
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		for key, want := range map[string]string{"one": "a b", "unset": "", "empty": "", "list": "a|b"} {
			got, err := c.GetConf(t.Context(), key)
			if err != nil || strings.Join(got, "|") != want || (key == "unset") != (got == nil) {
				t.Errorf("GetConf(%s) = %q, %v, want %q", key, got, err, want)
			}
		}
		var reply *ReplyError
		if _, err := c.GetConf(t.Context(), "no"); !errors.As(err, &reply) || reply.Code != 552 {
			t.Errorf("unknown option gave %v", err)
		}
	})
}

// Nothing that a caller passes may begin a second command.
func TestArgumentsAreOneWord(t *testing.T) {
	tor := new(fakeTor)
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		before := len(tor.commands)
		for _, bad := range []string{"", "a b", "a\r\nQUIT", "a\nb", "a\x00"} {
			_, errInfo := c.GetInfo(t.Context(), bad)
			_, errConf := c.GetConf(t.Context(), bad)
			_, errFetch := c.HSFetch(t.Context(), addressA, bad)
			_, errAddress := c.HSFetch(t.Context(), bad, hsdir1)
			for _, err := range []error{errInfo, errConf, errFetch, errAddress,
				c.Signal(t.Context(), bad),
				c.HSPost(t.Context(), addressA, bad, []byte("x")),
			} {
				if err == nil || errors.Is(err, ErrNotConnected) {
					t.Errorf("%q was accepted or cost the connection: %v", bad, err)
				}
			}
		}
		if len(tor.commands) != before {
			t.Errorf("sent %q", tor.commands[before:])
		}
	})
}

// A caller that goes leaves the connection in step for the next.
func TestCancelledCommand(t *testing.T) {
	tor := new(fakeTor)
	tor.on("GETINFO", func(c *fakeConn, line, _ string) {
		if line == "GETINFO slow" {
			time.Sleep(10 * time.Second)
		}
		infoAnswer("of "+line)(c, line, "")
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.GetInfo(ctx, "slow"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the deadline", err)
		}
		// Two more while tor is still busy: one gives up, one gets its own answer.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.GetInfo(ctx, "given-up"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the deadline", err)
		}
		got, err := c.GetInfo(t.Context(), "quick")
		if err != nil || string(got) != "of GETINFO quick" {
			t.Errorf("got %q, %v", got, err)
		}
		synctest.Wait()
		if tor.count("GETINFO given-up") != 0 {
			t.Error("a command was sent whose caller had gone")
		}
		if s := c.State(); s.Connects != 1 {
			t.Errorf("a cancelled caller cost the connection: %+v", s)
		}
	})
}
