"""The command line: one thin file a command. Nothing here that a library user would miss."""
