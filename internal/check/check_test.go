package check

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// fakeDialer is a tor that gets as far as it is told.
type fakeDialer struct {
	Dialer
	stage health.Stage
	err   error
	serve func(conn net.Conn) // the application, when the stage is Connected
	visit health.Visit        // the last
}

var point = health.PointResult{Relay: descriptor.Fingerprint{1}, Acknowledged: true, Answered: true}

func (f *fakeDialer) Dial(ctx context.Context, v health.Visit) (net.Conn, health.Trace, error) {
	f.visit = v
	trace := health.Trace{Via: "tor-2", Stage: f.stage, Points: []health.PointResult{point}}
	if f.err != nil {
		if errors.Is(f.err, context.DeadlineExceeded) {
			<-ctx.Done()
		}
		return nil, trace, f.err
	}
	ours, theirs := net.Pipe()
	if f.serve != nil {
		go f.serve(theirs)
	}
	return ours, trace, nil
}

// answering is an application that reads a request, sends an answer and closes.
func answering(answer string, request *string) func(net.Conn) {
	return func(conn net.Conn) {
		defer conn.Close()
		if request != nil {
			r := bufio.NewReader(conn)
			for {
				line, err := r.ReadString('\n')
				*request += line
				if err != nil || line == "\r\n" {
					break
				}
			}
		}
		_, _ = io.WriteString(conn, answer)
	}
}

var (
	instance = descriptor.Address{1}
	probe    = descriptor.Address{2}
	spec     = health.Spec{Kind: health.TCP, Port: 80, Timeout: 10 * time.Second}
)

// TestStages: what passes and what fails at each stage, for each kind.
func TestStages(t *testing.T) {
	refused, noPort := fmt.Errorf("%w (MISC)", health.ErrRefused), fmt.Errorf("x: %w", health.ErrNoPort)
	unclear := errors.New("one of the two")
	for _, test := range []struct {
		stage                 health.Stage
		err                   error
		tcp, anyPort, asAgent bool // whether it passes
	}{
		{health.NoTor, errors.New("x"), false, false, false},
		{health.NoPoint, errors.New("x"), false, false, false},
		{health.Introduced, context.DeadlineExceeded, false, false, false},
		{health.Answered, refused, false, false, true},
		{health.Answered, noPort, false, true, true},
		{health.Answered, unclear, false, true, true},
		{health.Answered, health.ErrSilent, false, false, true},
		{health.Connected, nil, true, true, true},
	} {
		anyPort, asAgent := spec, spec
		anyPort.AnyPort, asAgent.Kind = true, health.Agent
		for _, kind := range []struct {
			spec   health.Spec
			passes bool
		}{{spec, test.tcp}, {anyPort, test.anyPort}, {asAgent, test.asAgent}} {
			synctest.Test(t, func(t *testing.T) {
				d := &fakeDialer{stage: test.stage, err: test.err, serve: answering("", nil)}
				began := time.Now()
				r := Once(t.Context(), d, instance, kind.spec, "a", true)
				if passes := r.Err == nil; passes != kind.passes || !passes && test.err != nil && !errors.Is(r.Err, test.err) {
					t.Errorf("stage %d, %v, %s, any port %v: %v", test.stage, test.err, kind.spec.Kind, kind.spec.AnyPort, r.Err)
				}
				if r.Stage != test.stage || r.Via != "tor-2" || !r.Fresh || len(r.Points) != 1 || r.Points[0] != point || r.Report != (health.AgentReport{}) {
					t.Errorf("stage %d: %+v", test.stage, r)
				}
				if r.Began != began || r.Ended != time.Now() || r.Ended.Sub(r.Began) > spec.Timeout {
					t.Errorf("from %v to %v", r.Began, r.Ended)
				}
				if want := (health.Visit{Address: instance, Port: 80, Circuit: "a"}); d.visit != want {
					t.Errorf("visit %+v", d.visit)
				}
			})
		}
	}
}

func TestOtherAddress(t *testing.T) {
	d, other := &fakeDialer{stage: health.Connected}, spec
	other.Address = probe
	if r := Once(t.Context(), d, instance, other, "b", false); r.Err != nil || r.Fresh || d.visit.Address != probe {
		t.Errorf("%+v, visit %+v", r, d.visit)
	}
}

