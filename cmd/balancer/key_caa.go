package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/keystore"
	"onionbalancer/keystore/onioncaa"
)

// caaOptions are the flags of "balancer key caa".
type caaOptions struct {
	config, service string
	records         []string
	none            bool
	life            time.Duration
	expiry          string
}

func newKeyCAACommand() *cobra.Command {
	var o caaOptions
	cmd := &cobra.Command{
		Use:   "caa [KEY]",
		Short: "Sign the CAA records of the address for a certificate authority",
		Long: `Signs the address's CAA records with its identity key, for a certificate authority
(CA) that does not read them in descriptors: the in-band CAA of RFC 9799, section 6.4.
It prints the field "onionCAA", as JSON, which goes into the request that finalizes an
ACME order beside the field "csr". Nothing is sent anywhere.

The records are those of the configuration: service.caa, and none if there is no such
key. Or those that --caa gives, which need no configuration; --none says that the
address has none, so that any CA may certify it.

What was signed can be used by anyone who sees it until it expires: an hour from now,
or as --for or --expiry say, at most 8 hours.

KEY is as for "balancer key csr": a key file or a tor HiddenServiceDir, or the "pkcs11:"
URI of a key that a token seals or of an Ed25519 key on the token itself. With --config
it may be left out, unless the service's certificates are made offline: then run this
where the key is, with --caa.`,
		Example: `  balancer key caa --config /etc/balancer/balancer.toml
  balancer key caa --caa '128 issue "ca.example;validationmethods=onion-csr-01"' --for 8h front
  balancer key caa --none --expiry 2026-11-20T15:00:00Z front`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.expiry != "" && cmd.Flags().Changed("for") {
				return usageError{errors.New("--for and --expiry say the same: give one")}
			}
			signed, err := o.sign(cmd.Context(), args, time.Now())
			if err != nil {
				return err
			}
			return writeJSON(cmd.OutOrStdout(), signed)
		},
	}
	addConfigFlag(cmd, &o.config)
	addServiceFlag(cmd, &o.service)
	f := cmd.Flags()
	f.StringArrayVar(&o.records, "caa", nil, "sign this `RECORD`, \"FLAGS TAG VALUE\", rather than the configuration's; may be repeated")
	f.BoolVar(&o.none, "none", false, "sign that there are no records")
	f.DurationVar(&o.life, "for", time.Hour, "how long it is valid")
	f.StringVar(&o.expiry, "expiry", "", "until when it is valid, a `TIME` as 2026-11-20T15:00:00Z or in seconds since 1970")
	return cmd
}

// caaSigned is the part of the request that finalizes an ACME order.
type caaSigned struct {
	OnionCAA map[string]onioncaa.Set `json:"onionCAA"`
}

// sign looks at all that can be wrong before it uses the key.
func (o *caaOptions) sign(ctx context.Context, args []string, now time.Time) (*caaSigned, error) {
	expiry, err := o.until(now)
	if err == nil {
		err = onioncaa.CheckExpiry(expiry, now)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("signing CAA records: %w", err)}
	}
	lines, ref, address, err := o.source(args)
	if err != nil {
		return nil, err
	}
	var records []descriptor.CAA
	for _, line := range lines {
		record, err := descriptor.ParseCAA(line)
		if err != nil {
			return nil, usageError{err}
		}
		records = append(records, record)
	}
	return withSigner(ctx, ref, func(signer keystore.IdentitySigner) (*caaSigned, error) {
		if its := signer.Address(); address != nil && its != *address {
			return nil, usageError{fmt.Errorf("the key is that of %s, the records are those of %s", its, address)}
		}
		set, err := onioncaa.Sign(signer.Address(), records, expiry, now, func(message []byte) ([]byte, error) { return signer.SignIdentity(ctx, message) })
		if err != nil {
			return nil, err
		}
		return &caaSigned{map[string]onioncaa.Set{signer.Address().String(): set}}, nil
	})
}

// until returns when the signed records expire.
func (o *caaOptions) until(now time.Time) (time.Time, error) {
	if o.expiry == "" {
		return now.Add(o.life), nil
	}
	if seconds, err := strconv.ParseInt(o.expiry, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	at, err := time.Parse(time.RFC3339, o.expiry)
	if err != nil {
		return at, fmt.Errorf("--expiry: %w", err)
	}
	return at, nil
}

// source returns the records, the key to sign with, and the address of the service that
// the records are configured for, if they are.
func (o *caaOptions) source(args []string) (records []string, ref string, address *descriptor.Address, err error) {
	if given := len(o.records) > 0; given && o.none || (given || o.none) == (o.config != "") {
		return nil, "", nil, usageError{errors.New(`say which records: --config FILE, --caa RECORD or --none; see "balancer key caa --help"`)}
	}
	if o.config == "" {
		if len(args) == 0 {
			return nil, "", nil, usageError{errors.New("name the KEY, or the configuration with --config FILE")}
		}
		return o.records, args[0], nil, nil
	}
	cfg, err := loadConfig(o.config)
	if err != nil {
		return nil, "", nil, err
	}
	service, its, err := findService(cfg, o.service, "services", func(config.Service) bool { return true })
	if err != nil {
		return nil, "", nil, err
	}
	ref = service.Key
	if len(args) > 0 {
		ref = args[0]
	}
	return service.CAA, ref, &its, nil
}
