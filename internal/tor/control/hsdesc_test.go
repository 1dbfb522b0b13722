package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const blinded = "8hJ0Fk3yqGZzYpZk0Xb2oYV5Q1W6lTq9m1Xn2yq3r4s"

// The events as tor 0.4.9 words them.
func eventOf(action, address, hsdir, reason string) string {
	line := fmt.Sprintf("650 HS_DESC %s %s UNKNOWN $%s~relay", action, address, hsdir)
	if action != "UPLOADED" {
		line += " " + blinded
	}
	if reason != "" {
		line += " REASON=" + reason
	}
	return line + "\r\n"
}

func contentOf(address, hsdir, body string) string {
	wire := stuff([]byte(body))
	if body == "" {
		wire = "\r\n.\r\n" // so tor writes an empty document
	}
	return fmt.Sprintf("650+HS_DESC_CONTENT %s %s $%s~relay\r\n%s650 OK\r\n", address, blinded, hsdir, wire)
}

// answerFetch has each HSFETCH answered with 250 and then these events.
func answerFetch(tor *fakeTor, events func(address, hsdir string) string) {
	tor.on("HSFETCH", func(c *fakeConn, line, _ string) {
		words := strings.Fields(line)
		c.say("250 OK")
		tor.event(events(words[1], strings.TrimPrefix(words[2], "SERVER=$")))
	})
}

func TestHSFetchGivesTheHSDirsBytes(t *testing.T) {
	for _, want := range []string{
		"hs-descriptor 3\nsignature abc\n",
		"one line\n",
		".\n..\n.begins with a dot\n\nlast\n",
		"percent %s %d %\n",
	} {
		tor := new(fakeTor)
		answerFetch(tor, func(address, hsdir string) string {
			return eventOf("REQUESTED", address, hsdir, "") + eventOf("RECEIVED", address, hsdir, "") +
				contentOf(address, hsdir, want)
		})
		withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
			got, err := c.HSFetch(t.Context(), addressA, strings.ToLower(hsdir1))
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			if n := tor.count("HSFETCH " + addressA + " SERVER=$" + hsdir1); n != 1 {
				t.Errorf("commands %q", tor.commands)
			}
		})
	}
}

func TestHSFetchFailures(t *testing.T) {
	for _, reason := range []string{"NOT_FOUND", "BAD_DESC", "QUERY_REJECTED", "UNEXPECTED", ""} {
		tor := new(fakeTor)
		answerFetch(tor, func(address, hsdir string) string {
			return eventOf("FAILED", address, hsdir, reason) + contentOf(address, hsdir, "")
		})
		withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
			for range 2 { // the empty document of the first must not answer the second
				_, err := c.HSFetch(t.Context(), addressA, hsdir1)
				var failure *HSDescError
				if !errors.As(err, &failure) || failure.Reason() != reason || failure.Post {
					t.Errorf("got %v, want a failure with %q", err, reason)
				}
				if strings.Contains(err.Error(), addressA) {
					t.Errorf("the whole address is in %q", err)
				}
			}
		})
	}
}

func TestHSFetchRefused(t *testing.T) {
	tor := new(fakeTor)
	tor.on("HSFETCH", func(c *fakeConn, _, _ string) { c.say(`552 Server "x" not found`) })
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		_, err := c.HSFetch(t.Context(), addressA, hsdir1)
		var reply *ReplyError
		if !errors.As(err, &reply) || reply.Code != 552 || strings.Contains(err.Error(), addressA) {
			t.Errorf("got %v, want the refusal without the address", err)
		}
	})
}

