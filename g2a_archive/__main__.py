"""`python -m g2a_archive` is `g2a-archive`."""

from g2a_archive.cli import main

if __name__ == "__main__":
    main()
