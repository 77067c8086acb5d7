"""Source formats, a module each, found by its name in `download.<dataset>.format`."""
