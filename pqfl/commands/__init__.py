"""The commands of `pqfl`, one module a group."""
