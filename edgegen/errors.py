"""Every failure a person at the device may be told about.

Each leaf also inherits the builtin it resembles, carries a short stable `code` for machines
and an `exit_code` for shells. The message names the thing, the value and the allowed range.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


class EdgegenError(Exception):
    """Root of every expected failure: safe to show to the person at the device."""

    code = "error"
    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one field of something that came from outside."""

    field: str
    value: object
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class BadRequest(EdgegenError, ValueError):
    """A job request from outside that cannot be accepted; lists every problem at once."""

    code = "bad_request"
    exit_code = 2

    def __init__(self, problems: list[Problem] | str, code: str | None = None):
        self.problems = [Problem("", None, problems)] if isinstance(problems, str) else list(problems)
        if code:
            self.code = code
        super().__init__("; ".join(str(p) for p in self.problems))


class ConfigError(EdgegenError, ValueError):
    """The configuration is wrong; lists every problem at once."""

    code = "bad_config"
    exit_code = 78  # EX_CONFIG of sysexits.h: systemd shows it as such

    def __init__(self, problems: list[Problem] | str):
        self.problems = [Problem("", None, problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class PackError(EdgegenError, ValueError):
    """A pack is missing a graph, fails its hash, or has a newer format version."""

    code = "bad_pack"
    exit_code = 3


class UnknownPack(PackError, LookupError):
    """No pack of that name is installed."""

    code = "unknown_pack"


class LoraError(EdgegenError, ValueError):
    """A LoRA file is damaged, holds what is not understood, or does not fit the pack."""

    code = "bad_lora"
    exit_code = 2


class ProviderError(EdgegenError, RuntimeError):
    """The execution provider asked for is not installed or refuses this graph."""

    code = "no_provider"
    exit_code = 4


class EngineError(EdgegenError, RuntimeError):
    """A graph failed while it ran."""

    code = "engine_failed"
    exit_code = 5


class OutOfMemory(EngineError, MemoryError):
    """There was not enough memory; says for which size and what to lower."""

    code = "out_of_memory"


class Cancelled(EdgegenError):
    """The job was cancelled by someone who may."""

    code = "cancelled"
    exit_code = 130


class StorageError(EdgegenError, OSError):
    """A folder cannot be written, or the disk is full."""

    code = "storage"
    exit_code = 6


class DiskFull(EdgegenError, OSError):
    """The disk is full, or its reserve is reached; what would have been written was not."""

    code = "disk_full"
    exit_code = 6


class QueueFull(EdgegenError, RuntimeError):
    """The queue holds as many jobs as it may."""

    code = "queue_full"


class RateLimited(EdgegenError, RuntimeError):
    """Too many jobs from one kind of trigger.

    Attributes:
        retry_after_s: seconds until one more is taken.
    """

    code = "rate_limited"

    def __init__(self, message: str, retry_after_s: float):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BlockedPrompt(EdgegenError, ValueError):
    """The prompt holds what this device does not draw; the message does not say which words."""

    code = "blocked_prompt"
    exit_code = 2


class UnknownJob(EdgegenError, LookupError):
    """No job of that id is known here."""

    code = "unknown_job"
    exit_code = 2


class PinsError(EdgegenError, OSError):
    """The GPIO pins cannot be used on this machine."""

    code = "no_pins"
    exit_code = 8


def shorten(value: object, limit: int = 60) -> str:
    """A value as people can read it in one line of a message."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
