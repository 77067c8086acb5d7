"""The page that report writes: what is read, how it is drawn, and the markup around it."""
