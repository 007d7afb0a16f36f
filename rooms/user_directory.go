package rooms

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// What the user directory shows is kept by the indexer: in a room that anybody may join or read, everybody finds the
// members; in others the members find each other. A local user is found by the name of their profile, never by one that
// they use in a room; a user of another server is known by rooms alone, and found by the name of the one that shows them.

// The bounds of the user directory.
const (
	defaultPeople  = 10 // "Defaults to 10."
	maxPeople      = 50
	maxPeopleSeen  = 500 // how many are looked at who have one of several words,
	maxPeopleTold  = 100 // or the only one
	maxPeopleWords = 8   // of a search term; what is behind them is not looked at
	maxNameWords   = 16  // of a name
)

type directoryQuery struct {
	SearchTerm *string `json:"search_term"`
	Limit      *int64  `json:"limit"`
}

type foundPerson struct {
	User   id.UserID `json:"user_id"`
	Name   string    `json:"display_name,omitempty"`
	Avatar string    `json:"avatar_url,omitempty"`
}

type foundPeople struct {
	Results []foundPerson `json:"results"`
	Limited bool          `json:"limited"`
}

// searchUserDirectory implements POST /_matrix/client/v3/user_directory/search.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3user_directorysearch
func (s *Service) searchUserDirectory(ctx context.Context, c *httpapi.Call, in *directoryQuery) (*foundPeople, error) {
	if in.SearchTerm == nil {
		return nil, mxerr.MissingParam.With("search_term is missing")
	}
	limit := int64(defaultPeople)
	if in.Limit != nil {
		limit = *in.Limit
	}
	if limit < 0 {
		return nil, mxerr.InvalidParam.With("limit is negative")
	}
	s.caughtUp(ctx)
	return s.findPeople(ctx, c.User, *in.SearchTerm, int(min(limit, maxPeople)))
}

// findPeople returns up to limit people whom a user finds.
func (s *Service) findPeople(ctx context.Context, user id.UserID, term string, limit int) (*foundPeople, error) {
	found := &foundPeople{Results: []foundPerson{}}
	wanted := peopleWords(term)
	if len(wanted) == 0 {
		return found, nil
	}
	people, more, err := s.peopleWith(ctx, user, wanted)
	if err != nil {
		return nil, err
	}
	exact := foldText(strings.TrimPrefix(strings.TrimSpace(term), "@"))
	slices.SortFunc(people, func(a, b storage.Person) int {
		return cmp.Or(closeness(a, exact)-closeness(b, exact), cmp.Compare(a.User, b.User), cmp.Compare(b.Scope, a.Scope))
	})
	people = slices.CompactFunc(people, func(a, b storage.Person) bool { return a.User == b.User })
	found.Limited = more || len(people) > limit
	for _, p := range people[:min(len(people), limit)] {
		if !strings.HasPrefix(p.Avatar, "mxc://") {
			p.Avatar = "" // clients take it for an mxc URI: that of the specification is one
		}
		found.Results = append(found.Results, foundPerson{p.User, p.Name, p.Avatar})
	}
	return found, nil
}

// closeness orders who was found, closest first: who is called like that, then those with a name and a picture, which
// people who can be told apart have.
func closeness(p storage.Person, exact string) int {
	local, _, _ := strings.Cut(string(p.User[1:]), ":")
	if whole := foldText(string(p.User[1:])); exact == whole || exact == foldText(local) || exact == foldText(p.Name) {
		return 0
	}
	n := 1
	if p.Name == "" {
		n++
	}
	if p.Avatar == "" {
		n++
	}
	return n
}

// peopleWith returns whom a user finds by all of some words; more says that there may be others. It begins with the
// longest word and takes another one when too many have that.
func (s *Service) peopleWith(ctx context.Context, user id.UserID, wanted []string) (people []storage.Person, more bool, err error) {
	slices.SortStableFunc(wanted, func(a, b string) int { return len(b) - len(a) })
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		scopes, err := s.scopesOf(tx, user)
		if err != nil {
			return err
		}
		limit := maxPeopleSeen
		if len(wanted) == 1 {
			limit = maxPeopleTold
		}
		for _, w := range wanted {
			if people, err = tx.People(scopes, w, limit); err != nil {
				return err
			}
			if more = len(people) == limit; !more {
				break
			}
		}
		return nil
	})
	return slices.DeleteFunc(people, func(p storage.Person) bool {
		return p.User == user && p.Scope > 0 || len(wanted) > 1 && !hasWords(nameWords(p.User, p.Name), wanted)
	}), more, err
}

// hasWords reports whether each of the wanted words begins one of a name's.
func hasWords(have, wanted []string) bool {
	for _, w := range wanted {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.HasPrefix(h, w) }) {
			return false
		}
	}
	return true
}

// scopesOf returns in which scopes a user finds people: everybody's, and those of the rooms that they are in.
func (s *Service) scopesOf(tx *storage.Tx, user id.UserID) ([]int64, error) {
	scopes := []int64{storage.ByEverybody}
	if s.FindAllUsers {
		scopes = append(scopes, storage.ByLocalName)
	}
	rooms, err := tx.MembershipsOf(user)
	for _, m := range rooms {
		if m.Membership == "join" {
			scopes = append(scopes, m.Room)
		}
	}
	return scopes, err
}

