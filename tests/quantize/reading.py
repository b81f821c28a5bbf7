"""Reading a report's page: its words, its tags, and whether they fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

ALONE = {"img", "meta", "br"}


@dataclass
class Tag:
    name: str
    attributes: dict[str, str]
    words: str = ""


@dataclass
class Page(HTMLParser):
    """`tags` in order; `problems`: what does not close, or closes what was never open."""

    text: str
    tags: list[Tag] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Tag] = []
        self.feed(self.text)
        self.close()
        self.problems += [f"<{tag.name}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, {name: value or "" for name, value in attrs}))
        if tag not in ALONE:
            self._open.append(self.tags[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].name != tag:
            self.problems.append(f"</{tag}> closes <{self._open[-1].name if self._open else 'nothing'}>")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            tag.words += data

    def all(self, name: str) -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name]

    @property
    def words(self) -> str:
        """All that is read, with single spaces between words; without the style sheet."""
        body = next(tag for tag in self.tags if tag.name == "body")
        return " ".join(body.words.split())
