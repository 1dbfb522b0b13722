package token

import (
	"os"
	"slices"
	"strings"
)

// settings are variables of the helper's environment that keep its secrets where
// they belong, each added to what the operator has set.
var settings = map[string]string{
	// Memory that C frees is overwritten: modules do not wipe all that they
	// decrypted.
	"GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
	// Nothing is interrupted but between calls of functions. Elsewhere the
	// registers of the interrupted code, which may hold a part of a secret, are
	// saved in memory that nobody wipes.
	"GODEBUG": "asyncpreemptoff=1",
}

// program returns what to execute. Tests change it.
var program = executable

// executable is this very program, even when its file was replaced since.
func executable() string {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// helperEnvironment is ours, since modules are configured by variables, and the
// settings.
func helperEnvironment(ours []string) []string {
	separator := map[string]string{"GLIBC_TUNABLES": ":", "GODEBUG": ","}
	env := slices.Clone(ours)
	for name, value := range settings {
		i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		switch {
		case i < 0:
			env = append(env, name+"="+value)
		case env[i] == name+"=":
			env[i] += value
		default:
			env[i] += separator[name] + value
		}
	}
	return env
}
