package main

import (
	"crypto"
	"crypto/hpke"
	"strings"

	"filippo.io/mldsa"
)

// suite is a row of the table in ENVELOPE.md §1.
type suite struct {
	kem        hpke.KEM
	kemName    string
	aead       hpke.AEAD
	wrapped    int
	seed       int
	parameters mldsa.Parameters
	hash       crypto.Hash
}

const (
	xwing = "ML-KEM-768+X25519"
	p384  = "ML-KEM-1024+P-384"
	pure  = "ML-KEM-1024"
)

var suites = map[string]suite{
	"pqfl/v1/mlkem768x25519-mldsa44": {
		hpke.MLKEM768X25519(), xwing, hpke.AES256GCM(), 1168, 32, mldsa.MLDSA44(), crypto.SHA256},
	"pqfl/v1/mlkem768x25519-mldsa65": {
		hpke.MLKEM768X25519(), xwing, hpke.AES256GCM(), 1168, 32, mldsa.MLDSA65(), crypto.SHA256},
	"pqfl/v1/mlkem1024p384-mldsa87": {
		hpke.MLKEM1024P384(), p384, hpke.AES256GCM(), 1713, 32, mldsa.MLDSA87(), crypto.SHA384},
	"pqfl/v1/mlkem1024-mldsa87": {
		hpke.MLKEM1024(), pure, hpke.AES256GCM(), 1616, 64, mldsa.MLDSA87(), crypto.SHA384},
	"pqfl/v1/mlkem768x25519-chacha-mldsa44": {
		hpke.MLKEM768X25519(), xwing, hpke.ChaCha20Poly1305(), 1168, 32, mldsa.MLDSA44(), crypto.SHA256},
	"pqfl/v1/mlkem768x25519-chacha-mldsa65": {
		hpke.MLKEM768X25519(), xwing, hpke.ChaCha20Poly1305(), 1168, 32, mldsa.MLDSA65(), crypto.SHA256},
	"pqfl/v1/mlkem1024p384-chacha-mldsa87": {
		hpke.MLKEM1024P384(), p384, hpke.ChaCha20Poly1305(), 1713, 32, mldsa.MLDSA87(), crypto.SHA384},
}

// findSuite refuses what the table does not have. The experimental suites of §10 are left out of this reader.
func findSuite(id string) (suite, error) {
	row, known := suites[id]
	if !known {
		if strings.HasPrefix(id, "pqfl/v1/x-") {
			return suite{}, refuse("unknown_suite", "this reader leaves experimental suites out")
		}
		return suite{}, refuse("unknown_suite", "%q", id)
	}
	return row, nil
}
