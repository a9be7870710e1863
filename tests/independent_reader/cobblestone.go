package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
)

const (
	chunkSize      = 16384
	tagSize        = 16
	saltSize       = 24
	commitmentSize = saltSize + 32
)

// bodyReader decrypts Cobblestone-256 (c2sp.org/chunked-encryption with SHA-512 and AES-256-GCM) chunk by chunk.
type bodyReader struct {
	aead      cipher.AEAD
	baseNonce []byte
	number    uint64
}

// newBodyReader derives the message's keys and checks the commitment before any chunk is looked at.
func newBodyReader(key, context, commitment []byte) (*bodyReader, error) {
	salt := commitment[:saltSize]
	info := "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + string(salt) + string(context)
	derived, err := hkdf.Expand(sha512.New, key, info, 32+12+32)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(derived[44:], commitment[saltSize:]) != 1 {
		return nil, refuse("bad_body", "the key is not the one committed to")
	}
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &bodyReader{aead: aead, baseNonce: derived[32:44]}, nil
}

// open decrypts the next chunk, with its tag.
func (r *bodyReader) open(chunk []byte) ([]byte, error) {
	nonce := append([]byte(nil), r.baseNonce...)
	low := binary.BigEndian.Uint64(nonce[4:])
	binary.BigEndian.PutUint64(nonce[4:], low^r.number)
	r.number++
	plain, err := r.aead.Open(nil, nonce, chunk, nil)
	if err != nil {
		return nil, refuse("bad_body", "chunk %d does not authenticate", r.number-1)
	}
	return plain, nil
}

// bodySize is the length of a body for a plaintext of n bytes, salt and commitment included (ENVELOPE.md §3).
func bodySize(n uint64) uint64 { return commitmentSize + n + tagSize*(n/chunkSize+1) }
