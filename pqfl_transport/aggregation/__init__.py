"""Rules that turn opened updates into one model: numpy only, no I/O."""
