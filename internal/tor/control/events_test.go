package control

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestParseBootstrap(t *testing.T) {
	for args, want := range map[string]Progress{
		`PROGRESS=0 TAG=starting SUMMARY="Starting"`: {Percent: 0, Tag: "starting", Summary: "Starting"},
		`PROGRESS=100 TAG=done SUMMARY="Done"`:       {Percent: 100, Tag: "done", Summary: "Done"},
		`TAG=conn SUMMARY="a \"b\" = c" PROGRESS=5`:  {Percent: 5, Tag: "conn", Summary: `a "b" = c`},
		`PROGRESS=10 TAG=x SUMMARY="S" WARNING="No route to host" REASON=NOROUTE COUNT=3 RECOMMENDATION=warn HOSTID="AA" HOSTADDR="1.2.3.4:5"`: {
			Percent: 10, Tag: "x", Summary: "S", Warning: "No route to host", Reason: "NOROUTE", Stuck: true},
	} {
		if got, err := parseBootstrap(args); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", args, got, err, want)
		}
	}
	for _, bad := range []string{"", "PROGRESS", "PROGRESS=101", "PROGRESS=-1", "TAG=x", `PROGRESS=1 SUMMARY="open`} {
		if got, err := parseBootstrap(bad); err == nil {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
}

func TestParseProtocolInfo(t *testing.T) {
	got, err := parseProtocolInfo([]string{"PROTOCOLINFO 1",
		`AUTH METHODS=COOKIE,SAFECOOKIE,HASHEDPASSWORD COOKIEFILE="/a \"b\"/\303\244\\c"`,
		`VERSION Tor="0.4.9.11 (git-1)" Extra`, "SOMETHING new"})
	if err != nil || got.cookieFile != "/a \"b\"/ä\\c" || got.version != "0.4.9.11" ||
		strings.Join(got.methods, " ") != "COOKIE SAFECOOKIE HASHEDPASSWORD" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range [][]string{nil, {"PROTOCOLINFO 2", "AUTH METHODS=NULL"}, {"AUTH COOKIEFILE=\"x\""},
		{`AUTH METHODS=COOKIE COOKIEFILE="x`}, {`AUTH METHODS=NULL`, `VERSION Tor=0.4`}} {
		if got, err := parseProtocolInfo(bad); err == nil {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
}

// An event is read or refused, and what is read has the form that the rest goes by.
func FuzzEvent(f *testing.F) {
	for _, wire := range []string{
		"650 HS_DESC UPLOADED aaaa UNKNOWN $" + hsdir1 + "~x\r\n",
		"650 HS_DESC FAILED " + addressA + " NO_AUTH $" + hsdir1 + " blinded REASON=NOT_FOUND\r\n",
		"650+HS_DESC_CONTENT aaaa blinded $" + hsdir1 + "~x\r\nhs-descriptor 3\r\nsignature x\r\n.\r\n650 OK\r\n",
		"650+HS_DESC_CONTENT aaaa blinded UNKNOWN\r\n\r\n.\r\n650 OK\r\n",
		`650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="a \"b\" \303"` + "\r\n",
		`650 STATUS_CLIENT WARN BOOTSTRAP PROGRESS=5 TAG=x SUMMARY="x" WARNING="y \"z\"" REASON=NOROUTE` + "\r\n",
		"650 STATUS_CLIENT NOTICE CONSENSUS_ARRIVED\r\n",
		"650 STATUS_GENERAL WARN CLOCK_SKEW SKEW=-18000 SOURCE=CONSENSUS\r\n",
		"650-x\r\n250 OK\r\n", "650-first\r\n", "65", "\r\n",
	} {
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire string) {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(wire), 16), maxEvent, 0)
		if err != nil {
			return
		}
		e, err := parseEvent(r)
		if err != nil && (e.hsDesc != nil || e.progress != nil || e.refresh) {
			t.Errorf("an error and an event: %+v", e)
		}
		if e.hsDesc != nil {
			if d := e.hsDesc.pair.hsdir; d != "" && (!isHex(d) || d != strings.ToUpper(d)) {
				t.Errorf("HSDir %q", d)
			}
			if c := e.hsDesc.content; c != nil && (len(bytes.TrimSpace(c)) == 0 || c[len(c)-1] != '\n') {
				t.Errorf("content %q", c)
			}
		}
		if p := e.progress; p != nil && (p.Percent < 0 || p.Percent > 100) {
			t.Errorf("progress %+v", p)
		}
		if e.skew.Abs() > (1<<31)*time.Second {
			t.Errorf("skew %v", e.skew)
		}
	})
}

// What is stuffed and read again is the same document, with LF line ends.
func FuzzDocument(f *testing.F) {
	f.Add([]byte("a\n.b\n..\n.\n"), []byte("250-k=v\r\n250 OK\r\n"))
	f.Add([]byte("\r\n\r\r\n"), []byte("250+k=\r\nx\r\n.\r\n250 OK\r\n"))
	f.Add([]byte("no end"), []byte("551 no\r\n"))
	f.Fuzz(func(t *testing.T, document, reply []byte) {
		const limit = 1 << 20
		wire := "250+k=\r\n" + stuff(document) + "250 OK\r\n"
		want := bytes.ReplaceAll(document, []byte("\r\n"), []byte("\n"))
		if n := len(want); n > 0 && want[n-1] == '\r' {
			want = want[:n-1]
		}
		if n := len(document); n > 0 && document[n-1] != '\n' {
			want = append(bytes.Clone(want), '\n')
		}
		got, err := readInfo(bufio.NewReaderSize(strings.NewReader(wire), 16), "k", limit, 0)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q came back as %q, %v, want %q", document, got, err, want)
		}
		if value, err := readInfo(bufio.NewReader(bytes.NewReader(reply)), "k", 64, 0); err == nil && len(value) > len(reply) {
			t.Errorf("%q gave %q", reply, value)
		}
	})
}
