"""Write requirements/device.lock and requirements/dev.lock from pyproject.toml.

Run by `make lock`. Pins are exact, name no index and no local build tag, and hold on x86-64 and
aarch64 alike: packages that only one of them needs keep the marker pyproject.toml gives them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"device": ("gpio",), "dev": ("gpio", "openvino", "quantize", "dev")}
HELD = ("torch==2.13.0",)  # what the built-in pack was trained and exported with
CUDA_ONLY = ("cuda-", "nvidia-", "triton")  # the CUDA build's own; a CPU build must not pull them
PIP_COMPILE_OPTIONS = (
    *("--quiet", "--no-header", "--no-annotate", "--allow-unsafe", "--strip-extras"),
    *("--no-emit-options", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"),
)
HEADER = "# {name}: exact pins for Python >= 3.11 on x86-64 and aarch64. Written by `make lock`.\n"


def wanted(project: dict, extras: tuple[str, ...]) -> list[str]:
    """Requirement lines of the project with these extras; references to itself are left out."""
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [line for line in lines if not line.startswith(f"{project['name']}[")]


def package_name(requirement: str) -> str:
    """`Pillow>=11` -> `pillow`, as PyPA normalises names."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    if name is None:
        raise ValueError(f"{requirement!r} does not start with a package name")
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def split_marker(requirement: str) -> tuple[str, str]:
    """`lgpio>=0.2; marker` -> (`lgpio>=0.2`, `marker`)."""
    spec, _, marker = requirement.partition(";")
    return spec.strip(), marker.strip()


def finish_line(line: str, markers: dict[str, str]) -> str:
    """One pin without its local build tag (`+cpu`) and with its platform marker back."""
    pin = re.sub(r"\+[A-Za-z0-9.]+$", "", line.strip())
    marker = markers.get(package_name(pin), "")
    return f"{pin} ; {marker}" if marker else pin


def compile_lock(lines: list[str]) -> list[str]:
    """Resolve requirement lines with pip-compile; markers are lifted first so that all get a pin."""
    parts = [split_marker(line) for line in lines]
    markers = {package_name(spec): marker for spec, marker in parts if marker}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "wanted.in"), Path(folder, "wanted.lock")
        held = [pin for pin in HELD if package_name(pin) in {package_name(spec) for spec, _ in parts}]
        source.write_text("\n".join([*(spec for spec, _ in parts), *held]) + "\n")
        options = [*PIP_COMPILE_OPTIONS, "-o", str(target), str(source)]
        subprocess.run([sys.executable, "-m", "piptools", "compile", *options], check=True)
        pins = [line for line in target.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return [finish_line(pin, markers) for pin in pins if not pin.startswith(CUDA_ONLY)]


def main() -> None:
    """Write both lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, extras in LOCKS.items():
        pins = compile_lock(wanted(project, extras))
        target = ROOT / "requirements" / f"{name}.lock"
        target.write_text(HEADER.format(name=target.name) + "\n".join(pins) + "\n")
        print(f"{target.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()
