"""How fast syncd is, and at what cost, measured beside its peers: ``make bench``."""
