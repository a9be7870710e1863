package main

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/pem"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"
)

const contentKeySize = 32

// receivingKey opens what is wrapped for its fingerprint (ENVELOPE.md §4).
type receivingKey struct {
	private     hpke.PrivateKey
	kemName     string
	fingerprint []byte
}

func newReceivingKey(kem hpke.KEM, kemName string, seed []byte) (*receivingKey, error) {
	private, err := kem.NewPrivateKey(seed)
	if err != nil {
		return nil, err
	}
	public := lp([]byte("pqfl-receiving/v1"), []byte("public"), []byte(kemName), private.PublicKey().Bytes())
	fingerprint := sha256.Sum256(public)
	return &receivingKey{private, kemName, fingerprint[:]}, nil
}

// parseReceivingKey reads the PEM block of a private receiving key and holds it to the fingerprint it carries.
func parseReceivingKey(text []byte) (*receivingKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PQFL RECEIVING PRIVATE KEY" {
		return nil, refuse("bad_key", "no private receiving key")
	}
	items, err := split(block.Bytes, 5)
	if err != nil || len(items) != 5 || string(items[0]) != "pqfl-receiving/v1" || string(items[1]) != "private" {
		return nil, refuse("bad_key", "no private receiving key of version 1")
	}
	for _, row := range suites {
		if row.kemName != string(items[2]) {
			continue
		}
		if len(items[3]) != row.seed {
			return nil, refuse("bad_key", "a seed of %d bytes", len(items[3]))
		}
		key, err := newReceivingKey(row.kem, row.kemName, items[3])
		if err != nil {
			return nil, err
		}
		if subtle.ConstantTimeCompare(key.fingerprint, items[4]) != 1 {
			return nil, refuse("bad_key", "the fingerprint is another key's")
		}
		return key, nil
	}
	return nil, refuse("bad_key", "no KEM %q here", items[2])
}

// unwrap opens enc ‖ ciphertext under info; ML-KEM rejects implicitly, so a wrong key shows up here and no earlier.
func (k *receivingKey) unwrap(s suite, wrapped, info []byte) ([]byte, error) {
	if k.kemName != s.kemName {
		return nil, refuse("not_for_us", "a key for %s, and an envelope for %s", k.kemName, s.kemName)
	}
	plaintext, err := hpke.Open(k.private, hpke.HKDFSHA512(), s.aead, info, wrapped)
	if err != nil {
		return nil, refuse("not_for_us", "%v", err)
	}
	return plaintext, nil
}

// wrapInfo is the info of a wrapped key or share: SHA-512 over a label and what the wrap belongs to.
func wrapInfo(name string, items ...[]byte) []byte {
	digest := sha512.Sum512(lp(append([][]byte{label(name)}, items...)...))
	return digest[:]
}

// bodyKey mixes the content key with the extra keys' material, in the order of item 15.
func bodyKey(contentKey, rawHeader []byte, materials [][]byte) ([]byte, error) {
	secret := append(append([]byte(nil), contentKey...), lp(materials...)...)
	return hkdf.Key(sha512.New, secret, nil, string(lp(label("mix"), rawHeader)), 32)
}

// derivedKey is the material of psk:NAME:NONCE, derived from the pre-shared key NAME for this one id (ENVELOPE.md §4).
func derivedKey(shared []byte, id string) ([]byte, error) {
	return hkdf.Key(sha512.New, shared, nil, string(lp(label("psk"), []byte(id))), 32)
}

// signingFingerprint is SHA-256 of the key's SubjectPublicKeyInfo (RFC 9881).
func signingFingerprint(key *mldsa.PublicKey) ([]byte, error) {
	info, err := mldsax509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	fingerprint := sha256.Sum256(info)
	return fingerprint[:], nil
}

func verify(key *mldsa.PublicKey, message, signature []byte, context string) bool {
	options := &mldsa.Options{Context: string(label(context))}
	return mldsa.Verify(key, message, signature, options) == nil
}
