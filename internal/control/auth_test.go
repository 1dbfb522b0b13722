package control

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A listener that does not know the cookie learns nothing of it.
func TestSafeCookieAgainstImpostors(t *testing.T) {
	cookie := writeFile(t, strings.Repeat("c", cookieLength))
	sum := strings.Repeat("00", 32)
	for name, answer := range map[string]string{
		"wrong hash":  "250 AUTHCHALLENGE SERVERHASH=" + sum + " SERVERNONCE=" + sum,
		"no nonce":    "250 AUTHCHALLENGE SERVERHASH=" + sum + " SERVERHASH=" + sum,
		"short nonce": "250 AUTHCHALLENGE SERVERHASH=" + sum + " SERVERNONCE=00",
		"not hex":     "250 AUTHCHALLENGE SERVERHASH=" + sum + " SERVERNONCE=zz" + sum[2:],
		"no words":    "250 OK",
		"refusal":     "513 Bad client nonce",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tor := &fakeTor{protocolInfo: fmt.Sprintf("METHODS=COOKIE,SAFECOOKIE COOKIEFILE=%q", cookie)}
				tor.on("AUTHCHALLENGE", func(c *fakeConn, _, _ string) { c.say(answer) })
				l, _, err := openLink(t.Context(), Config{Dial: tor.dial}.withDefaults())
				if err == nil {
					l.close()
					t.Error("authenticated")
				}
				tor.serving.Wait()
				if tor.count("AUTHENTICATE") != 0 {
					t.Errorf("sent %q", tor.commands)
				}
			})
		})
	}
}

func TestPasswordIsSentInHex(t *testing.T) {
	file := writeFile(t, "p %s \"w\"\r\nsecond line\n")
	tor := &fakeTor{protocolInfo: "METHODS=HASHEDPASSWORD"}
	withClient(t, tor, Config{PasswordFile: file}, func(t *testing.T, c *Client) {
		if want := "AUTHENTICATE " + hex.EncodeToString([]byte(`p %s "w"`)); tor.count(want) != 2 {
			t.Errorf("sent %q, want %q twice", tor.commands, want)
		}
	})
}

func TestNotAControlPort(t *testing.T) {
	for name, answer := range map[string]string{
		"web server": "HTTP/1.0 400 Bad Request",
		"mail":       "220 mail.example ESMTP",
		"no methods": "250 OK",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tor := new(fakeTor)
				tor.on("PROTOCOLINFO", func(c *fakeConn, _, _ string) { c.say(answer) })
				if l, _, err := openLink(t.Context(), Config{Dial: tor.dial}.withDefaults()); err == nil {
					l.close()
					t.Error("authenticated")
				}
				tor.serving.Wait()
			})
		})
	}
}

// What an operator reads must say what to do.
func TestErrorsSayHowToMend(t *testing.T) {
	path := func(err error) error { return &os.PathError{Op: "open", Path: "/run/tor/x", Err: err} }
	for want, err := range map[string]error{
		"CookieAuthFileGroupReadable 1": explainCookie(path(syscall.EACCES)),
		"set cookie_file":               explainCookie(path(fs.ErrNotExist)),
		"reading tor's cookie":          explainCookie(path(syscall.EIO)),
		"GroupWritable":                 explainDial(path(syscall.EACCES)),
		"is tor running":                explainDial(path(syscall.ECONNREFUSED)),
		"ControlPort":                   explainDial(path(syscall.ENOENT)),
	} {
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/run/tor/x") {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestDialTarget(t *testing.T) {
	for _, good := range []string{"unix:/run/tor/control", "127.0.0.1:9051", "[::1]:9051", "localhost:9051"} {
		if err := CheckTarget(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "unix:", "9051", ":9051", "127.0.0.1", "127.0.0.1:", "/run/tor/control"} {
		if err := CheckTarget(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
		if conn, err := DialTarget(bad)(t.Context()); err == nil {
			conn.Close()
			t.Errorf("%q was dialled", bad)
		}
	}
}

func TestMissingSocket(t *testing.T) {
	c := Config{Dial: DialTarget("unix:" + t.TempDir() + "/none")}.withDefaults()
	c.DialTimeout = time.Second
	if _, _, err := openLink(t.Context(), c); err == nil || !strings.Contains(err.Error(), "is tor running") {
		t.Errorf("got %v", err)
	}
}
