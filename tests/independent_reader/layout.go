package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	layoutHeaderLimit = 16 << 20
	tensorLimit       = 1 << 16
	dimensionLimit    = 32
	sizeLimit         = 1 << 48
	metadataName      = "__metadata__"
)

// tensor is one tensor of the body, little-endian and in C order.
type tensor struct {
	name  string
	dtype string
	shape []uint64
	data  []byte
}

// layout is the body's plaintext, read: ENVELOPE.md §7.
type layout struct {
	metadata map[string]string
	tensors  []tensor
}

// itemBits are the sizes of the types of the layout.
var itemBits = map[string]uint64{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
	"F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}

func parseLayout(plaintext []byte) (*layout, error) {
	if len(plaintext) < 8 {
		return nil, refuse("malformed", "a layout of %d bytes", len(plaintext))
	}
	length := binary.LittleEndian.Uint64(plaintext)
	if length > layoutHeaderLimit {
		return nil, refuse("too_large", "a layout header of %d bytes", length)
	}
	if length > uint64(len(plaintext)-8) {
		return nil, refuse("malformed", "the layout ends in its header")
	}
	entries, err := objectEntries(plaintext[8 : 8+length])
	if err != nil {
		return nil, err
	}
	read := &layout{metadata: map[string]string{}}
	var placed []placedTensor
	for _, entry := range entries {
		if entry.name == metadataName {
			err = read.readMetadata(entry.value)
		} else {
			var one placedTensor
			one, err = readTensor(entry)
			placed = append(placed, one)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := read.place(placed, plaintext[8+length:]); err != nil {
		return nil, err
	}
	return read, read.checkContainer()
}

// facts are the metadata that the sender's caller gave.
func (l *layout) facts() map[string]string {
	found := map[string]string{}
	for name, value := range l.metadata {
		if short, ours := strings.CutPrefix(name, "pqfl."); ours && short != "container" && name != codecFacts {
			found[short] = value
		}
	}
	return found
}

// place takes the tensors in the order of their places, and refuses gaps and overlap.
func (l *layout) place(placed []placedTensor, data []byte) error {
	if len(placed) > tensorLimit {
		return refuse("malformed", "%d tensors", len(placed))
	}
	slices.SortStableFunc(placed, func(a, b placedTensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	at := uint64(0)
	for _, one := range placed {
		if one.begin != at || one.end > uint64(len(data)) {
			return refuse("malformed", "tensor %q is not where the one before it ends", one.name)
		}
		one.data, at = data[one.begin:one.end], one.end
		l.tensors = append(l.tensors, one.tensor)
	}
	if at != uint64(len(data)) {
		return refuse("malformed", "%d bytes behind the last tensor", uint64(len(data))-at)
	}
	return nil
}

func (l *layout) checkContainer() error {
	if l.metadata["pqfl.container"] != "list" {
		return nil
	}
	for index, one := range l.tensors {
		if one.name != strconv.Itoa(index) {
			return refuse("malformed", "tensor %d of a list is called %q", index, one.name)
		}
	}
	return nil
}

func (l *layout) readMetadata(value json.RawMessage) error {
	entries, err := objectEntries(value)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, err := strictString(entry.value)
		if err != nil {
			return err
		}
		l.metadata[entry.name] = text
	}
	return nil
}

// placedTensor is a tensor whose bytes are not taken yet.
type placedTensor struct {
	tensor
	begin, end uint64
}

func readTensor(entry namedValue) (placedTensor, error) {
	fields, err := objectEntries(entry.value)
	if err != nil {
		return placedTensor{}, err
	}
	found := map[string]json.RawMessage{}
	for _, field := range fields {
		found[field.name] = field.value
	}
	if len(found) != 3 || found["dtype"] == nil || found["shape"] == nil || found["data_offsets"] == nil {
		return placedTensor{}, refuse("malformed", "tensor %q lacks a field or has one more", entry.name)
	}
	shape, err := naturals(found["shape"])
	if err != nil {
		return placedTensor{}, err
	}
	offsets, err := naturals(found["data_offsets"])
	if err != nil {
		return placedTensor{}, err
	}
	var dtype string
	bits := uint64(0)
	if json.Unmarshal(found["dtype"], &dtype) == nil {
		bits = itemBits[dtype]
	}
	if bits == 0 {
		return placedTensor{}, refuse("unsupported", "tensor %q has the type %s", entry.name, found["dtype"])
	}
	size, err := product(entry.name, bits/8, shape)
	if err != nil {
		return placedTensor{}, err
	}
	if len(offsets) != 2 || offsets[1] < offsets[0] || offsets[1]-offsets[0] != size {
		return placedTensor{}, refuse("malformed", "the offsets of tensor %q do not fit its shape", entry.name)
	}
	return placedTensor{tensor{entry.name, dtype, shape, nil}, offsets[0], offsets[1]}, nil
}

// product is the bytes of a tensor; one larger than any plaintext is refused before anything overflows.
func product(name string, item uint64, shape []uint64) (uint64, error) {
	if len(shape) > dimensionLimit {
		return 0, refuse("malformed", "tensor %q has %d dimensions", name, len(shape))
	}
	if slices.Contains(shape, 0) {
		return 0, nil
	}
	for _, extent := range shape {
		if extent > sizeLimit/item {
			return 0, refuse("malformed", "tensor %q is larger than any plaintext", name)
		}
		item *= extent
	}
	return item, nil
}

// namedValue is one member of a JSON object, kept in the order of the object.
type namedValue struct {
	name  string
	value json.RawMessage
}

// objectEntries reads a JSON object and refuses names that stand twice, text that is not UTF-8, and what is behind it.
func objectEntries(text []byte) ([]namedValue, error) {
	if !utf8.Valid(text) || !surrogatesInPairs(text) {
		return nil, refuse("malformed", "JSON that is not Unicode")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, refuse("malformed", "no JSON object")
	}
	var entries []namedValue
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, refuse("malformed", "%v", err)
		}
		name := token.(string)
		if seen[name] {
			return nil, refuse("malformed", "the name %q stands twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, refuse("malformed", "%v", err)
		}
		entries = append(entries, namedValue{name, value})
	}
	if _, err := decoder.Token(); err != nil {
		return nil, refuse("malformed", "%v", err)
	}
	if len(bytes.Trim(text[decoder.InputOffset():], " \t\r\n")) != 0 {
		return nil, refuse("malformed", "bytes behind the JSON object")
	}
	return entries, nil
}

// surrogatesInPairs tells whether every \ud800 to \udfff escape is half of a pair; the decoder would replace others.
func surrogatesInPairs(text []byte) bool {
	high := false
	for at := 0; at < len(text); at++ {
		unit := uint64(0)
		if text[at] == '\\' && at+1 < len(text) {
			if text[at+1] == 'u' && at+6 <= len(text) {
				unit, _ = strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
				at += 4
			}
			at++
		}
		if low := unit>>10 == 0xdc00>>10; low != high {
			return false
		}
		high = unit>>10 == 0xd800>>10
	}
	return !high
}

func strictString(value json.RawMessage) (string, error) {
	var text *string
	if err := json.Unmarshal(value, &text); err != nil || text == nil {
		return "", refuse("malformed", "%s is no string", value)
	}
	return *text, nil
}

// naturals is a JSON array of integers from 0 to 2⁴⁸ − 1, written as such.
func naturals(value json.RawMessage) ([]uint64, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(value, &raw); err != nil || raw == nil {
		return nil, refuse("malformed", "%s is no array", value)
	}
	numbers := make([]uint64, 0, len(raw))
	for _, each := range raw {
		number, err := natural(each)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}

func natural(value json.RawMessage) (uint64, error) {
	number, err := strconv.ParseUint(string(value), 10, 48)
	if err != nil {
		return 0, refuse("malformed", "%s is no size", value)
	}
	return number, nil
}
