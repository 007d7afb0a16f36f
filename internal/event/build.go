package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/tidwall/sjson"
)

// MaxDepth is the largest depth of our own events, and of any event from version 6 on.
const MaxDepth = canonjson.MaxInteger

// Draft is an event that is not hashed and signed yet.
type Draft struct {
	Room           id.RoomID // ignored for the create event of version 12, which makes the room's id
	Sender         id.UserID
	Type           string
	StateKey       *string
	Content        []byte // a JSON object
	PrevEvents     []id.EventID
	AuthEvents     []id.EventID
	Depth          int64 // one more than the largest depth of PrevEvents; what is out of range becomes MaxDepth
	OriginServerTS int64 // milliseconds
	Redacts        id.EventID
	StickyMS       int64 // for how many milliseconds the event is sticky; 0: it is not
	Rules          *roomversion.Rules

	// PrevHashes and AuthHashes give the reference hash of each event that PrevEvents and
	// AuthEvents name, in base64. Only versions 1 and 2 use them.
	PrevHashes, AuthHashes map[id.EventID]string
}

// Build makes the event of a draft: content in canonical form, content hash, signature of origin, id.
// It does not ask whether the room allows the event.
//
// The error is mxerr.TooLarge or mxerr.BadJSON when the draft cannot be an event.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#adding-hashes-and-signatures-to-outgoing-events
func Build(d Draft, origin id.ServerName, key signing.Key) (*Event, error) {
	w := wire{Draft: &d, origin: string(origin), keyID: key.ID}
	if err := w.prepare(); err != nil {
		return nil, err
	}
	canonical, err := w.hashed()
	if err != nil {
		return nil, err
	}
	if err := checkSize(canonical); err != nil {
		return nil, err
	}
	w.sign(canonical, key)
	f, ok := scan(canonical)
	if !ok {
		return nil, bad("it is not an object")
	}
	return parse(d.Rules, canonical, &f, ordinary())
}

// wire is a draft on its way to JSON.
type wire struct {
	*Draft
	eventID       string // versions 1 and 2
	content       []byte // canonical
	origin, keyID string
	signatureAt   int // where the signature stands in the JSON
}

// signatureLength is the length of an ed25519 signature in unpadded base64.
const signatureLength = 86

// prepare brings what the caller gave into its final form.
func (w *wire) prepare() error {
	raw := w.Content
	if w.Redacts != "" && w.Rules.RedactsInContent {
		var err error
		if raw, err = withRedacts(raw, w.Redacts); err != nil {
			return err
		}
	}
	var err error
	if w.content, err = canonicalise(make([]byte, 0, len(raw)), w.Rules, raw); err != nil {
		return err
	}
	if !canonjson.IsObject(w.content) {
		return bad("content is not an object")
	}
	if w.Rules.StrictJSON && max(w.OriginServerTS, -w.OriginServerTS) > canonjson.MaxInteger {
		return bad("origin_server_ts is out of range")
	}
	if w.Depth < 0 || w.Depth > MaxDepth {
		w.Depth = MaxDepth
	}
	if w.Rules.EventIDs == roomversion.EventIDInEvent {
		w.eventID = "$" + rand.Text() + ":" + w.origin
	}
	return nil
}

// withRedacts sets content.redacts.
func withRedacts(content []byte, target id.EventID) ([]byte, error) {
	if err := canonjson.CheckLenient(content); err != nil {
		return nil, mxerr.BadJSON.With("the content is not valid: %v", err)
	}
	out, err := sjson.SetBytes(content, "redacts", string(target))
	if err != nil {
		return nil, bad("content is not an object")
	}
	return out, nil
}

// hashed writes the event with its content hash and room for its signature.
func (w *wire) hashed() ([]byte, error) {
	var buf [scratchSize]byte
	unhashed, err := w.append(buf[:0], nil)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(unhashed)
	size := len(unhashed) + len(w.origin) + len(w.keyID) + 192 // what hashes and signatures need
	return w.append(make([]byte, 0, size), hash[:])
}

