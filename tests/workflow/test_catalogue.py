"""The catalogue is what the nodes say of themselves."""

from __future__ import annotations

from edgegen.engine.nodes import SPECS
from edgegen.workflow.catalogue import FILE, catalogue, catalogue_text


def test_the_catalogue_is_up_to_date_and_reads_back() -> None:
    assert FILE.read_text("utf-8") == catalogue_text(SPECS), "run: python -m edgegen.engine.nodes"
    assert catalogue() == SPECS
