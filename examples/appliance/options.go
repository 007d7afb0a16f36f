package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/storage/postgres"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// options are the flags.
type options struct {
	serverName, dataDir                   string
	clientAddr, federationAddr            string
	tlsCert, tlsKey, caCert               string
	database, registration, sharedSecret  string
	noRateLimits, privateNets, conformant bool

	roots []*x509.Certificate // of caCert
}

// parse reads the flags; what is wrong with them, and how to do better, is also written to out.
func parse(args []string, out io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("appliance", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.serverName, "server-name", "localhost", "the `NAME` after ':' in user ids; it can never change")
	flags.StringVar(&o.dataDir, "data-dir", "./data", "`FOLDER` of everything that is kept")
	flags.StringVar(&o.clientAddr, "client-addr", "127.0.0.1:8008", "`ADDRESS` for clients, plain HTTP")
	flags.StringVar(&o.federationAddr, "federation-addr", "", "`ADDRESS` for other servers; without it they are not talked to")
	flags.StringVar(&o.tlsCert, "tls-cert", "", "certificate `FILE` of --federation-addr, which is plain HTTP without")
	flags.StringVar(&o.tlsKey, "tls-key", "", "key `FILE` of --tls-cert")
	flags.StringVar(&o.caCert, "ca-cert", "", "`FILE` with an extra root for requests to other servers and web pages")
	flags.StringVar(&o.database, "database", "", "SQLite `PATH` or postgres:// URL (default homeserver.db in --data-dir)")
	flags.StringVar(&o.registration, "registration", "closed", "who may make accounts: `open|token|closed`")
	flags.StringVar(&o.sharedSecret, "registration-shared-secret", "", "`SECRET` of /_synapse/admin/v1/register; no such endpoint if empty")
	flags.BoolVar(&o.noRateLimits, "no-rate-limits", false, "answer however often somebody asks")
	flags.BoolVar(&o.privateNets, "allow-private-networks", false, "let requests to other servers reach private addresses")
	flags.BoolVar(&o.conformant, "conformance", false, "the mode for conformance suites: open, unlimited, cheap passwords; not for the internet")
	flags.Func("appservice", "registration `FILE` of an application service (repeatable)", func(string) error {
		return errors.New("application services are not built yet")
	})
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, o.check()
}

// check refuses what cannot work, and reads what is only read once.
func (o *options) check() error {
	if (o.tlsCert == "") != (o.tlsKey == "") {
		return errors.New("--tls-cert and --tls-key go together")
	}
	if o.tlsCert != "" && o.federationAddr == "" {
		return errors.New("--tls-cert is the certificate of --federation-addr, which is missing")
	}
	if _, ok := modes[o.registration]; !ok {
		return fmt.Errorf("--registration is open, token or closed, not %q", o.registration)
	}
	if o.caCert == "" {
		return nil
	}
	var err error
	if o.roots, err = certificates(o.caCert); err != nil {
		return fmt.Errorf("--ca-cert: %w", err)
	}
	return nil
}

// certificates reads the certificates of a file in PEM form, of which there has to be one at least.
func certificates(file string) (all []*x509.Certificate, err error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block := new(pem.Block); ; {
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return all, nil
}

var modes = map[string]auth.RegistrationMode{
	"open": homeserver.RegistrationOpen, "token": homeserver.RegistrationToken, "closed": homeserver.RegistrationClosed,
}

// config is what the flags mean.
func (o *options) config(log *slog.Logger) (homeserver.Config, error) {
	engine, err := o.storage()
	if err != nil {
		return homeserver.Config{}, err
	}
	cfg := homeserver.Config{
		ServerName:   o.serverName,
		BaseURL:      o.baseURL(),
		Storage:      engine,
		Media:        media.Dir(filepath.Join(o.dataDir, "media")),
		Registration: homeserver.Registration{Mode: modes[o.registration], SharedSecret: o.sharedSecret},
		Limits:       homeserver.Limits{Off: o.noRateLimits},
		Federation: homeserver.Federation{
			Enabled: o.federationAddr != "", AllowPrivate: o.privateNets, ExtraRoots: o.roots,
		},
		Previews: homeserver.Previews{ExtraRoots: o.roots},
		Logger:   log,
	}
	if o.conformant {
		conform(&cfg)
	}
	return cfg, nil
}

// conform is what conformance suites expect beyond the specification.
func conform(cfg *homeserver.Config) {
	cfg.Registration.Mode = homeserver.RegistrationOpen
	cfg.Registration.Guests = true
	cfg.Limits.Off = true
	cfg.PasswordCost = auth.Cheap()
	cfg.PublishByAnyone = true
	cfg.MediaWithoutToken = true
	cfg.Previews.Enabled, cfg.Previews.AllowPrivate = true, true
	cfg.Federation.Enabled = true
	cfg.Federation.AllowPrivate = true
	cfg.ServerNotices.Localpart = "_server"
	cfg.RoomVersion = "10" // the suites list creators in power levels, which version 12 refuses
}

func (o *options) storage() (homeserver.Storage, error) {
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return nil, err
	}
	if strings.HasPrefix(o.database, "postgres://") || strings.HasPrefix(o.database, "postgresql://") {
		return postgres.Open(o.database)
	}
	if o.database != "" {
		return sqlite.Open(o.database)
	}
	return sqlite.Open(filepath.Join(o.dataDir, "homeserver.db"))
}

// baseURL is where clients find the server: under its name behind a proxy, or on this machine.
func (o *options) baseURL() string {
	if _, port, err := net.SplitHostPort(o.clientAddr); err == nil && o.serverName == "localhost" {
		return "http://localhost:" + port
	}
	return "https://" + o.serverName
}
