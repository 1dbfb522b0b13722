// Package config reads the operator's file: TOML, strict, each complaint with
// the line it is about.
//
// The structs of this package are the manual of the file, and its grammar: the
// tag "toml" of a field is its key, "is" names what its strings are (kinds in
// read.go), "range" bounds a whole number, "default" is the value of a key that
// is not given. Parse returns a complete Config that is checked as far as the
// file alone allows: paths are absolute, addresses are decoded. It opens nothing
// that the file points to.
package config

import (
	"log/slog"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Config is the whole file.
type Config struct {
	// File is the absolute path of the file.
	File string

	// StateDir keeps state that must survive a restart: revision-counter floors and
	// the last good descriptors, the status socket, and the tor of our own.
	// Default: "state" in the directory of the file. Give each balancer its own.
	StateDir string `toml:"state_dir" is:"file" default:"state"`

	// Tor says how to reach the network. Default: with a tor of our own.
	Tor Tor `toml:"tor"`

	// Log configures the log.
	Log Log `toml:"log"`

	// Check says how instances are checked. Default: gently, that their tors answer.
	Check Check `toml:"check"`

	// Cluster says with which other managers this one shares its services. Default: none.
	Cluster Cluster `toml:"cluster"`

	// Services are the public onion addresses, one [[service]] each.
	Services []Service `toml:"service"`

	// Shards are backends that many customers share, one [[shard]] each. There is at
	// least one service or shard.
	Shards []Shard `toml:"shard"`

	lines lines
}

// Tor is the [tor] table. The zero value asks for one tor of our own.
type Tor struct {
	// Controls are the control ports of tors that run already, each
	// "unix:/path" or "host:port"; the file gives one string or a list. Services
	// are spread over them. Default: start tors of our own.
	Controls []string `toml:"control" is:"control"`

	// Count is how many tors of our own to start, 1 to 16, over which services are
	// spread. Default (0): one. Only without Controls.
	Count int `toml:"count" range:"1 16"`

	// ControlRemote allows Controls on another machine: nothing on the way is
	// encrypted, and any program that answers there learns the password. Default:
	// false.
	ControlRemote bool `toml:"control_remote"`

	// CookieFile is the cookie of all Controls. Default: where tor says it is, if
	// the file belongs to root, our own user, or the user of tor's unix socket.
	CookieFile string `toml:"cookie_file" is:"file"`

	// PasswordFile holds the password of all Controls, for a torrc with
	// HashedControlPassword; a path or "credential:NAME". Default: authenticate by
	// cookie.
	PasswordFile string `toml:"password_file" is:"secret"`

	// PublishRate is how many uploads a second go through each tor, 1 to 200, after a burst
	// of ten times as many. Tors that serve take over the rate of those that do not.
	// Default: 10.
	PublishRate int `toml:"publish_rate" range:"1 200" default:"10"`

	// Binary is the program to start as tors of our own. Default: tor in PATH.
	Binary string `toml:"binary" is:"program"`

	// Torrc is a file of torrc lines for the tors of our own, bridges for
	// instance. Default: none.
	Torrc string `toml:"torrc" is:"file"`
}

// Own reports whether balancer is to start tors of its own.
func (t Tor) Own() bool { return len(t.Controls) == 0 }

// Log is the [log] table.
type Log struct {
	// Level is the least important level that is logged: "debug", "info",
	// "warn" or "error". Default: "info".
	Level slog.Level `toml:"level" is:"level"`

	// Format is FormatText or FormatJSON. Default: "text".
	Format string `toml:"format" is:"format" default:"text"`

	// FullAddresses logs onion addresses whole. Default: false, the first six
	// characters, since logs travel.
	FullAddresses bool `toml:"full_addresses"`
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
	Key string `toml:"key" is:"key"`

	// Signing is the PKCS #11 URI of the token that makes and keeps the
	// descriptor-signing keys. Default: they are kept in memory, or where the
	// ceremony of an offline key left them.
	Signing string `toml:"signing" is:"signing"`

	Balancing

	// Clients is the directory of the clients that may read the descriptor, in the
	// format of tor's authorized_clients: *.auth files. They are read again when they
	// change. Default: everybody may.
	Clients string `toml:"clients" is:"directory"`

	// CAA are the CAA records of the public address, which tell certificate
	// authorities who may certify it, each "FLAGS TAG VALUE". Default: none.
	CAA []string `toml:"caa" is:"caa"`

	// CAACritical tells certificate authorities that cannot read the CAA records, since
	// Clients keeps them out, not to certify the address. Default: true, where there are
	// records.
	CAACritical bool `toml:"caa_critical" default:"true"`
}

// Shard is one [[shard]]: customers, each with a public onion address of their own, on
// the same instances.
type Shard struct {
	// Name stands for the shard in commands, logs and the API, required and unique.
	Name string `toml:"name" is:"shard name"`

	// Customers is the directory of the customers' keys, in the layout of package
	// hosting, required.
	Customers string `toml:"customers" is:"customers"`

	// Token is the PKCS #11 URI of the key on a token that seals the keys of all
	// customers of the shard. Default: each customer's directory holds a key in the clear, or
	// what a ceremony left.
	Token string `toml:"token" is:"sealing key"`

	Balancing
}

// Balancing is what a [[service]] and a [[shard]] have in common.
type Balancing struct {
	// Strategy chooses the introduction points: one of selection.Names, or "exec:" and
	// the absolute path of a program that says weights (package advice). Default:
	// selection.Default.
	Strategy string `toml:"strategy" is:"strategy" default:"spread"`

	// Points says which introduction points are used, by their relays.
	Points Points `toml:"points"`

	// Profile is ProfileBalanced or ProfileOrdinary. Default: "balanced".
	Profile string `toml:"profile" is:"profile" default:"balanced"`

	// MaxIntroductionPoints is the most that a descriptor lists, 1 to 20.
	// Default: 20, more than which no client accepts. With ProfileOrdinary it is how many
	// a descriptor lists, 3 to 8, and the default is 3, as of tor.
	MaxIntroductionPoints int `toml:"max_introduction_points" range:"1 20" default:"20"`

	// PointsPerInstance is the most that a descriptor lists of one instance while
	// there are several, 1 to 20. Further points of an instance get it no more
	// clients. Default: 3, as many as a tor makes unless its torrc says otherwise. Not
	// with ProfileOrdinary.
	PointsPerInstance int `toml:"points_per_instance" range:"1 20" default:"3"`

	// FetchInterval is how often the instances' descriptors are fetched, up to
	// MaxFetchInterval. Default (0): automatic, as often as the network's clock
	// makes worthwhile.
	FetchInterval time.Duration `toml:"fetch_interval" is:"interval"`

	// Check overrides keys of Config.Check.
	Check ServiceCheck `toml:"check"`

	// Instances are the backends, one [[service.instance]] or [[shard.instance]] each; at
	// least one.
	Instances []Instance `toml:"instance"`

	// Public is the time between visits of the public address, by the tables of
	// checks; 0 for none.
	Public time.Duration
}

// The profiles.
const (
	// ProfileBalanced spreads clients over as many introduction points as help.
	ProfileBalanced = "balanced"
	// ProfileOrdinary publishes what a tor would that serves the address alone, when it would.
	ProfileOrdinary = "ordinary"
)

// Points is a [service.points] or [shard.points]: sets of relays in the notation of package relayset.
type Points struct {
	// Avoid are the relays whose introduction points are not used, unless the service
	// has no others. Default: none.
	Avoid []string `toml:"avoid" is:"relays"`

	// Prefer are the relays whose introduction points are taken first of those that an
	// instance has, those of the first entry before those of the second. Default: none.
	Prefer []string `toml:"prefer" is:"relays"`
}

// Instance is one [[service.instance]] or [[shard.instance]].
type Instance struct {
	// Name stands for the instance in logs and status, unique in its service or shard. That
	// of a shard's is the name of a directory, too.
	// Default: the beginning of its address.
	Name string `toml:"name" is:"name"`

	// Address is the instance's own onion address, required.
	Address descriptor.Address `toml:"address" is:"address"`

	// Weight is the instance's share relative to the others', from 0 (no
	// clients while others have a weight) on. Default: 1. Only for the
	// strategies "spread", "weighted" and "least-loaded".
	Weight float64 `toml:"weight" default:"1"`

	// ClientKey is the path of a tor .auth_private file, or "credential:NAME", for
	// an instance that requires client authorization. Default: none.
	ClientKey string `toml:"client_key" is:"client key"`

	// Check overrides keys of Service.Check.
	Check InstanceCheck `toml:"check"`

	// Spec is how the instance is checked, and Probe whether it has a probe address,
	// by the tables of checks.
	Spec  health.Spec
	Probe bool
}
