// Package shell quotes text that people paste into a shell.
package shell

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"onionbalancer/internal/printable"
)

// plain are the characters that mean nothing to a POSIX shell, wherever they
// stand in a word.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,@%"

// Quote returns a word, a path mostly, as a POSIX shell takes it for one
// argument that is this word. What needs no quotes gets none. What a terminal
// could take for more than text is escaped as POSIX has it since 2024, and bash
// and zsh for long: $'...'.
func Quote(word string) string {
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	if printable.Text(word) != word {
		return "$'" + escape(word) + "'"
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// escape writes the inside of $'...'.
func escape(word string) string {
	var b strings.Builder
	for word != "" {
		r, size := utf8.DecodeRuneInString(word)
		switch char := word[:size]; {
		case r == '\\' || r == '\'':
			b.WriteString(`\` + char)
		case strconv.IsPrint(r) && utf8.ValidString(char):
			b.WriteString(char)
		default:
			for _, c := range []byte(char) {
				fmt.Fprintf(&b, `\%03o`, c)
			}
		}
		word = word[size:]
	}
	return b.String()
}