// sign writes the signature into its place.
func (w *wire) sign(canonical []byte, key signing.Key) {
	var buf [scratchSize]byte
	signed := appendRedacted(buf[:0], w.Rules, canonical, canonjson.Get(canonical, "type"), false)
	copy(canonical[w.signatureAt:w.signatureAt+signatureLength], key.Sign(signed))
}

// append writes the members in canonical order, with hashes and signatures if a hash is given.
func (w *wire) append(dst, hash []byte) ([]byte, error) {
	var err error
	dst = append(dst, `{"auth_events":`...)
	if dst, err = w.appendRefs(dst, w.AuthEvents, w.AuthHashes); err != nil {
		return nil, err
	}
	dst = append(append(dst, `,"content":`...), w.content...)
	dst = appendInt(append(dst, `,"depth":`...), w.Depth)
	if w.eventID != "" {
		dst = canonjson.AppendString(append(dst, `,"event_id":`...), w.eventID)
	}
	if hash != nil {
		dst = base64.RawStdEncoding.AppendEncode(append(dst, `,"hashes":{"sha256":"`...), hash)
		dst = append(dst, `"}`...)
	}
	if w.StickyMS > 0 {
		dst = append(appendInt(append(dst, `,"`+stickyKey+`":{"duration_ms":`...), w.StickyMS), '}')
	}
	dst = appendInt(append(dst, `,"origin_server_ts":`...), w.OriginServerTS)
	dst = append(dst, `,"prev_events":`...)
	if dst, err = w.appendRefs(dst, w.PrevEvents, w.PrevHashes); err != nil {
		return nil, err
	}
	if w.Redacts != "" && !w.Rules.RedactsInContent {
		dst = canonjson.AppendString(append(dst, `,"redacts":`...), string(w.Redacts))
	}
	if !w.Rules.RoomIDIsCreateHash || w.Type != "m.room.create" {
		dst = canonjson.AppendString(append(dst, `,"room_id":`...), string(w.Room))
	}
	dst = canonjson.AppendString(append(dst, `,"sender":`...), string(w.Sender))
	if hash != nil {
		dst = w.appendSignatures(dst)
	}
	if w.StateKey != nil {
		dst = canonjson.AppendString(append(dst, `,"state_key":`...), *w.StateKey)
	}
	dst = canonjson.AppendString(append(dst, `,"type":`...), w.Type)
	return append(dst, '}'), nil
}

// appendSignatures writes signatures with spaces in the place of the signature.
func (w *wire) appendSignatures(dst []byte) []byte {
	dst = canonjson.AppendString(append(dst, `,"signatures":{`...), w.origin)
	dst = canonjson.AppendString(append(dst, `:{`...), w.keyID)
	dst = append(dst, `:"`...)
	w.signatureAt = len(dst)
	for range signatureLength {
		dst = append(dst, ' ')
	}
	return append(dst, `"}}`...)
}

// appendRefs writes references to events: ids, or [id, {hash}] in versions 1 and 2.
func (w *wire) appendRefs(dst []byte, refs []id.EventID, hashes map[id.EventID]string) ([]byte, error) {
	dst = append(dst, '[')
	for i, ref := range refs {
		if i > 0 {
			dst = append(dst, ',')
		}
		if w.eventID == "" {
			dst = canonjson.AppendString(dst, string(ref))
			continue
		}
		hash, ok := hashes[ref]
		if !ok {
			return nil, fmt.Errorf("build event: the hash of %s is not given", ref)
		}
		dst = canonjson.AppendString(append(dst, '['), string(ref))
		dst = canonjson.AppendString(append(dst, `,{"sha256":`...), hash)
		dst = append(dst, `}]`...)
	}
	return append(dst, ']'), nil
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

func checkSize(canonical []byte) error {
	if len(canonical) > MaxPDU {
		return mxerr.TooLarge.With("the event has %d bytes, more than %d", len(canonical), MaxPDU)
	}
	return nil
}
