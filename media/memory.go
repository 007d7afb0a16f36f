package media

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
)

// Memory returns an empty Store that keeps its files in memory and loses them with the process.
func Memory() Store {
	return &memory{files: make(map[string][]byte)}
}

type memory struct {
	mu    sync.RWMutex      // guards the following
	files map[string][]byte // a value is never written to again
}

func (m *memory) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	var file bytes.Buffer
	if err := exactly(ctx, &file, r, size); err != nil {
		return fmt.Errorf("media: put %q: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[key] = file.Bytes()
	return nil
}

func (m *memory) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	m.mu.RLock()
	file, ok := m.files[key]
	m.mu.RUnlock()
	if !ok {
		return nil, 0, ErrNotFound
	}
	from, to, err := part(offset, length, int64(len(file)))
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(bytes.NewReader(file[from:to])), int64(len(file)), nil
}

func (m *memory) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, key)
	return nil
}