// tor may never report. The caller's deadline decides, and what comes after it
// bothers nobody.
func TestHSFetchDeadline(t *testing.T) {
	tor := new(fakeTor)
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		began := time.Now()
		_, err := c.HSFetch(ctx, addressA, hsdir1)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 20*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		tor.event(contentOf(addressA, hsdir1, "late\n"))
		synctest.Wait() // until it was read; read during the next fetch, it would answer that
		answerFetch(tor, func(address, hsdir string) string { return contentOf(address, hsdir, "new\n") })
		got, err := c.HSFetch(t.Context(), addressA, hsdir1)
		if err != nil || string(got) != "new\n" {
			t.Errorf("got %q, %v", got, err)
		}
		if c.State().Connects != 1 {
			t.Error("a deadline cost the connection")
		}
	})
}

// Events of others' fetches and uploads, and malformed ones, answer nothing.
func TestForeignEvents(t *testing.T) {
	tor := new(fakeTor)
	foreign := strings.Join([]string{
		eventOf("UPLOADED", addressB, hsdir1, ""),
		eventOf("UPLOADED", addressA, hsdir2, ""),
		eventOf("FAILED", addressA, hsdir2, "NOT_FOUND"),
		eventOf("FAILED", addressA, "UNKNOWN", "NOT_FOUND"),
		eventOf("UPLOADED", addressA, hsdir1, ""),
		eventOf("FAILED", addressA, hsdir1, "UPLOAD_REJECTED"),
		eventOf("CREATED", addressA, hsdir1, ""),
		contentOf(addressB, hsdir1, "not ours\n"),
		contentOf(addressA, hsdir2, "not ours\n"),
		contentOf(addressA, hsdir1, ""),
		"650 HS_DESC\r\n", "650 HS_DESC FAILED\r\n", "650 HS_DESC_CONTENT a b c\r\n",
		"650 STATUS_CLIENT\r\n", "650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=x\r\n",
		"650 BW 1 2\r\n", "650 \r\n", "650-X\r\n650 OK\r\n",
	}, "")
	answerFetch(tor, func(address, hsdir string) string { return foreign })
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got, err := c.HSFetch(ctx, addressA, hsdir1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %q, %v from events of others", got, err)
		}
		if c.State().Connects != 1 {
			t.Error("events cost the connection")
		}
	})
}

func TestHSPostSendsTheBody(t *testing.T) {
	body := "hs-descriptor 3\n.dot\n..\n.\n%s %d\nsignature abc\n"
	tor := new(fakeTor)
	var line, wire string
	tor.on("HSPOST", func(c *fakeConn, l, b string) {
		line, wire = l, b
		c.say("250 OK")
		tor.event(eventOf("UPLOAD", addressA, hsdir1, "") + eventOf("UPLOADED", addressA, hsdir1, ""))
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		if err := c.HSPost(t.Context(), addressA, hsdir1, []byte(body)); err != nil {
			t.Fatal(err)
		}
		if want := "HSPOST SERVER=$" + hsdir1 + " HSADDRESS=" + addressA; line != want {
			t.Errorf("sent %q, want %q", line, want)
		}
		want := "hs-descriptor 3\r\n..dot\r\n...\r\n..\r\n%s %d\r\nsignature abc\r\n.\r\n"
		if wire != want {
			t.Errorf("sent %q, want %q", wire, want)
		}
	})
}

func TestHSPostFailures(t *testing.T) {
	tor := new(fakeTor)
	reason := ""
	tor.on("HSPOST", func(c *fakeConn, _, _ string) {
		if reason == "554" {
			c.say("554 Invalid descriptor")
			return
		}
		c.say("250 OK")
		// A fetch of the same descriptor fails meanwhile.
		tor.event(eventOf("FAILED", addressA, hsdir1, "NOT_FOUND") + eventOf("FAILED", addressA, hsdir1, reason))
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		for _, reason = range []string{"UPLOAD_REJECTED", "UNEXPECTED"} {
			err := c.HSPost(t.Context(), addressA, hsdir1, []byte("x\n"))
			var failure *HSDescError
			if !errors.As(err, &failure) || failure.Reason() != reason || !failure.Post {
				t.Errorf("got %v, want %s", err, reason)
			}
		}
		reason = "554"
		var reply *ReplyError
		if err := c.HSPost(t.Context(), addressA, hsdir1, []byte("x\n")); !errors.As(err, &reply) || reply.Code != 554 {
			t.Errorf("got %v, want 554", err)
		}
		for _, bad := range [][]byte{nil, []byte("a\x00b"), make([]byte, maxPost+1)} {
			sent := tor.count("HSPOST")
			if err := c.HSPost(t.Context(), addressA, hsdir1, bad); err == nil || tor.count("HSPOST") != sent {
				t.Errorf("a body of %d bytes was sent: %v", len(bad), err)
			}
		}
	})
}