// peopleWords are the words of a search term: something with a colon, or with an @ before it, begins a user id.
func peopleWords(term string) (list []string) {
	for _, part := range strings.Fields(term) {
		if name, ok := strings.CutPrefix(part, "@"); ok || strings.Contains(part, ":") {
			if name != "" {
				list = append(list, foldText(name))
			}
			continue
		}
		list = append(list, texts(words(part))...)
	}
	return list[:min(len(list), maxPeopleWords)]
}

// nameWords are the words under which somebody is found: the user id without its @, and the words of its local part and
// of the display name.
func nameWords(user id.UserID, name string) []string {
	whole := strings.TrimPrefix(string(user), "@")
	local, _, _ := strings.Cut(whole, ":")
	list := []string{foldText(whole)}
	for _, text := range []string{local, name} {
		some := texts(words(text))
		list = append(list, some[:min(len(some), maxNameWords)]...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func foldText(text string) string { return strings.Map(fold, strings.ToValidUTF8(text, "")) }

// findMembers notes whose membership some events may have changed, and which rooms may have been opened or closed.
func (ix *indexer) findMembers(events []storage.Event, f *findings) {
	f.changed = map[int64]bool{}
	for i := range events {
		e := &events[i]
		stateKey, isState := canonjson.String(canonjson.Get(e.JSON, "state_key"))
		if !isState {
			continue
		}
		switch typeOf(e) {
		case "m.room.member":
			user := id.UserID(stateKey)
			f.members = append(f.members, roomUser{e.Room, user})
			if ix.local(user) {
				f.changed[e.Room] = true
			}
		case "m.room.join_rules", "m.room.history_visibility":
			f.changed[e.Room] = true
		}
	}
}

// statusOf finds out which of these rooms show their members to whom.
func (ix *indexer) statusOf(ctx context.Context, rooms map[int64]bool) (list []storage.PeopleRoom, err error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	var ids map[int64]id.RoomID
	err = ix.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		numbers := make([]int64, 0, len(rooms))
		for num := range rooms {
			numbers = append(numbers, num)
		}
		ids, err = tx.RoomIDs(numbers)
		return err
	})
	if err != nil {
		return nil, err
	}
	for num, roomID := range ids {
		r, err := ix.Cache.Room(ctx, roomID)
		if err != nil {
			return nil, err
		}
		open, err := isOpen(ctx, r)
		if err != nil {
			return nil, err
		}
		list = append(list, storage.PeopleRoom{Room: num, Present: r.HasServer(ix.ServerName), Open: open})
	}
	return list, nil
}

// isOpen reports whether anybody may join a room, or read it.
func isOpen(ctx context.Context, r *roomstate.Room) (bool, error) {
	root := r.View().State
	rules, err := r.StateEvent(ctx, root, "m.room.join_rules", "")
	if err != nil || text(rules, "join_rule") == "public" {
		return err == nil, err
	}
	visibility, err := r.StateEvent(ctx, root, "m.room.history_visibility", "")
	return text(visibility, "history_visibility") == "world_readable", err
}

// putStatus says who finds the members of a room; when that has changed, all of them are to be gone through.
func putStatus(tx *storage.Tx, st storage.PeopleRoom) error {
	old, err := tx.PeopleRoom(st.Room)
	if err != nil || old.Present == st.Present && old.Open == st.Open {
		return err
	}
	return tx.PutPeopleRoom(st)
}

// lookAtRooms goes through the members of a room that was opened, closed, entered or left.
func (ix *indexer) lookAtRooms(ctx context.Context) (more bool, err error) {
	var due storage.PeopleRoom
	var members []storage.Member
	err = ix.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if due, err = tx.PeopleRoomDue(); err == nil {
			members, err = tx.Members(due.Room)
		}
		return err
	})
	if err != nil {
		return false, unlessUnknown(err)
	}
	all := make([]roomUser, len(members))
	for i, m := range members {
		all[i] = roomUser{m.Room, m.User}
	}
	return true, ix.findAll(ctx, all, func(tx *storage.Tx) error {
		due.Done = true
		return tx.PutPeopleRoom(due)
	})
}

