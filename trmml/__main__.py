"""`python -m trmml`: the same as the `trmml` command."""

from trmml.cli import main

if __name__ == "__main__":
    main()
