"""`python -m quantize`, also installed as `edgegen-quantize`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; without the extra's packages, say in one line how to get them."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as err:
        if (err.name or "").split(".")[0] in ("edgegen", "quantize"):
            raise
        sys.exit(f"error: {err.name} is missing; quantizing needs the extra: pip install 'edgegen[quantize]'")
    run()


if __name__ == "__main__":
    main()
