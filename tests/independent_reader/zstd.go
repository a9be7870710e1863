package main

import "github.com/klauspost/compress/zstd"

// frameMemory is room for a window of its smallest size beside the content, whose size was checked before.
const frameMemory = 1 << 16

// decompress reads the one zstd frame (RFC 8878) of a blob, which has to state its content's size.
func decompress(blob tensor, size uint64) ([]byte, error) {
	var head zstd.Header
	if err := head.Decode(blob.data); err != nil || head.Skippable || !head.HasFCS || head.FrameContentSize != size {
		return nil, refuse("malformed", "tensor %q is no zstd frame of %d bytes", blob.name, size)
	}
	if end, whole := frameEnd(blob.data, head); !whole || end != len(blob.data) {
		return nil, refuse("malformed", "tensor %q is not one zstd frame", blob.name)
	}
	reader, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(size+frameMemory))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	content, err := reader.DecodeAll(blob.data, make([]byte, 0, size))
	if err != nil || uint64(len(content)) != size {
		return nil, refuse("malformed", "tensor %q does not decompress: %v", blob.name, err)
	}
	return content, nil
}

// frameEnd walks the blocks of a frame (RFC 8878 §3.1.1.2) and returns where the frame ends.
func frameEnd(data []byte, head zstd.Header) (end int, whole bool) {
	const blockHeader, runLength = 3, 1
	at := head.HeaderSize
	for last := false; !last; {
		if len(data)-at < blockHeader {
			return 0, false
		}
		block := uint32(data[at]) | uint32(data[at+1])<<8 | uint32(data[at+2])<<16
		last = block&1 == 1
		size := int(block >> 3)
		if block>>1&3 == runLength {
			size = 1
		}
		if at += blockHeader + size; at > len(data) {
			return 0, false
		}
	}
	if head.HasCheckSum {
		at += 4
	}
	return at, true
}
