"""What `edgegen support-bundle` puts together: each part is text about one side of the device."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .redact import REMOVED, is_secret_key, secrets_of

if TYPE_CHECKING:
    from edgegen.jobs.job import Job
    from edgegen.settings import Settings

    from .app import App
    from .machine import Roots

UNITS = ("edgegen-front.service", "edgegen-engine.service", "edgegen-display.service", "edgegen.target")
JOURNAL_LINES = 2000
FAILURES = 50
COMMAND_TIMEOUT_S = 20
PROMPT_KEYS = {("buttons", "prompts"), ("buttons", "values"), ("prompts", "block"), ("prompts", "allow")}
CREDENTIAL_PLACES = ("/etc/credstore/edgegen*", "/run/credentials/edgegen-front.service/*")
MAX_SECRET_BYTES = 65_536
PROC_FILES = ("meminfo", "loadavg", "uptime", "mounts", "pressure/memory", "pressure/io", "self/cgroup")


def parts(app: App, roots: Roots, with_prompts: bool) -> dict[str, Callable[[], str]]:
    """The parts by their names in the archive; a settled order, nothing read yet."""
    settings = app.salvaged
    return {
        "doctor.txt": lambda: doctor_text(app, roots),
        "config.toml": lambda: config_text(app, with_prompts),
        "environment.txt": lambda: environment_text(os.environ),
        "versions.txt": versions_text,
        "status.json": lambda: status_text(settings),
        "jobs.json": lambda: jobs_text(settings, with_prompts),
        "storage.json": lambda: storage_text(settings),
        "machine.txt": lambda: machine_text(roots),
        "units.txt": units_text,
        "journal.txt": journal_text,
        "kernel.txt": kernel_text,
    }


def known_secrets(app: App, environ: Mapping[str, str]) -> set[str]:
    """What must not leave: from the configuration's files, what they lead to, and the environment."""
    from edgegen.config.files import layers_in_force

    settings = app.salvaged
    found = secrets_of(environ)
    for layer in layers_in_force(app.config_file, environ).layers:
        found |= secrets_of(layer.data)
    for path in secret_files(settings, environ):
        with contextlib.suppress(OSError), path.open("rb") as file:
            found.add(file.read(MAX_SECRET_BYTES).decode("utf-8", "replace"))
    return found