// findAll finds out anew how these are found, some at a time, and does something in the last transaction.
func (ix *indexer) findAll(ctx context.Context, all []roomUser, then func(*storage.Tx) error) error {
	for {
		some := all[:min(len(all), indexPeople)]
		all = all[len(some):]
		err := ix.do(ctx, func(tx *storage.Tx) error {
			for _, m := range some {
				if err := ix.findAnew(tx, m); err != nil {
					return err
				}
			}
			if len(all) > 0 {
				return nil
			}
			return then(tx)
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || len(all) == 0 {
			return err
		}
	}
}

// lookAtPeople takes in profiles and accounts that have changed.
func (ix *indexer) lookAtPeople(ctx context.Context) (more bool, err error) {
	var due []storage.PersonChange
	rooms := map[id.UserID][]roomUser{}
	err = ix.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if due, err = tx.PeopleChanged(indexPeople); err != nil {
			return err
		}
		for _, c := range due {
			list, err := tx.MembershipsOf(c.User)
			if err != nil {
				return err
			}
			for _, m := range list {
				rooms[c.User] = append(rooms[c.User], roomUser{m.Room, c.User})
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, c := range due {
		err := ix.findAll(ctx, rooms[c.User], func(tx *storage.Tx) error { return ix.foundOut(tx, c) })
		if err != nil {
			return false, err
		}
	}
	return len(due) == indexPeople, nil
}

// foundOut ends what a change of a profile or account began: where all local users can be found, by name.
func (ix *indexer) foundOut(tx *storage.Tx, c storage.PersonChange) error {
	p := storage.Person{Scope: storage.ByLocalName, User: c.User}
	there, err := ix.describe(tx, &p, 0)
	if err == nil {
		err = setPerson(tx, p, there)
	}
	if err != nil {
		return err
	}
	return tx.PersonFoundOut(c)
}

// findAnew finds out who finds somebody because of a room, and as whom.
func (ix *indexer) findAnew(tx *storage.Tx, m roomUser) error {
	room, err := tx.PeopleRoom(m.room)
	if err != nil {
		return err
	}
	member, err := tx.Member(m.room, m.user)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	in := err == nil && member.Membership == "join" && room.Present
	p := storage.Person{User: m.user, Room: m.room}
	if in {
		if in, err = ix.describe(tx, &p, member.Pos); err != nil {
			return err
		}
	}
	p.Scope = m.room
	if err := setPerson(tx, p, in && !room.Open); err != nil {
		return err
	}
	p.Scope = storage.ByEverybody
	if in && room.Open {
		return setPerson(tx, p, true)
	}
	return ix.closed(tx, p)
}

// closed looks for another room by which everybody finds somebody whom this room does not show.
func (ix *indexer) closed(tx *storage.Tx, p storage.Person) error {
	old, err := tx.Person(p.Scope, p.User)
	if errors.Is(err, storage.ErrNotFound) || err == nil && old.Room != p.Room {
		return nil
	}
	if err != nil {
		return err
	}
	p.Room, err = tx.OpenRoomOf(p.User)
	if errors.Is(err, storage.ErrNotFound) {
		return setPerson(tx, p, false)
	}
	if err != nil {
		return err
	}
	member, err := tx.Member(p.Room, p.User)
	if err != nil {
		return err
	}
	there, err := ix.describe(tx, &p, member.Pos)
	if err != nil {
		return err
	}
	return setPerson(tx, p, there)
}

// describe fills in as whom somebody is found: by the profile of a local user, by the member event at a position of any
// other. False is a local user who is not to be found.
func (ix *indexer) describe(tx *storage.Tx, p *storage.Person, member storage.Pos) (bool, error) {
	p.Name, p.Avatar = "", ""
	if !ix.local(p.User) {
		return true, describeRemote(tx, p, member)
	}
	account, err := tx.Account(p.User)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil || account.Deactivated || account.Locked {
		return false, err
	}
	fields, err := tx.Profile(p.User)
	for _, f := range fields {
		switch f.Name {
		case "displayname":
			p.Name, _ = textOf(f.Value)
		case "avatar_url":
			p.Avatar, _ = textOf(f.Value)
		}
	}
	return true, err
}

func describeRemote(tx *storage.Tx, p *storage.Person, member storage.Pos) error {
	events, err := tx.EventsAt([]storage.Pos{member})
	if err != nil || len(events) == 0 {
		return err
	}
	content := canonjson.Get(events[0].JSON, "content")
	p.Name, _ = canonjson.String(canonjson.Get(content, "displayname"))
	p.Avatar, _ = canonjson.String(canonjson.Get(content, "avatar_url"))
	if len(p.Name) > maxProfileNamed {
		p.Name = ""
	}
	if len(p.Avatar) > maxProfileNamed {
		p.Avatar = ""
	}
	return nil
}

// setPerson lets a scope find somebody as p says, or not at all.
func setPerson(tx *storage.Tx, p storage.Person, there bool) error {
	old, err := tx.Person(p.Scope, p.User)
	known := err == nil
	if err != nil && !errors.Is(err, storage.ErrNotFound) || known && there && old == p || !known && !there {
		return unlessUnknown(err)
	}
	var before, after []string
	if known {
		before = nameWords(old.User, old.Name)
	}
	if there {
		after = nameWords(p.User, p.Name)
	}
	if err := changeWords(tx, p, before, after); err != nil {
		return err
	}
	if there {
		return tx.PutPerson(p)
	}
	return tx.DropPerson(p.Scope, p.User)
}

func unlessUnknown(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

func changeWords(tx *storage.Tx, p storage.Person, before, after []string) error {
	for _, w := range before {
		if !slices.Contains(after, w) {
			if err := tx.DropPersonWord(p.Scope, w, p.User); err != nil {
				return err
			}
		}
	}
	for _, w := range after {
		if !slices.Contains(before, w) {
			if err := tx.PutPersonWord(p.Scope, w, p.User); err != nil {
				return err
			}
		}
	}
	return nil
}
