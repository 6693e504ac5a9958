"""Picture files: finding them, deciding what may be opened, decoding them to uint8 arrays."""
