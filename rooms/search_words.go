package rooms

import (
	"strings"
	"unicode"

	"github.com/embedmatrix/homeserver/internal/canonjson"
)

// Words are cut and folded here, for messages and for names alike, so that every database finds the same. A word is a
// run of letters, digits and the marks on them; where people write without spaces, every character is one.

// maxWord bounds a word, in characters. What is longer is cut: it is found by its beginning.
const maxWord = 64

// word is a word of a text.
type word struct {
	text  string
	glued bool // nothing is between it and the one before
}

// words cuts a text.
func words(text string) (list []word) {
	var b strings.Builder
	n, glued := 0, false
	end := func() {
		if n > 0 {
			list = append(list, word{b.String(), glued})
			glued, n = true, 0
			b.Reset()
		}
	}
	for _, r := range text {
		switch {
		case !unicode.In(r, unicode.L, unicode.N, unicode.M):
			end()
			glued = false
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar):
			end()
			list = append(list, word{string(fold(r)), glued})
			glued = true
		default:
			if n++; n <= maxWord {
				b.WriteRune(fold(r))
			}
		}
	}
	end()
	return list
}

// fold makes all forms of a letter one: upper and lower case, the final sigma.
func fold(r rune) rune {
	if r < unicode.MaxASCII {
		return unicode.ToLower(r)
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return unicode.ToLower(least)
}

// texts are the words without more.
func texts(list []word) []string {
	all := make([]string, len(list))
	for i, w := range list {
		all[i] = w.text
	}
	return all
}

// phrases are what is looked for: words that stand beside each other. What stands between quotation marks does.
func phrases(term string) (list [][]string) {
	for i, part := range strings.Split(term, `"`) {
		for j, w := range words(part) {
			if j > 0 && (w.glued || i%2 == 1) {
				list[len(list)-1] = append(list[len(list)-1], w.text)
			} else {
				list = append(list, []string{w.text})
			}
		}
	}
	return list
}

// searchKey is a key under which a text can be searched, and its name in the index.
type searchKey struct{ key, mark string }

// The keys under which a text can be searched, as the index calls them.
var searchKeys = [...]searchKey{
	{"content.body", "body"}, {"content.name", "name"}, {"content.topic", "topic"},
}

// textIn returns the text by which an event with this type and content is found, and under which key; none is "".
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room_events
func textIn(eventType string, state bool, content []byte) (mark, text string) {
	switch {
	case eventType == "m.room.message" && !state:
		text, _ = canonjson.String(canonjson.Get(content, "body"))
		return "body", text
	case eventType == "m.room.name" && state:
		text, _ = canonjson.String(canonjson.Get(content, "name"))
		return "name", text
	case eventType == "m.room.topic" && state:
		return "topic", topicIn(content)
	}
	return "", ""
}

// topicIn is content.topic and the body of the text/plain representation in content['m.topic'], once if they agree.
func topicIn(content []byte) string {
	text, _ := canonjson.String(canonjson.Get(content, "topic"))
	forms := canonjson.OpenArray(canonjson.Get(content, "m.topic", "m.text"))
	for {
		form, ok := forms.Next()
		if !ok {
			return text
		}
		mime, typed := canonjson.String(canonjson.Get(form, "mimetype"))
		if body, ok := canonjson.String(canonjson.Get(form, "body")); ok && (!typed || mime == "text/plain") && body != text {
			return text + "\n" + body
		}
	}
}
