package eventauth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
)

// busyRoom is a room with a hundred levels for users and ten for types of events.
func busyRoom(b *testing.B) room {
	r := newRoom(b, "11")
	var users, events strings.Builder
	for i := range 100 {
		fmt.Fprintf(&users, `"@user%d:one":%d,`, i, i)
	}
	for i := range 10 {
		fmt.Fprintf(&events, `"org.example.type%d":%d,`, i, i)
	}
	r.set(b, "m.room.power_levels", "", `{"users":{`+users.String()+`"@alice:one":100},"events":{`+events.String()+`"m.room.name":50}}`)
	return r
}

func benchmarkCheck(b *testing.B, state eventauth.State, e *event.Event) {
	b.ReportAllocs()
	for b.Loop() {
		if err := eventauth.Check(e, state); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckMessage: a message of another server, in a room whose power levels are kept read.
func BenchmarkCheckMessage(b *testing.B) {
	r := busyRoom(b)
	e := r.event(b, draft{Sender: "@bob:two", Content: json.RawMessage(`{"body":"hi","msgtype":"m.text"}`)})
	benchmarkCheck(b, levelled{r, &eventauth.Memo{}}, e)
}

// BenchmarkCheckMessageReadingLevels: the same where the power levels are read each time.
func BenchmarkCheckMessageReadingLevels(b *testing.B) {
	r := busyRoom(b)
	e := r.event(b, draft{Sender: "@bob:two", Content: json.RawMessage(`{"body":"hi","msgtype":"m.text"}`)})
	benchmarkCheck(b, r, e)
}

// BenchmarkCheckJoin: a join by an invited user.
func BenchmarkCheckJoin(b *testing.B) {
	r := busyRoom(b)
	ivan := "@ivan:two"
	content := json.RawMessage(`{"avatar_url":"mxc://two/abc","displayname":"Ivan","membership":"join"}`)
	e := r.event(b, draft{Sender: "@ivan:two", Type: "m.room.member", StateKey: &ivan, Content: content})
	benchmarkCheck(b, levelled{r, &eventauth.Memo{}}, e)
}

// BenchmarkCheckPowerLevels: one of a hundred levels changes.
func BenchmarkCheckPowerLevels(b *testing.B) {
	r := busyRoom(b)
	content := r.Event("m.room.power_levels", "").Content()
	content = bytes.Replace(content, []byte(`"@user7:one":7`), []byte(`"@user7:one":8`), 1)
	e := r.event(b, draft{Sender: "@alice:one", Type: "m.room.power_levels", StateKey: new(string), Content: content})
	benchmarkCheck(b, levelled{r, &eventauth.Memo{}}, e)
}

// BenchmarkNeeded: the auth events of a message.
func BenchmarkNeeded(b *testing.B) {
	e := busyRoom(b).event(b, draft{Sender: "@bob:two"})
	b.ReportAllocs()
	for b.Loop() {
		eventauth.NeededBy(e)
	}
}

// BenchmarkSeeAndAppend: one event of a page, decided and rendered.
func BenchmarkSeeAndAppend(b *testing.B) {
	e := busyRoom(b).event(b, draft{Sender: "@bob:two", Content: json.RawMessage(`{"body":"hi","msgtype":"m.text"}`)})
	before := eventauth.Viewing{Visibility: eventauth.Shared, Membership: "join"}
	page := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		seen, ok := eventauth.See(e, before, true, "@alice:one")
		if !ok {
			b.Fatal("not seen")
		}
		page = seen.AppendClientNoRoom(page[:0], eventauth.Unsigned{AgeMS: 1234})
	}
}
