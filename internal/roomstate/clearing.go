package roomstate

import (
	"slices"

	"github.com/embedmatrix/homeserver/storage"
)

// WatchClearings lets fn be called whenever a member event has come with Meta.Clears, after the commit. fn may not wait.
// It is called before the cache is used.
func (c *Cache) WatchClearings(fn func()) { c.clears = fn }

// clear notes that all that the target of a member event has sent is to be redacted: in the same act, so that it is not
// forgotten.
func (w *Writer) clear(act *storage.Act, p *proposal) {
	if p.meta.Clears {
		act.Add(storage.InsertClearing, p.Pos, w.Num, int64(-1)<<63, p.Ord)
	}
}

// wakeClearer tells who redacts that there is something to do.
func (w *Writer) wakeClearer() {
	if w.cache.clears != nil && slices.ContainsFunc(w.plan, func(p proposal) bool { return p.meta.Clears }) {
		w.cache.clears()
	}
}
