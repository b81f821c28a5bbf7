"""The configuration's name, for people."""

from __future__ import annotations

from pathlib import Path


def file_in_use(path: Path | None) -> str:
    """The configuration file's name and how many drop-ins stand beside it, or that there is none."""
    from edgegen.config.files import find_config_file
    from edgegen.config.layers import DROP_INS, config_files

    found = path or find_config_file()
    if not found:
        return "no configuration file, so all defaults"
    beside = [file for file in config_files(found, {}, []) if file != found]
    return f"{found} with {len(beside)} in {DROP_INS}" if beside else str(found)
