// Appliance is a homeserver for one person and their friends.
//
//	go run ./examples/appliance
//
// makes ./data, creates the owner's account, prints its user id and password once, and listens on
// http://127.0.0.1:8008. SIGINT and SIGTERM answer the open long polls and end it with status 0. See --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opts, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "appliance:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, opts *options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg, err := opts.config(log)
	if err != nil {
		return err
	}
	listeners, err := opts.listen(log)
	if err != nil {
		return errors.Join(err, cfg.Storage.Close())
	}
	defer listeners.Close()
	server, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	if err := welcome(ctx, server, opts, listeners.clientURL()); err != nil {
		return errors.Join(err, server.Close(context.Background()))
	}
	return listeners.serve(ctx, server)
}
