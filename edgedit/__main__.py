"""`python -m edgedit` is the same program as `edgedit`."""

from edgedit.cli import main

if __name__ == "__main__":
    main()
