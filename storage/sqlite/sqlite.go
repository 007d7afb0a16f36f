// Package sqlite is the storage engine for SQLite, by the driver modernc.org/sqlite: pure Go, no cgo.
//
// Importing it links that driver, which registers itself with database/sql under the name "sqlite"; a
// program that links another driver of that name panics at start, so import one of them only.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite" // registers the driver
	lib "modernc.org/sqlite/lib"

	"github.com/embedmatrix/homeserver/storage"
)

// readers is how many snapshots may be open at once on a file; more wait for each other.
const readers = 8

// filePragmas are the settings of every connection to a file. The write-ahead log is copied into the file by
// the writer when it has 4 MB: a longer one holds writers up for longer, and a copier of its own was measured
// to take more time in all. A log that was long, because of a long snapshot, is cut back to 64 MB.
var filePragmas = []string{
	"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-4000)", "temp_store(MEMORY)",
	"wal_autocheckpoint(1000)", "journal_size_limit(67108864)",
}

// Open returns an engine on the file at path, which is made when it is missing, readable by its owner
// only, in WAL mode with synchronous=FULL: a commit that returned survives a power cut. Beside the file
// SQLite keeps path-wal and path-shm, and the engine path-lock, by which a second process is refused.
// Nothing is read or written before the first use. The file must not be on a network file system.
func Open(path string) (storage.Engine, error) {
	if path == "" || path == ":memory:" {
		return nil, fmt.Errorf("sqlite: %q is not the path of a file; see Memory", path)
	}
	path, err := realPath(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	db, err := sql.Open("sqlite", fileURL(path, filePragmas...))
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	db.SetMaxIdleConns(readers + 1)
	e := &engine{db: db, path: path}
	e.read = newPool(e.connect, readers)
	e.write = newPool(e.connectWriter, 1)
	return e, nil
}

// Memory returns an engine on a new database in memory that is gone after Close. It has one connection:
// transactions wait for each other.
func Memory() storage.Engine { return memory(emptyImage()) }

// memory returns an engine on a database in memory that begins as image; nil is an empty one.
func memory(image []byte) *engine {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		panic(fmt.Sprintf("sqlite: open a database in memory: %v", err)) // the driver only parses its constant name
	}
	e := &engine{db: db, image: image}
	e.write = newPool(e.connectMemory, 1)
	e.read = e.write
	return e
}

// realPath follows symbolic links, so that two names of one file have one lock.
func realPath(path string) (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, filepath.Base(path))
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, nil
	}
	return path, nil
}

// fileURL is the name by which SQLite opens a file with these settings.
func fileURL(path string, pragmas ...string) string {
	path = filepath.ToSlash(path)
	if filepath.VolumeName(path) != "" {
		path = "/" + path // file:/C:/…
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{"_pragma": pragmas}.Encode()}).String()
}

type engine struct {
	db          *sql.DB
	path        string // of the file; empty in memory
	image       []byte // what a database in memory begins as
	read, write *pool
	locked      atomic.Bool // in memory
}

func (e *engine) Dialect() storage.Dialect { return storage.SQLite }

// Begin takes a connection and begins a transaction on it.
func (e *engine) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	pool := e.write
	if readOnly {
		pool = e.read
	}
	c, err := pool.take(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.begin(readOnly); err != nil {
		pool.put(c)
		return nil, err
	}
	return &transaction{connection: c, pool: pool}, nil
}

// Close waits for the open transactions and closes every connection.
func (e *engine) Close() error {
	errs := []error{e.read.close()}
	if e.write != e.read {
		errs = append(errs, e.write.close())
	}
	return errors.Join(append(errs, e.db.Close())...)
}

// Lock keeps a second process off the file, and a second use of the engine, by an exclusive transaction on
// a small file beside it. The operating system drops it when the process dies.
func (e *engine) Lock(ctx context.Context) (func() error, error) {
	if e.path == "" {
		return e.lockMemory()
	}
	lock := e.path + "-lock"
	if err := create(lock); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", fileURL(lock, "busy_timeout(0)", "locking_mode(EXCLUSIVE)", "journal_mode(OFF)"))
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err == nil {
		_, err = conn.ExecContext(context.Background(), "BEGIN EXCLUSIVE")
	}
	if code(err) == lib.SQLITE_BUSY {
		err = fmt.Errorf("another process uses this database: %w", err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", lock, err), db.Close())
	}
	return func() error { return errors.Join(conn.Close(), db.Close()) }, nil
}

func (e *engine) lockMemory() (func() error, error) {
	if e.locked.Swap(true) {
		return nil, errors.New("sqlite: this database in memory is in use")
	}
	return func() error { e.locked.Store(false); return nil }, nil
}

// code is the primary code of an error of SQLite, 0 of another.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// create makes a file that only its owner may read. One that exists is left alone: closing a file drops
// the locks that this process has on it.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// connect opens a connection to the file.
func (e *engine) connect(ctx context.Context) (*connection, error) {
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", e.path, err)
	}
	return newConnection(conn), nil
}

// connectWriter opens the connection that writes, and refuses a file system that cannot do what is promised.
func (e *engine) connectWriter(ctx context.Context) (*connection, error) {
	if err := create(e.path); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	var mode string
	if err := c.conn.QueryRowContext(context.Background(), "PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		return nil, errors.Join(fmt.Errorf("sqlite: %s: the file system does not allow a write-ahead log (journal mode %q)", e.path, mode), err, c.close())
	}
	return c, nil
}

// connectMemory opens the connection of a database in memory.
func (e *engine) connectMemory(ctx context.Context) (*connection, error) {
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	c := newConnection(conn)
	c.only = true
	if e.image != nil {
		err = conn.Raw(func(driver any) error {
			return driver.(interface{ Deserialize([]byte) error }).Deserialize(e.image)
		})
		e.image = nil
	}
	for _, pragma := range []string{"journal_mode = MEMORY", "synchronous = OFF", "temp_store = MEMORY"} {
		if err == nil {
			_, err = conn.ExecContext(context.Background(), "PRAGMA "+pragma)
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// pool holds connections that are opened when they are first needed; a nil in free is one not yet opened.
type pool struct {
	open   func(context.Context) (*connection, error)
	free   chan *connection
	closed chan struct{}
	once   sync.Once
}

func newPool(open func(context.Context) (*connection, error), size int) *pool {
	p := &pool{open: open, free: make(chan *connection, size), closed: make(chan struct{})}
	for range size {
		p.free <- nil
	}
	return p
}

func (p *pool) take(ctx context.Context) (*connection, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-p.closed:
		return nil, storage.ErrClosed
	default:
	}
	select {
	case c := <-p.free:
		return p.opened(ctx, c)
	case <-p.closed:
		return nil, storage.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pool) opened(ctx context.Context, c *connection) (*connection, error) {
	if c != nil {
		return c, nil
	}
	c, err := p.open(ctx)
	if err != nil {
		p.free <- nil
	}
	return c, err
}

// put gives a connection back. One that is in doubt is closed, and opened anew when it is needed; of a
// database in memory there is only the one.
func (p *pool) put(c *connection) {
	if c.doubt && !c.only {
		c.close() //nolint:errcheck // the error that put it in doubt has been told
		c = nil
	}
	p.free <- c
}

// close waits for all connections and closes them.
func (p *pool) close() error {
	var errs []error
	p.once.Do(func() {
		close(p.closed)
		for range cap(p.free) {
			if c := <-p.free; c != nil {
				errs = append(errs, c.close())
			}
		}
	})
	return errors.Join(errs...)
}
