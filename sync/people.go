package syncing

import (
	"strconv"
	"time"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
)

// maxPeople is of how many users' presence one answer tells; the next one goes on.
const maxPeople = 1000

const presenceType = "m.presence"

// findPeople finds the users whose presence is told: those who share a room with the user, or are the user, and have
// changed since the client's token; and those who came to share one, of whom the client may know nothing. moved are the
// memberships that have changed; whole is false when they are not known, and then everybody is told of.
func (l *look) findPeople(moved []notify.Change, whole bool) error {
	if l.Presence == nil {
		return nil
	}
	limit := l.peopleLimit()
	if limit == 0 {
		l.presenceNow = l.Presence.Now()
		return nil
	}
	since := int64(0)
	if l.Since != nil && l.Since.Boot == l.Typing.Boot && whole {
		since = l.Since.Presence
	}
	if since > 0 && l.crowded() {
		since = 0
	}
	if since > 0 {
		if err := l.meet(moved); err != nil {
			return err
		}
	}
	return l.changedSince(since, limit)
}

// peopleLimit is of how many users the client wants to be told.
func (l *look) peopleLimit() int {
	f := &l.Filter.Presence
	switch {
	case !f.Passes(presenceType, "") && f.Senders == nil:
		return 0
	case f.Limit == nil:
		return maxPeople
	}
	return min(*f.Limit, maxPeople)
}

// crowded reports whether the client has come into a room of so many that they are told of as if everybody had changed:
// in several answers.
func (l *look) crowded() bool {
	for _, p := range l.places {
		if p.section != joined || !p.fresh {
			continue
		}
		if n, _ := p.Counts(); n > maxPeople {
			return true
		}
	}
	return false
}

// meet adds those who came to share a room with the user.
func (l *look) meet(moved []notify.Change) error {
	for _, p := range l.places {
		if p.section == joined && p.fresh {
			p.Members(func(m roomstate.Member) bool {
				if m.Membership == "join" && m.User != l.User {
					l.introduce(m.User)
				}
				return true
			})
		}
	}
	for _, c := range moved {
		if m, ok := l.mine.Get(c.Room); !ok || m.Membership != "join" || c.User == l.User {
			continue
		}
		if sees, err := l.sees(c.User); err != nil || !sees {
			if err != nil {
				return err
			}
			continue
		}
		l.introduce(c.User)
	}
	return nil
}

// introduce adds a user of whom something is known.
func (l *look) introduce(user id.UserID) {
	if st, ok := l.Presence.Of(user); ok && l.passes(user) {
		l.tellOf(st)
	}
}

// changedSince adds those who have changed after a number, and finds the number up to which that is told.
func (l *look) changedSince(since int64, limit int) error {
	for told := 0; ; {
		list, upTo := l.Presence.Since(since, maxPeople)
		for i := range list {
			wanted, err := l.wantsChange(&list[i])
			if err != nil {
				return err
			}
			if !wanted {
				continue
			}
			l.tellOf(list[i])
			if told++; told == limit {
				l.presenceNow = list[i].Number
				return nil
			}
		}
		if since = upTo; len(list) < maxPeople {
			l.presenceNow = upTo
			return nil
		}
	}
}

// wantsChange reports whether a change is told. An initial sync says nothing of who is offline, which is what clients
// think of those of whom they know nothing; and users are not told of themselves that they have stopped doing something.
func (l *look) wantsChange(st *ephemeral.Status) (bool, error) {
	switch {
	case !l.passes(st.User):
		return false, nil
	case l.initial && st.State == ephemeral.Offline && st.Message == "":
		return false, nil
	case st.User == l.User && !l.initial && l.Since.Boot == l.Typing.Boot && st.Stated <= l.Since.Presence:
		return false, nil
	}
	return l.sees(st.User)
}

// sees reports whether the user shares a room with another one.
func (l *look) sees(user id.UserID) (bool, error) {
	if user == l.User {
		return true, nil
	}
	theirs, err := l.Cache.RoomsOf(l.ctx, user)
	if err != nil {
		return false, err
	}
	return theirs.SharesWith(l.mine), nil
}

// passes reports whether the client wants to be told of a user.
func (l *look) passes(user id.UserID) bool {
	return !l.wishes.ignores(user) && l.Filter.Presence.Passes(presenceType, string(user))
}

// tellOf adds a user's presence once.
func (l *look) tellOf(st ephemeral.Status) {
	if _, told := l.people[st.User]; told {
		return
	}
	if l.people == nil {
		l.people = map[id.UserID]struct{}{}
	}
	l.people[st.User] = struct{}{}
	l.present = append(l.present, st)
}

// writePresence writes the presence of those who were found.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#presence
func (l *look) writePresence() {
	if len(l.present) == 0 {
		return
	}
	l.out.said = true
	now := time.Now()
	l.out.key("presence").raw(`{"events":[`)
	for i := range l.present {
		l.writePresent(&l.present[i], now)
	}
	l.out.raw("]}")
}

func (l *look) writePresent(st *ephemeral.Status, now time.Time) {
	l.out.item().raw(`{"content":{`)
	l.writeStatus(st, now)
}

// writeStatus writes an m.presence whose content has been begun.
func (l *look) writeStatus(st *ephemeral.Status, now time.Time) {
	if st.AvatarURL != nil && *st.AvatarURL != "" {
		l.out.key("avatar_url").text(*st.AvatarURL)
	}
	if st.State == ephemeral.Online {
		l.out.key("currently_active").raw(strconv.FormatBool(st.CurrentlyActive))
	}
	if st.Displayname != nil && *st.Displayname != "" {
		l.out.key("displayname").text(*st.Displayname)
	}
	if !st.LastActive.IsZero() {
		l.out.key("last_active_ago").raw(strconv.FormatInt(max(now.Sub(st.LastActive).Milliseconds(), 0), 10))
	}
	l.out.key("presence").text(string(st.State))
	if st.Message != "" {
		l.out.key("status_msg").text(st.Message)
	}
	l.out.raw("}").key("sender").text(string(st.User)).key("type").text(presenceType).raw("}")
}
