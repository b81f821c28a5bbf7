"""Words to pictures on a Raspberry Pi or an Intel NUC, offline."""

__version__ = "0.1.0"
