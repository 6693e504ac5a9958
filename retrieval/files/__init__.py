"""Files below all meaning: written whole or not at all, hashed, safetensors, pickles of which nothing runs."""
