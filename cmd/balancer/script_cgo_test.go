//go:build cgo

package main

// withPKCS11 tells whether this program can load modules of tokens.
const withPKCS11 = true
