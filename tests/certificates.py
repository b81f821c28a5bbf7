"""A certificate authority for tests: real certificates made with openssl, good, expired or encrypted."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make certificates with")
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")  # in no time, even on a Pi


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, each in a file."""

    cert: Path
    key: Path


class Authority:
    """A CA in a folder, which signs whatever it is asked to."""

    def __init__(self, folder: Path, name: str = "ca"):
        self.folder = folder
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        openssl(
            "req", "-x509", *CURVE, "-nodes", "-days", "400", "-subj", f"/CN={name}",
            "-keyout", self._key, "-out", self.cert,
        )  # fmt: skip

    def issue(self, name: str, days: int = 90, address: str = "", passphrase: str = "") -> Issued:
        """For whom; `days` below 0 has expired; `address` is a broker's, as it may be called."""
        made = Issued(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        protection = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
        openssl(
            "req", "-new", *CURVE, *protection, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request
        )
        extensions.write_text(f"subjectAltName=IP:{address}\n" if address else "basicConstraints=CA:FALSE\n")
        openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-extfile", extensions, "-out", made.cert,
        )  # fmt: skip
        made.key.chmod(0o600)
        return made
