"""HTTP mode: requests and responses pass as streams, and each is looked at before the backend sees a byte of it."""
