"""What became of every tensor: the ledger, how it is made and checked, and what follows from it."""
