"""Tables, neighbours and pictures of images: what the gate judges, and what it shows."""