def secret_files(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    """Every file that holds a password or a key, as far as the settings and systemd tell."""
    for section in settings.model_dump().values():
        for key, value in section.items() if isinstance(section, dict) else ():
            if isinstance(value, Path) and is_secret_key(key.removesuffix("_file")):
                yield value.expanduser()
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        yield from Path(folder).glob("*")
    for place in CREDENTIAL_PLACES:
        with contextlib.suppress(OSError):
            yield from Path("/").glob(place.lstrip("/"))


def known_prompts(settings: Settings) -> set[str]:
    """The words of every job that is still known, and of the buttons."""
    words = {str(word) for button in settings.buttons for word in (*button.prompts, *button.values.values())}
    for job in stored_jobs(settings):
        words |= {job.request.prompt, job.request.negative_prompt or ""}
    return {word for word in words if len(word) > 2}


def stored_jobs(settings: Settings, failed_only: bool = False) -> list[Job]:
    """From the database, or from the daemon where that is the one who may read it; none without either."""
    from edgegen.errors import EdgegenError
    from edgegen.jobs.job import JobState

    from .access import JobAccess

    states = (JobState.FAILED,) if failed_only else tuple(JobState)
    try:
        with JobAccess(settings) as access:
            return access.jobs(*states)
    except EdgegenError:
        return []


def doctor_text(app: App, roots: Roots) -> str:
    from .doctor import all_checks

    found = all_checks(app, roots)
    return "\n".join(
        f"{c.state:<5}{c.name:<13}{c.message}{'  -> ' if c.advice else ''}{c.advice}" for c in found
    )


def config_text(app: App, with_prompts: bool) -> str:
    """The settings in force with their origins, after what is wrong with them."""
    from edgegen.config.files import check_config, layers_in_force

    from .configprint import to_toml

    problems = [f"# wrong: {problem}" for problem in check_config(app.config_file)]
    layers = layers_in_force(app.config_file, os.environ)
    values = app.salvaged.model_dump(mode="json")
    if not with_prompts:
        leave_out_prompts(values)
    return "\n".join(
        [*problems, f"# read: {', '.join(map(str, layers.files)) or 'no file'}", to_toml(values, layers)]
    )


def leave_out_prompts(values: dict[str, Any]) -> None:
    """In place: lists of prompts become their length."""
    for section, key in PROMPT_KEYS:
        content = values[section]
        for table in content if isinstance(content, list) else [content]:
            table[key] = [f"({len(table[key])} left out)"] if table[key] else []


def environment_text(environ: Mapping[str, str]) -> str:
    """What is meant for us and for the libraries we use."""
    ours = ("EDGEGEN_", "ORT_", "GPIOZERO_", "LG_", "OMP_", "MALLOC_", "XDG_", "LANG", "LC_", "TZ")
    shown = {key: value for key, value in sorted(environ.items()) if key.startswith(ours)}
    return "\n".join(f"{key}={REMOVED if is_secret_key(key) else value}" for key, value in shown.items())


def versions_text() -> str:
    from importlib.metadata import distributions

    from edgegen import __version__

    packages = sorted({f"{found.metadata['Name']} {found.version}" for found in distributions()})
    release = Path("/etc/os-release")
    system = release.read_text(errors="replace") if release.exists() else ""
    return "\n".join([f"edgegen {__version__}", sys.version, " ".join(platform.uname()), system, *packages])


def status_text(settings: Settings) -> str:
    from .access import JobAccess

    with JobAccess(settings) as access:
        told = {"source": access.source, "absence": access.absence, "daemon": access.daemon}
        told |= {"jobs": access.counts(), "database_lost": access.database_lost()}
    return to_json(told)


def jobs_text(settings: Settings, with_prompts: bool) -> str:
    """The last failures, the newest first."""
    return to_json([describe_failure(job, with_prompts) for job in stored_jobs(settings, True)[:FAILURES]])


def describe_failure(job: Job, with_prompts: bool) -> dict[str, Any]:
    told = {key: value for key, value in asdict(job).items() if key != "request"}
    request = asdict(job.request)
    if not with_prompts:
        request = {key: value for key, value in request.items() if isinstance(value, int | float | None)}
        request |= {"id": job.id, "source": job.request.source, "prompt_chars": len(job.request.prompt)}
    return {**told, "request": request}


def storage_text(settings: Settings) -> str:
    """How much lies where; no names of pictures, for they may be somebody's words."""
    from edgegen.config.files import data_dir, database_path, gallery_dir

    from .machine import disk_free_mb

    gallery, database = gallery_dir(settings), database_path(settings.node)
    pictures = [path.stat() for path in gallery.rglob("*") if path.is_file()] if gallery.is_dir() else []
    return to_json(
        {
            "data_dir": {"path": data_dir(settings.node), "free_mb": disk_free_mb(data_dir(settings.node))},
            "gallery": {
                "path": gallery,
                "files": len(pictures),
                "bytes": sum(found.st_size for found in pictures),
                "free_mb": disk_free_mb(gallery),
                "newest_age_s": round(time.time() - max((f.st_mtime for f in pictures), default=time.time())),
            },
            "database": {
                found.name: found.stat().st_size for found in database.parent.glob(f"{database.name}*")
            },
        }
    )


def machine_text(roots: Roots) -> str:
    from . import machine

    facts = {
        "board": machine.board(roots),
        "memory_mb (total, free)": machine.memory_mb(roots),
        "cpu_temperature": machine.cpu_temperature(roots),
        "throttling": machine.throttling(roots),
        "clock_synchronised": machine.clock_is_synchronised(),
        "cores": os.cpu_count(),
    }
    texts = [f"{key}: {value}" for key, value in facts.items()]
    return "\n".join(
        [*texts, *(f"\n# {name}\n{machine.read_text(roots.proc / name)}" for name in PROC_FILES)]
    )


def units_text() -> str:
    return "\n\n".join(
        output(command)
        for command in (
            ["systemctl", "status", "--no-pager", "--lines=0", *UNITS],
            ["systemctl", "show", "--property=Id,ActiveState,SubState,Result,NRestarts,MemoryPeak", *UNITS],
        )
    )


def journal_text() -> str:
    units = [f"--unit={unit}" for unit in UNITS]
    return output(["journalctl", "--no-pager", "--output=short-iso", f"--lines={JOURNAL_LINES}", *units])


def kernel_text() -> str:
    """What the kernel says of the supply, the card and memory."""
    words = "voltage|throttl|oom|out of memory|mmc|I/O error|ext4|nvme|thermal"
    return output(
        ["journalctl", "--no-pager", "--dmesg", "--lines=300", "--case-sensitive=no", f"--grep={words}"]
    )


def output(command: list[str]) -> str:
    """A command and what it said, also when that is only why it could not."""
    head = f"$ {' '.join(command)}\n"
    if shutil.which(command[0]) is None:
        return f"{head}{command[0]} is not installed"
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"{head}{err}"
    return head + (done.stdout + done.stderr).decode("utf-8", "replace")


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
