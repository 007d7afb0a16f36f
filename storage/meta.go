package storage

const selectMeta = `SELECT value FROM mx_meta WHERE name = $1`

// Meta returns what was stored about the server itself under a name, or ErrNotFound.
func (tx *Tx) Meta(name string) ([]byte, error) {
	return one(tx, value[[]byte], selectMeta, name)
}

const insertMeta = `INSERT INTO mx_meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`

// PutMeta stores something about the server itself, once: what is there already stays.
func (tx *Tx) PutMeta(name string, value []byte) error {
	_, err := tx.exec(insertMeta, name, value)
	return err
}
