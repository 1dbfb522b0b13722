package testnet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ServiceConfig describes an onion service.
type ServiceConfig struct {
	Name string // also what its backend answers with

	// Masters make the service an OnionBalance instance that answers under
	// these addresses ("….onion") too. Without any it is an ordinary service.
	Masters []string

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
		s.backend.close()
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
	s.backend, err = startBackend(s.config.Name, s.config.Handler)
	return err
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

// parameter is what the authorities vote for, if anything.
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
