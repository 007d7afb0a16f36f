package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/embedmatrix/homeserver"
)

// start makes the server and starts it. When that fails, it closes the storage.
func start(ctx context.Context, cfg homeserver.Config) (*homeserver.Server, error) {
	server, err := homeserver.New(cfg)
	if err == nil {
		err = server.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, cfg.Storage.Close())
	}
	return server, nil
}

// welcome makes the owner's account at the first start, and says what people need to know.
func welcome(ctx context.Context, server *homeserver.Server, opts *options, url string) error {
	password := rand.Text()
	user, err := server.Admin().CreateUser(ctx, homeserver.NewUser{Localpart: "owner", Password: password, Admin: true})
	if err != nil && !errors.Is(err, homeserver.ErrUserInUse) {
		return err
	}
	if err == nil {
		fmt.Printf("Your account, shown this once:\n  user id:  %s\n  password: %s\n", user, password)
	}
	if opts.registration == "token" {
		once := homeserver.NewRegistrationToken{Uses: 1, Expires: time.Now().Add(24 * time.Hour)}
		token, err := server.Admin().CreateRegistrationToken(ctx, once)
		if err != nil {
			return err
		}
		fmt.Printf("A registration token, good for one account today: %s\n", token)
	}
	fmt.Printf("Homeserver URL: %s\n", url)
	return nil
}

// listeners are the addresses that are served, both with every path.
type listeners struct {
	all []net.Listener // the clients' first
	log *slog.Logger
}

func (o *options) listen(log *slog.Logger) (*listeners, error) {
	l := &listeners{log: log}
	if err := l.add(o.clientAddr, nil); err != nil {
		return nil, err
	}
	if o.federationAddr == "" {
		return l, nil
	}
	config, err := o.tls()
	if err == nil {
		err = l.add(o.federationAddr, config)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (o *options) tls() (*tls.Config, error) {
	if o.tlsCert == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}}, nil
}

func (l *listeners) add(addr string, config *tls.Config) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	l.all = append(l.all, listener)
	return nil
}

func (l *listeners) clientURL() string { return "http://" + l.all[0].Addr().String() }

// Close closes what is not closed yet.
func (l *listeners) Close() {
	for _, listener := range l.all {
		listener.Close()
	}
}

const (
	headersWithin = 10 * time.Second // a client that takes longer to ask is dropped
	idleFor       = 2 * time.Minute
	answersWithin = 3 * time.Second // of the requests that are under way when it ends
	closesWithin  = time.Second     // after that, so that the whole takes less than five
)

// serve serves until ctx ends or a listener breaks, then answers what is under way and closes the server.
func (l *listeners) serve(ctx context.Context, server *homeserver.Server) error {
	web := &http.Server{
		Handler:           server,
		ReadHeaderTimeout: headersWithin,
		IdleTimeout:       idleFor,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelWarn),
	}
	web.RegisterOnShutdown(server.Drain)
	broken := make(chan error, len(l.all))
	for _, listener := range l.all {
		go func() { broken <- web.Serve(listener) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-broken:
	}
	return errors.Join(err, end(web, server))
}

// end answers what is under way. A connection that is still busy after that is cut: nothing it asked was promised.
func end(web *http.Server, server *homeserver.Server) error {
	soon, cancel := context.WithTimeout(context.Background(), answersWithin)
	defer cancel()
	if web.Shutdown(soon) != nil {
		web.Close()
	}
	soon, cancel = context.WithTimeout(context.Background(), closesWithin)
	defer cancel()
	return server.Close(soon)
}
