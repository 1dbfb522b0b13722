package control

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"onionbalancer/internal/locked"
)

// clientName marks the client keys that we gave to a tor. tor takes 16 characters.
const clientName = "balancer"

// AddClientKey gives tor the x25519 key, 32 bytes, with which it reads the descriptors
// of an onion service, until it ends (ONION_CLIENT_AUTH_ADD). A key that tor has from
// others stays, and added is false: so it is if tor has one from us already. address
// is 56 characters. Neither the key nor tor's words about it are in the error.
func (c *Client) AddClientKey(ctx context.Context, address string, key *locked.Buffer) (added bool, err error) {
	command := addCommand(address, key)
	err = c.onClientKey(ctx, address, func(l *controlConn, has holder) error {
		defer command.Wipe() // not sooner: ctx may end while it is being sent
		if has == others {
			return nil
		}
		added = has == nobody
		return l.sendKey(command)
	})
	if err != nil {
		return false, fmt.Errorf("giving tor the client key for %s: %w", short(address), err)
	}
	return added, nil
}

// RemoveClientKey takes back the key that AddClientKey gave. One that tor has from
// others stays.
func (c *Client) RemoveClientKey(ctx context.Context, address string) error {
	err := c.onClientKey(ctx, address, func(l *controlConn, has holder) error {
		if has != us {
			return nil
		}
		_, err := l.send("ONION_CLIENT_AUTH_REMOVE " + address)
		return err
	})
	if err != nil {
		return fmt.Errorf("taking the client key for %s from tor: %w", short(address), err)
	}
	return nil
}

// holder is whose key tor has for a service.
type holder int

const (
	nobody holder = iota
	us
	others
)

// onClientKey carries out a command that depends on whose key tor has.
func (c *Client) onClientKey(ctx context.Context, address string, do func(*controlConn, holder) error) error {
	if _, err := newPair(address, noHSDir); err != nil {
		return err
	}
	return c.do(ctx, func(l *controlConn) error {
		has, err := l.clientKeyHolder(address)
		if err != nil {
			return err
		}
		return do(l, has)
	})
}

// noHSDir is there to check an address alone.
const noHSDir = "0000000000000000000000000000000000000000"

// addCommand is the line that gives tor a key, in locked memory.
func addCommand(address string, key *locked.Buffer) *locked.Buffer {
	before := "ONION_CLIENT_AUTH_ADD " + address + " x25519:"
	after := " ClientName=" + clientName + "\r\n"
	size := base64.StdEncoding.EncodedLen(key.Len())
	command := locked.New(len(before) + size + len(after))
	command.Use(func(line []byte) {
		copy(line, before)
		key.Do(func(secret []byte) { base64.StdEncoding.Encode(line[len(before):len(before)+size], secret) })
		copy(line[len(before)+size:], after)
	})
	return command
}

// errRefusedKey is in place of tor's own words, which may repeat the key.
var errRefusedKey = errors.New("tor refused it")

// sendKey sends a command past the buffer. tor's answer is dropped.
func (l *controlConn) sendKey(command *locked.Buffer) (err error) {
	if err := l.arm(maxPlainReply); err != nil {
		return err
	}
	command.Use(func(line []byte) { _, err = l.conn.Write(line) })
	if err != nil {
		return l.explain(err)
	}
	r, err := readReply(l.r, maxPlainReply, 0)
	switch {
	case err != nil:
		return l.explain(err)
	case r.code < 250 || r.code > 252: // 251: replaced; 252: and it opened a descriptor
		return &ReplyError{Code: r.code, Text: errRefusedKey.Error()}
	}
	return nil
}

// clientKeyHolder asks tor whose key it has for a service. The answer has the key: it is
// read in place, and overwritten.
func (l *controlConn) clientKeyHolder(address string) (has holder, err error) {
	if err := l.arm(maxPlainReply); err != nil {
		return nobody, err
	}
	if err := l.write("ONION_CLIENT_AUTH_VIEW "+address, nil); err != nil {
		return nobody, l.explain(err)
	}
	for {
		line, err := l.r.ReadSlice('\n')
		if err != nil {
			clear(line)
			return nobody, l.explain(unexpectedEOF(err))
		}
		line = bytes.TrimRight(line, "\r\n")
		middle := bytes.HasPrefix(line, []byte("250-"))
		if rest, found := bytes.CutPrefix(line, []byte("250-CLIENT ")); found {
			if has = others; bytes.HasSuffix(rest, []byte(" ClientName="+clientName)) {
				has = us
			}
			clear(line)
		}
		if middle {
			continue
		}
		last, err := parseReplyLine(line)
		switch {
		case err != nil || last.kind != ' ' || last.code != 250 && last.code/100 != 5:
			clear(line) // it may have a key, so it is not shown
			return nobody, errors.New("reading its client keys: not what tor answers")
		case last.code != 250:
			return nobody, refusal(last.code, last.text)
		}
		return has, nil
	}
}
