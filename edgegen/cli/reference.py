"""Every setting as something to read: derived from `edgegen.settings`, never written twice. Pure.

`config explain`, `config example` and docs/CONFIG.md are three printings of `entries()`.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from edgegen.config.tomltext import toml_value
from edgegen.settings import Settings

NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
PLURALS = {str: "texts", int: "whole numbers", float: "numbers", Path: "paths"}
EXAMPLES = {  # for keys that are empty unless set, or must be given
    "node.run_dir": "/run/edgegen",
    "gallery.dir": "/var/lib/edgegen/gallery",
    "mqtt.password_file": "/etc/edgegen/mqtt-password",
    "mqtt.ca_file": "/etc/edgegen/ca.pem",
    "mqtt.cert_file": "/etc/edgegen/client.pem",
    "mqtt.key_file": "/etc/edgegen/client.key",
    "mqtt.key_password_file": "/etc/edgegen/client.key-password",
    "display.file": "/run/edgegen-display/screen.png",
    "display.font": "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "styles.name": "ink",
    "styles.suffix": "ink drawing, black lines",
    "styles.negative_prompt": "colour",
    "buttons.pin": 17,
    "buttons.prompts": ["a red apple", "a rocket on a blue background"],
    "buttons.led": 27,
    "buttons.steps": 8,
    "buttons.pack": "pocket",
    "buttons.workflow": "portrait",
    "buttons.values": {"style": "ink"},
}


@dataclass(frozen=True)
class Entry:
    """One key.

    Attributes:
        section, name: `engine`, `threads`. listed: the section is a [[list of tables]].
        kind: its type in words. allowed: range, choices or pattern in words, empty where anything goes.
        default: None where the key is empty unless set; `required` where it must be given.
        env: the environment variable that overrides it, None for keys of [[lists]].
    """

    section: str
    name: str
    kind: str
    allowed: str
    default: Any
    required: bool
    meaning: str
    env: str | None
    listed: bool

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def default_text(self) -> str:
        if self.required:
            return "must be given"
        return "empty" if self.default in (None, "", (), {}) else toml_value(self.default)


def entries() -> list[Entry]:
    """Every key in the order of the configuration file."""
    return [entry for part in sections() for entry in section_entries(*part)]


def sections() -> Iterator[tuple[str, type[BaseModel], bool]]:
    """(name, model, whether it is a [[list of tables]]) of every section of the file."""
    for name, field in Settings.model_fields.items():
        listed = get_origin(field.annotation) is tuple
        model = get_args(field.annotation)[0] if listed else field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        yield name, model, listed


def section_entries(section: str, model: type[BaseModel], listed: bool) -> Iterator[Entry]:
    """The keys of one section."""
    for name, field in model.model_fields.items():
        annotation, metadata = _unwrap(field.annotation, list(field.metadata))
        yield Entry(
            section,
            name,
            kind=kind_of(annotation),
            allowed=allowed_of(annotation, metadata),
            default=None if field.is_required() else _default(field),
            required=field.is_required(),
            meaning=field.description or "",
            env=None if listed else env_name(section, name),
            listed=listed,
        )


def env_name(section: str, name: str) -> str:
    """`engine`, `threads` -> `EDGEGEN_ENGINE__THREADS`, as `config.files` reads it."""
    return f"EDGEGEN_{section}__{name}".upper()


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return None if default is PydanticUndefined else default


def _unwrap(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """The type without `| None` and Annotated, and all constraints found on the way."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        for item in more:
            metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        return _unwrap(inner, metadata)
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _unwrap(rest[0], metadata) if len(rest) == 1 else (annotation, metadata)
    return annotation, metadata


