"""How often a player may be contacted, and the ledger that holds what was reserved."""
