package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"

	"filippo.io/mldsa"
)

const contributionLimit = 256 << 10

// share is f(index) of ENVELOPE.md §8, for every byte of the content key.
type share struct {
	index byte
	value []byte
}

// combiner puts the shares of one envelope together; contributions that do not hold are refused one by one.
type combiner struct {
	prologue *prologue
	key      *receivingKey
	trustees map[string]*mldsa.PublicKey
	shares   []share
}

// add takes one contribution in, or says why not.
func (c *combiner) add(contribution []byte) error {
	if len(contribution) > contributionLimit {
		return refuse("too_large", "a contribution of %d bytes", len(contribution))
	}
	parts, err := split(contribution, 3)
	if err != nil {
		return err
	}
	if len(parts) != 3 {
		return refuse("malformed", "%d items in a contribution", len(parts))
	}
	claim, signature := parts[0], parts[1]
	items, err := split(claim, 7)
	if err != nil {
		return err
	}
	if len(items) != 7 || string(items[0]) != "pqfl-contribution/v1" {
		return refuse("malformed", "not a contribution of version 1")
	}
	if len(items[1]) != 32 || len(items[2]) != 1 || len(items[4]) != 32 || len(items[5]) != 32 || items[2][0] == 0 {
		return refuse("malformed", "an item of a contribution has a wrong length")
	}
	if _, err := text(items[3]); err != nil {
		return err
	}
	s := c.prologue.header.suite
	if err := c.checkClaim(items, claim, signature); err != nil {
		return err
	}
	info := wrapInfo("share-wrap", lp(items[:6]...), c.key.fingerprint)
	plaintext, err := c.key.unwrap(s, items[6], info)
	if err != nil {
		return err
	}
	return c.take(int(items[2][0]), plaintext)
}

func (c *combiner) checkClaim(items [][]byte, claim, signature []byte) error {
	digest := sha256.Sum256(c.prologue.raw)
	if !bytes.Equal(items[1], digest[:]) || int(items[2][0]) > len(c.prologue.header.shareHashes) {
		return refuse("wrong_envelope", "a contribution to another envelope")
	}
	if !bytes.Equal(items[5], c.key.fingerprint) {
		return refuse("not_for_us", "a contribution to another combiner")
	}
	key, known := c.trustees[string(items[3])]
	if !known {
		return refuse("unknown_sender", "no key of trustee %q here", items[3])
	}
	fingerprint, err := signingFingerprint(key)
	if err != nil {
		return err
	}
	if !bytes.Equal(items[4], fingerprint) {
		return refuse("wrong_sender_key", "not the key of trustee %q", items[3])
	}
	if !verify(key, claim, signature, "contribution") {
		return refuse("bad_signature", "not signed by trustee %q", items[3])
	}
	return nil
}

func (c *combiner) take(index int, plaintext []byte) error {
	value, err := checkShare(c.prologue.header, index, plaintext)
	if err != nil {
		return err
	}
	for _, other := range c.shares {
		if int(other.index) == index {
			return refuse("duplicate", "share %d twice", index)
		}
	}
	c.shares = append(c.shares, share{byte(index), value})
	return nil
}

// checkShare holds index ‖ share to the hash that the sender signed.
func checkShare(h *header, index int, plaintext []byte) ([]byte, error) {
	if len(plaintext) != contentKeySize+1 || int(plaintext[0]) != index {
		return nil, refuse("bad_share", "no share %d", index)
	}
	digest := sha256.Sum256(lp(label("share"), []byte{byte(index)}, plaintext[1:]))
	if subtle.ConstantTimeCompare(digest[:], h.shareHashes[index-1]) != 1 {
		return nil, refuse("bad_share", "share %d does not fit its hash", index)
	}
	return plaintext[1:], nil
}

// contentKey interpolates at 0 from the first t good shares.
func (c *combiner) contentKey() ([]byte, error) {
	t := c.prologue.header.threshold
	if len(c.shares) < t {
		return nil, refuse("too_few_shares", "%d of %d", len(c.shares), t)
	}
	key := make([]byte, contentKeySize)
	for i, own := range c.shares[:t] {
		coefficient := byte(1)
		for j, other := range c.shares[:t] {
			if i != j {
				coefficient = multiply(coefficient, multiply(other.index, inverse(other.index^own.index)))
			}
		}
		for k := range key {
			key[k] ^= multiply(coefficient, own.value[k])
		}
	}
	return key, nil
}

// multiply is the product in GF(2⁸) modulo x⁸ + x⁴ + x³ + x + 1, without branches on the factors.
func multiply(a, b byte) byte {
	var product byte
	for range 8 {
		product ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return product
}

// inverse is a²⁵⁴, which is 1/a in a field of 256 elements.
func inverse(a byte) byte {
	result := byte(1)
	for range 254 {
		result = multiply(result, a)
	}
	return result
}
