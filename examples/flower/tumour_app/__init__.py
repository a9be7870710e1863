"""A Flower app whose traffic goes through pqfl's sidecars without knowing it."""
