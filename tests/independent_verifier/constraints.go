package main

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"net"
	"strings"
)

var (
	nameConstraints        = asn1.ObjectIdentifier{2, 5, 29, 30}
	subjectAlternativeName = asn1.ObjectIdentifier{2, 5, 29, 17}
	emailAddress           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
)

// The tags of a GeneralName (RFC 5280, section 4.2.1.6) that are evaluated.
const (
	tagMail      = 1
	tagDNS       = 2
	tagDirectory = 4
	tagURI       = 6
	tagIP        = 7
)

type subtrees struct {
	Permitted []subtree `asn1:"optional,tag:0"`
	Excluded  []subtree `asn1:"optional,tag:1"`
}

type subtree struct {
	Base asn1.RawValue
}

// permits evaluates RFC 5280, section 4.2.1.10, from the bytes of the extension: Go's own parser knows neither directory
// names nor that a subject may hold an address.
func permits(issuer, certificate *x509.Certificate) error {
	var constraints subtrees
	for _, extension := range issuer.Extensions {
		if !extension.Id.Equal(nameConstraints) {
			continue
		}
		if rest, err := asn1.Unmarshal(extension.Value, &constraints); err != nil || len(rest) > 0 {
			return errors.New("name constraints that are malformed")
		}
	}
	names, err := namesOf(certificate)
	if err != nil {
		return err
	}
	for _, name := range names {
		isConstrained, isInside := false, false
		for _, one := range constraints.Permitted {
			if one.Base.Tag == name.Tag {
				isConstrained = true
				isInside = isInside || liesIn(name, one.Base)
			}
		}
		if isConstrained && !isInside {
			return errors.New("its issuer may not name " + printable(name))
		}
		for _, one := range constraints.Excluded {
			if one.Base.Tag == name.Tag && liesIn(name, one.Base) {
				return errors.New("its issuer may not name " + printable(name))
			}
		}
	}
	return nil
}

// namesOf returns the subject, the addresses in it, and the alternative names.
func namesOf(certificate *x509.Certificate) ([]asn1.RawValue, error) {
	var names []asn1.RawValue
	var subject []asn1.RawValue
	if _, err := asn1.Unmarshal(certificate.RawSubject, &subject); err != nil {
		return nil, err
	}
	if len(subject) > 0 {
		names = append(names, asn1.RawValue{Tag: tagDirectory, Bytes: certificate.RawSubject})
	}
	for _, attribute := range certificate.Subject.Names {
		if text, ok := attribute.Value.(string); ok && attribute.Type.Equal(emailAddress) {
			names = append(names, asn1.RawValue{Tag: tagMail, Bytes: []byte(text)})
		}
	}
	for _, extension := range certificate.Extensions {
		var alternative []asn1.RawValue
		if !extension.Id.Equal(subjectAlternativeName) {
			continue
		}
		if rest, err := asn1.Unmarshal(extension.Value, &alternative); err != nil || len(rest) > 0 {
			return nil, errors.New("names that are malformed")
		}
		names = append(names, alternative...)
	}
	return names, nil
}

func liesIn(name, base asn1.RawValue) bool {
	own, above := strings.ToLower(string(name.Bytes)), strings.ToLower(string(base.Bytes))
	switch name.Tag {
	case tagDNS:
		return above == "" || strings.HasSuffix("."+own, "."+above)
	case tagMail:
		return hostLiesIn(own[strings.LastIndex(own, "@")+1:], above)
	case tagURI:
		host, _, _ := strings.Cut(strings.TrimPrefix(own[strings.Index(own, ":")+1:], "//"), "/")
		return hostLiesIn(host, above)
	case tagIP:
		half := len(base.Bytes) / 2
		network := net.IPNet{IP: base.Bytes[:half], Mask: base.Bytes[half:]}
		return len(name.Bytes) == half && network.Contains(net.IP(name.Bytes))
	case tagDirectory:
		return directoryLiesIn(name.Bytes, base.Bytes)
	}
	// Nothing is known of it: whatever is said of this type, the name is neither permitted nor let through.
	return false
}

func hostLiesIn(host, above string) bool {
	if strings.HasPrefix(above, ".") {
		return strings.HasSuffix(host, above)
	}
	return host == above
}

// directoryLiesIn compares the bytes of relative names, which is stricter than section 7.1 of RFC 5280 asks for.
func directoryLiesIn(name, base []byte) bool {
	var own, above []asn1.RawValue
	if _, err := asn1.Unmarshal(name, &own); err != nil {
		return false
	}
	if _, err := asn1.Unmarshal(base, &above); err != nil || len(above) > len(own) {
		return false
	}
	for at := range above {
		if !bytes.Equal(own[at].FullBytes, above[at].FullBytes) {
			return false
		}
	}
	return true
}

func printable(name asn1.RawValue) string {
	return strings.ToValidUTF8(string(name.Bytes), "?")
}
