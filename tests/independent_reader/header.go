package main

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	headerLimit    = 64 << 10
	plaintextLimit = 1 << 40
	recipientLimit = 1024
)

// header is H of ENVELOPE.md §2, its 16 items read.
type header struct {
	raw         []byte
	suiteID     string
	suite       suite
	trailer     bool
	federation  string
	round       uint64
	direction   string
	sender      string
	senderKey   []byte
	recipients  [][]byte
	challenge   []byte
	envelopeID  []byte
	notAfter    uint64
	baseModel   []byte
	length      uint64
	codec       string
	extraKeys   []string
	threshold   int
	shareHashes [][]byte
}

func parseHeader(raw []byte) (*header, error) {
	items, err := split(raw, 16)
	if err != nil {
		return nil, err
	}
	if len(items) != 16 {
		return nil, refuse("malformed", "%d items in the header", len(items))
	}
	h := &header{raw: raw}
	// An unknown suite is told apart from a malformed header: the id names the version of everything behind it.
	if h.suiteID, err = text(items[0]); err != nil {
		return nil, err
	}
	if h.suite, err = findSuite(h.suiteID); err != nil {
		return nil, err
	}
	for _, read := range []func(*header, [][]byte) error{readNames, readFixed, readLists} {
		if err := read(h, items); err != nil {
			return nil, err
		}
	}
	return h, checkThreshold(h)
}

func readNames(h *header, items [][]byte) (err error) {
	if h.federation, err = text(items[2]); err != nil {
		return err
	}
	if h.sender, err = text(items[5]); err != nil {
		return err
	}
	h.direction = string(items[4])
	if !slices.Contains([]string{"update", "model", "file"}, h.direction) {
		return refuse("malformed", "direction %q", h.direction)
	}
	h.codec = string(items[13])
	if _, known := codecs[h.codec]; !known {
		return refuse("malformed", "codec %q", h.codec)
	}
	return nil
}

func readFixed(h *header, items [][]byte) error {
	sizes := map[int][]int{1: {1}, 3: {8}, 6: {32}, 8: {0, 32}, 9: {16}, 10: {8}, 11: {0, 32}, 12: {8}}
	for index, allowed := range sizes {
		if !slices.Contains(allowed, len(items[index])) {
			return refuse("malformed", "item %d has %d bytes", index+1, len(items[index]))
		}
	}
	if items[1][0] > 1 {
		return refuse("malformed", "flags %#x", items[1][0])
	}
	h.trailer = items[1][0] == 1
	h.round = binary.BigEndian.Uint64(items[3])
	h.senderKey, h.challenge, h.envelopeID, h.baseModel = items[6], items[8], items[9], items[11]
	h.notAfter = binary.BigEndian.Uint64(items[10])
	h.length = binary.BigEndian.Uint64(items[12])
	if h.length > plaintextLimit {
		return refuse("too_large", "a plaintext of %d bytes", h.length)
	}
	return nil
}

func readLists(h *header, items [][]byte) (err error) {
	if h.recipients, err = split(items[7], recipientLimit); err != nil {
		return err
	}
	if len(h.recipients) == 0 {
		return refuse("malformed", "no recipient")
	}
	for _, fingerprint := range h.recipients {
		if len(fingerprint) != 32 {
			return refuse("malformed", "a fingerprint of %d bytes", len(fingerprint))
		}
	}
	if repeats(h.recipients) {
		return refuse("malformed", "a recipient twice")
	}
	if len(h.recipients) > 1 && !h.trailer {
		return refuse("no_trailer", "several recipients")
	}
	ids, err := split(items[14], 16)
	if err != nil {
		return err
	}
	if repeats(ids) {
		return refuse("malformed", "an extra key twice")
	}
	for _, id := range ids {
		name, err := text(id)
		if err != nil {
			return err
		}
		h.extraKeys = append(h.extraKeys, name)
	}
	return readThreshold(h, items[15])
}

func readThreshold(h *header, item []byte) error {
	parts, err := split(item, 256)
	if err != nil || len(parts) == 0 {
		return err
	}
	if len(parts[0]) != 1 {
		return refuse("malformed", "t of %d bytes", len(parts[0]))
	}
	h.threshold, h.shareHashes = int(parts[0][0]), parts[1:]
	for _, hash := range h.shareHashes {
		if len(hash) != 32 {
			return refuse("malformed", "a share's hash of %d bytes", len(hash))
		}
	}
	return nil
}

func checkThreshold(h *header) error {
	if h.threshold == 0 && h.shareHashes == nil {
		return nil
	}
	n := len(h.shareHashes)
	if n != len(h.recipients) || n > 255 || h.threshold < 2 || h.threshold > n {
		return refuse("malformed", "%d of %d shares for %d recipients", h.threshold, n, len(h.recipients))
	}
	return nil
}

// text is an item of 1 to 256 bytes of ASCII.
func text(item []byte) (string, error) {
	if len(item) < 1 || len(item) > 256 {
		return "", refuse("malformed", "a text of %d bytes", len(item))
	}
	for _, c := range item {
		if c > 0x7f {
			return "", refuse("malformed", "%q is not ASCII", item)
		}
	}
	return string(item), nil
}

func repeats(items [][]byte) bool {
	for i, item := range items {
		for _, other := range items[:i] {
			if bytes.Equal(item, other) {
				return true
			}
		}
	}
	return false
}
