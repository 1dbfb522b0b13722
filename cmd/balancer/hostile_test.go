package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/status"
	"onionbalancer/keystore/token"
)

// What somebody who chose a name would have a terminal do. No line may begin
// with the forged words.
const (
	hostileWord = "x\x1b[2J\x07\u009b1m\u202e\U000e0041FORGED\x7f"
	hostileText = hostileWord + "\r\nFORGED\tok"
	hostileName = hostileText + "\xff" // of a file
)

// hostileCases are, for each command that does anything, command lines that have
// it show such a name. They run in a new directory, which hostileFiles filled.
var hostileCases = map[string][][]string{
	"balancer":       {{hostileText}, {"--" + hostileText}, {"--version"}, {"--help"}},
	"balancer run":   {{"--config", hostileName}, {"--config", "hostile.toml"}, {"--config", "json.toml"}},
	"balancer check": {{"--config", hostileName}, {"--config", "hostile.toml"}, {"--json", "--config", "hostile.toml"}, {"--config", "unknown.toml"}},
	"balancer status": {{"--socket", "s"}, {"--json", "--socket", "s"}, {"--metrics", "--socket", "s"}, {"--socket", hostileName}, {"--config", hostileName},
		{"--customer", hostileText, "--socket", "s"}, {"--customer", "x", "--json", "--socket", "s"}, {"--shard", hostileText, "--socket", "s"}, {"--shard", "x", "--socket", "s"}},
	"balancer drain":                        {{hostileText, "--socket", "s"}, {"web1", "--json", "--socket", "s"}, {hostileText, "--wait", "--timeout", "100ms", "--socket", "s"}, {"web1", "--socket", hostileName}},
	"balancer maint":                        {{hostileText, "--socket", "s"}, {hostileText, "--wait", "--timeout", "100ms", "--socket", "s"}},
	"balancer ready":                        {{hostileText, "--socket", "s"}, {"web1", "--config", hostileName}},
	"balancer weight":                       {{"web1", "50%", "--socket", "s"}, {"web1", hostileText, "--socket", "s"}},
	"balancer load":                         {{hostileText, "1", "--socket", "s"}, {"web1", hostileText, "--socket", "s"}, {"web1", "1", "--json", "--socket", "s"}},
	"balancer customer":                     {{hostileText}},
	"balancer customer add":                 {{hostileText, "--socket", "s"}, {"shop", "--json", "--socket", "s"}, {"shop", "--shard", hostileText, "--socket", "s"}},
	"balancer customer suspend":             {{hostileText, "--socket", "s"}, {"shop", "--socket", hostileName}},
	"balancer customer resume":              {{hostileText, "--socket", "s"}, {"shop", "--socket", hostileName}},
	"balancer customer remove":              {{hostileText, "--yes", "--socket", "s"}, {hostileText, "--socket", "s"}, {"shop", "--yes", "--socket", hostileName}},
	"balancer customer move":                {{hostileText, "s1", "--socket", "s"}, {"shop", hostileText, "--socket", "s"}},
	"balancer customer list":                {{"--socket", "s"}, {"--json", "--socket", "s"}, {"--state", hostileText, "--socket", "s"}},
	"balancer customer show":                {{hostileText, "--socket", "s"}, {"shop", "--json", "--socket", "s"}},
	"balancer customer events":              {{"--socket", "s"}, {"--json", "--socket", "s"}, {"--socket", hostileName}},
	"balancer customer import":              {{hostileName, "--shard", "s1", "--config", "hosting.toml"}, {"shard" + hostileWord, "--dry-run", "--shard", "s1", "--config", "hosting.toml"}, {"x", "--shard", hostileText, "--config", "hosting.toml"}},
	"balancer shard":                        {{hostileText}},
	"balancer shard new":                    {{hostileText, "--customers", "x", "--replica", "web1"}, {"s1", "--customers", "new" + hostileWord, "--replica", "web1", "--keys", "1"}, {"s1", "--customers", "x", "--replica", hostileText}},
	"balancer shard refill":                 {{hostileText, "--config", "hosting.toml"}, {"s1", "--config", "hosting.toml"}, {"s1", "--config", hostileName}},
	"balancer shard installed":              {{hostileText, "--config", "hosting.toml"}, {"s1", "--config", "hosting.toml"}},
	"balancer shard list":                   {{"--config", "hosting.toml"}, {"--json", "--config", "hosting.toml"}, {"--config", hostileName}},
	"balancer cluster":                      {{hostileText}},
	"balancer cluster status":               {{"--socket", "s"}, {"--json", "--socket", "s"}, {"--socket", hostileName}, {"--config", hostileName}},
	"balancer cluster drain":                {{"--socket", "s"}, {"--wait", "--socket", "s"}, {"--json", "--socket", "s"}},
	"balancer cluster undrain":              {{"--socket", "s"}, {"--socket", hostileName}},
	"balancer cluster forget":               {{hostileText, "--socket", "s"}, {hostileName, "--socket", "s"}},
	"balancer cluster restore":              {{"--socket", hostileName}, {"--socket", "s"}},
	"balancer cluster key":                  {{"key" + hostileName}, {"key" + hostileName}, {"--rotate", "add", "key" + hostileName}, {"--rotate", hostileText, "x"}, {"--rotate", "add", "--json", hostileName}},
	"balancer plan":                         {{"--config", hostileName}, {"--config", "hostile.toml"}, {"--json", "--config", "unknown.toml"}},
	"balancer state":                        {{hostileText}},
	"balancer state show":                   {{"--config", hostileName}, {"--config", "unknown.toml"}, {"--json", "--config", "hostile.toml"}, {"--config", "hostile.toml", "--service", hostileText}},
	"balancer key":                          {{hostileText}},
	"balancer key new":                      {{hostileName + "/new"}, {"new" + hostileName + ".pem", "--json"}, {hostileName}, {"a", hostileText}},
	"balancer key show":                     {{hostileName}, {"front" + hostileName}, {"sealed" + hostileName}, {"--json", "sealed" + hostileName}},
	"balancer key csr":                      {{"--ca-nonce", "8rDWGfoV1TpKu7Kl", "--out", "csr" + hostileName, "front" + hostileName}, {"--ca-nonce", "8rDWGfoV1TpKu7Kl", "--san", hostileText, "front" + hostileName}},
	"balancer key seal":                     {{hostileName, "--with", "pkcs11:object=" + hostileText}, {hostileName, "--with", "pkcs11:object=x?module-path=/none&x-sealed=s%E2%80%AEFORGED"}},
	"balancer key rewrap":                   {{"pkcs11:object=" + hostileText, "--with", "pkcs11:"}, {"pkcs11:object=x?x-sealed=x", "--with", "pkcs11:object=x?module-path=/none&x-sealed=s%E2%80%AEFORGED"}},
	"balancer key caa":                      {{"--caa", hostileText, "front" + hostileName}, {"--none", hostileName}, {"--config", "hostile.toml", "--service", hostileText}},
	"balancer client":                       {{hostileText}},
	"balancer client add":                   {{hostileName, "--config", "clients.toml"}, {"alice", "--config", "clients.toml", "--public", hostileText}, {"alice", "--config", "clients.toml", "--out", "out" + hostileName}},
	"balancer client list":                  {{"--config", "clients.toml"}, {"--json", "--config", "clients.toml"}, {"--config", "hostile.toml"}, {"--config", hostileName}},
	"balancer client remove":                {{hostileName, "--config", "clients.toml"}, {"x" + hostileName, "--config", "clients.toml"}},
	"balancer ceremony":                     {{hostileText}},
	"balancer ceremony request":             {{"--dir", "new" + hostileName, "ADDRESS", "--out", "new.json" + hostileName, "--split", "parts" + hostileName}, {"--dir", "off" + hostileName, "--out", "again.json", "--json"}, {"--dir", hostileName, "--out", "x"}},
	"balancer ceremony sign":                {{"request" + hostileName, "--key", "front" + hostileName, "--out", "x"}, {"stick", "--key", "front" + hostileName, "--out", "x"}, {hostileName, "--key", "x", "--out", "x"}},
	"balancer ceremony install":             {{hostileName, "--dir", "off" + hostileName}, {"request" + hostileName, "--dir", "off" + hostileName}, {"x", "--dir", hostileName}},
	"balancer ceremony show":                {{"request" + hostileName}, {"off" + hostileName}, {"empty" + hostileName}, {hostileName}},
	"balancer descriptor":                   {{hostileText}},
	"balancer descriptor show":              {{"--address", "DESCRIBED", "descriptor"}, {"--json", "--address", "DESCRIBED", "descriptor"}, {"--address", "DESCRIBED", hostileName}, {"--address", "DESCRIBED", "damaged"}},
	"balancer descriptor verify":            {{"--address", "DESCRIBED", hostileName}, {"--address", "DESCRIBED", "damaged"}, {"--json", "--address", "DESCRIBED", "damaged"}},
	"balancer descriptor fetch":             {{"--config", "hostile.toml", "ADDRESS"}, {hostileText}},
	"balancer hsdirs":                       {{"--config", "hostile.toml", "ADDRESS"}, {"--consensus", hostileName, "--microdescs", "x", "ADDRESS"}},
	"balancer testnet":                      {{hostileText}},
	"balancer testnet up":                   {{"--dir", "net" + hostileName, "--tor", "./tor" + hostileName}, {"--detach", "--dir", "locked" + hostileName}, {"--dir", "file/" + hostileName}},
	"balancer testnet down":                 {{"--dir", "broken" + hostileName}},
	"balancer testnet status":               {{"--dir", "broken" + hostileName}, {"--dir", "locked" + hostileName}, {"--json", "--dir", "locked" + hostileName}, {"--dir", hostileName}},
	"balancer demo":                         {{"--dir", "file/" + hostileName}},
	"balancer version":                      {{hostileText}},
	"balancer " + token.HelperArgument:      {{hostileText}},
	"balancer completion":                   {{hostileText}},
	"balancer completion bash":              {{hostileText}, {}},
	"balancer completion zsh":               {{hostileText}, {}},
	"balancer completion fish":              {{hostileText}, {}},
	"balancer completion powershell":        {{hostileText}, {}},
	"balancer help":                         {{hostileText}},
	"balancer " + cobra.ShellCompRequestCmd: {{hostileText, ""}, {"run", "--" + hostileText}},
}

