"""Whose a certificate is and how long it is good: the few fields of X.509 that an operator asks for. Pure.

Python's ssl module tells them of a peer's certificate only. Nothing here decides about trust: OpenSSL does.
Source: RFC 5280, 4.1 (fields) and ITU-T X.690 (DER).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
VERSION = 0xA0  # [0] EXPLICIT, missing in version 1
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
COMMON_NAME = bytes((0x55, 0x04, 0x03))  # 2.5.4.3
DAY_S = 86_400


@dataclass(frozen=True)
class Certificate:
    """Attributes: name: its subject's common name, may be empty. begins, ends: Unix seconds."""

    name: str
    begins: float
    ends: float

    def days_left(self, now: float) -> float:
        """Negative when it has expired."""
        return (self.ends - now) / DAY_S


def read_certificates(pem: str) -> list[Certificate]:
    """Every certificate in a PEM text, in order.

    Raises:
        ValueError: one of them is damaged.
    """
    blocks = (part.split(END)[0] for part in pem.split(BEGIN)[1:])
    return [read_certificate(ssl.PEM_cert_to_DER_cert(f"{BEGIN}{block}{END}")) for block in blocks]


def read_certificate(der: bytes) -> Certificate:
    """One certificate in DER. Raises ValueError when it is none."""
    try:
        (_, signed), *_ = parts(next(parts(der))[1])
        fields = [part for part in parts(signed) if part[0] != VERSION]
        _serial, _algorithm, _issuer, validity, subject, *_ = fields
        begins, ends = (moment(tag, value) for tag, value in parts(validity[1]))
    except (StopIteration, IndexError, ValueError) as err:
        raise ValueError("it is no certificate, or a damaged one") from err
    return Certificate(common_name(subject[1]), begins, ends)


def parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that follow one another: tag and content."""
    at = 0
    while at < len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            start += count
            length = int.from_bytes(data[start - count : start], "big")
        if start + length > len(data):
            raise IndexError("cut off")
        at = start + length
        yield tag, data[start:at]


def moment(tag: int, value: bytes) -> float:
    """Unix seconds of a UTCTime (years 1950 to 2049) or a GeneralizedTime."""
    text = value.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError(f"a time of tag {tag:#x}")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def common_name(subject: bytes) -> str:
    """The last one of a distinguished name; empty without any."""
    found = ""
    for _, group in parts(subject):
        for _, attribute in parts(group):
            kind, value, *_ = parts(attribute)
            if kind[1] == COMMON_NAME:
                found = value[1].decode("utf-8", "replace")
    return found
