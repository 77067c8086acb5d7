"""What can be trained: the contract of a family, search spaces, families, and how networks train."""
