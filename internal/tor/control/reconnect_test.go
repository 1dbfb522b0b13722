package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever tor does to a reply, the caller gets an error that says the
// connection is gone, and soon there is a new one that works.
func TestBrokenReplies(t *testing.T) {
	for name, reply := range map[string]func(c *fakeConn){
		"cut at once":           func(c *fakeConn) { c.Close() },
		"cut in a line":         func(c *fakeConn) { c.raw("250-k=va"); c.Close() },
		"cut in a document":     func(c *fakeConn) { c.raw("250+k=\r\nsome\r\nlin"); c.Close() },
		"cut before OK":         func(c *fakeConn) { c.raw("250-k=v\r\n"); c.Close() },
		"garbage":               func(c *fakeConn) { c.raw("HTTP/1.0 400 Bad Request\r\n\r\n") },
		"binary":                func(c *fakeConn) { c.raw("\x16\x03\x01\x00\x00\xff\x00\n\n\n") },
		"short line":            func(c *fakeConn) { c.raw("25\r\n") },
		"bad code":              func(c *fakeConn) { c.raw("-50 OK\r\n") },
		"bad separator":         func(c *fakeConn) { c.raw("250*OK\r\n") },
		"another key":           func(c *fakeConn) { c.raw("250-other=v\r\n250 OK\r\n") },
		"no value":              func(c *fakeConn) { c.raw("250 OK\r\n") },
		"too long a line":       func(c *fakeConn) { c.raw("250-k=" + strings.Repeat("v", 300<<10)) },
		"too long a document":   func(c *fakeConn) { c.raw("250+k=\r\n" + strings.Repeat("vvvvvvv\r\n", 30<<10)) },
		"endless refusals":      func(c *fakeConn) { c.raw(strings.Repeat("551-no\r\n", 100<<10)) },
		"silence":               func(*fakeConn) {},
		"silence in a line":     func(c *fakeConn) { c.raw("250-k=va") },
		"silence in a document": func(c *fakeConn) { c.raw("250+k=\r\nsome\r\n") },
		"a drop every second":   drip,
	} {
		t.Run(name, func(t *testing.T) {
			tor := new(fakeTor)
			broken := true
			tor.on("GETINFO", func(c *fakeConn, line, _ string) {
				if broken {
					broken = false
					reply(c)
					return
				}
				infoAnswer("fine")(c, line, "")
			})
			withClient(t, tor, Config{MaxReply: 64 << 10}, func(t *testing.T, c *Client) {
				watch := c.Watch(t.Context())
				<-watch // of now
				began := time.Now()
				if _, err := c.GetInfo(t.Context(), "k"); !errors.Is(err, ErrNotConnected) {
					t.Fatalf("got %v, want ErrNotConnected", err)
				}
				<-watch // of the new connection
				if took := time.Since(began); took > DefaultCommandTimeout+time.Second {
					t.Errorf("took %v to be back", took)
				}
				got, err := c.GetInfo(t.Context(), "k")
				if err != nil || string(got) != "fine" {
					t.Errorf("after the reconnect: %q, %v", got, err)
				}
				s := c.State()
				if !s.Connected || s.Connects != 2 || s.LastError == "" || tor.count("SETEVENTS") != 2 {
					t.Errorf("state %+v, %d SETEVENTS", s, tor.count("SETEVENTS"))
				}
			})
		})
	}
}

func drip(c *fakeConn) {
	c.raw("250+k=\r\n")
	for range 2 * DefaultCommandTimeout / time.Second {
		time.Sleep(time.Second)
		c.raw("x\r\n")
	}
}

// The same for the connection that carries events, while a fetch waits on it.
func TestBrokenEvents(t *testing.T) {
	for name, breaks := range map[string]string{
		"garbage":        "what?\r\n",
		"changing codes": "650-HS_DESC\r\n250 OK\r\n",
		"endless":        "650+HS_DESC_CONTENT a b c\r\n" + strings.Repeat("x", maxEvent+1),
		"silence":        "650+HS_DESC_CONTENT a b c\r\nhalf",
	} {
		t.Run(name, func(t *testing.T) {
			tor := new(fakeTor)
			withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
				failed := make(chan error, 1)
				go func() {
					_, err := c.HSFetch(t.Context(), addressA, hsdir1)
					failed <- err
				}()
				synctest.Wait()
				began := time.Now()
				tor.event(breaks)
				if err := <-failed; !errors.Is(err, ErrNotConnected) {
					t.Fatalf("the fetch got %v, want ErrNotConnected", err)
				}
				if took := time.Since(began); took > DefaultHeartbeat+DefaultCommandTimeout+time.Second {
					t.Errorf("took %v to notice", took)
				}
				within(t, time.Minute, c.Ready)
				if c.State().Connects != 2 || tor.count("SETEVENTS") != 2 {
					t.Errorf("state %+v, %d SETEVENTS", c.State(), tor.count("SETEVENTS"))
				}
			})
		})
	}
}

