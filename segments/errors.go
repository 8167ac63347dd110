package segments

import "errors"

var errTooManySegments = errors.New("the log file has as many segments as it can have")
