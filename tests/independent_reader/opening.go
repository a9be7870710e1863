package main

import (
	"bytes"
	"slices"

	"filippo.io/mldsa"
)

// receiver is what one receiver knows and expects; ENVELOPE.md §5 says in what order it is held against an envelope.
// Nil and empty expectations are not checked.
type receiver struct {
	key *receivingKey
	// sender is the key of the registry, for those whom the expectation lists.
	sender   *mldsa.PublicKey
	extra    map[string][]byte
	expected expectation
	// Contributions are given instead of the receiver's own key, and key is the combiner's then.
	contributions []base64Bytes
	combining     bool
	trustees      map[string]*mldsa.PublicKey
	refused       []string
}

// open does the steps of ENVELOPE.md §5 and returns the plaintext and the header.
func (r *receiver) open(envelope []byte) ([]byte, *header, error) {
	p, rest, err := parsePrologue(envelope)
	if err != nil {
		return nil, nil, err
	}
	sender, err := r.admit(p)
	if err != nil {
		return nil, nil, err
	}
	body, err := r.bodyReader(p)
	if err != nil {
		return nil, nil, err
	}
	plaintext, rest, err := decrypt(body, p.header.length, rest)
	if err != nil {
		return nil, nil, err
	}
	chunks := envelope[len(p.raw) : len(envelope)-len(rest)]
	if err := checkEnd(p, sender, chunks, rest); err != nil {
		return nil, nil, err
	}
	return plaintext, p.header, nil
}

// admit does the steps 2 to 5, those of a gateway.
func (r *receiver) admit(p *prologue) (*mldsa.PublicKey, error) {
	h := p.header
	if !slices.Contains(r.expected.Suites, h.suiteID) {
		return nil, refuse("content_suite", "the policy does not list %s", h.suiteID)
	}
	if r.expected.Sender != "" && h.sender != r.expected.Sender {
		return nil, refuse("wrong_sender", "%q", h.sender)
	}
	if r.expected.Senders != nil && !slices.Contains(r.expected.Senders, h.sender) {
		return nil, refuse("unknown_sender", "%q", h.sender)
	}
	fingerprint, err := signingFingerprint(r.sender)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(h.senderKey, fingerprint) {
		return nil, refuse("wrong_sender_key", "not the key of %s", h.sender)
	}
	if err := r.expected.check(h); err != nil {
		return nil, err
	}
	if r.sender.Parameters() != h.suite.parameters || !verify(r.sender, p.signed(), p.signature, "prologue") {
		return nil, refuse("bad_signature", "the prologue is not signed by %s", h.sender)
	}
	return r.sender, nil
}

// bodyReader does step 7: content key, extra keys, commitment.
func (r *receiver) bodyReader(p *prologue) (*bodyReader, error) {
	contentKey, err := r.contentKey(p)
	if err != nil {
		return nil, err
	}
	// Extra keys are given out once, so they are asked for last.
	materials, err := r.extraKeys(p.header)
	if err != nil {
		return nil, err
	}
	key, err := bodyKey(contentKey, p.header.raw, materials)
	if err != nil {
		return nil, err
	}
	return newBodyReader(key, wrapInfo("body", p.header.raw, p.wrappedRaw), p.commitment)
}

func (r *receiver) extraKeys(h *header) ([][]byte, error) {
	if r.expected.NeedsExtra && len(h.extraKeys) == 0 {
		return nil, refuse("no_extra_key", "the policy requires one")
	}
	var materials [][]byte
	for _, id := range h.extraKeys {
		material, known := r.extra[id]
		if !known {
			return nil, refuse("extra_key", "no key %q here", id)
		}
		materials = append(materials, material)
	}
	return materials, nil
}

func (r *receiver) contentKey(p *prologue) ([]byte, error) {
	h := p.header
	if r.combining && h.threshold == 0 {
		return nil, refuse("threshold", "the envelope opens for each recipient alone")
	}
	if r.combining {
		together := &combiner{prologue: p, key: r.key, trustees: r.trustees}
		for _, contribution := range r.contributions {
			if err := together.add(contribution); err != nil {
				r.refused = append(r.refused, reasonOf(err))
			}
		}
		return together.contentKey()
	}
	index := slices.IndexFunc(h.recipients, func(f []byte) bool { return bytes.Equal(f, r.key.fingerprint) })
	if index < 0 {
		return nil, refuse("not_for_us", "the key is none of the recipients'")
	}
	if h.threshold > 0 {
		return nil, refuse("threshold", "%d of %d open together", h.threshold, len(h.recipients))
	}
	contentKey, err := r.key.unwrap(h.suite, p.wrapped[index], wrapInfo("wrap", h.raw, r.key.fingerprint))
	if err != nil {
		return nil, err
	}
	if len(contentKey) != contentKeySize {
		return nil, refuse("malformed", "a content key of %d bytes", len(contentKey))
	}
	return contentKey, nil
}

// decrypt does step 8 and the first half of step 9: the body's chunks, none more than the header says.
func decrypt(body *bodyReader, length uint64, rest []byte) (plaintext, behind []byte, err error) {
	for {
		size := min(length-uint64(len(plaintext)), chunkSize)
		if uint64(len(rest)) < size+tagSize {
			return nil, nil, refuse("truncated", "the envelope ends in its body")
		}
		chunk, err := body.open(rest[:size+tagSize])
		if err != nil {
			return nil, nil, err
		}
		plaintext = append(plaintext, chunk...)
		rest = rest[size+tagSize:]
		// The last chunk is shorter than the others, or empty.
		if size < chunkSize {
			return plaintext, rest, nil
		}
	}
}

// checkEnd holds what is behind the chunks to the trailer flag (ENVELOPE.md §6).
func checkEnd(p *prologue, sender *mldsa.PublicKey, chunks, rest []byte) error {
	wanted := 0
	if p.header.trailer {
		wanted = p.header.suite.parameters.SignatureSize()
	}
	if len(rest) < wanted {
		return refuse("truncated", "the envelope ends in its trailer")
	}
	if len(rest) > wanted {
		return refuse("excess", "%d bytes behind the end", len(rest)-wanted)
	}
	if !p.header.trailer {
		return nil
	}
	digest := p.header.suite.hash.New()
	digest.Write(p.commitment)
	digest.Write(chunks)
	if !verify(sender, lp(p.raw, digest.Sum(nil)), rest, "trailer") {
		return refuse("bad_trailer", "the body is not signed by %s", p.header.sender)
	}
	return nil
}
