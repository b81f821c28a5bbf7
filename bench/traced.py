"""Front or engine with a clock on the way of a job, for bench/timeline.py: a JSON line a call.

python bench/traced.py front|engine CONFIG

`what`: the call; `began`, `ended`: CLOCK_MONOTONIC, the same for all processes.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from edgegen.config.files import load_settings

CALLS = {
    "front": {
        "read": "edgegen.frontends.mqtt.intake:Intake.take",
        "admit": "edgegen.jobs.service:JobService._refusal",
        "commit": "edgegen.jobs.queue:JobQueue.enqueue_all",
        "place, eta": "edgegen.jobs.service:JobService._queued_event",
        "tell listeners": "edgegen.jobs.service:JobService._deliver",
        "wake the engine": "edgegen.jobs.hub:Hub._send_engines",
        "puback": "edgegen.frontends.mqtt.connection:Connection.acknowledge",
        "hand to paho": "edgegen.frontends.mqtt.connection:Connection._send",
        "hear the engine": "edgegen.jobs.enginedesk:EngineDesk.hear",
        "note a step": "edgegen.jobs.service:JobService.report_step",
        "preview": "edgegen.jobs.service:JobService.report_preview",
        "results": "edgegen.frontends.mqtt.courier:Courier._guarded",
        "mark announced": "edgegen.jobs.queue:JobQueue.mark_announced",
    },
    "engine": {
        "woken": "edgegen.jobs.worker:obey",
        "claim": "edgegen.jobs.queue:JobQueue.claim",
        "checkpoint read": "edgegen.jobs.checkpoints:Checkpoints.begin",
        "find the pack": "edgegen.jobs.renderer:PipelineRenderer._find_pack",
        "settings": "edgegen.jobs.renderer:resolve_settings",
        "pipeline": "edgegen.jobs.renderer:PipelineRenderer._pipeline_of",
        "label": "edgegen.jobs.renderer:_label",
        "check prompts": "edgegen.engine.pipeline:TextToImage.check_prompts",
        "fit": "edgegen.engine.pipeline:TextToImage._fit",
        "scheduler": "edgegen.engine.pipeline:make_scheduler",
        "guard": "edgegen.jobs.guards:Guard.hold",
        "cancelled?": "edgegen.jobs.queue:JobQueue.is_cancel_asked",
        "encode": "edgegen.engine.stages:Stages.encode_prompts",
        "graph": "edgegen.engine.session:GraphSession.run",
        "note step": "edgegen.jobs.workloop:Worker._note_step",
        "encode preview": "edgegen.jobs.workloop:Worker._send_preview",
        "decode": "edgegen.engine.pipeline:TextToImage._decode",
        "store": "edgegen.jobs.gallery:Gallery.store",
        "publish copy": "edgegen.jobs.workloop:Worker._write_publish_copy",
        "end": "edgegen.jobs.workloop:Worker._insist",
    },
}


def trace(what: str, where: str) -> None:
    """Put a clock on a function or method, named `module:Class.method`."""
    module, _, path = where.partition(":")
    holder: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    call = getattr(holder, name)

    @functools.wraps(call)
    def traced(*args: Any, **more: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*args, **more)
        finally:
            line = {"what": what, "began": began, "ended": time.monotonic()}
            sys.stdout.write(json.dumps(line) + "\n")

    setattr(holder, name, traced)


def main(role: str, config: Path) -> int:
    for what, where in CALLS[role].items():
        trace(what, where)
    settings = load_settings(config)
    if role == "front":
        from edgegen.daemon import run_front

        return run_front(settings, with_engine=False)
    from edgegen.jobs.worker import run_engine

    return run_engine(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
