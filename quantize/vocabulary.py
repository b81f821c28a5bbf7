"""The pack's `tokenizer.json`: copied, or made from the older `vocab.json` and `merges.txt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgegen.diffusion.tokenizer import END, END_OF_WORD, START, ClipTokenizer
from edgegen.errors import PackError

from .refusal import SourceError

MAX_BYTES = 32 << 20


def write_tokenizer(folder: Path, path: Path, pad_token: str | None = None) -> None:
    """Write the pack's tokenizer and read it back.

    A padding token other than the end token (Stable Diffusion 2 pads with `!`) is added where only the
    older side files name it.

    Args:
        folder: the checkpoint's `tokenizer/`.
        pad_token: what to pad with; None: as the files say.
    Raises:
        SourceError, PackError: what lies there is no CLIP tokenizer.
    """
    ready, data = folder / "tokenizer.json", _tokenizer(folder, pad_token)
    if ready.is_file() and data == _read_json(ready):
        path.write_bytes(ready.read_bytes())
    else:
        path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    ClipTokenizer.from_file(path)


def second_padding(folder: Path, folder_2: Path | None, pad_token: str | None = None) -> int | None:
    """The padding token's id in SDXL's second tokenizer, or None when it pads as the first.

    Args:
        folder: the first tokenizer's files.
        folder_2: the second's; None: it is SDXL's usual one, which pads with `!`.
        pad_token: of the first; None: as its files say.
    Raises:
        SourceError: the two differ in more than padding, so that one file cannot serve both.
    """
    first = _tokenizer(folder, pad_token)
    second = _tokenizer(folder_2) if folder_2 else {**first, "padding": _padding(first, "!")}
    for part in ("vocab", "merges"):
        if _plain(first["model"].get(part)) != _plain(second["model"].get(part)):
            raise SourceError(f"tokenizer_2/ has other {part} than tokenizer/; only its padding may differ")
    pads = [_pad_id(data) for data in (first, second)]
    return None if pads[0] == pads[1] else pads[1]


def _tokenizer(folder: Path, pad_token: str | None = None) -> dict[str, Any]:
    """A tokenizer as one JSON object, with its padding, or padding with another token."""
    ready = folder / "tokenizer.json"
    data = _read_json(ready) if ready.is_file() else _from_vocabulary(folder)
    pad = _pad_token(folder)
    if pad_token:
        data["padding"] = _padding(data, pad_token)
    elif data.get("padding") is None and pad and pad != END:
        data["padding"] = _padding(data, pad)
    if not isinstance(data.get("model"), dict):
        raise PackError(f"tokenizer {ready} is not of CLIP type: it has no model")
    return data


def _pad_id(data: dict[str, Any]) -> int:
    """Of a tokenizer's JSON; without padding of its own it pads with the end token."""
    padding = data.get("padding") or _padding(data, END)
    pad_id = padding.get("pad_id") if isinstance(padding, dict) else None
    if type(pad_id) is not int or pad_id < 0:
        raise SourceError(f"tokenizer: padding.pad_id is {pad_id!r}, which is no token's id")
    return pad_id


def _plain(merges: Any) -> Any:
    """Merges as pairs, whichever of the two ways the file has them; anything else as it is."""
    return [m.split(" ") if isinstance(m, str) else m for m in merges] if isinstance(merges, list) else merges


def _from_vocabulary(folder: Path) -> dict[str, Any]:
    vocabulary = _read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text("utf-8").splitlines()
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    special = [{"id": vocabulary.get(t), "content": t, "special": True} for t in (START, END)]
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "end_of_word_suffix": END_OF_WORD}
    return {"version": "1.0", "added_tokens": special, "model": model}


def _pad_token(folder: Path) -> str | None:
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            token = _read_json(folder / name).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return None


def _padding(data: dict[str, Any], token: str) -> dict[str, Any]:
    vocabulary = data.get("model", {}).get("vocab", {})
    added = {t.get("content"): t.get("id") for t in data.get("added_tokens") or []}
    pad_id = {**vocabulary, **added}.get(token)
    if pad_id is None:
        raise SourceError(f"tokenizer/: the padding token {token!r} is not in the vocabulary")
    return {"strategy": "BatchLongest", "direction": "Right", "pad_id": pad_id, "pad_token": token}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        return data
    except (OSError, ValueError, RecursionError) as err:
        raise SourceError(f"{path} cannot be read: {err}") from err
