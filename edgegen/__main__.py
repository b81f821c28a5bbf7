"""`python -m edgegen` is the same as `edgegen`."""

from edgegen.cli import main

if __name__ == "__main__":
    main()
