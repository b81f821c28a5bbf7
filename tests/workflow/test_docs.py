"""The table of nodes in docs/WORKFLOWS.md is the nodes there are, each with a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

from edgegen.diffusion.schedulers import SCHEDULERS
from edgegen.diffusion.sigma_schedules import SIGMA_SCHEDULES
from edgegen.workflow.catalogue import catalogue

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "WORKFLOWS.md").read_text("utf-8")
ROW = re.compile(r"^\| ([A-Z]\w+) \|.*\| (`test_\w+`(?:, `test_\w+`)*) \|$", re.MULTILINE)


def test_every_node_is_in_the_table_with_a_test_that_names_it() -> None:
    rows = dict(ROW.findall(TEXT))
    assert set(rows) == set(catalogue())
    for name, tests in rows.items():
        for test in tests.replace("`", "").split(", "):
            (file,) = (ROOT / "tests").glob(f"*/{test}.py")
            source = file.read_text("utf-8")
            assert re.search(rf"\b{name}\b", source), f"{test} does not name {name}"


def test_every_sampler_and_schedule_is_named() -> None:
    assert [name for name in (*SCHEDULERS, *SIGMA_SCHEDULES) if f"`{name}`" not in TEXT] == []
