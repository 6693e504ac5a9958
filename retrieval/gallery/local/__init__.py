"""The local index of a gallery: binary codes of local features, kept by content, searched as inverted files."""
