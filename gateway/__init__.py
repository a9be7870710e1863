"""The sidecar: terminates the channel, checks, refuses, relays. It never opens content."""
