package storage

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer says that the data was written by a later release.
var ErrNewer = errors.New("storage: the database was written by a newer release of this library; use that release or restore a backup")

// migration is one file of migrations/: NNNN_name.sql.
type migration struct {
	version int
	name    string
	text    string
}

func allMigrations() ([]migration, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var list []migration
	for _, f := range files {
		text, err := migrations.ReadFile(f)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(f, "migrations/")
		version, err := strconv.Atoi(name[:4])
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		list = append(list, migration{version, name, string(text)})
	}
	return list, nil
}

// MigrationsSum is a checksum of the migrations: an engine may begin with a copy of a new database that
// was made by the same ones.
func MigrationsSum() uint32 {
	all, err := allMigrations()
	if err != nil {
		return 0 // then Open fails
	}
	sum := crc32.NewIEEE()
	for _, m := range all {
		fmt.Fprintf(sum, "%s\n%s", m.name, m.text)
	}
	return sum.Sum32()
}

// migrate brings the schema up to date, each migration in a transaction of its own.
func migrate(ctx context.Context, engine Engine) error {
	have, err := schemaVersion(ctx, engine)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	all, err := allMigrations()
	if err != nil {
		return err
	}
	if newest := all[len(all)-1].version; have > newest {
		return fmt.Errorf("%w (its schema is %d, ours %d)", ErrNewer, have, newest)
	}
	for _, m := range all {
		if m.version <= have {
			continue
		}
		if err := m.run(ctx, engine); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return nil
}

const createSchema = `CREATE TABLE IF NOT EXISTS mx_schema (version BIGINT NOT NULL)`

const selectSchema = `SELECT coalesce(max(version), 0) FROM mx_schema`

const insertSchema = `INSERT INTO mx_schema (version) VALUES ($1)`

// schemaVersion returns the newest migration that ran, 0 for a new database.
func schemaVersion(ctx context.Context, engine Engine) (int, error) {
	conn, err := engine.Begin(ctx, false)
	if err != nil {
		return 0, err
	}
	defer conn.Rollback() //nolint:errcheck // does nothing after Commit
	tx := &Tx{conn: conn, ctx: context.WithoutCancel(ctx), dialect: engine.Dialect()}
	if _, err := tx.exec(createSchema); err != nil {
		return 0, err
	}
	v, err := one(tx, value[int], selectSchema)
	if err != nil {
		return 0, err
	}
	return v, conn.Commit()
}

func (m migration) run(ctx context.Context, engine Engine) error {
	conn, err := engine.Begin(ctx, false)
	if err != nil {
		return err
	}
	defer conn.Rollback() //nolint:errcheck // does nothing after Commit
	tx := &Tx{conn: conn, ctx: context.WithoutCancel(ctx), dialect: engine.Dialect()}
	for _, s := range statements(m.text, engine.Dialect()) {
		if _, err := tx.exec(s); err != nil {
			return fmt.Errorf("%w in: %s", err, s)
		}
	}
	if _, err := tx.exec(insertSchema, m.version); err != nil {
		return err
	}
	return conn.Commit()
}

// statements splits a migration at the semicolons that end a line, fills in the macros and leaves out
// what a line "-- only: postgres" or "-- only: sqlite" keeps for the other dialect.
func statements(text string, d Dialect) []string {
	macros := strings.NewReplacer("{intkey}", "INTEGER PRIMARY KEY", "{blob}", "BLOB", "{clustered}", "WITHOUT ROWID")
	if d == PostgreSQL {
		macros = strings.NewReplacer("{intkey}", "BIGINT PRIMARY KEY", "{blob}", "BYTEA", "{clustered}", "")
	}
	var list []string
	for _, s := range strings.Split(text, ";\n") {
		only, s := leadingComments(s)
		if s == "" || only == "postgres" && d != PostgreSQL || only == "sqlite" && d != SQLite {
			continue
		}
		list = append(list, macros.Replace(s))
	}
	return list
}

// leadingComments drops the comment lines before a statement and returns what "-- only:" said.
func leadingComments(s string) (only, rest string) {
	s = strings.TrimSpace(s)
	for strings.HasPrefix(s, "--") {
		line, after, _ := strings.Cut(s, "\n")
		if o, ok := strings.CutPrefix(line, "-- only: "); ok {
			only = strings.TrimSpace(o)
		}
		s = strings.TrimSpace(after)
	}
	return only, s
}
