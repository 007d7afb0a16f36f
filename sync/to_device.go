package syncing

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	maxToDevice      = 100      // messages of one answer: "100 messages is recommended as a reasonable limit"
	maxToDeviceBytes = 1 << 20  // after which an answer gets no more
	maxMessage       = 64 << 10 // bytes of the content of one message, as of an event
	maxTypeLength    = 255      // bytes of an event type
	maxSentEDU       = 64 << 10 // bytes of an EDU

	takenKept    = 30 * 24 * time.Hour // for which the same message is not taken again
	forgetEvery  = 64                  // acts with messages
	forgetAtOnce = 256

	everyDevice = "*"
)

const directType = "m.direct_to_device"

// Outbox is where EDUs wait that other servers must get: storage.Tx.InsertOutgoingEDU. A *federation.Devices is one.
type Outbox interface {
	// Owe says that EDUs for servers are stored, or may be, up to a position. It is called before that is published. It
	// may not wait.
	Owe(servers []id.ServerName, upTo storage.Pos)

	// Wake says that they can be sent. It may not wait.
	Wake(servers []id.ServerName)
}

type toDeviceBody struct {
	Messages map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
}

// sendToDevice implements PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid
func (s *Service) sendToDevice(ctx context.Context, c *httpapi.Call, in *toDeviceBody) (*httpapi.Empty, error) {
	if in.Messages == nil {
		return nil, mxerr.MissingParam.With("messages is missing")
	}
	return nil, s.SendToDevice(ctx, ToDevice{
		Sender: c.User, Type: c.PathValue("eventType"), Messages: in.Messages,
		Taken: takenHash("txn", string(c.User), string(c.Device), c.PathValue("eventType"), c.PathValue("txnId")),
	})
}

// ToDevice is messages of one sender and type to devices.
type ToDevice struct {
	Sender id.UserID
	Type   string

	// Messages are the contents by user and device. The device "*" stands for all devices of the user that are not named.
	Messages map[id.UserID]map[id.DeviceID]json.RawMessage

	// Taken is a hash of what identifies the messages: nothing happens when they were taken before, in the last 30 days.
	Taken [32]byte
}

// takenHash hashes parts, none of which has NUL in it.
func takenHash(parts ...string) [32]byte {
	var b []byte
	for _, p := range parts {
		b = append(append(b, p...), 0)
	}
	return sha256.Sum256(b)
}

// SendToDevice sends messages to devices: all of them or, with an error, none. When it returns, those for local devices
// are stored until they are acknowledged, those for other servers until they have arrived there. Devices and users that
// do not exist are passed over. A content is an object of at most 64 KiB.
func (s *Service) SendToDevice(ctx context.Context, m ToDevice) error {
	p, err := s.pack(m)
	if err != nil {
		return err
	}
	act := s.toDeviceAct(p)
	s.DB.Queue(act)
	return act.Wait(ctx)
}

// parcel is messages that are ready to be stored.
type parcel struct {
	taken   [32]byte
	local   map[id.UserID]map[id.DeviceID][]byte // as clients are told
	users   []id.UserID                          // of local
	edus    map[id.ServerName][][]byte
	servers []id.ServerName      // of edus
	devices []storage.DeviceName // that have got something, set by the act
}

// pack checks messages and makes them what is stored.
func (s *Service) pack(m ToDevice) (*parcel, error) {
	if len(m.Type) > maxTypeLength {
		return nil, mxerr.InvalidParam.With("an event type may have %d bytes", maxTypeLength)
	}
	p := &parcel{taken: m.Taken, local: map[id.UserID]map[id.DeviceID][]byte{}}
	remote := map[id.ServerName]map[id.UserID]map[id.DeviceID]json.RawMessage{}
	for user, devices := range m.Messages {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return nil, mxerr.InvalidParam.With("%.255q is no user id", string(user))
		}
		for device, content := range devices {
			canonical, err := checkMessage(content)
			if err != nil {
				return nil, err
			}
			if user.Server() == s.ServerName {
				put(p.local, user, device, renderMessage(m.Sender, m.Type, canonical))
				continue
			}
			if remote[user.Server()] == nil {
				remote[user.Server()] = map[id.UserID]map[id.DeviceID]json.RawMessage{}
			}
			put(remote[user.Server()], user, device, canonical)
		}
	}
	p.users = slices.Collect(maps.Keys(p.local))
	return p, s.packEDUs(p, m, remote)
}

func put[V any](in map[id.UserID]map[id.DeviceID]V, user id.UserID, device id.DeviceID, v V) {
	if in[user] == nil {
		in[user] = map[id.DeviceID]V{}
	}
	in[user][device] = v
}

// checkMessage returns the canonical form of the content of a message.
func checkMessage(content json.RawMessage) (json.RawMessage, error) {
	canonical, err := canonjson.Append(nil, content)
	switch {
	case err != nil:
		return nil, mxerr.BadJSON.With("the content of a message: %v", err)
	case !canonjson.IsObject(canonical):
		return nil, mxerr.BadJSON.With("the content of a message is no object")
	case len(canonical) > maxMessage:
		return nil, mxerr.TooLarge.With("the content of a message may have %d bytes", maxMessage)
	}
	return canonical, nil
}

