package syncing

import (
	"errors"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// writeJoined writes what is new in a room that the user is in; nothing when nothing is.
func (l *look) writeJoined(p *place) error {
	start := l.out.mark()
	said, err := l.writeHistory(p)
	if err != nil {
		return err
	}
	if l.writeEphemeral(p) {
		said = true
	} else if l.whole(p) {
		l.out.key("ephemeral").raw(`{"events":[]}`)
	}
	if l.writeRoomData(p) {
		said = true
	} else if l.whole(p) {
		l.out.key("account_data").raw(`{"events":[]}`)
	}
	if !said && !l.whole(p) {
		l.out.cut(start)
	}
	return nil
}

// writeLeft writes the end of a room that the user has left, up to the leaving.
func (l *look) writeLeft(p *place) error {
	if _, err := l.writeHistory(p); err != nil {
		return err
	}
	l.writeRoomData(p)
	return nil
}

// writeHistory writes the summary, state and timeline of a room; said tells whether there is anything in them.
func (l *look) writeHistory(p *place) (said bool, err error) {
	if p.hint&newEvents == 0 && !l.whole(p) {
		if err := l.writeState(nil, nil); err != nil {
			return false, err
		}
		return false, l.writeTimeline(p, nil, &timeline{})
	}
	v, err := p.Viewer(l.ctx, l.User, l.Device, l.now, l.to)
	if err != nil {
		return false, err
	}
	t, err := l.timelineOf(p, v)
	if err != nil {
		return false, err
	}
	known, err := l.known(p)
	if err != nil {
		return false, err
	}
	var sum *summary
	if p.section == joined {
		if sum, err = l.summaryOf(p, known); err != nil {
			return false, err
		}
	}
	var heroes []id.UserID
	if sum != nil {
		heroes = sum.heroes
	}
	state, err := l.stateOf(p, t, known, heroes)
	if err != nil {
		return false, err
	}
	l.noteMembers(p, state, t.events)
	l.writeSummary(sum)
	if err := l.writeState(v, state); err != nil {
		return false, err
	}
	sticky, err := l.writeSticky(p, v, t)
	if err != nil {
		return false, err
	}
	said = sum != nil || len(state) > 0 || len(t.events) > 0 || t.limited || sticky
	return said, l.writeTimeline(p, v, t)
}

// known is the state of a room that the client knows, 0 for none.
func (l *look) known(p *place) (roomstate.Root, error) {
	if p.fresh {
		return 0, nil
	}
	return p.StateAt(l.ctx, l.from)
}

func (l *look) writeRoomData(p *place) bool {
	f := &l.Filter.Room.AccountData
	return f.PassesRoom(p.ID) && l.accountData(p.ID, func(d *storage.AccountData) bool {
		return f.Passes(d.Type, "", d.Content) && !(p.fresh && string(d.Content) == deleted)
	})
}

func (l *look) writeInvite(p *place) error { return l.writeStripped(p, "invite_state") }

func (l *look) writeKnock(p *place) error { return l.writeStripped(p, "knock_state") }

// strippedTypes are the entries of a state, with an empty state key, that let somebody outside recognise a room.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#stripped-state
var strippedTypes = []string{
	"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias",
	"m.room.encryption",
}

// writeStripped writes the state of a room as it was when the user was invited or knocked, with who invited and the
// member event itself.
func (l *look) writeStripped(p *place, key string) error {
	l.out.key(key).raw(`{"events":[`)
	if told, err := l.writeTold(p); err != nil || told {
		return err
	}
	for _, eventType := range strippedTypes {
		if err := l.writeStrippedEvent(p, eventType, ""); err != nil {
			return err
		}
	}
	if p.member.Sender != l.User {
		if err := l.writeStrippedEvent(p, memberType, string(p.member.Sender)); err != nil {
			return err
		}
	}
	l.out.item()
	l.out.b = event.AppendStripped(l.out.b, p.member.Event)
	l.out.raw("]}")
	return nil
}

// writeTold writes what another server has told of a room in which this one is not; false when it is here.
func (l *look) writeTold(p *place) (bool, error) {
	if create, err := p.StatePos(l.ctx, p.member.Now, "m.room.create", ""); err != nil || create != 0 {
		return false, err
	}
	var told []byte
	err := l.DB.Read(l.ctx, func(tx *storage.Tx) (err error) {
		told, err = tx.Stripped(p.Num, l.User)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	for _, e := range gjson.ParseBytes(told).Array() {
		if e.Get("type").String() == memberType && e.Get("state_key").String() == string(l.User) {
			continue // it is told as it is stored
		}
		l.out.item().raw(e.Raw)
	}
	l.out.item()
	l.out.b = event.AppendStripped(l.out.b, p.member.Event)
	l.out.raw("]}")
	return true, nil
}

func (l *look) writeStrippedEvent(p *place, eventType, stateKey string) error {
	e, err := p.StateEvent(l.ctx, p.member.Now, eventType, stateKey)
	if err != nil || e == nil {
		return err
	}
	l.out.item()
	l.out.b = event.AppendStripped(l.out.b, e.Event)
	return nil
}
