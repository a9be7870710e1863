package main

import "encoding/binary"

// prologue is what comes before the body's chunks: LP(H, W, K, S) of ENVELOPE.md §3.
type prologue struct {
	header     *header
	raw        []byte
	wrappedRaw []byte
	wrapped    [][]byte
	commitment []byte
	signature  []byte
}

// signed is what S signs.
func (p *prologue) signed() []byte { return lp(p.header.raw, p.wrappedRaw, p.commitment) }

// parsePrologue reads the prologue at the front of envelope and returns what is behind it. Every length is held to
// what the header allows before it is used.
func parsePrologue(envelope []byte) (*prologue, []byte, error) {
	rawHeader, rest, err := item(envelope, func(length uint64) error {
		if length > headerLimit {
			return refuse("too_large", "a header of %d bytes", length)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	h, err := parseHeader(rawHeader)
	if err != nil {
		return nil, nil, err
	}
	p := &prologue{header: h}
	size := h.suite.wrapped
	if h.threshold > 0 {
		size++
	}
	if p.wrappedRaw, rest, err = item(rest, exactly(len(h.recipients)*(4+size))); err != nil {
		return nil, nil, err
	}
	if p.commitment, rest, err = item(rest, exactly(commitmentSize)); err != nil {
		return nil, nil, err
	}
	if p.signature, rest, err = item(rest, exactly(h.suite.parameters.SignatureSize())); err != nil {
		return nil, nil, err
	}
	if p.wrapped, err = split(p.wrappedRaw, len(h.recipients)); err != nil {
		return nil, nil, err
	}
	for _, wrapped := range p.wrapped {
		if len(wrapped) != size {
			return nil, nil, refuse("malformed", "a wrapped key of %d bytes", len(wrapped))
		}
	}
	if len(p.wrapped) != len(h.recipients) {
		return nil, nil, refuse("malformed", "%d wrapped keys", len(p.wrapped))
	}
	p.raw = envelope[:len(envelope)-len(rest)]
	return p, rest, nil
}

func item(data []byte, check func(uint64) error) (value, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, refuse("truncated", "the envelope ends in its prologue")
	}
	length := uint64(binary.BigEndian.Uint32(data))
	if err := check(length); err != nil {
		return nil, nil, err
	}
	if uint64(len(data)-4) < length {
		return nil, nil, refuse("truncated", "the envelope ends in its prologue")
	}
	return data[4 : 4+length], data[4+length:], nil
}

// exactly refuses a length above the one that the header gives as too large, and one below it as malformed.
func exactly(wanted int) func(uint64) error {
	return func(length uint64) error {
		if length > uint64(wanted) {
			return refuse("too_large", "%d bytes where the suite has %d", length, wanted)
		}
		if length < uint64(wanted) {
			return refuse("malformed", "%d bytes where the suite has %d", length, wanted)
		}
		return nil
	}
}