// renderMessage is a message as clients are told.
func renderMessage(sender id.UserID, eventType string, content []byte) []byte {
	b := append(append([]byte(`{"content":`), content...), `,"sender":`...)
	b = append(canonjson.AppendString(b, string(sender)), `,"type":`...)
	return append(canonjson.AppendString(b, eventType), '}')
}

// packEDUs makes EDUs of what is for other servers, if there are any.
func (s *Service) packEDUs(p *parcel, m ToDevice, remote map[id.ServerName]map[id.UserID]map[id.DeviceID]json.RawMessage) error {
	if s.Outbox == nil {
		return nil
	}
	p.edus = map[id.ServerName][][]byte{}
	for server, messages := range remote {
		edus, err := directEDUs(m, messages)
		if err != nil {
			return err
		}
		p.edus[server] = edus
		p.servers = append(p.servers, server)
	}
	return nil
}

// directEDU is the content of an EDU with messages.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#send-to-device-messaging
type directEDU struct {
	ID       string                                        `json:"message_id"`
	Messages map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
	Sender   id.UserID                                     `json:"sender"`
	Type     string                                        `json:"type"`
}

// directEDUs makes as many EDUs of messages to the users of one server as are needed for none to be too large.
func directEDUs(m ToDevice, messages map[id.UserID]map[id.DeviceID]json.RawMessage) (edus [][]byte, err error) {
	const envelope, perMessage = 512, 16
	edu, size := newDirectEDU(m), envelope
	flush := func() error {
		text, err := encodeDirect(edu)
		edus = append(edus, text)
		edu, size = newDirectEDU(m), envelope
		return err
	}
	for user, devices := range messages {
		for device, content := range devices {
			n := len(user) + len(device) + len(content) + perMessage
			if size += n; size > maxSentEDU && len(edu.Messages) > 0 {
				if err := flush(); err != nil {
					return nil, err
				}
				size += n
			}
			put(edu.Messages, user, device, content)
		}
	}
	if len(edu.Messages) == 0 {
		return edus, nil
	}
	return edus, flush()
}

func newDirectEDU(m ToDevice) directEDU {
	return directEDU{ID: rand.Text(), Sender: m.Sender, Type: m.Type, Messages: map[id.UserID]map[id.DeviceID]json.RawMessage{}}
}

// encodeDirect encodes an EDU as it stands in transactions, whose JSON has to be canonical.
func encodeDirect(edu directEDU) ([]byte, error) {
	text, err := json.Marshal(map[string]any{"edu_type": directType, "content": edu})
	if err != nil {
		return nil, fmt.Errorf("encode messages to devices: %w", err)
	}
	text, err = canonjson.AppendStrict(nil, text)
	switch {
	case err != nil:
		return nil, mxerr.BadJSON.With("messages to other servers have to be canonical JSON: %v", err)
	case len(text) > maxSentEDU:
		return nil, mxerr.TooLarge.With("a message to another server may have %d bytes with all that belongs to it", maxSentEDU)
	}
	return text, nil
}

// toDeviceAct stores messages. It takes a position for each EDU that one server gets.
func (s *Service) toDeviceAct(p *parcel) *storage.Act {
	positions := 1
	for _, edus := range p.edus {
		positions = max(positions, len(edus))
	}
	last := func(first storage.Pos) storage.Pos { return first + storage.Pos(positions) - 1 }
	act := &storage.Act{Positions: positions}
	act.Do = func(tx *storage.Tx, first storage.Pos) error {
		tx.Doubt(func(first storage.Pos) { s.owe(p.servers, last(first)) }) // else they would be passed over
		return s.storeParcel(tx, first, p)
	}
	act.Committed = func(first storage.Pos) {
		s.inboxes.stored(p.devices, first)
		s.owe(p.servers, last(first))
	}
	act.Announced = func(storage.Pos) {
		s.inboxes.wake(p.devices)
		if len(p.servers) > 0 {
			s.Outbox.Wake(p.servers)
		}
	}
	act.Refused = func(error) { // it may be stored all the same
		s.inboxes.forget(p.devices)
	}
	return act
}

func (s *Service) owe(servers []id.ServerName, upTo storage.Pos) {
	if len(servers) > 0 {
		s.Outbox.Owe(servers, upTo)
	}
}

// storeParcel stores what was not taken before, and now and then forgets what was taken long ago.
func (s *Service) storeParcel(tx *storage.Tx, first storage.Pos, p *parcel) error {
	p.devices = nil
	now := s.Now()
	fresh, err := tx.TakeToDevice(p.taken[:], now.UnixMilli())
	if err != nil || !fresh {
		return err
	}
	if s.parcels.Add(1)%forgetEvery == 0 {
		if err := tx.DeleteTakenBefore(now.Add(-takenKept).UnixMilli(), forgetAtOnce); err != nil {
			return err
		}
	}
	if err := storeLocal(tx, first, p); err != nil {
		return err
	}
	for server, edus := range p.edus {
		for i, edu := range edus {
			if err := tx.InsertOutgoingEDU(server, storage.OutgoingEDU{Pos: first + storage.Pos(i), EDU: edu}); err != nil {
				return err
			}
		}
	}
	return nil
}

