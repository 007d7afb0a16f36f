package main

import (
	"crypto/x509"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/auth"
)

func TestDefaults(t *testing.T) {
	o, err := parse(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, &options{
		serverName: "localhost", dataDir: "./data", clientAddr: "127.0.0.1:8008", registration: "closed",
	}, o)
	require.Equal(t, "http://localhost:8008", o.baseURL())
}

func TestRefusedFlags(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"application services", []string{"--appservice", "bridge.yaml"}, "application services are not built yet"},
		{"a mode of registration", []string{"--registration", "sometimes"}, "open, token or closed"},
		{"a certificate without a key", []string{"--federation-addr", ":8448", "--tls-cert", "x"}, "go together"},
		{"a certificate for nothing", []string{"--tls-cert", "x", "--tls-key", "y"}, "--federation-addr"},
		{"a root that is not there", []string{"--ca-cert", "/nowhere"}, "--ca-cert"},
		{"a root that is none", []string{"--ca-cert", empty}, "no certificate"},
		{"an unknown flag", []string{"--shiny"}, "shiny"},
		{"an argument", []string{"start"}, `"start"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(tt.args, io.Discard)
			require.ErrorContains(t, err, tt.want, "parse(%q)", tt.args)
		})
	}
	_, err := parse([]string{"--help"}, io.Discard)
	require.ErrorIs(t, err, flag.ErrHelp)
}

func TestConformance(t *testing.T) {
	o, err := parse([]string{"--conformance", "--server-name", "hs1", "--data-dir", t.TempDir(),
		"--registration-shared-secret", "sesame"}, io.Discard)
	require.NoError(t, err)
	cfg, err := o.config(nil)
	require.NoError(t, err)
	defer cfg.Storage.Close()
	require.Equal(t, homeserver.RegistrationOpen, cfg.Registration.Mode)
	require.True(t, cfg.Registration.Guests, "guests")
	require.Equal(t, "sesame", cfg.Registration.SharedSecret)
	require.True(t, cfg.Limits.Off, "no rate limits")
	require.True(t, cfg.PublishByAnyone, "everybody publishes rooms")
	require.True(t, cfg.Federation.Enabled && cfg.Federation.AllowPrivate, "servers on this machine")
	require.Equal(t, auth.Cheap(), cfg.PasswordCost)
	require.Equal(t, "https://hs1", cfg.BaseURL)
}

// Without an address at which other servers reach this one, it does not talk to them.
func TestFederation(t *testing.T) {
	ca, folder := newAuthority(t), t.TempDir()
	ca.issue(t, folder, "localhost")
	federation := func(args ...string) homeserver.Federation {
		o, err := parse(append(args, "--data-dir", t.TempDir()), io.Discard)
		require.NoError(t, err)
		cfg, err := o.config(nil)
		require.NoError(t, err)
		require.NoError(t, cfg.Storage.Close())
		return cfg.Federation
	}
	require.Equal(t, homeserver.Federation{}, federation())
	require.Equal(t, homeserver.Federation{Enabled: true}, federation("--federation-addr", "127.0.0.1:0"))
	both := federation("--federation-addr", "127.0.0.1:0", "--ca-cert", filepath.Join(folder, "ca.pem"), "--allow-private-networks")
	require.True(t, both.AllowPrivate)
	require.Equal(t, []*x509.Certificate{ca.root}, both.ExtraRoots)
}
