package event_test

import (
	"testing"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// message is a draft of an ordinary message in a room of version 12.
func message() event.Draft {
	rules, _ := roomversion.Get("12")
	return event.Draft{
		Room:           "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ",
		Sender:         "@alice:matrix.example.org",
		Type:           "m.room.message",
		Content:        []byte(`{"msgtype":"m.text","body":"Hello, how are you? I am fine.","m.mentions":{"user_ids":["@bob:example.org"]}}`),
		PrevEvents:     []id.EventID{"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"},
		AuthEvents:     []id.EventID{"$AAnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", "$BBnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"},
		Depth:          1234,
		OriginServerTS: 1700000000000,
		Rules:          rules,
	}
}

func benchmarkEvent(b *testing.B) (*event.Event, signing.Key) {
	key, err := signing.NewKey("1", make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	e, err := event.Build(message(), "matrix.example.org", key)
	if err != nil {
		b.Fatal(err)
	}
	return e, key
}

func BenchmarkBuild(b *testing.B) {
	_, key := benchmarkEvent(b)
	d := message()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Build(d, "matrix.example.org", key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseUntrusted is what receiving an event costs before its signature: parse, id, content hash.
func BenchmarkParseUntrusted(b *testing.B) {
	e, _ := benchmarkEvent(b)
	raw := append(e.JSON[:len(e.JSON)-1:len(e.JSON)-1], `,"unsigned":{"age":12}}`...)
	b.ReportAllocs()
	for b.Loop() {
		e, err := event.ParseUntrusted(e.Rules, raw)
		if err != nil || !event.CheckContentHash(e) {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseTrusted(b *testing.B) {
	e, _ := benchmarkEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.ParseTrusted(e.Rules, e.JSON, e.ID, e.Room); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifySignature(b *testing.B) {
	e, key := benchmarkEvent(b)
	public := key.Public()
	b.ReportAllocs()
	for b.Loop() {
		if err := event.VerifySignature(e, "matrix.example.org", key.ID, public); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRedacted(b *testing.B) {
	e, _ := benchmarkEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Redacted(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendClientPrefix(b *testing.B) {
	e, _ := benchmarkEvent(b)
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = event.AppendClientPrefix(dst[:0], e)
	}
}

// BenchmarkCanonicalJSON writes the JSON of a message event that is canonical already, and of one
// whose members stand in another order.
func BenchmarkCanonicalJSON(b *testing.B) {
	e, _ := benchmarkEvent(b)
	unsorted := append([]byte(`{"type":"m.room.message",`), e.JSON[1:len(e.JSON)-len(`,"type":"m.room.message"}`)]...)
	unsorted = append(unsorted, '}')
	for name, data := range map[string][]byte{"canonical": e.JSON, "unsorted": unsorted} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := canonjson.AppendStrict(nil, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
