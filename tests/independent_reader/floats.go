package main

import (
	"encoding/binary"
	"math"
)

func finite(value float64) bool { return !math.IsNaN(value) && !math.IsInf(value, 0) }

// fits tells whether a value, rounded to the type, is still finite.
func fits(dtype string, value float64) bool {
	return finiteBits(dtype, appendFloat(nil, dtype, value))
}

// finiteBits tells whether a little-endian number has no exponent of all ones.
func finiteBits(dtype string, bits []byte) bool {
	switch dtype {
	case "F16":
		return binary.LittleEndian.Uint16(bits)&0x7c00 != 0x7c00
	case "F32":
		return binary.LittleEndian.Uint32(bits)&0x7f800000 != 0x7f800000
	default:
		return binary.LittleEndian.Uint64(bits)&0x7ff0000000000000 != 0x7ff0000000000000
	}
}

// appendFloat rounds a value to the type, to nearest and ties to even, and appends it little-endian.
func appendFloat(data []byte, dtype string, value float64) []byte {
	switch dtype {
	case "F16":
		return binary.LittleEndian.AppendUint16(data, half(value))
	case "F32":
		return binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(value)))
	default:
		return binary.LittleEndian.AppendUint64(data, math.Float64bits(value))
	}
}

// half rounds to binary16.
func half(value float64) uint16 {
	sign := uint16(math.Float64bits(value)>>48) & 0x8000
	magnitude := math.Abs(value)
	if !finite(value) || magnitude >= 65520 {
		return sign | 0x7c00
	}
	if magnitude == 0 {
		return sign
	}
	// Below 2⁻¹⁴ numbers are subnormal: all are multiples of 2⁻²⁴.
	_, exponent := math.Frexp(magnitude)
	exponent = max(exponent-1, -14)
	units := uint16(math.RoundToEven(math.Ldexp(magnitude, 10-exponent)))
	// Without its leading bit a normal number adds to the exponent; one that rounded up carries into it.
	return sign | uint16(exponent+14)<<10 + units
}
