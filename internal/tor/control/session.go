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

// keepActive is the command of the heartbeat. A tor without client
// streams goes dormant after DormantClientTimeout, a day, and then fetches no
// consensus any more; HSFETCH and HSPOST do not count as activity.
const keepActive = "SIGNAL ACTIVE"

// session is one life of the two connections.
type session struct {
	client   *Client
	log      *slog.Logger
	commands *controlConn
	events   *controlConn
	version  string
	requests chan *request
	done     chan struct{} // closed when the session has ended
	cause    error         // why; set before done is closed

	retune chan struct{} // wakes who writes to the event connection

	mu      sync.Mutex
	pending map[pair]*pendingRequest
	follow  followers
	answers []func(*reply) // for what was sent on the event connection, in order
}

// request is one command in flight. exec runs on the command loop. Its results
// may be read after its error was received.
type request struct {
	ctx  context.Context
	exec func(l *controlConn) error
	err  chan error // holds one
}

// connect makes both connections and asks for the events.
func (c *Client) connect(ctx context.Context) (*session, error) {
	commands, version, err := openConn(ctx, c.cfg)
	if err != nil {
		return nil, err
	}
	s := &session{
		client: c, log: c.cfg.Log, commands: commands, version: version,
		requests: make(chan *request),
		done:     make(chan struct{}),
		retune:   make(chan struct{}, 1),
		pending:  make(map[pair]*pendingRequest),
	}
	if err := s.setUp(ctx, c.cfg); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) setUp(ctx context.Context, cfg Config) (err error) {
	if s.events, _, err = openConn(ctx, cfg); err != nil {
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

// run runs the session until ctx ends or a connection fails, and returns why
// it ended. No goroutine of it is left running.
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
	// Closing interrupts reads and writes in flight.
	<-ctx.Done()
	s.close()
	group.Wait()
	s.cause = context.Cause(ctx)
	s.client.detach(s)
	close(s.done)
	return s.cause
}

// serveCommands carries out one request after the other, and probes the
// connection from time to time, so that its loss is noticed without a request.
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
			err := r.ctx.Err()
			if err == nil {
				err = r.exec(s.commands)
				if fatal(err) {
					r.err <- fmt.Errorf("%w: %w", ErrNotConnected, err)
					return fmt.Errorf("command connection: %w", err)
				}
			}
			r.err <- err
		case <-ctx.Done():
			return nil
		}
	}
}

// do has one command carried out and waits for it. When ctx ends first, the
// command continues and its reply is dropped, so that the connection stays
// in step.
func (s *session) do(ctx context.Context, exec func(l *controlConn) error) error {
	r := &request{ctx: ctx, exec: exec, err: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return s.lost()
	}
	select {
	case err := <-r.err:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost is the error of calls that were pending when the connection was lost. Only for
// after done.
func (s *session) lost() error { return fmt.Errorf("%w: %w", ErrNotConnected, s.cause) }

// pump reads events for as long as the connection lives. It blocks on tor
// alone. A reply that is not an event answers what was sent.
func (s *session) pump(context.Context) error {
	patience := s.client.cfg.Heartbeat + s.client.cfg.CommandTimeout
	for {
		s.events.conn.left = maxEvent
		if err := s.events.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		r, err := readReply(s.events.r, maxEvent, usualDocument)
		if isTimeout(err) {
			return fmt.Errorf("event connection: tor was silent for %v: %w", patience, err)
		}
		if err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		switch {
		case r.isEvent():
			s.dispatch(r)
		default:
			s.answered(r)
		}
	}
}

// heartbeat writes to the event connection, which the pump only reads.
func (s *session) heartbeat(ctx context.Context) error {
	period := s.client.cfg.Heartbeat
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	command, answered := keepActive, s.refusedHeartbeat
	for {
		if err := s.tell(command, answered); err != nil {
			return fmt.Errorf("event connection: %w", err)
		}
		select {
		case now := <-ticker.C:
			s.relax(now, period)
			command, answered = keepActive, s.refusedHeartbeat
		case <-s.retune:
			command, answered = s.wanted()
		case <-ctx.Done():
			return nil
		}
	}
}

// tell sends a command on the event connection, whose answer the pump will get.
func (s *session) tell(command string, answered func(*reply)) error {
	deadline := time.Now().Add(s.client.cfg.CommandTimeout)
	if err := s.events.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	s.mu.Lock()
	s.answers = append(s.answers, answered)
	s.mu.Unlock()
	return s.events.write(command, nil)
}

// answered passes a reply on the event connection to who waits for it.
func (s *session) answered(r *reply) {
	s.mu.Lock()
	var first func(*reply)
	if len(s.answers) > 0 {
		first, s.answers = s.answers[0], s.answers[1:]
	}
	s.mu.Unlock()
	if first != nil {
		first(r)
	}
}

func (s *session) refusedHeartbeat(r *reply) {
	if !r.ok() {
		s.log.Debug("tor refused the heartbeat", "code", r.code, "text", r.text())
	}
}
