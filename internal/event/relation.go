package event

import (
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
)

// Relation is how the event relates to which other one, "" when it does not. A relation that is malformed is none; so is one
// inside of what is encrypted. That a type is no longer than 255 bytes is the rule of its grammar.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#forming-relationships-between-events
func (e *Event) Relation() (relType string, parent id.EventID) {
	rel := canonjson.Get(e.content, "m.relates_to")
	if rel == nil {
		return "", ""
	}
	relType, ok := canonjson.String(canonjson.Get(rel, "rel_type"))
	if !ok || relType == "" || len(relType) > MaxKey || strings.IndexByte(relType, 0) >= 0 {
		return "", ""
	}
	text, _ := canonjson.String(canonjson.Get(rel, "event_id"))
	parent, err := id.ParseEventID(text)
	if err != nil {
		return "", ""
	}
	return relType, parent
}
