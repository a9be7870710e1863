"""What outlives a request: the sealed models."""
