package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
)

// thingName names what an account has of a kind: somewhere is a room, or the type of account data.
func thingName(k kind, user, somewhere string) string {
	return fmt.Sprintf("%s of %s in %s", k, user, somewhere)
}

// contentOf reads one string of the object at path.
func contentOf(c *client, path, key string) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		var content map[string]any
		if err := c.read(ctx, path, &content); err != nil {
			return "", err
		}
		return fmt.Sprint(content[key]), nil
	}
}

const notRedacted = "as it was sent"

// redactionOf gives "redacted" of an event without content.
func redactionOf(c *client, room, event string) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		var found clientEvent
		if err := c.read(ctx, pathf("/rooms/%s/event/%s", room, event), &found); err != nil {
			return "", err
		}
		if len(found.Content) > 0 {
			return notRedacted, nil
		}
		return "redacted", nil
	}
}

func tagOf(c *client, path string) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		var found tagContent
		if err := c.read(ctx, path, &found); err != nil {
			return "", err
		}
		return found.order(), nil
	}
}

func limitOfFilter(c *client, path string) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		var found struct {
			Room struct{ Timeline struct{ Limit int } }
		}
		if err := c.read(ctx, path, &found); err != nil {
			return "", err
		}
		return strconv.Itoa(found.Room.Timeline.Limit), nil
	}
}

const noAlias = "gone"

// roomOfAlias gives the id of the room, or noAlias.
func roomOfAlias(c *client, path string) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		var found roomID
		err := c.read(ctx, path, &found)
		if refusal, ok := isRefused(err); ok && refusal.Status == 404 {
			return noAlias, nil
		}
		return found.ID, err
	}
}

// validityOf tells whether the client's token is "valid" or "revoked".
func validityOf(c *client) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		err := c.read(ctx, "/account/whoami", nil)
		if refusal, ok := isRefused(err); ok && refusal.Errcode == "M_UNKNOWN_TOKEN" {
			return "revoked", nil
		}
		return "valid", err
	}
}

// membershipOf tells whether a room is "joined", "left" (its past can be read) or "forgotten".
func membershipOf(c *client, room string) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		var joined struct {
			Rooms []string `json:"joined_rooms"`
		}
		if err := c.read(ctx, "/joined_rooms", &joined); err != nil {
			return "", err
		}
		if slices.Contains(joined.Rooms, room) {
			return "joined", nil
		}
		err := c.read(ctx, pathf("/rooms/%s/messages?dir=b&limit=1", room), nil)
		if refusal, ok := isRefused(err); ok && (refusal.Status == 403 || refusal.Status == 404) {
			return "forgotten", nil
		}
		return "left", err
	}
}

// passwordOf finds which of the possible passwords logs in; it is an error if both do.
func passwordOf(c *client, user string, password *cell) lookFunc {
	return func(ctx context.Context, _ *view) (string, error) {
		valid := "neither"
		for _, candidate := range []string{password.acked, password.flying} {
			ok, err := c.logsIn(ctx, user, candidate)
			if err != nil {
				return "", err
			}
			if ok && valid != "neither" {
				return "both", nil
			}
			if ok {
				valid = candidate
			}
		}
		return valid, nil
	}
}

// logsIn tries a password, and logs out again.
func (c *client) logsIn(ctx context.Context, user, password string) (bool, error) {
	if password == "" {
		return false, nil
	}
	session, err := logIn(ctx, c, "", user, password)
	if refusal, ok := isRefused(err); ok && refusal.Status == 403 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, c.as(session.Token).do(ctx, "", "POST", "/logout", nil, nil)
}

// receiptOf finds a receipt in a whole sync of its user.
func receiptOf(k kind, user, room string) lookFunc {
	return func(ctx context.Context, v *view) (string, error) {
		told, err := v.of(ctx, user)
		if err != nil {
			return "", err
		}
		return told[thingName(k, user, room)], nil
	}
}

// view is what whole syncs tell each account, asked for once in a verification.
type view struct {
	load *load
	told map[string]things // by user
}

func (v *view) of(ctx context.Context, user string) (things, error) {
	if told, ok := v.told[user]; ok {
		return told, nil
	}
	i := slices.IndexFunc(v.load.accounts, func(a *account) bool { return a.user == user })
	var answer syncAnswer
	filter := url.QueryEscape(`{"room":{"timeline":{"limit":1}}}`)
	if err := v.load.client.as(v.load.accounts[i].token).read(ctx, "/sync?filter="+filter, &answer); err != nil {
		return nil, err
	}
	v.told[user] = make(things)
	v.told[user].add(user, &answer)
	return v.told[user], nil
}

// things are values by their thingName.
type things map[string]string

// add takes in what a sync tells its user.
func (t things) add(user string, answer *syncAnswer) {
	for _, e := range answer.AccountData.Events {
		t[thingName(accountData, user, e.Type)] = e.text("body")
	}
	for room, joined := range answer.Rooms.Join {
		t.addRoomData(user, room, joined.AccountData.Events)
		for _, e := range joined.Ephemeral.Events {
			t.addReceipts(room, e)
		}
	}
}

func (t things) addRoomData(user, room string, events []clientEvent) {
	for _, e := range events {
		switch e.Type {
		case "org.example.kill":
			t[thingName(roomData, user, room)] = e.text("body")
		case "m.fully_read":
			t[thingName(readMarkers, user, room)] = e.text("event_id")
		case "m.tag":
			t[thingName(tags, user, room)] = e.tag()
		}
	}
}

func (t things) addReceipts(room string, e clientEvent) {
	if e.Type != "m.receipt" {
		return
	}
	for event, byType := range e.receipts() {
		for user := range byType["m.read"] {
			t[thingName(receipts, user, room)] = event
		}
		for user := range byType["m.read.private"] {
			t[thingName(privateReceipts, user, room)] = event
		}
	}
}

// clientEvent is an event as clients see it.
type clientEvent struct {
	ID      string         `json:"event_id"`
	Type    string         `json:"type"`
	Content map[string]any `json:"content"`
}

func (e clientEvent) text(key string) string {
	text, _ := e.Content[key].(string)
	return text
}

func (e clientEvent) tag() string {
	var content tagContent
	e.decode(&content)
	return content.order()
}

type tagContent struct {
	Tags map[string]struct{ Order float64 }
}

// order is that of the tag that writers set, "" without one.
func (c tagContent) order() string {
	tag, ok := c.Tags[tagName]
	if !ok {
		return ""
	}
	return formatOrder(tag.Order)
}

// receipts are by event id, type and user.
func (e clientEvent) receipts() map[string]map[string]map[string]any {
	var content map[string]map[string]map[string]any
	e.decode(&content)
	return content
}

// decode reads the content as into says; what does not fit stays zero and is found to be missing.
func (e clientEvent) decode(into any) {
	if text, err := json.Marshal(e.Content); err == nil {
		_ = json.Unmarshal(text, into)
	}
}

type syncAnswer struct {
	NextBatch   string                         `json:"next_batch"`
	AccountData struct{ Events []clientEvent } `json:"account_data"`
	ToDevice    struct{ Events []clientEvent } `json:"to_device"`
	Rooms       struct {
		Join map[string]struct {
			AccountData struct{ Events []clientEvent } `json:"account_data"`
			Ephemeral   struct{ Events []clientEvent }
			Timeline    struct {
				Events    []clientEvent
				Limited   bool
				PrevBatch string `json:"prev_batch"`
			}
		}
	}
}
