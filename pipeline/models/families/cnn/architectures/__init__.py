"""The architectures, a module each."""
