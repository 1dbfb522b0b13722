package process

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// refused are the options that torrc lines of an operator may not set: those
// that we set ourselves, and those that would take away what we rely on. A "*"
// at the end stands for any end.
var refused = []struct{ names, because string }{
	{"ControlPort* ControlSocket* CookieAuth* HashedControlPassword",
		"balancer rules this tor by a control socket of its own, which is nobody else's"},
	{"__*", "it is for the program that controls tor, which is balancer"},
	{"DataDirectory* CacheDirectory* KeyDirectory*", "balancer's tor keeps its files in state_dir"},
	{"RunAsDaemon", "balancer would take a tor in the background for one that ended"},
	{"User PidFile", "balancer starts this tor, as its own user, and needs no file to find it"},
	{"Log LogMessageDomains LogTimeGranularity", "balancer reads tor's log, and passes it on (all of it with level = \"debug\" in [log])"},
	{"SafeLogging", "addresses would come into balancer's log"},
	{"DisableNetwork", "tor would never connect"},
	{"Accounting*", "tor would go offline when the sum is used up"},
	{"Sandbox", "in its sandbox tor starts no transport, and the unit of balancer confines it already"},
	{"Dormant*", "tor would fall asleep, since fetches and posts of balancer wake it not"},
	{"FetchDirInfoEarly FetchDirInfoExtraEarly FetchServerDescriptors FetchUselessDescriptors UseMicrodescriptors",
		"balancer sets what this tor fetches of the network's documents"},
	{"FetchHidServDescriptors PublishHidServDescriptors", "fetching and publishing descriptors is what this tor is for"},
	{"HiddenService*", "an onion service belongs to a tor of its own"},
	{"SocksPort* DNSPort* TransPort* NATDPort* HTTPTunnelPort*", "this tor serves balancer alone and opens no port; run another for other programs"},
	{"ClientOnly ORPort* DirPort* DirCache ExtORPort* BridgeRelay ExitRelay AuthoritativeDirectory V3AuthoritativeDirectory BridgeAuthoritativeDir*",
		"this tor is a client; run a relay apart from it"},
	{"%include", "balancer checks what it gives to tor, so the lines must be in this file"},
}

// wholeNames are options that are the beginning of a refused one.
var wholeNames = []string{"bridge"}

// refusal says why key may not be set, or nil. As tor does, it looks past a "+"
// (append) or "/" (clear) and at no case, and takes the beginning of an option
// for the option.
func refusal(key string) error {
	name := key
	if strings.HasPrefix(name, "+") || strings.HasPrefix(name, "/") {
		name = name[1:]
	}
	name = strings.ToLower(name)
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_%") != "" {
		return errors.New("tor has no option of that name; a line of torrc is an option and its value")
	}
	short := ""
	for _, r := range refused {
		for pattern := range strings.FieldsSeq(r.names) {
			stem, open := strings.CutSuffix(strings.ToLower(pattern), "*")
			if name == stem || open && strings.HasPrefix(name, stem) {
				return fmt.Errorf("%s; remove the line", r.because)
			}
			if short == "" && strings.HasPrefix(stem, name) {
				short = fmt.Sprintf("tor may take it for %s, which must not be here: %s; write the name in full, or remove the line",
					strings.TrimSuffix(pattern, "*"), r.because)
			}
		}
	}
	if short == "" || slices.Contains(wholeNames, name) {
		return nil
	}
	return errors.New(short)
}
