package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
)

const (
	codecFacts   = "pqfl.codec"
	smallestStep = 0x1p-1022
)

// codec undoes for one tensor what item 14 of the header says (ENVELOPE.md §7). facts are what stands in the metadata
// behind the type; most is how many bytes the tensors may still take.
type codec func(encoded tensor, dtype string, facts []json.RawMessage, most uint64) (tensor, error)

var codecs = map[string]codec{
	"safetensors":      nil,
	"safetensors+bf16": decodeBF16,
	"safetensors+int8": decodeInt8,
	"safetensors+topk": decodeTopK,
}

// decodeLayout undoes the codec of every tensor.
func decodeLayout(l *layout, name string, most uint64) (*layout, error) {
	text, told := l.metadata[codecFacts]
	if codecs[name] == nil {
		if told {
			return nil, refuse("malformed", "the metadata tell of a codec, the header does not")
		}
		return l, nil
	}
	var facts []json.RawMessage
	if err := json.Unmarshal([]byte(text), &facts); err != nil || len(facts) != len(l.tensors) {
		return nil, refuse("malformed", "the metadata do not tell what the codec did to every tensor")
	}
	decoded := &layout{metadata: l.metadata}
	for index, one := range l.tensors {
		if string(facts[index]) != "null" {
			var err error
			if one, err = decodeTensor(one, facts[index], codecs[name], name, most); err != nil {
				return nil, err
			}
		}
		size := uint64(len(one.data))
		if size > most {
			return nil, refuse("too_large", "the decoded tensors take more than is expected")
		}
		most -= size
		decoded.tensors = append(decoded.tensors, one)
	}
	return decoded, nil
}

func decodeTensor(one tensor, fact json.RawMessage, undo codec, name string, most uint64) (tensor, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(fact, &parts); err != nil || len(parts) == 0 || len(one.data) == 0 {
		return tensor{}, refuse("malformed", "tensor %q cannot come of %s", one.name, name)
	}
	dtype, err := strictString(parts[0])
	if err != nil {
		return tensor{}, err
	}
	allowed := []string{"F16", "F32", "F64"}
	if name == "safetensors+bf16" {
		allowed = allowed[1:]
	}
	if !slices.Contains(allowed, dtype) {
		return tensor{}, refuse("malformed", "tensor %q of %s cannot come of %s", one.name, dtype, name)
	}
	return undo(one, dtype, parts[1:], most)
}

// decodeBF16 widens: the 16 bits are the upper half of a binary32.
func decodeBF16(encoded tensor, dtype string, facts []json.RawMessage, most uint64) (tensor, error) {
	if len(facts) != 0 || encoded.dtype != "U16" {
		return tensor{}, refuse("malformed", "tensor %q is not in bfloat16", encoded.name)
	}
	count := uint64(len(encoded.data) / 2)
	if count*itemBits[dtype]/8 > most {
		return tensor{}, refuse("too_large", "tensor %q expands too far", encoded.name)
	}
	var data []byte
	for at := 0; at < len(encoded.data); at += 2 {
		value := math.Float32frombits(uint32(binary.LittleEndian.Uint16(encoded.data[at:])) << 16)
		if !finite(float64(value)) {
			return tensor{}, refuse("malformed", "tensor %q holds NaN or infinity", encoded.name)
		}
		data = appendFloat(data, dtype, float64(value))
	}
	return tensor{encoded.name, dtype, encoded.shape, data}, nil
}

// decodeInt8 multiplies by the tensor's one scale, in binary64.
func decodeInt8(encoded tensor, dtype string, facts []json.RawMessage, most uint64) (tensor, error) {
	var scale float64
	if len(facts) != 1 || encoded.dtype != "I8" || json.Unmarshal(facts[0], &scale) != nil || string(facts[0]) == "null" {
		return tensor{}, refuse("malformed", "tensor %q is not in int8 with one scale", encoded.name)
	}
	if scale < 0 || scale != 0 && scale < smallestStep || !fits(dtype, scale*127) {
		return tensor{}, refuse("malformed", "tensor %q has the scale %v", encoded.name, scale)
	}
	if uint64(len(encoded.data))*itemBits[dtype]/8 > most {
		return tensor{}, refuse("too_large", "tensor %q expands too far", encoded.name)
	}
	var data []byte
	for _, each := range encoded.data {
		multiple := int8(each)
		if multiple == -128 {
			return tensor{}, refuse("malformed", "tensor %q holds -128", encoded.name)
		}
		data = appendFloat(data, dtype, float64(multiple)*scale)
	}
	return tensor{encoded.name, dtype, encoded.shape, data}, nil
}

// decodeTopK sets the entries that were kept, and all others to 0.
func decodeTopK(encoded tensor, dtype string, facts []json.RawMessage, most uint64) (tensor, error) {
	if len(facts) != 2 || encoded.dtype != "U8" || len(encoded.shape) != 1 {
		return tensor{}, refuse("malformed", "tensor %q is no blob with a shape and a count", encoded.name)
	}
	shape, err := naturals(facts[0])
	if err != nil {
		return tensor{}, err
	}
	kept, err := natural(facts[1])
	if err != nil {
		return tensor{}, err
	}
	item := itemBits[dtype] / 8
	total, err := product(encoded.name, item, shape)
	if err != nil {
		return tensor{}, err
	}
	place := uint64(4)
	if total/item > 1<<32 {
		place = 8
	}
	if kept == 0 || kept > total || kept*(place+item) >= total {
		return tensor{}, refuse("malformed", "tensor %q keeps %d entries", encoded.name, kept)
	}
	if total > most {
		return tensor{}, refuse("too_large", "tensor %q expands too far", encoded.name)
	}
	content, err := decompress(encoded, kept*(place+item))
	if err != nil {
		return tensor{}, err
	}
	deltas, values := unplane(content[:kept*place], place), unplane(content[kept*place:], item)
	data := make([]byte, total)
	next := uint64(0)
	for index := range kept {
		delta := uint64(binary.LittleEndian.Uint32(deltas[index*place:]))
		if place == 8 {
			delta = binary.LittleEndian.Uint64(deltas[index*place:])
		}
		if index > 0 && delta == 0 || delta >= total/item-next {
			return tensor{}, refuse("malformed", "tensor %q has places that repeat or lie outside", encoded.name)
		}
		next += delta
		value := values[index*item : (index+1)*item]
		if !finiteBits(dtype, value) {
			return tensor{}, refuse("malformed", "tensor %q holds NaN or infinity", encoded.name)
		}
		copy(data[next*item:], value)
	}
	return tensor{encoded.name, dtype, shape, data}, nil
}

// unplane undoes the planes: the first byte of every number, then the second of every number, and so on.
func unplane(planes []byte, size uint64) []byte {
	count := uint64(len(planes)) / size
	numbers := make([]byte, len(planes))
	for index, value := range planes {
		at := uint64(index)
		numbers[at%count*size+at/count] = value
	}
	return numbers
}