// A tor that stops without closing anything is noticed by the heartbeat.
func TestFrozenTor(t *testing.T) {
	tor := new(fakeTor)
	frozen := false
	tor.on("SIGNAL", func(c *fakeConn, _, _ string) {
		if !frozen {
			c.say("250 OK")
		}
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		time.Sleep(24 * time.Hour)
		if s := c.State(); s.Connects != 1 {
			t.Fatalf("a day without events cost the connection: %+v", s)
		}
		synctest.Wait()
		tor.mu.Lock()
		frozen = true
		tor.mu.Unlock()
		time.Sleep(DefaultHeartbeat + DefaultCommandTimeout + 2*time.Second)
		if s := c.State(); s.Connects < 2 {
			t.Errorf("a frozen tor was not noticed: %+v", s)
		}
	})
}

// The command connection alone is lost while nobody uses it.
func TestIdleCommandConnectionLost(t *testing.T) {
	tor := new(fakeTor)
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		synctest.Wait()
		for _, conn := range tor.connsFor(false) {
			conn.Close()
		}
		time.Sleep(DefaultHeartbeat + time.Second)
		if s := c.State(); !s.Connected || s.Connects != 2 || !strings.Contains(s.LastError, "command connection") {
			t.Errorf("state %+v", s)
		}
	})
}

// A reply too many would be taken for that of the next command.
func TestUnaskedReply(t *testing.T) {
	tor := new(fakeTor)
	tor.on("GETCONF", func(c *fakeConn, _, _ string) { c.raw("250 A=1\r\n250 OK\r\n") })
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		if _, err := c.GetConf(t.Context(), "A"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.GetConf(t.Context(), "B"); !errors.Is(err, ErrNotConnected) {
			t.Errorf("got %v, want ErrNotConnected", err)
		}
		within(t, time.Minute, c.Ready)
	})
}

func TestTorRestarts(t *testing.T) {
	tor := new(fakeTor)
	tor.on("GETINFO", infoAnswer("v"))
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		watch := c.Watch(t.Context())
		<-watch
		tor.setRefuse(errRefused)
		fetched := make(chan error, 1)
		go func() {
			_, err := c.HSFetch(t.Context(), addressA, hsdir1)
			fetched <- err
		}()
		synctest.Wait()
		tor.die()
		if err := <-fetched; !errors.Is(err, ErrNotConnected) {
			t.Fatalf("a waiting fetch got %v", err)
		}
		time.Sleep(10 * time.Minute)
		_, err := c.GetInfo(t.Context(), "k")
		if !errors.Is(err, ErrNotConnected) || !strings.Contains(err.Error(), errRefused.Error()) {
			t.Errorf("without tor: %v, want ErrNotConnected and why", err)
		}
		if s := c.State(); s.Connected || !strings.Contains(s.LastError, errRefused.Error()) {
			t.Errorf("state %+v", s)
		}
		select {
		case <-watch:
			t.Error("woken without a connection")
		default:
		}
		tor.setRefuse(nil)
		<-watch
		if _, err := c.GetInfo(t.Context(), "k"); err != nil {
			t.Error(err)
		}
	})
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tor := &fakeTor{refuse: errRefused}
		c := New(Config{Dial: tor.dial, MinBackoff: time.Second, MaxBackoff: time.Minute})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Run returned %v", err)
		}
		// 1 2 4 8 16 32 60 60 …, each with half of it random.
		if n := len(tor.dials); n < 60 || n > 130 {
			t.Errorf("%d dials in an hour", n)
		}
		limit := time.Second
		for i := 1; i < len(tor.dials); i++ {
			gap := tor.dials[i].Sub(tor.dials[i-1])
			if gap < limit/2 || gap > limit {
				t.Errorf("pause %d is %v, want between %v and %v", i, gap, limit/2, limit)
			}
			limit = min(2*limit, time.Minute)
		}
	})
}

// A tor that takes the connection and drops it at once is not dialled in a
// tight loop.
func TestBackoffWithShortLivedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tor := new(fakeTor)
		tor.on("SIGNAL", func(c *fakeConn, _, _ string) { c.Close() })
		c := New(Config{Dial: tor.dial})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_ = c.Run(ctx)
		tor.serving.Wait()
		if n := len(tor.dials); n < 200 || n > 2000 {
			t.Errorf("%d dials in an hour", n)
		}
	})
}

func TestReadySaysWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tor := &fakeTor{refuse: errRefused}
		c := New(Config{Dial: tor.dial})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		err := c.Ready(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), errRefused.Error()) {
			t.Errorf("got %v", err)
		}
		<-done
	})
}

// A control port that takes connections and says nothing costs the time for
// dialling, and Run still ends at once when told to.
func TestSilentHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tor := new(fakeTor)
		tor.on("PROTOCOLINFO", func(*fakeConn, string, string) {})
		c := New(Config{Dial: tor.dial})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(DefaultDialTimeout + time.Second)
		if s := c.State(); !strings.Contains(s.LastError, "did not answer") {
			t.Errorf("state %+v", s)
		}
		synctest.Wait()
		began := time.Now()
		cancel()
		<-done
		if took := time.Since(began); took > 0 {
			t.Errorf("Run took %v to end", took)
		}
		tor.serving.Wait()
	})
}
