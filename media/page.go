package media

import (
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
	"golang.org/x/net/html/charset"
)

// The bounds of what a page may say of itself.
const (
	maxField  = 2048 // bytes of a value, of which the rest is left out
	maxFields = 50
)

// offer adds a value if there is none.
func (c card) offer(name, value string) {
	value = strings.Join(strings.Fields(strings.ToValidUTF8(value, "")), " ")
	if _, there := c[name]; there || value == "" || len(c) >= maxFields {
		return
	}
	c[name] = clip(value, maxField)
}

// references are where a page says that there is more.
type references struct{ image, oEmbed *url.URL }

// reference is an address that a page names, nil if it is none.
func reference(base *url.URL, text string) *url.URL {
	if text == "" || len(text) > maxURL {
		return nil
	}
	u, err := base.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil
	}
	return u
}

// pageCard reads what a page says of itself: OpenGraph first, then Twitter's cards, then JSON-LD, then what every page
// has. It reads the page once, without making a tree of it.
func pageCard(base *url.URL, contentType string, page io.Reader) (card, references) {
	p := &pageReader{base: base, said: map[string]string{}, og: card{}}
	if utf8Page, err := charset.NewReader(page, contentType); err == nil {
		p.read(utf8Page)
	}
	return p.card()
}

// pageReader collects what a page says.
type pageReader struct {
	base *url.URL
	og   card              // og:…, as it is said
	said map[string]string // the first of everything else, by name
	from references
	text strings.Builder // of the first paragraphs

	behind func(text string) // takes the text that follows the last tag at once; nil: nobody
}

// maxTokens bounds how many tags are looked at.
const maxTokens = 50_000

// read reads the page's tags.
func (p *pageReader) read(page io.Reader) {
	z := html.NewTokenizer(page)
	z.SetMaxBuf(maxPage)
	for range maxTokens {
		switch z.Next() {
		case html.ErrorToken:
			return
		case html.TextToken:
			if p.behind != nil {
				p.behind(string(z.Text()))
			}
			p.behind = nil
		case html.StartTagToken, html.SelfClosingTagToken:
			p.behind = nil
			p.tag(z)
		case html.EndTagToken:
			p.behind = nil
		}
	}
}

// tag takes up what a tag says, and who takes the text behind it.
func (p *pageReader) tag(z *html.Tokenizer) {
	name, more := z.TagName()
	switch atom.Lookup(name) {
	case atom.Meta:
		p.meta(attributes(z, more))
	case atom.Link:
		p.link(attributes(z, more))
	case atom.Title:
		p.behind = func(text string) { p.say("title", text) }
	case atom.Script:
		if strings.EqualFold(attributes(z, more)["type"], "application/ld+json") {
			p.behind = p.linkedData
		}
	case atom.Img:
		p.say("img", attributes(z, more)["src"])
	case atom.H1:
		p.behind = func(text string) { p.say("h1", text) }
	case atom.P:
		if p.text.Len() < 500 {
			p.behind = func(text string) { p.text.WriteString(text + " ") }
		}
	}
}

func attributes(z *html.Tokenizer, more bool) map[string]string {
	all := map[string]string{}
	for more && len(all) < 20 {
		var name, value []byte
		name, value, more = z.TagAttr()
		if _, again := all[string(name)]; !again {
			all[string(name)] = string(value)
		}
	}
	return all
}

// say keeps the first value of a name.
func (p *pageReader) say(name, value string) {
	if value = strings.TrimSpace(value); p.said[name] == "" && value != "" && len(p.said) < maxFields {
		p.said[name] = clip(value, maxURL)
	}
}

func (p *pageReader) meta(a map[string]string) {
	name := a["property"]
	if name == "" {
		name = a["name"]
	}
	name = strings.ToLower(strings.TrimSpace(name))
	switch {
	case name == "og:image" || name == "og:image:url" || name == "og:image:secure_url":
		p.say("og:image", a["content"])
	case strings.HasPrefix(name, "og:image"): // told of the image that is kept here instead
	case strings.HasPrefix(name, "og:") && len(name) <= 64:
		p.og.offer(name, a["content"])
	case slices.Contains([]string{"twitter:title", "twitter:description", "twitter:image", "twitter:image:src", "twitter:site", "description"}, name):
		p.say(name, a["content"])
	}
}

func (p *pageReader) link(a map[string]string) {
	rel := strings.Fields(strings.ToLower(a["rel"]))
	switch {
	case slices.Contains(rel, "alternate") && strings.EqualFold(a["type"], "application/json+oembed"):
		p.say("oembed", a["href"])
	case slices.Contains(rel, "image_src"):
		p.say("image_src", a["href"])
	}
}

// linkedData takes up what JSON-LD says of the page as a whole.
func (p *pageReader) linkedData(text string) {
	var d struct {
		Headline    string          `json:"headline"`
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Image       json.RawMessage `json:"image"`
	}
	if json.Unmarshal([]byte(text), &d) != nil {
		return
	}
	p.say("ld:title", d.Headline)
	p.say("ld:title", d.Name)
	p.say("ld:description", d.Description)
	p.say("ld:image", imageOf(d.Image))
}

// imageOf is an address, that in an object, or the first of several.
func imageOf(raw json.RawMessage) string {
	var several []json.RawMessage
	if json.Unmarshal(raw, &several) == nil && len(several) > 0 {
		raw = several[0]
	}
	var address string
	if json.Unmarshal(raw, &address) == nil {
		return address
	}
	var object struct {
		URL string `json:"url"`
	}
	_ = json.Unmarshal(raw, &object) // of another form it has no address
	return object.URL
}

// card makes the best of what was said.
func (p *pageReader) card() (card, references) {
	for _, name := range []string{"twitter:title", "ld:title", "title", "h1"} {
		p.og.offer("og:title", p.said[name])
	}
	for _, name := range []string{"twitter:description", "ld:description", "description"} {
		p.og.offer("og:description", p.said[name])
	}
	p.og.offer("og:description", clip(p.text.String(), 500))
	p.og.offer("og:site_name", p.said["twitter:site"])
	for _, name := range []string{"og:image", "twitter:image", "twitter:image:src", "ld:image", "image_src", "img"} {
		if p.from.image == nil {
			p.from.image = reference(p.base, p.said[name])
		}
	}
	p.from.oEmbed = reference(p.base, p.said["oembed"])
	return p.og, p.from
}
