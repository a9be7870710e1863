package main

import "encoding/binary"

// lp is LP(x, …) of ENVELOPE.md §1: every item preceded by its length in 4 bytes, big-endian.
func lp(items ...[]byte) []byte {
	var out []byte
	for _, item := range items {
		out = binary.BigEndian.AppendUint32(out, uint32(len(item)))
		out = append(out, item...)
	}
	return out
}

// split undoes lp, refusing more than most items and bytes that are no whole item.
func split(data []byte, most int) ([][]byte, error) {
	var items [][]byte
	for len(data) > 0 {
		if len(items) == most {
			return nil, refuse("malformed", "more than %d items", most)
		}
		if len(data) < 4 {
			return nil, refuse("malformed", "half a length")
		}
		length := binary.BigEndian.Uint32(data)
		if uint64(length) > uint64(len(data)-4) {
			return nil, refuse("malformed", "an item of %d bytes in %d", length, len(data)-4)
		}
		items = append(items, data[4:4+length])
		data = data[4+length:]
	}
	return items, nil
}

// label is D"name" of ENVELOPE.md §1.
func label(name string) []byte { return []byte("pqfl/v1/" + name) }
