package rooms

import (
	"encoding/json"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// maxTemplate bounds a template: a member event with its references.
const maxTemplate = event.MaxPDU

// complete makes the event of a template that another server has given for a wish. Of the template it takes the
// references, the depth and who vouches for the user; everything else is this server's own, so that nothing is ever
// signed but the member event that was wished for.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_joinroomiduserid
func (s *Service) complete(t *Template, wish Wish, content map[string]any) (*event.Event, error) {
	rules, ok := roomversion.Get(t.Version)
	if t.Version == "" {
		rules, ok = roomversion.Get(unnamed(t.Event))
	}
	if !ok {
		return nil, mxerr.IncompatibleVersion.Set("room_version", t.Version)
	}
	if len(t.Event) > maxTemplate || canonjson.CheckLenient(t.Event) != nil {
		return nil, mxerr.BadJSON.With("the template is no event")
	}
	if err := isTemplate(t.Event, wish); err != nil {
		return nil, err
	}
	d := event.Draft{
		Room: wish.Room, Sender: wish.User, Type: "m.room.member", StateKey: (*string)(&wish.User),
		OriginServerTS: s.Now().UnixMilli(), Rules: rules, Depth: gjson.GetBytes(t.Event, "depth").Int(),
	}
	var err error
	if d.PrevEvents, d.PrevHashes, err = references(rules, t.Event, "prev_events", event.MaxPrevEvents); err != nil {
		return nil, err
	}
	if d.AuthEvents, d.AuthHashes, err = references(rules, t.Event, "auth_events", event.MaxAuthEvents); err != nil {
		return nil, err
	}
	if voucher := gjson.GetBytes(t.Event, "content.join_authorised_via_users_server"); voucher.Type == gjson.String && wish.Membership == "join" {
		content["join_authorised_via_users_server"] = voucher.String()
	}
	if d.Content, err = json.Marshal(content); err != nil {
		return nil, err
	}
	return event.Build(d, s.ServerName, s.Key)
}

// unnamed is the version of a room whose server does not name it: "assumed to be either "1" or "2"". References that
// neither of the two has are those of the first that has them; whether the room is of that version shows in its state.
func unnamed(template json.RawMessage) string {
	if gjson.GetBytes(template, "prev_events.0").Type == gjson.String {
		return "3"
	}
	return "1"
}

// isTemplate sees that a template is one of the event that was asked for.
//
// "the joining server MUST verify" room_id, sender, state_key, type and membership.
func isTemplate(raw json.RawMessage, wish Wish) error {
	for path, want := range map[string]string{
		"room_id": string(wish.Room), "sender": string(wish.User), "state_key": string(wish.User),
		"type": "m.room.member", "content.membership": wish.Membership,
	} {
		if got := gjson.GetBytes(raw, path); got.Type != gjson.String || got.String() != want {
			return mxerr.BadJSON.With("the template's %s is not %s", path, want)
		}
	}
	return nil
}

// references reads prev_events or auth_events of a template: ids, in versions 1 and 2 each with a hash.
func references(rules *roomversion.Rules, raw json.RawMessage, key string, most int) ([]id.EventID, map[id.EventID]string, error) {
	list := gjson.GetBytes(raw, key)
	if !list.IsArray() || len(list.Array()) > most {
		return nil, nil, mxerr.BadJSON.With("%s is no list of at most %d events", key, most)
	}
	var ids []id.EventID
	hashes := map[id.EventID]string{}
	for _, r := range list.Array() {
		text := r
		if rules.EventIDs == roomversion.EventIDInEvent {
			text = r.Get("0")
		}
		eventID, err := id.ParseEventID(text.String())
		if text.Type != gjson.String || err != nil {
			return nil, nil, mxerr.BadJSON.With("%s has what is no event id", key)
		}
		ids = append(ids, eventID)
		hashes[eventID] = r.Get("1.sha256").String()
	}
	return ids, hashes, nil
}
