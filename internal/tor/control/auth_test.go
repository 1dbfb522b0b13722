package control

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
				l, _, err := openConn(t.Context(), Config{Dial: tor.dial}.withDefaults())
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

// Anyone who is not known to be tor is told nothing that opens the real one, and is
// not gone on with.
func TestImpostors(t *testing.T) {
	cookie := writeFile(t, strings.Repeat("c", cookieLength))
	password := writeFile(t, "secret")
	for name, test := range map[string]struct {
		methods string
		cfg     Config
		errHas  string
	}{
		"cookie set, nothing wanted":   {"NULL", Config{CookieFile: cookie}, "though cookie_file is set"},
		"password set, nothing wanted": {"NULL", Config{PasswordFile: password}, "though password_file is set"},
		"nothing wanted over TCP":      {"NULL", Config{}, "CookieAuthentication 1"},
		"plain cookie":                 {fmt.Sprintf("COOKIE COOKIEFILE=%q", cookie), Config{}, "without SAFECOOKIE"},
		"plain cookie, set":            {"COOKIE", Config{CookieFile: cookie}, "without SAFECOOKIE"},
	} {
		t.Run(name, func(t *testing.T) {
			refuseImpostor(t, listen(t, "tcp", "127.0.0.1:0"), test.methods, test.cfg, test.errHas)
		})
	}
}

func refuseImpostor(t *testing.T, l net.Listener, methods string, cfg Config, errHas string) {
	t.Helper()
	tor := &fakeTor{protocolInfo: "METHODS=" + methods}
	cfg.Dial = DialTarget(tor.listen(t, l))
	link, _, err := openConn(t.Context(), cfg.withDefaults())
	if err == nil {
		link.close()
	}
	if err == nil || !strings.Contains(err.Error(), errHas) {
		t.Errorf("got %v, want %q", err, errHas)
	}
	if n := tor.count("AUTHENTICATE") + tor.count("AUTHCHALLENGE"); n != 0 {
		t.Errorf("sent %q", tor.commands)
	}
}

// What others can read or write is no secret, and what is no file is not waited
// for.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	cookie := func(path string) error { _, err := readCookie(path, false, peer{}); return err }
	password := func(path string) error { _, err := readPassword(path, peer{}); return err }
	secret, hash := strings.Repeat("c", cookieLength), "16:"+strings.Repeat("0A", 29)
	for _, test := range []struct {
		read   func(path string) error
		path   string
		errHas string // "" for none
	}{
		{cookie, file("cookie", secret, 0o600), ""},
		{cookie, file("cookie of a group", secret, 0o640), ""},
		{cookie, file("cookie of all", secret, 0o644), "chmod g-w,o-rwx '" + dir},
		{cookie, file("cookie of a writing group", secret, 0o660), "chmod"},
		{cookie, file("long cookie", secret+"c", 0o600), "has 33 bytes, want 32"},
		{cookie, pipe, "not a regular file"},
		{cookie, dir, "not a regular file"},
		{password, file("password", "p\n", 0o600), ""},
		{password, file("password of a group", "p\n", 0o440), ""},
		{password, file("password of all", "p\n", 0o666), "chmod"},
		{password, file("password for all to read", "p\n", 0o604), "chmod"},
		{password, pipe, "not a regular file"},
		{password, file("hash", hash+"\n", 0o600), "write the password itself"},
		{password, file("line of torrc", "HashedControlPassword "+hash+"\n", 0o600), "write the password itself"},
		{password, file("hash in quotes", `"`+hash+"\"\n", 0o600), "write the password itself"},
		{password, file("short hash", "16:0A\n", 0o600), ""},
		{password, file("quotes", "\"p\"\n", 0o600), ""},
	} {
		err := test.read(test.path)
		if test.errHas == "" && err != nil || test.errHas != "" && (err == nil || !strings.Contains(err.Error(), test.errHas)) {
			t.Errorf("%s: got %v, want %q", filepath.Base(test.path), err, test.errHas)
		}
		if err != nil && strings.Contains(err.Error(), hash) {
			t.Errorf("%s: the error shows it: %v", filepath.Base(test.path), err)
		}
	}
}

// What people write around a password is named once tor has refused it: it may
// belong to the password.
func TestRefusedPassword(t *testing.T) {
	for text, errHas := range map[string]string{
		`"secret"`: "remove them", `'secret'`: "remove them", "secret ": "remove it", "secret": "HashedControlPassword in torrc",
	} {
		synctest.Test(t, func(t *testing.T) {
			tor := &fakeTor{protocolInfo: "METHODS=HASHEDPASSWORD"}
			tor.on("AUTHENTICATE", func(c *fakeConn, _, _ string) { c.say("515 Authentication failed") })
			_, _, err := openConn(t.Context(), Config{Dial: tor.dial, PasswordFile: writeFile(t, text+"\n")}.withDefaults())
			if err == nil || !strings.Contains(err.Error(), errHas) || strings.Contains(err.Error(), text+`"`) {
				t.Errorf("%q: got %v, want %q", text, err, errHas)
			}
			tor.serving.Wait()
		})
	}
}

