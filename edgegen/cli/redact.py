"""Secrets out of text that leaves the device: known values as such, unknown ones by their looks. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

REMOVED = "[removed]"
MIN_WORD = 4  # shorter values are removed as whole words only, or they would eat all text
# A key of this name holds a secret, not the path of a file that does.
_SECRET_KEY = re.compile(r"(?i)(pass(word|wd|phrase)?|secret|token|(^|[_.-])key|credential)s?$")
_ASSIGNED = re.compile(
    r"(?i)(\b[\w.-]*(?:password|passwd|passphrase|secret|token|api_?key|private_?key|credentials?)[\"']?"
    r"\s*[=:]\s*)(\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|[^\s,;}\]]+)"
)
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_USER_INFO = re.compile(r"((?:\b[a-z][a-z0-9+.-]*://)?)[^\s\"'/:@,;(\[{]+:[^\s\"']*@(?=[\w\[])")


def is_secret_key(key: str) -> bool:
    """`mqtt.password` and `API_TOKEN` are, `mqtt.password_file` is not."""
    return bool(_SECRET_KEY.search(key))


def secrets_of(values: Mapping[str, Any]) -> set[str]:
    """Every text below a key that names a secret, at any depth."""
    found: set[str] = set()
    for key, value in values.items():
        tables = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
        for table in tables:
            if isinstance(table, Mapping):
                found |= secrets_of(table)
        if is_secret_key(str(key)) and not isinstance(value, Mapping | list | bool):
            found.add(str(value))
    return found


class Redactor:
    """Takes secrets out of any text.

    Args:
        secrets: values that must not leave, as they are in their files; each line of one counts.
    """

    def __init__(self, secrets: Iterable[str]):
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        shapes = {shape for line in lines - {""} for shape in _shapes(line)}
        words = [_pattern(shape) for shape in sorted(shapes, key=len, reverse=True)]
        self._known = re.compile("|".join(words)) if words else None

    def clean(self, text: str) -> str:
        """The text without them."""
        if self._known:
            text = self._known.sub(REMOVED, text)
        text = _KEY_BLOCK.sub(REMOVED, text)
        text = _USER_INFO.sub(rf"\1{REMOVED}@", text)
        return _ASSIGNED.sub(lambda match: match[1] + REMOVED, text)


def _shapes(secret: str) -> set[str]:
    """As it is, and as it looks in a URL, in JSON or TOML and in Python's messages."""
    plain_json = json.dumps(secret, ensure_ascii=False)[1:-1]
    return {secret, quote(secret, safe=""), plain_json, json.dumps(secret)[1:-1], repr(secret)[1:-1]}


def _pattern(shape: str) -> str:
    escaped = re.escape(shape)
    return escaped if len(shape) >= MIN_WORD else rf"(?<!\w){escaped}(?!\w)"
