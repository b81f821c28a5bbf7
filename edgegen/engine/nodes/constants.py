"""Nodes that only say a value or change a text: `workflow.constants` works them out before anything runs.

Here they stand for the catalogue, and for the rare one whose text is too long to be worked out.
"""

from __future__ import annotations

from typing import Any

from ...workflow.constants import CONSTANTS
from ...workflow.declare import Unfit
from ..workbench import Workbench
from .base import Node, refuse


class _Constant(Node):
    def run(self, bench: Workbench, **inputs: Any) -> tuple[Any, ...]:
        try:
            return (CONSTANTS[type(self).__name__].value(**inputs),)
        except Unfit as err:
            raise refuse(next(iter(inputs)), None, str(err)) from err


def _class_of(name: str) -> type[Node]:
    constant = CONSTANTS[name]
    return type(name, (_Constant,), {"INPUTS": constant.inputs, "OUTPUTS": (constant.kind,)})


PrimitiveString = _class_of("PrimitiveString")
PrimitiveStringMultiline = _class_of("PrimitiveStringMultiline")
PrimitiveInt = _class_of("PrimitiveInt")
PrimitiveFloat = _class_of("PrimitiveFloat")
PrimitiveBoolean = _class_of("PrimitiveBoolean")
StringConcatenate = _class_of("StringConcatenate")
StringReplace = _class_of("StringReplace")
