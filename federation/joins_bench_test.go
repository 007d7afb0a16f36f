package federation_test

import (
	"fmt"
	"testing"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	service "github.com/embedmatrix/homeserver/rooms"
)

// BenchmarkJoinAnswer: a room of 10,000 members, as the server of one who joins is told of it and as it reads that.
func BenchmarkJoinAnswer(b *testing.B) {
	entered := crowd(b, 10_000)
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.SetBytes(int64(len(federation.JoinAnswer(entered))))
		}
	})
	b.Run("read", func(b *testing.B) {
		raw := federation.JoinAnswer(entered)
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := federation.ReadJoinAnswer(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// crowd is a room of so many members.
func crowd(b *testing.B, n int) *service.Entered {
	b.Helper()
	rules, _ := roomversion.Get("11")
	key, err := signing.NewKey("a", make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	in := &service.Entered{Servers: []id.ServerName{"hs.test"}, Version: "11"}
	for i := range n {
		user := fmt.Sprintf("@user%d:hs.test", i)
		ev, err := event.Build(event.Draft{
			Room: "!r:hs.test", Sender: id.UserID(user), Type: "m.room.member", StateKey: &user, Rules: rules, Depth: int64(i),
			Content: []byte(`{"membership":"join","displayname":"Somebody"}`), PrevEvents: []id.EventID{"$p"}, AuthEvents: []id.EventID{"$a", "$b", "$c"},
		}, "hs.test", key)
		if err != nil {
			b.Fatal(err)
		}
		in.State, in.Event = append(in.State, ev), ev
	}
	in.Auth = in.State
	return in
}
