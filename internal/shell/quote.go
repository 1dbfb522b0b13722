// Package shell writes what people paste into a shell.
package shell

import "strings"

// plain are the characters that mean nothing to a POSIX shell, wherever they
// stand in a word.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,@%"

// Quote returns a word, a path mostly, as a POSIX shell takes it for one
// argument that is this word. What needs no quotes gets none.
func Quote(word string) string {
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
