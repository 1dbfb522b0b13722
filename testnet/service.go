package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ServiceConfig describes an onion service.
type ServiceConfig struct {
	Name string // also its backend's answer

	// Masters make the service an OnionBalance instance that answers under
	// these addresses ("….onion") too. Without any it is an ordinary service.
	Masters []string

	// Files are copied into its HiddenServiceDir: a key, or an ob_config in place of Masters.
	Files []string

	IntroductionPoints int          // in each descriptor; tor's default is 3
	Options            []string     // further torrc lines of the service, "HiddenService… value"
	Handler            http.Handler // instead of the backend that says its name
}

// Service is an onion service with its backend.
type Service struct {
	config  ServiceConfig
	server  *server
	dir     string // HiddenServiceDir
	backend *backend
	address string // 56 characters and ".onion"
}

// Service starts an onion service with a tor of its own. It returns once the
// service has its address; see Published.
func (n *Network) Service(ctx context.Context, config ServiceConfig) (*Service, error) {
	services, err := n.Services(ctx, config.Name, config)
	if err != nil {
		return nil, err
	}
	return services[0], nil
}

// Services starts one tor, called name, with several onion services. They live
// and die together.
func (n *Network) Services(ctx context.Context, name string, configs ...ServiceConfig) (_ []*Service, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting onion service %q: %w", name, err)
		}
	}()
	if len(configs) == 0 {
		return nil, errors.New("no service was asked for")
	}
	controlPort, err := n.ports.reserve()
	if err != nil {
		return nil, err
	}
	d, err := n.newNode(name)
	if err != nil {
		return nil, err
	}
	d.group = n.nextGroup()
	server := &server{node: d, controlPort: controlPort}
	for _, config := range configs {
		s := &Service{config: config, server: server, dir: filepath.Join(d.dir, "service-"+config.Name)}
		if err := s.prepare(); err != nil {
			return nil, err
		}
		server.services = append(server.services, s)
		n.keepService(s)
	}
	return server.services, server.launch(ctx)
}

// keepService hands the backend over to Stop.
func (n *Network) keepService(s *Service) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services = append(n.services, s)
	select {
	case <-n.stopped:
		s.backend.close(closeGrace)
	default:
	}
}

// prepare makes the service's directory and starts its backend.
func (s *Service) prepare() (err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := s.writeMasters(); err != nil {
		return err
	}
	if err := s.copyFiles(); err != nil {
		return err
	}
	// Its port stays free while it is stopped, as those of outgoing connections do not.
	address, err := s.server.net.ports.reserve()
	if err != nil {
		return err
	}
	s.backend = &backend{address: address, handler: s.config.Handler}
	if s.backend.handler == nil {
		s.backend.handler = nameHandler(s.config.Name)
	}
	return s.backend.start()
}

// obConfig is the name of the file of masters.
const obConfig = "ob_config"

// copyFiles copies Files.
func (s *Service) copyFiles() error {
	for _, name := range s.config.Files {
		content, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, filepath.Base(name)), content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("copying a file of a service: %w", err)
		}
	}
	return nil
}

// instance reports whether the service answers under other addresses too.
func (s *Service) instance() bool {
	return len(s.config.Masters) > 0 || slices.ContainsFunc(s.config.Files, func(name string) bool { return filepath.Base(name) == obConfig })
}

// Name is the service's name.
func (s *Service) Name() string { return s.config.Name }

// Address is the service's own address, with ".onion".
func (s *Service) Address() string { return s.address }

// URL is an address of the service's backend, through its own onion address.
func (s *Service) URL(path string) string { return "http://" + s.address + path }

// Dir is the service's HiddenServiceDir, with its key and authorized_clients.
func (s *Service) Dir() string { return s.dir }

// Requests is how many requests have come to the backend.
func (s *Service) Requests() int64 { return s.backend.requests.Load() }

// PID is the process number of the service's tor, 0 when it does not run.
func (s *Service) PID() int { return s.server.PID() }

// ControlTarget is the control port of the service's tor, as "host:port".
func (s *Service) ControlTarget() string { return s.server.controlPort }

// Kill ends the service's tor by kill -9, and with it every service that it
// runs. The backends stay.
func (s *Service) Kill() { s.server.end(true) }

// Restart starts the service's tor, ending it before if it runs. Address and
// key stay, introduction points do not.
func (s *Service) Restart(ctx context.Context) error {
	s.server.end(false)
	if err := s.server.launch(ctx); err != nil {
		return fmt.Errorf("restarting onion service %q: %w", s.Name(), err)
	}
	return nil
}

// Published waits until HSDirs have confirmed both of the service's
// descriptors, since its tor was last started.
func (s *Service) Published(ctx context.Context) error {
	address := strings.TrimSuffix(s.address, ".onion")
	err := s.server.net.until(ctx, time.Second, func() (bool, error) {
		return s.server.uploaded(address) >= s.server.net.descriptorSlots(), nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the descriptors of %q, %d uploads confirmed: %w\n%s",
			s.Name(), s.server.uploaded(address), err, logTail(s.server.dir))
	}
	return nil
}