// Requests for one address and HSDir take turns; others go side by side.
func TestTurns(t *testing.T) {
	tor := new(fakeTor)
	tor.on("HSFETCH", func(c *fakeConn, line, _ string) {
		c.say("250 OK")
		words := strings.Fields(line)
		go func() {
			time.Sleep(10 * time.Second)
			tor.event(contentOf(words[1], strings.TrimPrefix(words[2], "SERVER=$"), "x\n"))
		}()
	})
	tor.on("HSPOST", func(c *fakeConn, line, _ string) {
		c.say("250 OK")
		go func() {
			time.Sleep(10 * time.Second)
			tor.event(eventOf("UPLOADED", addressA, hsdir1, ""))
		}()
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		fetch := func(address, hsdir string) func() error {
			return func() error { _, err := c.HSFetch(t.Context(), address, hsdir); return err }
		}
		post := func() error { return c.HSPost(t.Context(), addressA, hsdir1, []byte("x\n")) }
		var mu sync.Mutex
		var took []time.Duration
		began := time.Now()
		var group sync.WaitGroup
		for _, f := range []func() error{fetch(addressA, hsdir1), fetch(addressA, hsdir1), post,
			fetch(addressA, hsdir2), fetch(addressB, hsdir1), fetch(addressB, hsdir2)} {
			group.Go(func() {
				if err := f(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(began))
			})
		}
		// One that waits for its turn goes when its ctx does.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		synctest.Wait()
		if _, err := c.HSFetch(ctx, addressA, hsdir1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		group.Wait()
		want := []time.Duration{10, 10, 10, 10, 20, 30}
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(took, want) {
			t.Errorf("answered after %v, want %v", took, want)
		}
		if n := len(c.session.pending); n != 0 {
			t.Errorf("%d requests left", n)
		}
	})
}

// A flood of events with nobody listening delays nothing.
func TestPumpNeverBlocks(t *testing.T) {
	tor := new(fakeTor)
	tor.on("GETINFO", infoAnswer("v"))
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		watch, progress := c.Watch(t.Context()), c.WatchBootstrap(t.Context())
		began := time.Now()
		for i := range 1000 {
			tor.event("650 STATUS_CLIENT NOTICE CONSENSUS_ARRIVED\r\n" +
				fmt.Sprintf("650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=%d TAG=t SUMMARY=\"s\"\r\n", i%100))
		}
		synctest.Wait()
		if _, err := c.GetInfo(t.Context(), "k"); err != nil || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		<-watch
		select {
		case <-watch:
			t.Error("wakes did not coalesce")
		default:
		}
		if p := <-progress; p.Percent != 99 {
			t.Errorf("got %+v, want the latest", p)
		}
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	tor := new(fakeTor)
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithCancel(t.Context())
		watch, _ := c.Watch(ctx), c.WatchBootstrap(ctx)
		<-watch
		cancel()
		synctest.Wait()
		tor.event("650 STATUS_CLIENT NOTICE ENOUGH_DIR_INFO\r\n")
		synctest.Wait()
		select {
		case <-watch:
			t.Error("woken after the end")
		default:
		}
		if len(c.watchers)+len(c.progress) != 0 {
			t.Error("watchers left")
		}
	})
}

// stuff returns what writeDocument writes.
func stuff(document []byte) string {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	writeDocument(w, document)
	_ = w.Flush()
	return out.String()
}
