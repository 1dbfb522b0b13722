package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/internal/config"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/status"
)

func newStatusCommand() *cobra.Command {
	var path, socket string
	var asJSON, asMetrics bool
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Show what the running balancer is doing",
		Long: `Show what the running balancer is doing: its tor, the consensus, and for each
service who keeps its keys and for how long, its instances, what is published
and at how many directories that is confirmed. The answer comes over a unix
socket in state_dir, which only the balancer's user and root can open. It tells
the configuration that is in force, and whether a newer one was refused.

"ok" says of an instance that its descriptor is fresh. Whether the web server
behind it answers is not tried.

The exit status is 0 if all is in force as configured and every service is "ok" or
"degraded": visitors are served. It is 1 if a service is "starting" or "failed" or
was left out, if the last reload was refused, if tor's control port is lost, or if
no balancer answers. With --metrics it is 0 if there was an answer.`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, broken, err := statusSocket(path, socket)
			if err != nil {
				return err
			}
			if asMetrics {
				return asked(status.Metrics(cmd.Context(), socket, cmd.OutOrStdout()), broken)
			}
			snapshot, err := status.Query(cmd.Context(), socket)
			if err != nil {
				return asked(err, broken)
			}
			if broken != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: the configuration cannot be read as it is now, and would be refused:\n%s\n", printable.Lines(broken.Error()))
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), snapshot)
			} else {
				err = printStatus(cmd.OutOrStdout(), snapshot)
			}
			if err != nil {
				return err
			}
			return unwell(snapshot)
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().StringVar(&socket, "socket", "", "the status socket's `PATH`, instead of the one that the configuration implies")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	cmd.Flags().BoolVar(&asMetrics, "metrics", false, "print metrics in Prometheus' text format")
	cmd.MarkFlagsMutuallyExclusive("json", "metrics")
	return cmd
}

// statusSocket returns the socket to ask at: the one that is named, or the one
// that the configuration implies. The daemon is wanted most when the file is
// broken, so that is no error; broken then says what is wrong.
func statusSocket(path, named string) (socket string, broken, err error) {
	if named != "" {
		return named, nil, nil
	}
	cfg, err := loadConfig(path)
	if complaint := (*config.Error)(nil); errors.As(err, &complaint) {
		return filepath.Join(config.StateDir(path), status.SocketName), err, nil
	}
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(cfg.StateDir, status.SocketName), nil, nil
}

// asked says how to ask better, if err is that there was no answer.
func asked(err, broken error) error {
	if forbidden := (*status.ForbiddenError)(nil); errors.As(err, &forbidden) && forbidden.User != "" {
		err = fmt.Errorf("%w; run: runuser -u %s -- %s", err, shell.Quote(forbidden.User), commandLine())
	}
	if err != nil && broken != nil {
		err = fmt.Errorf("%w\n(guessed from a configuration that cannot be read; --socket PATH names another: %w)", err, broken)
	}
	return err
}

// commandLine is what was typed, to be typed again.
func commandLine() string {
	words := make([]string, len(os.Args))
	for i, word := range os.Args {
		words[i] = shell.Quote(word)
	}
	return strings.Join(words, " ")
}

// unwell returns an error that names what an operator must look at.
func unwell(s status.Snapshot) error {
	var bad []string
	if refused := s.Refused(); refused != nil {
		bad = append(bad, "the configuration was refused at "+clock(refused.At))
	}
	if !s.Tor.Connected {
		bad = append(bad, "tor's control port is lost")
	}
	if s.LeftOut > 0 {
		bad = append(bad, plural(s.LeftOut, "service")+" left out")
	}
	for _, service := range s.Services {
		if service.State != status.StateOK && service.State != status.StateDegraded {
			bad = append(bad, fmt.Sprintf("%s is %s", printable.Text(service.Address), printable.Text(string(service.State))))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not all is well: %s", strings.Join(bad, ", "))
	}
	return nil
}
