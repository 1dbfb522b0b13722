package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"onionbalancer/selection"
)

const (
	leastFetchInterval = time.Second
	maxNameLength      = 64 // characters
	defaultState       = "state"
	maxSocketPath      = 107 // bytes
)

// readConfig reads every table, complaining as it goes.
func readConfig(t *table, path string) *Config {
	c := &Config{File: path, StateDir: t.file("state_dir")}
	if c.StateDir == "" {
		c.StateDir = t.absolute(defaultState)
	}
	c.Tor = readTor(t.table("tor"))
	c.Log = readLog(t.table("log"))
	for _, s := range t.tables("service") {
		c.Services = append(c.Services, readService(s))
	}
	t.refuseOthers()
	t.bad.judgeOthers()
	return c
}

func readTor(t *table) Tor {
	if port, ok := t.values["control"].(int64); ok {
		t.values["control"] = strconv.FormatInt(port, 10)
	}
	tor := Tor{
		Control:       t.text("control"),
		ControlRemote: t.boolean("control_remote"),
		CookieFile:    t.file("cookie_file"),
		PasswordFile:  t.secret("password_file"),
		Binary:        t.text("binary"),
		Torrc:         t.file("torrc"),
	}
	if tor.Control != "" {
		control, err := controlTarget(t, tor.Control)
		if err != nil {
			t.bad.add(t.at("control"), "%w", err)
			control = "unix:" // some control port, so that what goes with it is not complained of
		}
		tor.Control = control
	}
	if strings.ContainsRune(tor.Binary, filepath.Separator) {
		tor.Binary = t.absolute(tor.Binary)
	}
	t.refuseOthers()
	return tor
}

// controlTarget checks "unix:/path" or "host:port", and makes the path absolute.
func controlTarget(t *table, s string) (string, error) {
	const forms = `want "unix:/path/of/socket" or "host:port", the port from 1 to 65535`
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if problem := pathProblem(path); problem != nil {
			return "", fmt.Errorf("the path after \"unix:\" %w", problem)
		}
		if path = t.absolute(path); len(path) > maxSocketPath {
			return "", fmt.Errorf("the path of the socket has %d bytes, and the kernel takes %d: name it by a shorter one, through a symbolic link for instance",
				len(path), maxSocketPath)
		}
		return "unix:" + path, nil
	}
	if hostPort(s) {
		return s, nil
	}
	meant := controlMeant(s)
	if path, ok := strings.CutPrefix(meant, "unix:"); ok && pathProblem(path) == nil || hostPort(meant) {
		return "", fmt.Errorf("%q is not how a control port is written; write %s", s, write("control", meant))
	}
	return "", fmt.Errorf("%q is no control port, %s", s, forms)
}

func readLog(t *table) Log {
	log := Log{
		Format:        t.choice("format", FormatText, FormatJSON),
		FullAddresses: t.boolean("full_addresses"),
	}
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	log.Level = levels[t.choice("level", "info", "debug", "warn", "error")]
	t.refuseOthers()
	return log
}

func readService(t *table) Service {
	s := Service{
		Key:                   readKey(t),
		Signing:               readSigning(t),
		Strategy:              t.choice("strategy", selection.Names()...),
		MaxIntroductionPoints: t.integer("max_introduction_points", 1, maxPoints, maxPoints),
		PointsPerInstance:     t.integer("points_per_instance", 1, maxPoints, torPoints),
		FetchInterval:         t.duration("fetch_interval", leastFetchInterval),
	}
	for _, i := range t.tables("instance") {
		s.Instances = append(s.Instances, readInstance(i))
	}
	list, ok := t.values["instance"].([]any)
	if none := t.values["instance"] == nil || ok && len(list) == 0; none && t.values["instances"] == nil {
		t.bad.add(t.at("instance"), "the service has none; add a [[service.instance]] with its address")
	}
	t.refuseOthers()
	return s
}

func readInstance(t *table) Instance {
	i := Instance{
		Name:      t.text("name"),
		Weight:    t.number("weight", 1),
		ClientKey: t.secret("client_key"),
	}
	if err := checkName(i.Name); err != nil {
		t.bad.add(t.at("name"), "%w", err)
	}
	if looksLikeClientKey(i.ClientKey) {
		t.bad.add(t.at("client_key"), "must be the path of an .auth_private file, never the key itself")
	}
	s, there := get[string](t, "address", "an onion address, as a string")
	if !there && t.values["address"] == nil {
		t.bad.add(t.at("address"), "is missing; it is the instance's own onion address, in its tor's hostname file")
	} else if there {
		address, err := readAddress(s)
		if err != nil {
			t.bad.add(t.at("address"), "%w", err)
		}
		i.Address = address
	}
	t.refuseOthers()
	return i
}

func checkName(name string) error {
	if utf8.RuneCountInString(name) > maxNameLength {
		return fmt.Errorf("is longer than %d characters", maxNameLength)
	}
	for _, r := range name {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return fmt.Errorf("%q contains %q; a name is one word", name, r)
		}
	}
	return nil
}

// looksLikeClientKey recognises an x25519 key in base32, bare or as in an
// .auth_private file, in the place of a path.
func looksLikeClientKey(path string) bool {
	base := filepath.Base(path)
	if i := strings.LastIndexByte(base, ':'); i >= 0 {
		base = base[i+1:]
	}
	const base32Length = 52
	return len(base) == base32Length && strings.Trim(strings.ToLower(base), "abcdefghijklmnopqrstuvwxyz234567") == ""
}

var errNoServices = errors.New("no [[service]] is given, so there is nothing to do; it needs a key = \"…\", and a [[service.instance]] with an address = \"….onion\"")
