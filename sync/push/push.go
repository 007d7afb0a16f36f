// Package push is sync for devices that are asleep: which events a person wants to be told of.
//
// So far it tells the server-default push rules, without which clients do not start to sync. Changing them, counting by
// them and pushing come later.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#push-notifications
package push

// Service answers the push endpoints.
type Service struct{}

// New returns the service. It starts nothing and does no I/O.
func New() *Service { return &Service{} }
