"""`edgegen status`, `queue` and `cancel`: what the device works on, and how to change it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import ConfigError, EdgegenError

from .access import JobAccess, active_states
from .app import App, pass_app
from .complete import active_jobs
from .output import (
    coloured,
    columns,
    complain,
    is_terminal,
    note,
    printable,
    say,
    say_json,
    shorten,
    table,
    terminal_width,
)
from .request import checked_request, picture_options, request_data

if TYPE_CHECKING:
    from edgegen.jobs.job import Job
    from edgegen.settings import Settings

HEADER = ("PLACE", "ID", "STATE", "AGE", "PROMPT", "RESULT")
ALL_LIMIT = 1000
MIN_PROMPT_WIDTH = 12


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def status(app: App, as_json: bool) -> None:
    """Tell whether the daemon runs, what it works on and how many jobs wait.

    \b
    Examples:
      edgegen status
      edgegen status --json | jq .jobs.queued
    """
    settings, problems = settings_or_salvaged(app)
    with JobAccess(settings) as access:
        if as_json:
            say_json({**status_json(access), "config_problems": problems})
        else:
            for key, value in [*status_lines(access), *config_lines(access.daemon or {}, problems)]:
                say(f"{key:<10}{printable(value)}")


def settings_or_salvaged(app: App) -> tuple[Settings, list[str]]:
    """Status must be told with a broken configuration, too: what is right of it, and what is wrong."""
    try:
        return app.settings, []
    except ConfigError as err:
        return app.salvaged, [str(problem) for problem in err.problems]


def config_lines(daemon: dict[str, Any], problems: list[str]) -> list[tuple[str, str]]:
    """What is wrong with the configuration, on trial, or waits for a restart; nothing when all is well."""
    told = daemon.get("config") or {}
    broken = told.get("problems") or problems
    lines = [("config", f"broken: {problem}") for problem in broken]
    if daemon and broken and not daemon.get("safe_mode"):
        lines.append(("config", "the daemon goes on with what it had before"))
    if told.get("waiting_for_restart"):
        keys = ", ".join(told["waiting_for_restart"])
        lines.append(("config", f"changed, but the daemon must start again for: {keys}"))
    if told.get("trial_left_s") is not None:
        lines.append(("config", f"on trial for {told['trial_left_s']} s more: edgegen config confirm"))
    return lines


def status_json(access: JobAccess) -> dict[str, Any]:
    """`source` says where this was read: from the `daemon`, or from the `database` alone."""
    from edgegen.jobs.shell import describe_job

    running = [describe_job(job) for job in access.jobs(active_states()[0])]
    return {
        "source": access.source,
        "daemon": access.daemon,
        "database": None if access.is_elsewhere else str(access.database_path),
        "jobs": access.counts(),
        "running": running,
        "database_lost": access.database_lost(),
    }


def status_lines(access: JobAccess) -> list[tuple[str, str]]:
    """The same, to read."""
    counts = access.counts()
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [("daemon", daemon_line(access)), ("jobs", told or "none yet")]
    step = (access.daemon or {}).get("running") or {}
    for job in access.jobs(active_states()[0]):
        where = f", step {step['step']}" if step.get("id") == job.id else ""
        lines.append(("running", f"{job.id} {shorten(job.request.title, 60)}{where}"))
    if lost := access.database_lost():
        lines.append(("lost", lost))
    return lines + outbox_lines((access.daemon or {}).get("outbox") or {})


def outbox_lines(counts: dict[str, int]) -> list[tuple[str, str]]:
    """What the broker has not heard yet, and what it never will; nothing when all is well."""
    waiting, dropped = counts.get("waiting", 0), counts.get("dropped", 0)
    lines = [("outbox", f"{waiting} results wait for the broker")] if waiting else []
    if dropped:
        lines.append(
            ("dropped", f"{dropped} results that the broker never heard of (mqtt.outbox_max, _days)")
        )
    return lines


def daemon_line(access: JobAccess) -> str:
    if access.daemon is None:
        return f"not running ({access.absence}); read from {access.database_path}"
    if access.daemon.get("safe_mode"):
        return f"running in safe mode, version {access.daemon.get('version', 'unknown')}: no jobs are taken"
    engine = "engine ready" if access.daemon.get("engine") else "no engine yet"
    return f"running, version {access.daemon.get('version', 'unknown')}, {engine}"


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help=f"Finished jobs too, the newest {ALL_LIMIT}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def queue(ctx: click.Context, everything: bool, as_json: bool) -> None:
    """List the jobs that run and wait, or add one.

    \b
    Examples:
      edgegen queue
      edgegen queue --all
      edgegen queue --json | jq -r '.jobs[].id'
      edgegen queue add "a red apple" --seed 7
    """
    if ctx.invoked_subcommand is None:
        list_jobs(ctx.ensure_object(App), everything, as_json)


def list_jobs(app: App, everything: bool, as_json: bool) -> None:
    from edgegen.jobs.shell import describe_job

    with JobAccess(app.settings) as access:
        jobs = access.jobs(limit=ALL_LIMIT) if everything else access.jobs(*active_states())
        places = number_places(jobs)
        if as_json:
            found = [{**describe_job(job), "place": places.get(job.id)} for job in jobs]
            say_json({"source": access.source, "jobs": found})
            return
        if access.daemon is None:
            note(f"{access.absence}; straight from the database")
        print_table(jobs, places, time.time())


def number_places(jobs: list[Job]) -> dict[str, int]:
    """1 is next; `jobs` must hold all that wait, by turn."""
    return {job.id: i for i, job in enumerate((job for job in jobs if job.state == "queued"), start=1)}


def print_table(jobs: list[Job], places: dict[str, int], now: float) -> None:
    if not jobs:
        note("no jobs")
        return
    rows = [job_row(job, places.get(job.id), now) for job in jobs]
    others = sum(max(columns(row[i]) for row in [HEADER, *rows]) + 2 for i in (0, 1, 2, 3, 5))
    width = max(MIN_PROMPT_WIDTH, terminal_width() - others) if is_terminal(sys.stdout) else 60
    for row in rows:
        row[4] = shorten(row[4], width)
    for line in table(HEADER, rows, right=("PLACE", "AGE")):
        say(line)


def job_row(job: Job, place: int | None, now: float) -> list[str]:
    result = job.picture or shorten(job.reason or "", 50)
    state = coloured(job.state.value)
    return [str(place or ""), job.id, state, age(now - job.created), printable(job.request.title), result]


def age(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h`, `2 d`; a clock that was set back gives `0 s`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


@queue.command()
@click.argument("prompt")
@picture_options
@click.option("--priority", type=int, metavar="N", help="-100 to 100, higher goes first. Default: 0.")
@click.option("--id", metavar="ID", help="Id of the job; the same id again adds nothing. Default: random.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def add(app: App, prompt: str, as_json: bool, **options: Any) -> None:
    """Put a job into the queue and print its id. PROMPT - reads stdin.

    It waits there, over power cuts too, until the daemon makes its picture.

    \b
    Examples:
      edgegen queue add "a red apple"
      edgegen queue add "a rocket" --size 256x256 --steps 8 --priority 10
      echo "a cat on a yellow background" | edgegen queue add -
    """
    request = checked_request(request_data(prompt, options), app.settings.limits)
    with JobAccess(app.settings) as access:
        tell_queued(access, access.submit(request), as_json)


def tell_queued(access: JobAccess, job: dict[str, Any], as_json: bool) -> None:
    """A job that was put into the queue: its id, and its place."""
    place = access.place(job["id"])
    if as_json:
        say_json({"source": access.source, "job": {**job, "place": place}})
        return
    say(job["id"])
    waits = "" if access.daemon else "; it waits in the database until the daemon runs (edgegen run)"
    note(f"place {place}{waits}" if place else f"already {job['state']}")


@click.command()
@click.argument("ids", nargs=-1, metavar="ID...", shell_complete=active_jobs)
@click.option("--all", "everything", is_flag=True, help="Cancel every job that runs or waits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
@click.pass_context
def cancel(ctx: click.Context, app: App, ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Cancel jobs by ID (its first letters suffice), or all of them.

    A running job stops after its current step; one that is finished stays as it is.

    \b
    Examples:
      edgegen cancel 3f9a1c
      edgegen cancel --all
    """
    if bool(ids) == everything:
        raise click.UsageError("give the ids of jobs, or --all", ctx)
    with JobAccess(app.settings) as access:
        wanted = [job.id for job in access.jobs(*active_states())] if everything else list(ids)
        jobs, errors = cancel_each(access, wanted)
        if as_json:
            say_json({"source": access.source, "jobs": jobs})
        else:
            for job in jobs:
                say(f"{job['id']}  {'stopping' if job['state'] == 'running' else job['state']}")
            if not wanted:
                note("no jobs run or wait")
    for err in errors:
        complain(err)
    ctx.exit(errors[-1].exit_code if errors else 0)


def cancel_each(access: JobAccess, ids: list[str]) -> tuple[list[dict[str, Any]], list[EdgegenError]]:
    """One unknown id does not keep the others from being cancelled."""
    jobs, errors = [], []
    for job_id in ids:
        try:
            jobs.append(access.cancel(job_id))
        except EdgegenError as err:
            errors.append(err)
    return jobs, errors
