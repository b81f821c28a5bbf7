"""The pack's `tokenizer.json`: copied, or made from the older `vocab.json` and `merges.txt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgegen.diffusion.tokenizer import END, END_OF_WORD, START, ClipTokenizer

from .source import SourceError

MAX_BYTES = 32 << 20


def write_tokenizer(folder: Path, path: Path) -> None:
    """Write the pack's tokenizer and read it back.

    A padding token other than the end token (Stable Diffusion 2 pads with `!`) is added where only the
    older side files name it.

    Args:
        folder: the checkpoint's `tokenizer/`.
    Raises:
        SourceError, PackError: what lies there is no CLIP tokenizer.
    """
    ready = folder / "tokenizer.json"
    data = _read_json(ready) if ready.is_file() else _from_vocabulary(folder)
    pad = _pad_token(folder)
    if data.get("padding") is None and pad and pad != END:
        data["padding"] = _padding(data, pad)
        path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    elif ready.is_file():
        path.write_bytes(ready.read_bytes())
    else:
        path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    ClipTokenizer.from_file(path)


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
