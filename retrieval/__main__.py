"""``python -m retrieval`` is ``retrieve``."""

from retrieval.cli.main import main

if __name__ == "__main__":
    main()
