package federation

import "github.com/embedmatrix/homeserver/internal/id"

// MaxWantedLists is maxWantedLists.
const MaxWantedLists = maxWantedLists

// Want is want.
func (d *Devices) Want(users ...id.UserID) { d.want(users...) }
