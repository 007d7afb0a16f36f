package event

// ContentHash is the content hash of canonical JSON, for the specification's events, which lack
// fields that every event has.
func ContentHash(canonical []byte) []byte {
	hash := contentHash(canonical)
	return hash[:]
}
