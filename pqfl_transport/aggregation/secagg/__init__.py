"""Secure aggregation: the sum of the sites' updates and nothing else (Bonawitz et al., CCS 2017). No I/O, no clock."""
