package auth_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// BenchmarkSession is what every request pays to know its caller.
func BenchmarkSession(b *testing.B) {
	ctx := context.Background()
	db, err := storage.Open(ctx, sqlite.Memory())
	require.NoError(b, err)
	defer db.Close()
	s, err := auth.New(auth.Config{ServerName: serverName, DB: db, PasswordCost: auth.Cheap()})
	require.NoError(b, err)
	user, err := s.CreateUser(ctx, auth.NewUser{Localpart: "alice"})
	require.NoError(b, err)
	g, err := s.Login(ctx, auth.LoginRequest{User: user})
	require.NoError(b, err)
	seen := httpapi.Seen{IP: netip.MustParseAddr("192.0.2.7"), UserAgent: "bench"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Session(ctx, g.AccessToken, seen); err != nil {
			b.Fatal(err)
		}
	}
}
