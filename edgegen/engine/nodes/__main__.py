"""`python -m edgegen.engine.nodes`: write the catalogue of nodes, after one was added or changed."""

from ...workflow.catalogue import FILE, catalogue_text
from . import SPECS

FILE.write_text(catalogue_text(SPECS), "utf-8")
