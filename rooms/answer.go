package rooms

import "sync"

// rawJSON is an answer that is JSON already.
type rawJSON []byte

// AppendJSON implements the answer of httpapi that writes itself.
func (r *rawJSON) AppendJSON(dst []byte) []byte { return append(dst, *r...) }

func answer(body []byte) *rawJSON { return (*rawJSON)(&body) }

// maxBeside is how many pieces of work for one request are done at the same time.
const maxBeside = 16

// eachBeside calls fn for every item, several at a time, and returns when all have returned.
func eachBeside[T any](items []T, fn func(T)) {
	var wg sync.WaitGroup
	free := make(chan struct{}, maxBeside)
	for _, item := range items {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			fn(item)
		})
	}
	wg.Wait()
}
