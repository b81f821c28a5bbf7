"""What the figures say, in a sentence each: a plot without one leaves the reader to guess."""

from __future__ import annotations

from .facts import PSNR_BAR_DB, SSIM_BAR, Facts, GraphFacts
from .scales import short

Sentence = str


def on_pictures(facts: Facts) -> Sentence:
    """How near the pictures are to float32's."""
    p = facts.pictures
    if not {"ssim", "ssim_worst"} <= p.keys():
        return "Its pictures were not compared with float32."
    rows = facts.report.pictures if facts.report else []
    good = sum(row.ssim >= SSIM_BAR for row in rows)
    counted = f"{good} of {len(rows)} pictures reach SSIM {SSIM_BAR}; " if rows else ""
    verdict = "Close to float32" if p["ssim"] >= SSIM_BAR else "Further from float32 than it should be"
    return f"{verdict}: {counted}the mean SSIM is {p['ssim']:.4f}, the worst picture’s {p['ssim_worst']:.4f}."


def on_worst(facts: Facts) -> Sentence:
    """Which picture is furthest from float32's."""
    rows = facts.report.pictures if facts.report else []
    if not rows:
        return ""
    worst, strays = rows[0], sum(row.psnr_db < PSNR_BAR_DB for row in rows)
    more = {0: "none is", 1: "1 is"}.get(strays, f"{strays} are")
    return (
        f"The furthest from float32 is “{worst.prompt}”: SSIM {worst.ssim:.4f}, PSNR {worst.psnr_db:.1f} dB. "
        f"Of {len(rows)} pictures {more} below {short(PSNR_BAR_DB)} dB."
    )


def on_layers(graph: GraphFacts) -> Sentence:
    """Which layers are loud, and what keeping some of them float bought."""
    if not graph.layers:
        return "Its layers were not judged one by one."
    loudest = graph.layers[0]
    name = layer_name(loudest.name, graph.role)
    said = f"The loudest layer is {name}: alone it makes {_percent(loudest.share)} of the noise."
    if not graph.kept:
        return f"{said} None of {len(graph.layers)} layers stays float."
    kept = (
        f"{len(graph.kept)} of {len(graph.layers)} layers {'stays' if len(graph.kept) == 1 else 'stay'} float"
    )
    gain = ""
    if graph.all_int8_db is not None and graph.reached_db is not None:
        gain = f", which took the graph from {graph.all_int8_db:.1f} to {graph.reached_db:.1f} dB"
    they = "it" if len(graph.kept) == 1 else "they"
    return f"{said} {kept}{gain}; in 8 bits {they} would make {_percent(graph.kept_share)} of the noise."


def on_target(graph: GraphFacts) -> Sentence:
    """Whether the graph reached its target."""
    if graph.target_db is None or graph.reached_db is None:
        return ""
    if graph.missed:
        return f"misses its target of {short(graph.target_db)} dB"
    return f"reaches its target of {short(graph.target_db)} dB"


def on_timesteps(graph: GraphFacts) -> Sentence:
    """Where along the way from noise to picture the drift is largest."""
    worst, best = min(graph.timesteps, key=_db), max(graph.timesteps, key=_db)
    first, last = graph.timesteps[0][0], graph.timesteps[-1][0]
    where = "in between"
    if worst[0] == first:
        where = "at the start, in pure noise"
    elif worst[0] == last:
        where = "at the end, where details are drawn"
    return (
        f"Drift is largest at timestep {short(worst[0])} ({worst[1]:.1f} dB), {where}; smallest at "
        f"{short(best[0])} ({best[1]:.1f} dB)."
    )


def on_costs(facts: Facts) -> Sentence:
    """What the pack's precision buys in the graph where a picture spends most of its time."""
    measured = [(graph, graph.cost) for graph in facts.graphs if graph.cost]
    if not measured:
        return "What each graph costs was not measured."
    runs = {"unet": facts.manifest.defaults.steps}
    graph, cost = max(measured, key=lambda pair: runs.get(pair[0].role, 1) * pair[1].reference.seconds)
    seconds = _ratio(cost.pack.seconds, cost.reference.seconds)
    memory = _ratio(cost.pack.peak_mb, cost.reference.peak_mb)
    return (
        f"Most of a picture’s time goes into {graph.role}: a run takes {seconds} the time of float32 and "
        f"{memory} the memory."
    )


def on_memory(facts: Facts) -> Sentence:
    """What the memory modes are worth."""
    need = facts.manifest.ram_mb
    if not need:
        return "What each memory mode needs was not measured."
    return (
        f"At full speed a picture needs {need.full:,} MB; in mode low {need.low:,} MB are enough, "
        f"{_ratio(need.low, need.full)} of it, and the picture is the same."
    )


def layer_name(name: str, role: str) -> str:
    """A layer's name without the graph's, which stands above it."""
    return name.removeprefix(f"/{role}/").removeprefix("/") or name


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _db(point: tuple[float, float]) -> float:
    return point[1]


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.2f}×" if whole else "–"