// A control port on another machine is told nothing at all, unless that is asked
// for.
func TestRemote(t *testing.T) {
	file := writeFile(t, "secret")
	for _, allowed := range []bool{false, true} {
		tor := &fakeTor{protocolInfo: "METHODS=HASHEDPASSWORD"}
		cfg := Config{Remote: allowed, PasswordFile: file, Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := tor.dial(ctx)
			return elsewhere{conn}, err
		}}
		l, _, err := openConn(t.Context(), cfg.withDefaults())
		if err == nil {
			l.close()
		}
		if allowed != (err == nil) || !allowed && (!strings.Contains(err.Error(), "control_remote = true") || len(tor.commands) != 0) {
			t.Errorf("allowed %v: %v, %q", allowed, err, tor.commands)
		}
		tor.serving.Wait()
	}
}

// elsewhere is a connection to 192.0.2.1.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9051} }

func TestPasswordIsSentInHex(t *testing.T) {
	file := writeFile(t, "p %s \"w\"\r\nsecond line\n")
	tor := &fakeTor{protocolInfo: "METHODS=HASHEDPASSWORD"}
	withClient(t, tor, Config{PasswordFile: file}, func(t *testing.T, c *Client) {
		if want := "AUTHENTICATE " + hex.EncodeToString([]byte(`p %s "w"`)); tor.count(want) != 2 {
			t.Errorf("sent %q, want %q twice", tor.commands, want)
		}
	})
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
		if _, _, err := splitTarget(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "unix:", "9051", ":9051", "127.0.0.1", "127.0.0.1:", "/run/tor/control"} {
		if conn, err := DialTarget(bad)(t.Context()); err == nil {
			conn.Close()
			t.Errorf("%q was dialled", bad)
		}
	}
}

func TestMissingSocket(t *testing.T) {
	c := Config{Dial: DialTarget("unix:" + t.TempDir() + "/none")}.withDefaults()
	c.DialTimeout = time.Second
	if _, _, err := openConn(t.Context(), c); err == nil || !strings.Contains(err.Error(), "is tor running") {
		t.Errorf("got %v", err)
	}
}

// What listens in the place of a control port is named, within seconds.
func TestNotAControlPort(t *testing.T) {
	for name, test := range map[string]struct {
		says, errHas string
	}{
		"tor's SOCKS port":    {"HTTP/1.0 501 Tor is not an HTTP Proxy\r\nContent-Type: text/html\r\n\r\n<html>\n", "but tor's SOCKS port"},
		"web server":          {"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "but a web server"},
		"SSH":                 {"SSH-2.0-OpenSSH_9.2p1\r\n", "but an SSH server"},
		"TLS":                 {"\x15\x03\x01\x00\x02\x02\x0a", "but a TLS server"},
		"mail":                {"220 mail.example ESMTP\r\n", `something that says "220 mail.example ESMTP"`},
		"half a line":         {"hello", `something that says "hello"`},
		"a terminal's worst":  {"\x1b[2Jok\r\n", `something that says "\x1b[2Jok"`},
		"no methods":          {"250 OK\r\n", "offers no way to authenticate"},
		"a filter":            {"510 Command filtered\r\n", "does not let the command pass"},
		"half a control port": {"250-PROTOCOLINFO 1\r\n", "unexpected EOF"},
		"nothing":             {"", "closed the connection without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			err := meet(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, test.says)
				conn.Close()
			})
			if err == nil || !strings.Contains(err.Error(), test.errHas) {
				t.Errorf("got %v, want %q", err, test.errHas)
			}
			if _, fix := Split(err); fix == "" && name != "half a control port" {
				t.Errorf("no advice in %v", err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := meet(t, func(net.Conn) {})
			if err == nil || !strings.Contains(err.Error(), "did not answer within 8s") || time.Since(began) > 10*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	})
}

// meet has one connection answered, once its first line has come.
func meet(t *testing.T, answer func(conn net.Conn)) error {
	t.Helper()
	tor := new(fakeTor)
	tor.on("PROTOCOLINFO", func(c *fakeConn, _, _ string) { answer(c) })
	l, _, err := openConn(t.Context(), Config{Dial: tor.dial}.withDefaults())
	if err == nil {
		l.close()
	}
	tor.serving.Wait()
	return err
}

// A filter lets the handshake pass and refuses what we live by.
func TestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tor := new(fakeTor)
		tor.on("SETEVENTS", func(c *fakeConn, _, _ string) { c.say("510 Command filtered") })
		c := New(Config{Dial: tor.dial})
		_, err := c.connect(t.Context())
		var reply *ReplyError
		text, fix := Split(err)
		if !errors.As(err, &reply) || !strings.Contains(text, "a filter before the control port") || !strings.Contains(fix, "SETEVENTS") ||
			strings.Contains(text, fix) {
			t.Errorf("got %q, advice %q", text, fix)
		}
		tor.serving.Wait()
	})
}
