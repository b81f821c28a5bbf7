"""Which new jobs are taken: how many from each kind of trigger, and with which words."""

from __future__ import annotations

import logging
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from ..diffusion.embeddingnames import embedding_problem
from ..errors import BadRequest, BlockedPrompt, ConfigError, Problem, RateLimited
from ..settings import PromptSettings, RateSettings
from ..workflow import parse_workflow
from .job import JobRequest
from .workflowjob import words_in

log = logging.getLogger(__name__)

MAX_LIST_BYTES = 1_000_000
_WORD = re.compile(r"\w+")


class TokenBucket:
    """`per_min` tokens a minute come in, `burst` of them fit; a clock that only goes forward is handed in."""

    def __init__(self, per_min: float, burst: int):
        self._per_s = per_min / 60
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> float:
        """0 when a token was there and is taken now, else the seconds until one will be."""
        if self._per_s <= 0:
            return 0.0
        came = (now - self._at) * self._per_s if self._at is not None else 0.0
        self._at = now
        self._tokens = min(self._burst, self._tokens + max(0.0, came))
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_s


class RateLimiter:
    """One bucket for each kind of trigger; sources it does not know are not limited. Any thread may ask."""

    def __init__(self, settings: RateSettings, monotonic: Callable[[], float] = time.monotonic):
        rates = {
            "mqtt": settings.mqtt_per_min,
            "button": settings.buttons_per_min,
            "cli": settings.cli_per_min,
        }
        self._rates = rates
        self._buckets = {kind: TokenBucket(rate, settings.burst) for kind, rate in rates.items()}
        self._monotonic = monotonic
        self._lock = threading.Lock()

    def check(self, source: str) -> None:
        """Raises RateLimited: says when to try again."""
        kind = source.partition(":")[0]
        kind = "mqtt" if kind == "home_assistant" else kind  # its commands come over the same broker
        with self._lock:
            bucket = self._buckets.get(kind)
            wait_s = bucket.take(self._monotonic()) if bucket else 0.0
        if wait_s > 0:
            raise RateLimited(
                f"at most {self._rates[kind]:g} jobs a minute are taken from {kind}: "
                f"try again in {max(1, round(wait_s))} s",
                wait_s,
            )


def plain_words(text: str) -> tuple[str, ...]:
    """The words of a text without case, accents, width and punctuation: `Ça, ÉTÉ` is `ca`, `ete`."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    visible = (c for c in folded if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    return tuple(_WORD.findall("".join(visible).replace("_", " ")))


class PromptRules:
    """The block and the allow list, ready to judge prompts.

    Raises:
        ConfigError: a list's file cannot be read; then no prompt is judged by half a list.
    """

    def __init__(self, settings: PromptSettings):
        blocked = (*settings.block, *_lines("prompts.block_file", settings.block_file))
        allowed = (*settings.allow, *_lines("prompts.allow_file", settings.allow_file))
        self._blocked = _phrases(blocked)
        self._allowed = {word for text in allowed for word in plain_words(text)}
        self._only_allowed = bool(settings.allow or settings.allow_file)

    def check(self, prompt: str) -> None:
        """Raises BlockedPrompt."""
        if not (self._blocked or self._only_allowed):
            return
        words = plain_words(prompt)
        if self._holds_blocked(words):
            raise BlockedPrompt("this device does not draw that: ask for something else")
        if self._only_allowed and not set(words) <= self._allowed:
            raise BlockedPrompt("this device draws only what is on its list: ask for something else")

    def _holds_blocked(self, words: tuple[str, ...]) -> bool:
        return any(
            words[at : at + length] in phrases
            for length, phrases in self._blocked.items()
            for at in range(len(words) - length + 1)
        )


class ClosedRules:
    """Instead of rules whose list cannot be read: a public kiosk with half a list would be no kiosk."""

    def check(self, prompt: str) -> None:  # noqa: ARG002 - whatever it says
        raise BlockedPrompt("this device takes no prompts now: its word list cannot be read")


def prompt_rules(settings: PromptSettings) -> PromptRules | ClosedRules:
    """The rules, or what refuses everything until the lists can be read; the log says why."""
    try:
        return PromptRules(settings)
    except ConfigError as err:
        log.error("no prompts are taken until this is mended and the configuration reloaded: %s", err)
        return ClosedRules()


class Admission:
    """Asked before a new job is committed, never for one that is known already.

    Attributes:
        prompts, rates: may be replaced while it runs.
        embeddings: folder of textual inversions; None: prompts are not asked for theirs.
    """

    def __init__(
        self, prompts: PromptRules | ClosedRules, rates: RateLimiter, embeddings: Path | None = None
    ):
        self.prompts = prompts
        self.rates = rates
        self.embeddings = embeddings

    def admit(self, request: JobRequest) -> None:
        """Raises BlockedPrompt, BadRequest or RateLimited; a refused prompt costs its trigger no token."""
        check_words(self.prompts, request)
        if self.embeddings is not None:
            check_embeddings(self.embeddings, request)
        self.rates.check(request.source)


def check_words(rules: PromptRules | ClosedRules, request: JobRequest) -> None:
    """Every text of a request that says what to draw or not to draw. Raises BlockedPrompt."""
    for text in _texts_of(request):
        rules.check(text)


def check_embeddings(folder: Path, request: JobRequest) -> None:
    """Whether the embeddings that prompts in ComfyUI's syntax name are there; whether they fit a pack, only
    the engine knows. Raises BadRequest."""
    if request.prompt_syntax == "a1111" and not request.workflow:
        return  # there any words may be a name
    found = (embedding_problem(text, folder) for text in _texts_of(request))
    if problems := [Problem("prompt", None, problem) for problem in found if problem]:
        raise BadRequest(problems)


def _texts_of(request: JobRequest) -> tuple[str, ...]:
    written = words_in(parse_workflow(request.workflow)) if request.workflow else []
    return (request.prompt, request.negative_prompt, *written)


def _phrases(texts: Iterable[str]) -> dict[int, set[tuple[str, ...]]]:
    """Phrases by their number of words."""
    by_length: dict[int, set[tuple[str, ...]]] = {}
    for words in map(plain_words, texts):
        if words:
            by_length.setdefault(len(words), set()).add(words)
    return by_length


def _lines(key: str, path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise ConfigError([Problem(key, str(path), f"{path}: larger than {MAX_LIST_BYTES} bytes")])
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ConfigError([Problem(key, str(path), f"{path}: is no UTF-8 text ({err.reason})")]) from err
    except OSError as err:
        raise ConfigError([Problem(key, str(path), f"{path}: {err.strerror or err}")]) from err
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
