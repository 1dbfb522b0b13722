// Package config reads the operator's file: TOML, strict, each complaint with
// the line it is about.
//
// The structs of this package are the manual of the file: a field's name in
// snake case is its key. What Parse returns is complete and checked as far as
// the file alone can be: defaults are filled in, paths are absolute, addresses
// are decoded. What the file points to (keys, sockets) is for others to open.
package config

import (
	"log/slog"
	"time"

	"onionbalancer/descriptor"
)

// Config is the whole file.
type Config struct {
	// File is the absolute path of the file that was read.
	File string

	// StateDir keeps what must outlive a restart: revision-counter floors and
	// the last good descriptors, the status socket, and the tor of our own.
	// Default: "state" in the directory of the file. Give each balancer its own.
	StateDir string

	// Tor says how to reach the network. Default: with a tor of our own.
	Tor Tor

	// Log says what is logged, and how.
	Log Log

	// Services are the public onion addresses, one [[service]] each; at least one.
	Services []Service

	lines lines
}

// Tor is the [tor] table. The zero value asks for a tor of our own.
type Tor struct {
	// Control is the control port of a tor that runs already: "unix:/path" or
	// "host:port". Default: start a tor of our own.
	Control string

	// ControlRemote allows a Control on another machine: nothing on the way is
	// encrypted, and whoever answers there is told the password. Default: false.
	ControlRemote bool

	// CookieFile is the control port's cookie. Default: where tor says it is, if
	// the file belongs to root, our own user, or the user of tor's unix socket.
	CookieFile string

	// PasswordFile holds the control port's password, for a torrc with
	// HashedControlPassword; a path or "credential:NAME". Default: authenticate by
	// cookie.
	PasswordFile string

	// Binary is the program to start as a tor of our own. Default: tor in PATH.
	Binary string

	// Torrc is a file of torrc lines for the tor of our own, bridges for
	// instance. Default: none.
	Torrc string
}

// Own reports whether balancer is to start a tor of its own.
func (t Tor) Own() bool { return t.Control == "" }

// Log is the [log] table.
type Log struct {
	// Level is the least important level that is logged: "debug", "info",
	// "warn" or "error". Default: "info".
	Level slog.Level

	// Format is FormatText or FormatJSON. Default: "text".
	Format string

	// FullAddresses logs onion addresses whole. Default: false, the first six
	// characters, since logs travel.
	FullAddresses bool
}

// The log formats.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Service is one [[service]].
type Service struct {
	// Key is the service's identity key, required: tor's hs_ed25519_secret_key,
	// the directory it is in, a PEM file of OnionBalance, Arti's key file or
	// directory, a credential of systemd's ("credential:NAME"), the directory of
	// an offline ceremony, or a PKCS #11 URI ("pkcs11:…") that names the key on a
	// token which opens a sealed file, and the file (x-sealed).
	Key string

	// Signing is the PKCS #11 URI of the token that makes and keeps the
	// descriptor-signing keys. Default: they are kept in memory, or where the
	// ceremony of an offline key left them.
	Signing string

	// Strategy chooses the introduction points. Default: selection.Default.
	Strategy string

	// MaxIntroductionPoints is the most that a descriptor lists, 1 to 20.
	// Default: 20, more than which no client accepts.
	MaxIntroductionPoints int

	// PointsPerInstance is the most that a descriptor lists of one instance while
	// there are several, 1 to 20. What one instance offers beyond it gets it no more
	// clients. Default: 3, as many as a tor makes unless its torrc says otherwise.
	PointsPerInstance int

	// FetchInterval is how often the instances' descriptors are fetched.
	// Default (0): automatic, as often as the network's clock makes worthwhile.
	FetchInterval time.Duration

	// Instances are the backends, one [[service.instance]] each; at least one.
	Instances []Instance
}

// Instance is one [[service.instance]].
type Instance struct {
	// Name stands for the instance in logs and status, unique in its service.
	// Default: the beginning of its address.
	Name string

	// Address is the instance's own onion address, required.
	Address descriptor.Address

	// Weight is the instance's share relative to the others', from 0 (no
	// clients while others have a weight) on. Default: 1. Only for the
	// strategy "weighted".
	Weight float64

	// ClientKey is the path of a tor .auth_private file, or "credential:NAME", for
	// an instance that requires client authorization. Default: none.
	ClientKey string
}
