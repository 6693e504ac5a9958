"""``python -m retrieval`` is ``retrieve``."""

from retrieval.cli.main import run

if __name__ == "__main__":
    run()
