// Package wire is how this server reaches others: it finds the server behind a name, refuses networks that are none
// of its business, signs requests and bounds what comes back.
//
// It knows no rooms, no keys of others and no storage. Whoever receives requests uses ParseAuthorization and Verify;
// whoever sends them uses a Client.
//
// Spec: https://spec.matrix.org/latest/server-server-api/
package wire
