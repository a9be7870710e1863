// The independent verifier checks certificates, revocation lists and requests with nothing that the Python code or
// OpenSSL has a part in: Go's parser of X.509 and a Go implementation of ML-DSA.
//
//	independent_verifier CA.pem FILE...
//
// For each FILE it prints one JSON object: what was found in it, or why it does not hold.
package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"filippo.io/mldsa"
)

// algorithm is a row of RFC 9881, section 2.
type algorithm struct {
	name       string
	oid        asn1.ObjectIdentifier
	parameters mldsa.Parameters
}

var algorithms = []algorithm{
	{"ML-DSA-44", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, mldsa.MLDSA44()},
	{"ML-DSA-65", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, mldsa.MLDSA65()},
	{"ML-DSA-87", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, mldsa.MLDSA87()},
}

// signed is the outermost structure of all three kinds of file.
type signed struct {
	TBS       asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type subjectPublicKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

// found is what is printed of one file.
type found struct {
	File      string   `json:"file"`
	Error     string   `json:"error,omitempty"`
	Kind      string   `json:"kind,omitempty"`
	Algorithm string   `json:"algorithm,omitempty"`
	Issuer    string   `json:"issuer,omitempty"`
	URIs      []string `json:"uris,omitempty"`
	Usages    []string `json:"usages,omitempty"`
	Number    string   `json:"number,omitempty"`
	Revoked   []string `json:"revoked,omitempty"`
	RFC7093   bool     `json:"rfc7093,omitempty"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: independent_verifier CA.pem FILE...")
		os.Exit(2)
	}
	anchors, err := readAnchors(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, path := range os.Args[2:] {
		facts, err := examine(path, anchors)
		facts.File = path
		if err != nil {
			facts = found{File: path, Error: err.Error()}
		}
		if err := out.Encode(facts); err != nil {
			os.Exit(1)
		}
	}
}

func readAnchors(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var anchors []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		anchors = append(anchors, certificate)
	}
	return anchors, nil
}

func examine(path string, anchors []*x509.Certificate) (found, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return found{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return found{}, errors.New("no PEM")
	}
	switch block.Type {
	case "CERTIFICATE":
		return examineCertificate(block.Bytes, anchors)
	case "X509 CRL":
		return examineList(block.Bytes, anchors)
	case "CERTIFICATE REQUEST":
		return examineRequest(block.Bytes)
	}
	return found{}, fmt.Errorf("a PEM block %q", block.Type)
}

func examineCertificate(der []byte, anchors []*x509.Certificate) (found, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return found{}, err
	}
	name, err := verifyPath(leaf, anchors, nil)
	if err != nil {
		return found{}, err
	}
	facts := found{Kind: "certificate", Algorithm: name, Issuer: leaf.Issuer.String(), RFC7093: identifiesKey(leaf)}
	for _, uri := range leaf.URIs {
		facts.URIs = append(facts.URIs, uri.String())
	}
	for _, usage := range leaf.UnknownExtKeyUsage {
		facts.Usages = append(facts.Usages, usage.String())
	}
	for _, usage := range leaf.ExtKeyUsage {
		facts.Usages = append(facts.Usages, map[x509.ExtKeyUsage]string{
			x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth"}[usage])
	}
	return facts, nil
}

// verifyPath climbs to a self-signed anchor, so that every signature is verified, the anchor's own as well (RFC 5280,
// section 6), and returns by which algorithm the lowest certificate is signed.
func verifyPath(certificate *x509.Certificate, anchors, descendants []*x509.Certificate) (string, error) {
	for _, unhandled := range certificate.UnhandledCriticalExtensions {
		// Go leaves name constraints on directory names to whoever calls it: permits does all of them.
		if !unhandled.Equal(nameConstraints) {
			return "", errors.New("a critical extension is not understood")
		}
	}
	if now := time.Now(); now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return "", errors.New("not valid now")
	}
	issuer, err := issuerOf(certificate.RawIssuer, certificate.AuthorityKeyId, anchors)
	if err != nil {
		return "", err
	}
	name, err := verify(certificate.Raw, issuer.RawSubjectPublicKeyInfo)
	if err != nil {
		return "", err
	}
	// Its own signature is all that is left of the path at the root.
	if bytes.Equal(issuer.Raw, certificate.Raw) {
		return name, nil
	}
	if !issuer.IsCA || issuer.KeyUsage&x509.KeyUsageCertSign == 0 || len(descendants) > issuer.MaxPathLen {
		return "", errors.New("its issuer may not sign it")
	}
	// What is constrained at any step above holds for everything below it.
	for _, below := range append(descendants, certificate) {
		if err := permits(issuer, below); err != nil {
			return "", err
		}
	}
	_, err = verifyPath(issuer, anchors, append(descendants, certificate))
	return name, err
}

// identifiesKey tells whether the subject key identifier is RFC 7093's, section 2, method 1; others are no error.
func identifiesKey(certificate *x509.Certificate) bool {
	var key subjectPublicKeyInfo
	if _, err := asn1.Unmarshal(certificate.RawSubjectPublicKeyInfo, &key); err != nil {
		return false
	}
	sum := sha256.Sum256(key.Key.Bytes)
	return bytes.Equal(certificate.SubjectKeyId, sum[:20])
}

func issuerOf(name, keyIdentifier []byte, anchors []*x509.Certificate) (*x509.Certificate, error) {
	for _, anchor := range anchors {
		if bytes.Equal(anchor.RawSubject, name) && (keyIdentifier == nil || bytes.Equal(anchor.SubjectKeyId, keyIdentifier)) {
			return anchor, nil
		}
	}
	return nil, errors.New("no anchor issued it")
}

func examineList(der []byte, anchors []*x509.Certificate) (found, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return found{}, err
	}
	issuer, err := issuerOf(list.RawIssuer, list.AuthorityKeyId, anchors)
	if err != nil {
		return found{}, err
	}
	if issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return found{}, errors.New("its issuer may sign no lists")
	}
	name, err := verify(list.Raw, issuer.RawSubjectPublicKeyInfo)
	if err != nil {
		return found{}, err
	}
	if list.Number == nil || !time.Now().Before(list.NextUpdate) {
		return found{}, errors.New("it has no number, or is stale")
	}
	facts := found{Kind: "list", Algorithm: name, Issuer: list.Issuer.String(), Number: list.Number.String()}
	for _, entry := range list.RevokedCertificateEntries {
		facts.Revoked = append(facts.Revoked, hex.EncodeToString(entry.SerialNumber.Bytes()))
	}
	return facts, nil
}

func examineRequest(der []byte) (found, error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return found{}, err
	}
	name, err := verify(request.Raw, request.RawSubjectPublicKeyInfo)
	if err != nil {
		return found{}, err
	}
	facts := found{Kind: "request", Algorithm: name}
	for _, uri := range request.URIs {
		facts.URIs = append(facts.URIs, uri.String())
	}
	return facts, nil
}

// verify checks the signature of a signed structure with the key in spki (RFC 9881, section 3: no context, no pre-hash,
// no parameters) and returns its algorithm.
func verify(der, spki []byte) (string, error) {
	var outer signed
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return "", errors.New("not one signed structure")
	}
	var key subjectPublicKeyInfo
	if rest, err := asn1.Unmarshal(spki, &key); err != nil || len(rest) > 0 {
		return "", errors.New("not one public key")
	}
	for _, row := range algorithms {
		if !row.oid.Equal(outer.Algorithm.Algorithm) {
			continue
		}
		if !row.oid.Equal(key.Algorithm.Algorithm) {
			return "", errors.New("the issuer's key is of another algorithm")
		}
		if len(outer.Algorithm.Parameters.FullBytes) > 0 || len(key.Algorithm.Parameters.FullBytes) > 0 {
			return "", errors.New("an algorithm identifier has parameters")
		}
		public, err := mldsa.NewPublicKey(row.parameters, key.Key.Bytes)
		if err != nil {
			return "", err
		}
		if err := mldsa.Verify(public, outer.TBS.FullBytes, outer.Signature.Bytes, nil); err != nil {
			return "", errors.New("the signature does not hold")
		}
		return row.name, nil
	}
	return "", fmt.Errorf("signed by %v", outer.Algorithm.Algorithm)
}
