package main

import (
	"errors"
	"fmt"
)

// refusal is why an envelope is not opened; reason is a word of ENVELOPE.md §5.
type refusal struct {
	reason string
	detail string
}

func (r *refusal) Error() string { return r.reason + ": " + r.detail }

func refuse(reason, format string, args ...any) error {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// reasonOf is the word of a refusal, or "" for an error that is none: a defect of this reader.
func reasonOf(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.reason
	}
	return ""
}