// descriptorSlots is to how many HSDirs a service publishes: two descriptors,
// each to hsdir_spread_store HSDirs for each of hsdir_n_replicas replicas, or
// to all HSDirs when there are fewer.
func (n *Network) descriptorSlots() uint {
	each := n.parameter("hsdir_n_replicas", 2) * n.parameter("hsdir_spread_store", 4)
	return uint(2 * min(each, n.config.Authorities+n.config.Relays))
}

// parameter is a parameter that the authorities vote for, if any.
func (n *Network) parameter(name string, otherwise int) int {
	for _, parameter := range n.config.ConsensusParams {
		if key, value, _ := strings.Cut(parameter, "="); key == name {
			if number, err := strconv.Atoi(value); err == nil {
				return number
			}
		}
	}
	return otherwise
}

// maxBulk limits the answer to one request for bulk data.
const maxBulk = 1 << 30 // 1 GiB

// backend is the web server behind an onion service. By default it says its name,
// and serves as many bytes as it is asked for:
//
//	/              the name and a line feed
//	/bulk?bytes=N  N bytes
type backend struct {
	address  string // host:port
	handler  http.Handler
	requests atomic.Int64

	mu     sync.Mutex
	server *http.Server // nil while it is stopped
	done   chan struct{}
}

// start listens and serves.
func (b *backend) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		return nil
	}
	// A process that is started while the port is found free has that listener, too, until
	// it has become another program.
	l, err := net.Listen("tcp4", b.address)
	for tries := 0; errors.Is(err, syscall.EADDRINUSE) && tries < 100; tries++ {
		time.Sleep(20 * time.Millisecond)
		l, err = net.Listen("tcp4", b.address)
	}
	if err != nil {
		return fmt.Errorf("starting a web server: %w", err)
	}
	server := &http.Server{
		ReadHeaderTimeout: 30 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.requests.Add(1)
			b.handler.ServeHTTP(w, r)
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	b.server, b.done = server, done
	return nil
}

// close drops all connections; grace is for requests that are being answered.
func (b *backend) close(grace time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		b.server.Close()
	}
	<-b.done
	b.server = nil
}

// closeGrace is for requests at the end of a network.
const closeGrace = 100 * time.Millisecond

// nameHandler is the default handler of a backend.
func nameHandler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name)
	})
	mux.HandleFunc("GET /bulk", func(w http.ResponseWriter, r *http.Request) {
		left, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if err != nil || left < 0 || left > maxBulk {
			http.Error(w, "bytes: a number up to 1 GiB, please", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
		chunk := make([]byte, 64<<10)
		for left > 0 && err == nil {
			var n int
			n, err = w.Write(chunk[:min(left, int64(len(chunk)))])
			left -= int64(n)
		}
	})
	return mux
}

// server is a tor that runs services.
type server struct {
	*node
	controlPort string
	services    []*Service
}

// launch starts the services' tor and reads their addresses.
func (v *server) launch(ctx context.Context) error {
	t := v.net.clientConfig(v.dir, "", v.controlPort)
	for _, s := range v.services {
		s.torrc(t)
	}
	if err := t.write(v.dir); err != nil {
		return err
	}
	if err := v.start(ctx); err != nil {
		return err
	}
	for _, s := range v.services {
		hostname, err := os.ReadFile(filepath.Join(s.dir, "hostname"))
		if err != nil {
			return err
		}
		s.address = string(bytes.TrimSpace(hostname))
	}
	return nil
}

// torrc adds the service's lines.
func (s *Service) torrc(t *torrc) {
	t.path("HiddenServiceDir", s.dir)
	t.set("HiddenServiceVersion", 3)
	t.set("HiddenServicePort", "80 "+s.backend.address)
	if s.instance() {
		t.set("HiddenServiceOnionBalanceInstance", 1)
	}
	if s.config.IntroductionPoints > 0 {
		t.set("HiddenServiceNumIntroductionPoints", s.config.IntroductionPoints)
	}
	t.options(s.config.Options)
}

// writeMasters writes ob_config. Tor crashes on one without an address, and
// may read it at any time, so there is either a whole one or none.
func (s *Service) writeMasters() error {
	if len(s.config.Masters) == 0 {
		return nil
	}
	var text strings.Builder
	for _, master := range s.config.Masters {
		if len(master) != 56+len(".onion") || !strings.HasSuffix(master, ".onion") {
			return fmt.Errorf("%q is no onion address", master)
		}
		fmt.Fprintf(&text, "MasterOnionAddress %s\n", master)
	}
	path := filepath.Join(s.dir, obConfig)
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