// storeLocal stores a message for each local device that gets one and is there.
func storeLocal(tx *storage.Tx, pos storage.Pos, p *parcel) error {
	if len(p.users) == 0 {
		return nil
	}
	there, err := tx.DeviceNames(p.users)
	if err != nil {
		return err
	}
	for _, d := range there {
		message, ok := p.local[d.User][d.ID]
		if !ok {
			message, ok = p.local[d.User][everyDevice]
		}
		if !ok {
			continue
		}
		if err := tx.InsertToDevice(d, storage.ToDevice{Pos: pos, Message: message}); err != nil {
			return err
		}
		p.devices = append(p.devices, d)
	}
	return nil
}

// ReceiveToDevice takes the content, in canonical JSON, of an m.direct_to_device EDU that another server has sent: messages
// of one of its users to local ones. The same message is taken once. When it returns without an error, they are stored.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#send-to-device-messaging
func (s *Service) ReceiveToDevice(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var edu directEDU
	if err := json.Unmarshal(content, &edu); err != nil {
		return mxerr.BadJSON.With("m.direct_to_device is of another form: %v", err)
	}
	sender, err := id.ParseUserID(string(edu.Sender))
	switch {
	case err != nil || sender.Server() != origin || origin == s.ServerName:
		return mxerr.Forbidden.With("the sender is not one of the server that sends")
	case edu.ID == "" || len(edu.ID) > maxMessageID:
		return mxerr.BadJSON.With("message_id is missing or too long")
	}
	return s.SendToDevice(ctx, ToDevice{
		Sender: sender, Type: edu.Type, Messages: s.locals(edu.Messages),
		Taken: takenHash("edu", string(origin), string(sender), edu.ID),
	})
}

// maxMessageID bounds a message_id, "of maximum length 32 codepoints".
const maxMessageID = 4 * 32

// locals is what of messages is for local users and can be taken.
func (s *Service) locals(messages map[id.UserID]map[id.DeviceID]json.RawMessage) map[id.UserID]map[id.DeviceID]json.RawMessage {
	taken := map[id.UserID]map[id.DeviceID]json.RawMessage{}
	for user, devices := range messages {
		if u, err := id.ParseUserID(string(user)); err != nil || u.Server() != s.ServerName {
			continue
		}
		for device, content := range devices {
			if _, err := checkMessage(content); err == nil {
				put(taken, user, device, content)
			}
		}
	}
	return taken
}

// DeletedDevices forgets the messages to devices that are gone, and how loud they were to be, in the act that removes
// them: see auth.Dependant.
func (s *Service) DeletedDevices(tx *storage.Tx, at storage.Pos, user id.UserID, devices []id.DeviceID) error {
	if err := s.deleteDeviceData(tx, at, user, devices); err != nil {
		return err
	}
	if err := tx.DeleteDehydratedDevices(user, devices); err != nil {
		return err
	}
	return tx.DeleteToDevices(user, devices)
}

// acknowledge deletes the messages that a device has got, as its token shows. The act is nil when there are none.
func (s *Service) acknowledge(ctx context.Context, q *Request) (*storage.Act, error) {
	if q.Device == "" || q.Since == nil {
		return nil, nil
	}
	return s.inboxes.acknowledge(ctx, deviceKey{q.User, q.Device}, q.Since.Messages())
}

// readMessages reads the messages to the device that it was not told of.
func (l *look) readMessages() error {
	if l.Device == "" || l.old {
		return nil
	}
	d := deviceKey{l.User, l.Device}
	box, err := l.inboxes.look(l.ctx, d)
	if err != nil {
		return err
	}
	from := box.acked
	if l.Since != nil {
		from = max(from, l.Since.Messages())
	}
	if box.last <= from {
		return nil
	}
	err = l.DB.Read(l.ctx, func(tx *storage.Tx) (err error) {
		l.messages, err = tx.ToDevice(d.name(), from, l.to, maxToDevice+1)
		return err
	})
	l.limitMessages()
	return err
}

// limitMessages leaves messages that are too many for one answer to the next one.
func (l *look) limitMessages() {
	size := 0
	for i, m := range l.messages {
		if size += len(m.Message); i == maxToDevice || size > maxToDeviceBytes && i > 0 {
			l.messages = l.messages[:i]
			l.inbox = l.messages[i-1].Pos
			return
		}
	}
}

// writeMessages writes the messages to the device.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#extensions-to-sync
func (l *look) writeMessages() {
	if len(l.messages) == 0 {
		return
	}
	l.out.said = true
	l.out.key("to_device").raw(`{"events":[`)
	for _, m := range l.messages {
		l.out.item().bytes(m.Message)
	}
	l.out.raw("]}")
}
