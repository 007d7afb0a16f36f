package event

import (
	"testing"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	key, err := signing.Generate(nil)
	require.NoError(t, err)
	for _, v := range roomversion.All() {
		rules, _ := roomversion.Get(v)
		sk := ""
		e, err := Build(Draft{Room: "!a:b", Sender: "@a:b", Type: "m.room.create", StateKey: &sk, Content: []byte(`{"z":1, "a":2}`), Rules: rules}, "b", key)
		require.NoError(t, err)
		p, err := ParseUntrusted(rules, append(append([]byte{}, e.JSON[:len(e.JSON)-1]...), `, "unsigned":{"age":1}}`...))
		require.NoError(t, err)
		require.Equal(t, e, p)
		require.NoError(t, VerifySignature(p, "b", key.ID, key.Public()))
		require.True(t, CheckContentHash(p))
		m, err := Build(Draft{Room: e.Room, Sender: "@a:b", Type: "m.room.redaction", Content: []byte(`{"z":1, "a":2}`), Redacts: e.ID,
			PrevEvents: []id.EventID{e.ID}, AuthEvents: []id.EventID{e.ID}, PrevHashes: map[id.EventID]string{e.ID: "x"}, AuthHashes: map[id.EventID]string{e.ID: "x"}, Rules: rules}, "b", key)
		require.NoError(t, err)
		require.Equal(t, e.ID, m.Redacts)
		t.Log(string(AppendClientPrefix(nil, m)), string(m.JSON))
	}
}
