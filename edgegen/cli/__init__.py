"""The shell commands: `edgegen ...` and `python -m edgegen ...`.

Startup stays light: this package imports click and the standard library; everything heavier
(pydantic, numpy, onnxruntime, paho) is imported by the command that needs it.
"""

from .app import root

main = root
"""Entry point of the console script: runs sys.argv and exits with the command's code."""

__all__ = ["main"]
