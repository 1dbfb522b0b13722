package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/status"
)

// said is what balancer's status says about its services over some time. Nothing is
// measured by it.
type said struct {
	cancel context.CancelFunc
	done   chan struct{}
	lines  []statement
	panics map[string]time.Time // by public address: when it first said so
}

// statement is a change of what is said about a service.
type statement struct {
	At      time.Time `json:"at"`
	Service string    `json:"service"`
	Text    string    `json:"text"`
}

// listen asks for the status until end.
func listen(ctx context.Context, f *field) *said {
	ctx, cancel := context.WithCancel(ctx)
	s := &said{cancel: cancel, done: make(chan struct{}), panics: map[string]time.Time{}}
	go func() {
		defer close(s.done)
		last := map[string]string{}
		for backoff.Sleep(ctx, 300*time.Millisecond) {
			snapshot, err := status.Query(ctx, f.socket())
			if err != nil {
				continue
			}
			for _, service := range snapshot.Services {
				if text := words(service); text != last[service.Address] {
					last[service.Address] = text
					s.lines = append(s.lines, statement{time.Now(), service.Address, text})
				}
				if _, known := s.panics[service.Address]; !known && saysPanic(service) {
					s.panics[service.Address] = time.Now()
				}
			}
		}
	}()
	return s
}

// end returns when nothing more is added.
func (s *said) end() {
	s.cancel()
	<-s.done
}

// saysPanic looks for the word, wherever it is.
func saysPanic(s status.Service) bool {
	text, err := json.Marshal(s)
	return err == nil && strings.Contains(strings.ToLower(string(text)), "panic")
}

// words are what a reader would look at.
func words(s status.Service) string {
	parts := []string{string(s.State)}
	parts = append(parts, s.Warnings...)
	for _, i := range s.Instances {
		if i.State != status.StateOK || i.Error != "" || len(i.Warnings) > 0 {
			parts = append(parts, fmt.Sprintf("%s: %s %s %s", i.Name, i.State, i.Error, strings.Join(i.Warnings, " ")))
		}
	}
	return strings.Join(parts, "; ")
}
