package httpapi

import (
	"encoding/json"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// checkJSON stands in for canonjson.CheckLenient until that package is there.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) || !json.Valid(body) {
		return mxerr.NotJSON
	}
	return nil
}
