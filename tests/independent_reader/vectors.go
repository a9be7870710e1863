package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"

	"filippo.io/mldsa"
)

// vectorFile is a file of tests/vectors/envelope; its README describes it.
type vectorFile struct {
	Suite string `json:"suite"`
	Keys  struct {
		Sender    hexBytes            `json:"sender"`
		Receiving []hexBytes          `json:"receiving"`
		Combiner  hexBytes            `json:"combiner"`
		Trustees  map[string]hexBytes `json:"trustees"`
	} `json:"keys"`
	PSK struct {
		Name string   `json:"name"`
		Key  hexBytes `json:"key"`
	} `json:"psk"`
	Vectors []vector `json:"vectors"`
}

type vector struct {
	Name          string              `json:"name"`
	Key           int                 `json:"key"`
	Envelope      base64Bytes         `json:"envelope"`
	Extra         map[string]hexBytes `json:"extra"`
	Contributions []base64Bytes       `json:"contributions"`
	ReceivingPEM  string              `json:"receiving_pem"`
	Receiver      expectation         `json:"receiver"`
}

// Who signed contributions with the sender's key, in files without trustees.
var vectorTrustees = []string{"spiffe://fed/operator/ada", "spiffe://fed/operator/bob"}

// result is what the reader made of one vector.
type result struct {
	Name     string            `json:"name"`
	Error    string            `json:"error,omitempty"`
	Detail   string            `json:"detail,omitempty"`
	Refused  []string          `json:"refused,omitempty"`
	Tensors  [][4]any          `json:"tensors,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Derived are the extra keys that the file's pre-shared key gives, by id, hexadecimal.
	Derived map[string]string `json:"derived,omitempty"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(text []byte) error {
	var digits string
	if err := json.Unmarshal(text, &digits); err != nil {
		return err
	}
	var err error
	*h, err = hex.DecodeString(digits)
	return err
}

type base64Bytes []byte

func (b *base64Bytes) UnmarshalJSON(text []byte) error {
	var digits string
	if err := json.Unmarshal(text, &digits); err != nil {
		return err
	}
	var err error
	*b, err = base64.StdEncoding.DecodeString(digits)
	return err
}

func (f *vectorFile) open(v vector) (result, error) {
	found := result{Name: v.Name}
	r, err := f.receiver(v)
	var read *layout
	if err == nil {
		read, err = openAndRead(r, v.Envelope)
		found.Refused = r.refused
	}
	if err != nil {
		if found.Error = reasonOf(err); found.Error == "" {
			return result{}, err
		}
		found.Detail = err.Error()
		return found, nil
	}
	if found.Derived, err = f.derived(v); err != nil {
		return result{}, err
	}
	found.Metadata = read.facts()
	for _, t := range read.tensors {
		found.Tensors = append(found.Tensors, [4]any{t.name, t.dtype, t.shape, hex.EncodeToString(t.data)})
	}
	return found, nil
}

// derived derives for itself what the vector gives as extra keys of the file's pre-shared key.
func (f *vectorFile) derived(v vector) (map[string]string, error) {
	found := map[string]string{}
	for id := range v.Extra {
		if f.PSK.Name == "" || !strings.HasPrefix(id, "psk:"+f.PSK.Name+":") {
			continue
		}
		material, err := derivedKey(f.PSK.Key, id)
		if err != nil {
			return nil, err
		}
		found[id] = hex.EncodeToString(material)
	}
	return found, nil
}

func openAndRead(r *receiver, envelope []byte) (*layout, error) {
	plaintext, h, err := r.open(envelope)
	if err != nil {
		return nil, err
	}
	read, err := parseLayout(plaintext)
	if err != nil {
		return nil, err
	}
	most := uint64(sizeLimit)
	if r.expected.Most != nil {
		most = *r.expected.Most
	}
	return decodeLayout(read, h.codec, most)
}

func (f *vectorFile) receiver(v vector) (*receiver, error) {
	s, err := findSuite(f.Suite)
	if err != nil {
		return nil, err
	}
	r := &receiver{
		trustees:      map[string]*mldsa.PublicKey{},
		extra:         map[string][]byte{},
		combining:     v.Contributions != nil,
		expected:      v.Receiver,
		contributions: v.Contributions,
	}
	if r.expected.Suites == nil {
		r.expected.Suites = []string{f.Suite}
	}
	for id, material := range v.Extra {
		r.extra[id] = material
	}
	if r.key, err = f.receivingKey(s, v, r.combining); err != nil {
		return nil, err
	}
	sender, err := mldsa.NewPrivateKey(s.parameters, f.Keys.Sender)
	if err != nil {
		return nil, err
	}
	r.sender = sender.PublicKey()
	if f.Keys.Trustees == nil {
		for _, name := range vectorTrustees {
			r.trustees[name] = sender.PublicKey()
		}
	}
	for name, seed := range f.Keys.Trustees {
		trustee, err := mldsa.NewPrivateKey(s.parameters, seed)
		if err != nil {
			return nil, err
		}
		r.trustees[name] = trustee.PublicKey()
	}
	return r, nil
}

func (f *vectorFile) receivingKey(s suite, v vector, combining bool) (*receivingKey, error) {
	if v.ReceivingPEM != "" {
		return parseReceivingKey([]byte(v.ReceivingPEM))
	}
	if combining {
		return newReceivingKey(s.kem, s.kemName, f.Keys.Combiner)
	}
	return newReceivingKey(s.kem, s.kemName, f.Keys.Receiving[v.Key])
}
