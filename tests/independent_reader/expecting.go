package main

import (
	"bytes"
	"slices"
)

// expectation is what a receiver is there for: step 4 of ENVELOPE.md §5. What is not given is not checked.
type expectation struct {
	Sender     string     `json:"sender"`
	Senders    []string   `json:"senders"`
	Suites     []string   `json:"suites"`
	Federation string     `json:"federation"`
	Direction  string     `json:"direction"`
	Suite      string     `json:"suite"`
	Round      *uint64    `json:"round"`
	Challenge  hexBytes   `json:"challenge"`
	Now        *uint64    `json:"now"`
	Recipient  hexBytes   `json:"recipient"`
	BaseModel  hexBytes   `json:"base_model"`
	Most       *uint64    `json:"max_plaintext_bytes"`
	Accepted   []hexBytes `json:"accepted"`
	OneOnly    bool       `json:"one_per_sender"`
	NeedsExtra bool       `json:"requires_extra_key"`
}

// check holds a header against the expectation, in the order of the table of reasons.
func (e *expectation) check(h *header) error {
	for _, step := range []func(*header) error{e.checkKind, e.checkTime, e.checkContent} {
		if err := step(h); err != nil {
			return err
		}
	}
	return nil
}

func (e *expectation) checkKind(h *header) error {
	switch {
	case e.Federation != "" && h.federation != e.Federation:
		return refuse("wrong_federation", "%q", h.federation)
	case e.Direction != "" && h.direction != e.Direction:
		return refuse("wrong_direction", "%q", h.direction)
	case e.Suite != "" && h.suiteID != e.Suite:
		return refuse("wrong_suite", "%q", h.suiteID)
	}
	return nil
}

func (e *expectation) checkTime(h *header) error {
	switch {
	case e.Round != nil && h.round < *e.Round:
		return refuse("stale", "round %d", h.round)
	case e.Round != nil && h.round > *e.Round:
		return refuse("wrong_round", "round %d", h.round)
	case e.Challenge != nil && !bytes.Equal(h.challenge, e.Challenge):
		return refuse("wrong_challenge", "another round's")
	case e.Now != nil && h.notAfter != 0 && *e.Now > h.notAfter:
		return refuse("expired", "not after %d", h.notAfter)
	}
	return nil
}

func (e *expectation) checkContent(h *header) error {
	switch {
	case e.Recipient != nil && (len(h.recipients) != 1 || !bytes.Equal(h.recipients[0], e.Recipient)):
		return refuse("misaddressed", "sealed to others")
	case e.BaseModel != nil && !bytes.Equal(h.baseModel, e.BaseModel):
		return refuse("wrong_base_model", "another model's change")
	case e.Most != nil && h.length > *e.Most:
		return refuse("too_large", "a plaintext of %d bytes", h.length)
	case slices.ContainsFunc(e.Accepted, func(id hexBytes) bool { return bytes.Equal(id, h.envelopeID) }):
		return refuse("replay", "the envelope id was accepted before")
	case e.OneOnly && len(e.Accepted) > 0:
		return refuse("duplicate", "an envelope of %s was accepted before", h.sender)
	}
	return nil
}