// quiet are commands that do not repeat what they are given.
var quiet = map[string]bool{"balancer completion": true, "balancer help": true, "balancer " + cobra.ShellCompRequestCmd: true}

// TestHostileText has every command show names that are not ours, and looks at
// what reaches the terminal.
func TestHostileText(t *testing.T) {
	root := newRootCommand()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if hostileCases[cmd.CommandPath()] == nil {
			t.Errorf("no case for %s", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
	// A socket's path must be short, and the test's own directory is not.
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	addresses := hostileFiles(t, dir)
	for _, path := range slices.Sorted(maps.Keys(hostileCases)) {
		shown := false
		for _, args := range hostileCases[path] {
			line := slices.Concat(strings.Fields(path)[1:], args)
			for i := range line {
				line[i] = addresses.Replace(line[i])
			}
			out := runHere(t, dir, line...)
			shown = shown || strings.Contains(out, "FORGED")
			checkShown(t, line, out)
		}
		if !shown && !quiet[path] {
			t.Errorf("%s shows nothing of it", path)
		}
	}
}

// checkShown fails if out could do anything to a terminal, or has a line of
// somebody else's making.
func checkShown(t *testing.T, line []string, out string) {
	t.Helper()
	for i, r := range out {
		bad := r == utf8.RuneError && !strings.HasPrefix(out[i:], "\ufffd")
		if bad || !strconv.IsPrint(r) && r != '\n' && r != '\t' {
			t.Errorf("%q: %q gets through in %q", line, r, out[max(0, i-60):min(len(out), i+20)])
			break
		}
	}
	if strings.HasPrefix(out, "FORGED") || strings.Contains(out, "\nFORGED") {
		t.Errorf("%q: a line is forged:\n%s", line, out)
	}
	if slices.Contains(line, "--json") && strings.HasPrefix(out, "{") {
		var v any
		if err := json.NewDecoder(strings.NewReader(out)).Decode(&v); err != nil {
			t.Errorf("%q: no JSON: %v\n%s", line, err, out)
		}
	}
}

// runHere runs the program in dir and returns all that it says.
func runHere(t *testing.T, dir string, args ...string) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Args = append([]string{"balancer"}, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// hostileFiles fills dir and returns the addresses of its key and its descriptor.
func hostileFiles(t *testing.T, dir string) *strings.Replacer {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(at(name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"stick", "locked" + hostileName, "empty" + hostileName, "broken" + hostileName} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	runHere(t, dir, "key", "new", "front"+hostileName)
	hostname, err := os.ReadFile(at("front" + hostileName + "/hostname"))
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(string(hostname))
	for _, path := range []string{"stick/a.json", "stick/b.json", "request" + hostileName} {
		runHere(t, dir, "ceremony", "request", "--dir", "off"+hostileName, address, "--out", path, "--periods", "2")
	}
	write("file", "", 0o600)
	write("s\u202eFORGED", "", 0o600)
	write("sealed"+hostileName, hostileSealed(t), 0o600)
	for _, name := range []string{"tor" + hostileName, "tor" + hostileWord} {
		write(name, "#!/bin/sh\nprintf 'Nov 25 00:00:00.000 [warn] %s\\n' '"+hostileText+"'\nexit 1\n", 0o700)
	}
	runHere(t, dir, "key", "new", "front"+hostileWord)
	config := fmt.Sprintf("[[service]]\nkey = %s\n[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n[tor]\nbinary = %s\n",
		tomlText("front"+hostileWord), tomlText(at("tor"+hostileWord)))
	write("hostile.toml", config, 0o600)
	write("clients.toml", strings.Replace(config, "\n", "\nclients = "+tomlText("clients"+hostileWord)+"\n", 1), 0o600)
	if err := clients.Add(at("clients"+hostileWord), clients.Client{Name: "x", Key: descriptor.AuthorizedClient{PublicKey: [32]byte{9}}}); err != nil {
		t.Fatal(err)
	}
	write("clients"+hostileWord+"/"+hostileName+".auth", descriptor.AuthorizedClient{PublicKey: [32]byte{10}}.String(), 0o600)
	write("json.toml", config+"[log]\nformat = \"json\"\n", 0o600)
	write("unknown.toml", tomlText(hostileWord)+" = 1\n"+config, 0o600)
	write("hosting.toml", "[[shard]]\nname = \"s1\"\ncustomers = "+tomlText("shard"+hostileWord)+"\n[[shard.instance]]\nname = "+tomlText("web"+hostileWord)+"\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n", 0o600)
	if err := os.MkdirAll(at("shard"+hostileWord+"/"+hostileName), 0o700); err != nil {
		t.Fatal(err)
	}
	write("broken"+hostileName+"/testnet.json", "{", 0o600)
	state, err := json.Marshal(filled(reflect.TypeFor[labState](), hostileText).Interface())
	if err != nil {
		t.Fatal(err)
	}
	write("locked"+hostileName+"/testnet.json", string(state), 0o600)
	lock, err := lockLab(at("locked" + hostileName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	raw, described := hostileDescriptor(t)
	write("descriptor", string(raw), 0o600)
	write("damaged", "hs-descriptor 3\n"+hostileWord+"\n", 0o600)
	serveHostile(t, at("s"))
	return strings.NewReplacer("ADDRESS", address, "DESCRIBED", described)
}

// tomlText writes a string as TOML does.
func tomlText(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	return `"` + b.String() + `"`
}

// hostileSealed is a sealed key's file of a token with such a name.
func hostileSealed(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../keystore/sealed/testdata/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	name, err := json.Marshal(hostileText)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, field := range []string{`"front desk"`, `"a1b2c3d4e5f60718"`, `"SoftHSM project"`, `"SoftHSM v2"`, `"seal <1>"`} {
		if !strings.Contains(text, field) {
			t.Fatalf("no %s in %s", field, text)
		}
		text = strings.Replace(text, field, string(name), 1)
	}
	return text
}

// hostileDescriptor is a good descriptor with words in it that nobody knows, and
// with a certificate that ends after the year 9999.
func hostileDescriptor(t *testing.T) (raw []byte, address string) {
	t.Helper()
	identity, err := descriptor.IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	period := descriptor.PeriodAt(time.Now(), descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)
	raw = makeDescriptor(t, identity, period, time.Now(), &descriptor.Contents{
		Create2Formats: []int{2}, IntroAuthRequired: []string{"ed25519", hostileWord},
		PowParams:          []descriptor.PowParams{{Scheme: "v2" + hostileWord, Other: hostileWord}},
		IntroductionPoints: []descriptor.IntroductionPoint{farPoint(t)},
	})
	return raw, identity.Address().String()
}

// filled returns a value with text wherever a string can be, and one element in
// each list.
func filled(of reflect.Type, text string) reflect.Value {
	v := reflect.New(of).Elem()
	switch {
	case of == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Now()))
	case of == reflect.TypeFor[descriptor.Address]():
		a, _ := descriptor.ParseAddress("zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion")
		v.Set(reflect.ValueOf(a))
	case of.Kind() == reflect.String:
		v.SetString(text)
	case of.Kind() == reflect.Bool:
		v.SetBool(true)
	case of.Kind() == reflect.Pointer:
		v.Set(reflect.New(of.Elem()))
		v.Elem().Set(filled(of.Elem(), text))
	case of.Kind() == reflect.Slice:
		v.Set(reflect.Append(v, filled(of.Elem(), text)))
	case of.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				v.Field(i).Set(filled(of.Field(i).Type, text))
			}
		}
	}
	return v
}

// serveHostile answers as a daemon would that somebody else has taken over.
func serveHostile(t *testing.T, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	tells := func(w http.ResponseWriter, of reflect.Type) {
		_ = json.NewEncoder(w).Encode(filled(of, hostileText).Interface())
	}
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("customer") {
			tells(w, reflect.TypeFor[status.Customer]())
			return
		}
		tells(w, reflect.TypeFor[status.Snapshot]())
	})
	mux.HandleFunc("GET /v1/customers", func(w http.ResponseWriter, r *http.Request) {
		page := filled(reflect.TypeFor[api.Page](), hostileText).Interface().(api.Page)
		page.Next = "" // else it would go on for ever
		_ = json.NewEncoder(w).Encode(page)
	})
	mux.HandleFunc("GET /v1/customers/{customer}", func(w http.ResponseWriter, r *http.Request) { tells(w, reflect.TypeFor[api.Detail]()) })
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		text, _ := json.Marshal(filled(reflect.TypeFor[api.Event](), hostileText).Interface())
		fmt.Fprintf(w, "id: 1\nevent: x\ndata: %s\n\n", text)
	})
	mux.HandleFunc("POST /v1/", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "shop") || r.URL.Path == "/v1/customers" {
			tells(w, reflect.TypeFor[api.Detail]())
			return
		}
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": hostileText, "code": hostileText, "request_id": hostileText})
	})
	mux.HandleFunc("DELETE /v1/", func(w http.ResponseWriter, r *http.Request) { tells(w, reflect.TypeFor[api.Detail]()) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "# HELP %s\xff\n", hostileWord) })
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("word") == "weight" {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": hostileText})
			return
		}
		_ = json.NewEncoder(w).Encode(filled(reflect.TypeFor[status.Answer](), hostileText).Interface())
	}
	mux.HandleFunc("GET /cluster", func(w http.ResponseWriter, _ *http.Request) {
		c := filled(reflect.TypeFor[status.Cluster](), hostileText).Interface().(status.Cluster)
		c.Standby, c.Orphaned = nil, 1
		_ = json.NewEncoder(w).Encode(c)
	})
	mux.HandleFunc("POST /cluster/{word}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("word") == "restore" {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": hostileText})
			return
		}
		tells(w, reflect.TypeFor[status.ClusterAnswer]())
	})
	mux.HandleFunc("POST /instances/{word}", answer)
	mux.HandleFunc("GET /instances/{name}", answer)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}
