"""The content: tensors, the envelope around them, sealing and opening."""
