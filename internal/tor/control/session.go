package control

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// events are those that Client acts on. NEWCONSENSUS is not among them: tor
// sends it with the whole consensus, where CONSENSUS_ARRIVED is one line.
const events = "SETEVENTS HS_DESC HS_DESC_CONTENT STATUS_CLIENT STATUS_GENERAL"

// keepActive is the command of the heartbeat. A tor that serves nobody's
// streams goes dormant after DormantClientTimeout, a day, and then fetches no
// consensus any more; HSFETCH and HSPOST do not count as activity.
const keepActive = "SIGNAL ACTIVE"

// session is one life of the two connections.
type session struct {
	client   *Client
	log      *slog.Logger
	commands *link
	events   *link
	version  string
	requests chan *request
	done     chan struct{} // closed when the session has ended
	cause    error         // why; set before done is closed

	mu    sync.Mutex
	waits map[pair]*wait
}

// request is one command on its way. exec runs on the command loop; nobody
// reads what it stored before done is closed.
type request struct {
	ctx  context.Context
	exec func(l *link) error
	err  error
	done chan struct{}
}

// connect makes both connections and asks for the events.
func (c *Client) connect(ctx context.Context) (*session, error) {
	commands, version, err := openLink(ctx, c.cfg)
	if err != nil {
		return nil, err
	}
	s := &session{
		client: c, log: c.cfg.Log, commands: commands, version: version,
		requests: make(chan *request),
		done:     make(chan struct{}),
		waits:    make(map[pair]*wait),
	}
	if err := s.setUp(ctx, c.cfg); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) setUp(ctx context.Context, cfg Config) (err error) {
	if s.events, _, err = openLink(ctx, cfg); err != nil {
		return err
	}
	if _, err := s.events.send(events); err != nil {
		return fmt.Errorf("asking tor for its events: %w", err)
	}
	if cfg.TakeOwnership {
		if _, err := s.commands.send("TAKEOWNERSHIP"); err != nil {
			return fmt.Errorf("taking ownership of tor: %w", err)
		}
	}
	return s.events.conn.SetDeadline(time.Time{})
}

func (s *session) close() {
	s.commands.close()
	if s.events != nil {
		s.events.close()
	}
}

// run serves the session until ctx ends or a connection fails, and returns why
// it ended. Nothing of it is left running.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, loop := range []func(context.Context) error{s.serveCommands, s.pump, s.heartbeat} {
		group.Go(func() {
			if err := loop(ctx); err != nil {
				cancel(err)
			}
		})
	}
	// Closing is what ends reads and writes that are under way.
	<-ctx.Done()
	s.close()
	group.Wait()
	s.cause = context.Cause(ctx)
	s.client.detach(s)
	close(s.done)
	return s.cause
}

// serveCommands carries out one request after the other, and tries the
// connection from time to time, so that the loss of this one alone does not
// wait for somebody to meet it.
func (s *session) serveCommands(ctx context.Context) error {
	ticker := time.NewTicker(s.client.cfg.Heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := s.commands.send(keepActive); fatal(err) {
				return fmt.Errorf("command connection: %w", err)
			}
		case r := <-s.requests:
			if r.ctx.Err() != nil {
				r.finish(r.ctx.Err())
				continue
			}
			err := r.exec(s.commands)
			if fatal(err) {
				r.finish(fmt.Errorf("%w: %w", ErrNotConnected, err))
				return fmt.Errorf("command connection: %w", err)
			}
			r.finish(err)
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *request) finish(err error) {
	r.err = err
	close(r.done)
}

// do has one command carried out and waits for it. When ctx ends first, the
// command goes on and its reply is thrown away, so that the connection stays
// in step.
func (s *session) do(ctx context.Context, exec func(l *link) error) error {
	r := &request{ctx: ctx, exec: exec, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return s.lost()
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost is the error of whoever waited while the connection went away. Only for
// after done.
func (s *session) lost() error { return fmt.Errorf("%w: %w", ErrNotConnected, s.cause) }

// pump reads events for as long as the connection lives. It waits for tor and
// for nobody else. A reply that is not an event answers a heartbeat.
func (s *session) pump(context.Context) error {
	patience := s.client.cfg.Heartbeat + s.client.cfg.CommandTimeout
	for {
		s.events.conn.allow(maxEvent)
		if err := s.events.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		response, err := s.events.bine.ReadResponse()
		if isTimeout(err) {
			return fmt.Errorf("event connection: tor was silent for %v: %w", patience, err)
		}
		if err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		if !response.IsAsync() {
			if !response.IsOk() {
				s.log.Debug("tor refused the heartbeat", "code", response.Err.Code, "text", response.Reply)
			}
			continue
		}
		s.handle(response)
	}
}

// heartbeat writes to the event connection, which the pump only reads.
func (s *session) heartbeat(ctx context.Context) error {
	ticker := time.NewTicker(s.client.cfg.Heartbeat)
	defer ticker.Stop()
	for {
		deadline := time.Now().Add(s.client.cfg.CommandTimeout)
		if err := s.events.conn.SetWriteDeadline(deadline); err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		if err := s.events.text.PrintfLine("%s", keepActive); err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