func TestHTTP(t *testing.T) {
	long := strings.Repeat("x", maxBody)
	for name, test := range map[string]struct {
		answer, status, text string
		fails                string // part of the error; empty: it passes
		silent               bool   // the application did not speak HTTP
	}{
		"200":               {answer: "HTTP/1.1 200 OK\r\n\r\n"},
		"old":               {answer: "HTTP/1.0 204 No Content\r\n\r\n"},
		"redirect":          {answer: "HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\n\r\n"},
		"503":               {answer: "HTTP/1.1 503 Oh\x1b[2J\r\n\r\n", fails: "the status is 503"},
		"404 expected":      {answer: "HTTP/1.1 404 Not Found\r\n\r\n", status: "200,4xx"},
		"301 unexpected":    {answer: "HTTP/1.1 301 Moved\r\n\r\n", status: "2xx", fails: "the status is 301"},
		"early hints":       {answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"},
		"hints for ever":    {answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), fails: "only provisional", silent: true},
		"text":              {answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nall is wel", text: "is we"},
		"text, chunked":     {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n6\r\nis wel\r\n0\r\n\r\n", text: "l is we"},
		"text, cut off":     {answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nall is wel", text: "is we"},
		"no text":           {answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", text: "well", fails: "the text is not"},
		"no text, cut off":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbad", text: "well", fails: "reading the body"},
		"text too late":     {answer: "HTTP/1.1 200 OK\r\n\r\n" + long + "well", text: "well", fails: "in the first 65536 bytes"},
		"long body":         {answer: "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + long},
		"long header":       {answer: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", maxHeader), fails: "longer than", silent: true},
		"many headers":      {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxHeader), fails: "longer than", silent: true},
		"not HTTP":          {answer: "SSH-2.0-OpenSSH\r\n", fails: "malformed HTTP", silent: true},
		"nothing":           {answer: "", fails: "EOF", silent: true},
		"malformed version": {answer: "HTTP/9.9 200 OK\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var request string
			d := &fakeDialer{stage: health.Connected, serve: answering(test.answer, &request)}
			web := spec
			web.Kind, web.Path, web.Status, web.Text = health.HTTP, "/health?a=b", test.status, test.text
			r := Once(t.Context(), d, instance, web, "a", false)
			if (r.Err == nil) != (test.fails == "") || r.Err != nil && !strings.Contains(r.Err.Error(), test.fails) {
				t.Errorf("got %v, want %q", r.Err, test.fails)
			}
			want := health.Spoken
			if test.silent {
				want = health.Connected
			}
			if r.Stage != want {
				t.Errorf("stage %d, want %d", r.Stage, want)
			}
			if want := "GET /health?a=b HTTP/1.1\r\nHost: " + instance.String() + "\r\nConnection: close\r\n\r\n"; request != want {
				t.Errorf("request %q, want %q", request, want)
			}
		})
	}
}

// What an application sends is not repeated at length by errors, which are stored and shown.
func TestHTTPErrorIsShort(t *testing.T) {
	for _, answer := range []string{
		strings.Repeat("x", 50_000) + "\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("\x01", 50_000) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: " + strings.Repeat("9", 50_000) + "\r\n\r\n",
	} {
		web := spec
		web.Kind = health.HTTP
		d := &fakeDialer{stage: health.Connected, serve: answering(answer, new(string))}
		if r := Once(t.Context(), d, instance, web, "a", false); r.Err == nil || len(r.Err.Error()) > 500 {
			t.Errorf("%d bytes: %.100v", len(r.Err.Error()), r.Err)
		}
	}
}

func TestHTTPHost(t *testing.T) {
	for _, test := range []struct {
		port       uint16
		host, want string
	}{{80, "", instance.String()}, {8080, "", instance.String() + ":8080"}, {8080, "www.example", "www.example"}} {
		request := ""
		d := &fakeDialer{stage: health.Connected, serve: answering("HTTP/1.1 200 OK\r\n\r\n", &request)}
		web := spec
		web.Kind, web.Port, web.Host = health.HTTP, test.port, test.host
		if r := Once(t.Context(), d, instance, web, "a", false); r.Err != nil || !strings.HasPrefix(request, "GET / HTTP/1.1\r\nHost: "+test.want+"\r\n") {
			t.Errorf("%+v: %v, %q", test, r.Err, request)
		}
	}
}

// TestHangs: an application that says nothing costs the timeout, and no more.
func TestHangs(t *testing.T) {
	for _, kind := range []health.Kind{health.HTTP, health.Agent} {
		synctest.Test(t, func(t *testing.T) {
			d := &fakeDialer{stage: health.Connected, serve: func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }}
			slow := spec
			slow.Kind = kind
			r := Once(t.Context(), d, instance, slow, "a", false)
			if r.Stage != health.Connected || !errors.Is(r.Err, context.DeadlineExceeded) || r.Ended.Sub(r.Began) != slow.Timeout {
				t.Errorf("%s: %+v after %v", kind, r, r.Ended.Sub(r.Began))
			}
		})
	}
}

func TestAgent(t *testing.T) {
	for line, test := range map[string]struct {
		report health.AgentReport
		stage  health.Stage
		fails  bool
	}{
		"up 75%\n":                 {report: health.AgentReport{Operating: health.Up, Weighted: true, Weight: 0.75}, stage: health.Spoken},
		"drain\r\ndown\n":          {report: health.AgentReport{Admin: health.Drain}, stage: health.Spoken},
		"down # gone":              {report: health.AgentReport{Operating: health.Down, Text: "gone"}, stage: health.Spoken},
		"":                         {stage: health.Connected},
		"\nup":                     {stage: health.Connected},
		"ub\n":                     {report: health.AgentReport{Text: `reading the agent's line: unknown word "ub"`}, stage: health.Spoken},
		strings.Repeat("u", 1<<20): {stage: health.Connected, fails: true},
	} {
		d := &fakeDialer{stage: health.Connected, serve: answering(line, nil)}
		agent := spec
		agent.Kind = health.Agent
		r := Once(t.Context(), d, instance, agent, "a", false)
		if r.Report != test.report || r.Stage != test.stage || (r.Err != nil) != test.fails {
			t.Errorf("%.20q: %+v", line, r)
		}
	}
}
