"""Files from mirrors: resumed, bounded, checked against their pins."""
