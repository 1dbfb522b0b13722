package advice

import "strings"

// Prefix begins the name of a strategy that is a program.
const Prefix = "exec:"

// Program returns the path of the program that a strategy of the configuration names,
// and whether it does.
func Program(strategy string) (path string, is bool) { return strings.CutPrefix(strategy, Prefix) }