def kind_of(annotation: Any) -> str:
    """A type in words."""
    if get_origin(annotation) is tuple:
        return f"list of {PLURALS.get(get_args(annotation)[0], 'values')}"
    if get_origin(annotation) is Literal:
        return "choice"
    if get_origin(annotation) is dict:
        return "table of texts and numbers"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def allowed_of(annotation: Any, metadata: Iterable[Any]) -> str:
    """Range, choices, length and pattern in words."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    bounds = {
        name: getattr(item, name)
        for item in metadata
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if getattr(item, name, None) is not None
    }
    unit = "" if annotation in (int, float) else " characters" if annotation is str else " items"
    return ", ".join(_bounds_text(bounds, unit))


def _bounds_text(bounds: dict[str, Any], unit: str) -> Iterator[str]:
    low, high = bounds.get("ge", bounds.get("min_length")), bounds.get("le", bounds.get("max_length"))
    if "gt" in bounds:
        yield f"above {bounds['gt']:g}"
    if "lt" in bounds:
        yield f"below {bounds['lt']:g}"
    if low is not None and high is not None:
        yield f"{_number(low)} to {_number(high)}{unit}"
    elif high is not None:
        yield f"at most {_number(high)}{unit}"
    elif low is not None:
        yield f"at least {_number(low)}{unit if low != 1 else unit.rstrip('s')}"
    if "pattern" in bounds:
        yield f"matching `{bounds['pattern']}`"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def explain_lines(entry: Entry) -> Iterator[str]:
    """One key, in full."""
    yield f"{entry.key}"
    yield f"    {entry.meaning}"
    yield f"    type     {entry.kind}"
    if entry.allowed:
        yield f"    allowed  {entry.allowed}"
    yield f"    default  {entry.default_text}"
    if entry.env:
        yield f"    env      {entry.env}"


def example_toml() -> str:
    """A configuration file with every key, commented out at its default."""
    lines = [
        "# edgegen's configuration. Every key is optional; what is commented out is its default.",
        "# Check this file with: edgegen config validate FILE",
        "",
    ]
    for section, model, listed in sections():
        lines.append(f"#[[{section}]]" if listed else f"[{section}]")
        for entry in section_entries(section, model, listed):
            lines += [f"# {entry.meaning}", f"# {_about(entry)}", _example_line(entry)]
        lines.append("")
    return "\n".join(lines)


def _about(entry: Entry) -> str:
    empty = "empty unless set" if entry.default is None and not entry.required else ""
    return "; ".join(part for part in (entry.kind, entry.allowed, empty) if part)


def _example_line(entry: Entry) -> str:
    value = EXAMPLES.get(entry.key, entry.default)
    return f"#{entry.name} = {toml_value(value)}"


def markdown() -> str:
    """docs/CONFIG.md."""
    lines = [
        "# Configuration",
        "",
        "<!-- Made by `edgegen config reference > docs/CONFIG.md` from edgegen/settings.py; edit that. -->",
        "",
        "One TOML file; every key is optional. Files in `conf.d/*.toml` beside it override it in the order",
        "of their names, key by key (a `[[list of tables]]` is taken whole); the environment overrides both.",
        "`edgegen config example` prints a commented file, `edgegen config validate` tells every mistake",
        "with its file and line, `edgegen config show` says where each value comes from, and",
        "`edgegen config diff` what differs from the defaults.",
        "",
    ]
    for section, model, listed in sections():
        lines += [f"## [[{section}]]" if listed else f"## [{section}]", ""]
        lines += ["| key | type | allowed | default | meaning |", "|---|---|---|---|---|"]
        lines += [_markdown_row(entry) for entry in section_entries(section, model, listed)]
        lines.append("")
    lines += ["Environment variables: `EDGEGEN_<SECTION>__<KEY>`, as in `EDGEGEN_ENGINE__THREADS=2`."]
    return "\n".join(lines) + "\n"


def _markdown_row(entry: Entry) -> str:
    default = (
        entry.default_text if entry.default_text in ("empty", "must be given") else f"`{entry.default_text}`"
    )
    cells = [f"`{entry.name}`", entry.kind, _escaped(entry.allowed), default, _escaped(entry.meaning)]
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """Text that Markdown takes neither for a table's border nor for a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<")


def unknown_key(key: str, known: list[Entry]) -> str:
    """What to say about a key that does not exist."""
    names = [entry.key for entry in known] + sorted({entry.section for entry in known})
    near = get_close_matches(key[:100], names, 3) or [name for name in names if name.endswith(f".{key}")]
    return "no such key; " + (
        f"did you mean {' or '.join(near)}?" if near else "edgegen config explain lists all"
    )
