"""Source formats, one module each, selected by name in `download.<dataset>.format`."""
