"""The demonstration: hospitals train one model together, each party in processes of its own."""
