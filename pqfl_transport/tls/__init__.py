"""The channel: TLS 1.3 with hybrid key exchange and ML-DSA certificates, checked after every handshake."""
