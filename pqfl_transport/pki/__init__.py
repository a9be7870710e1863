"""Names, certificates, roster and signed documents of a federation."""
