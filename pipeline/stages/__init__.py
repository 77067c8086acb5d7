"""The DVC stages, one file each: parse arguments, load inputs, call one package, save outputs. Start reading here."""
