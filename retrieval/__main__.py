"""``python -m retrieval`` is ``retrieve``."""

from retrieval.cli.start import run

if __name__ == "__main__":
    run()
