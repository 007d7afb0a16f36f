// Package mxerr is the error a client sees: a Matrix error code, an HTTP status and plain words.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#standard-error-response
package mxerr

import (
	"fmt"
	"maps"
	"time"
)

// Error is a standard error response. Values of this package are templates and never change:
// With, Set and WithStatus return copies.
type Error struct {
	Code       string         // errcode
	Status     int            // HTTP status
	Message    string         // error: plain words for a person, no internals
	Extra      map[string]any // further keys that the code defines
	RetryAfter time.Duration  // sent as Retry-After when positive
}

// Error is the text for a log or a wrapping error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is reports whether target is an Error of the same code, so that errors.Is(err, mxerr.NotFound) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With returns a copy that says something more exact.
func (e *Error) With(format string, args ...any) *Error {
	c := *e
	c.Message = fmt.Sprintf(format, args...)
	return &c
}

// Set returns a copy with one more key in the body.
func (e *Error) Set(key string, value any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = map[string]any{}
	}
	c.Extra[key] = value
	return &c
}

// WithStatus returns a copy with another HTTP status.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.Status = status
	return &c
}

// The errors of the specification.
var (
	BadJSON                = &Error{Code: "M_BAD_JSON", Status: 400, Message: "the JSON does not have the expected form"}
	NotJSON                = &Error{Code: "M_NOT_JSON", Status: 400, Message: "the body is not JSON"}
	MissingParam           = &Error{Code: "M_MISSING_PARAM", Status: 400, Message: "a parameter is missing"}
	InvalidParam           = &Error{Code: "M_INVALID_PARAM", Status: 400, Message: "a parameter has an invalid value"}
	BadRequest             = &Error{Code: "M_UNKNOWN", Status: 400, Message: "the request cannot be served"}
	BadState               = &Error{Code: "M_BAD_STATE", Status: 400, Message: "the room is not in a state that allows this"}
	UserInUse              = &Error{Code: "M_USER_IN_USE", Status: 400, Message: "the user name is taken"}
	InvalidUsername        = &Error{Code: "M_INVALID_USERNAME", Status: 400, Message: "the user name is not valid"}
	Exclusive              = &Error{Code: "M_EXCLUSIVE", Status: 400, Message: "the name is reserved by an application service"}
	WeakPassword           = &Error{Code: "M_WEAK_PASSWORD", Status: 400, Message: "the password is too weak"}
	RoomInUse              = &Error{Code: "M_ROOM_IN_USE", Status: 400, Message: "the room alias is taken"}
	BadAlias               = &Error{Code: "M_BAD_ALIAS", Status: 400, Message: "an alias does not point to this room"}
	InvalidRoomState       = &Error{Code: "M_INVALID_ROOM_STATE", Status: 400, Message: "the initial state is not valid"}
	UnsupportedRoomVersion = &Error{Code: "M_UNSUPPORTED_ROOM_VERSION", Status: 400, Message: "the room version is not supported"}
	IncompatibleVersion    = &Error{Code: "M_INCOMPATIBLE_ROOM_VERSION", Status: 400, Message: "the room's version is not supported"}
	InvalidSignature       = &Error{Code: "M_INVALID_SIGNATURE", Status: 400, Message: "a signature is not valid"}
	DuplicateAnnotation    = &Error{Code: "M_DUPLICATE_ANNOTATION", Status: 400, Message: "the same annotation was already sent"}
	ProfileTooLarge        = &Error{Code: "M_PROFILE_TOO_LARGE", Status: 400, Message: "the profile would be larger than 64 KiB"}
	KeyTooLarge            = &Error{Code: "M_KEY_TOO_LARGE", Status: 400, Message: "the key is longer than 255 bytes"}
	ThreepidInUse          = &Error{Code: "M_THREEPID_IN_USE", Status: 400, Message: "the third-party identifier belongs to somebody else"}
	UnknownDevice          = &Error{Code: "M_UNKNOWN_DEVICE", Status: 400, Message: "the device does not belong to the user"}
	URLNotSet              = &Error{Code: "M_URL_NOT_SET", Status: 400, Message: "the application service has no URL"}
	AppserviceLogin        = &Error{Code: "M_APPSERVICE_LOGIN_UNSUPPORTED", Status: 400, Message: "application services do not log in here"}
	UnableToAuthoriseJoin  = &Error{Code: "M_UNABLE_TO_AUTHORISE_JOIN", Status: 400, Message: "this server cannot tell whether the user may join"}
	UnableToGrantJoin      = &Error{Code: "M_UNABLE_TO_GRANT_JOIN", Status: 400, Message: "nobody on this server may let the user join"}
	MissingToken           = &Error{Code: "M_MISSING_TOKEN", Status: 401, Message: "an access token is required"}
	UnknownToken           = &Error{Code: "M_UNKNOWN_TOKEN", Status: 401, Message: "the access token is unknown or no longer valid"}
	Unauthorized           = &Error{Code: "M_UNAUTHORIZED", Status: 401, Message: "the request is not authenticated"}
	UserLocked             = &Error{Code: "M_USER_LOCKED", Status: 401, Message: "this account is locked"}
	Forbidden              = &Error{Code: "M_FORBIDDEN", Status: 403, Message: "this is not allowed"}
	GuestAccessForbidden   = &Error{Code: "M_GUEST_ACCESS_FORBIDDEN", Status: 403, Message: "guests may not do this"}
	UserDeactivated        = &Error{Code: "M_USER_DEACTIVATED", Status: 403, Message: "this account was deactivated"}
	UserSuspended          = &Error{Code: "M_USER_SUSPENDED", Status: 403, Message: "this account is suspended"}
	InviteBlocked          = &Error{Code: "M_INVITE_BLOCKED", Status: 403, Message: "this user does not take invites"}
	ResourceLimitExceeded  = &Error{Code: "M_RESOURCE_LIMIT_EXCEEDED", Status: 403, Message: "the server has reached a limit"}
	UserLimitExceeded      = &Error{Code: "M_USER_LIMIT_EXCEEDED", Status: 403, Message: "a limit of this account has been reached"}
	ThreepidDenied         = &Error{Code: "M_THREEPID_DENIED", Status: 403, Message: "this third-party identifier is not allowed"}
	WrongRoomKeysVersion   = &Error{Code: "M_WRONG_ROOM_KEYS_VERSION", Status: 403, Message: "this is not the current version of the key backup"}
	NotFound               = &Error{Code: "M_NOT_FOUND", Status: 404, Message: "not found"}
	Unrecognized           = &Error{Code: "M_UNRECOGNIZED", Status: 404, Message: "there is no such endpoint"}
	BadMethod              = &Error{Code: "M_UNRECOGNIZED", Status: 405, Message: "the endpoint does not support this method"}
	Conflict               = &Error{Code: "M_UNKNOWN", Status: 409, Message: "it exists already"}
	CannotOverwriteMedia   = &Error{Code: "M_CANNOT_OVERWRITE_MEDIA", Status: 409, Message: "the media has been uploaded already"}
	TooLarge               = &Error{Code: "M_TOO_LARGE", Status: 413, Message: "the request or event is too large"}
	LimitExceeded          = &Error{Code: "M_LIMIT_EXCEEDED", Status: 429, Message: "too many requests"}
	Unknown                = &Error{Code: "M_UNKNOWN", Status: 500, Message: "internal error"}
	NotYetUploaded         = &Error{Code: "M_NOT_YET_UPLOADED", Status: 504, Message: "the media has not been uploaded yet"}
	ThreepidNotFound       = &Error{Code: "M_THREEPID_NOT_FOUND", Status: 400, Message: "the third-party identifier is not known"}
	CannotLeaveNotices     = &Error{Code: "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", Status: 403, Message: "this room cannot be left"}
)
