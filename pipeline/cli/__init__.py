"""The `pipeline` command: one file per subcommand, for printing and exit codes; nothing heavy until needed."""
