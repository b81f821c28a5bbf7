"""Results of the benchmarks as SVG files with the look of the packs' reports, for light and dark pages.

    from plot import lines, plot
    plot(rows, "One step of the UNet", "s", Path("docs/bench-step.svg"))
    lines(series, "Growth with size", "side, pixels", "seconds a step", Path("docs/bench-growth.svg"))

As a command, from a JSON file of rows or of {name: [[x, y], ...]}:

    python bench/plot.py RESULT.json -o docs/bench.svg --title "One step" [--unit s]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantize.report.charts import Axes, Bar, Limit, bar_chart, line_chart
from quantize.report.svg import standalone

OURS = "edgegen"


def plot(rows: list[dict], title: str, unit: str, path: Path, limit: float | None = None) -> None:
    """Horizontal bars, in the order given.

    Args:
        rows: one bar each. `runner` (str) and `value` (float, `unit`, >= 0) are needed. `ratio` (float) is
            written behind the value as `0.36x`; bars of one `metric` (str) stand under its name when there
            are several; `ours` (bool; default: the runner's name begins with "edgegen") takes the accent
            colour. A row whose `value` is None is left out. Other keys do no harm.
        limit: a dashed line at this value: the figure to reach.
    Raises:
        ValueError: no row has a value.
    """
    kept = [row for row in rows if row.get("value") is not None]
    if not kept:
        raise ValueError(f"{path}: none of {len(rows)} rows has a value")
    metrics = list(dict.fromkeys(str(row.get("metric", "")) for row in kept))
    bars = [
        _bar(row, len(metrics) > 1) for metric in metrics for row in kept if row.get("metric", "") == metric
    ]
    drawn = bar_chart(bars, title, unit, Limit(limit, "to reach") if limit is not None else None)
    path.write_text(standalone(*drawn), "utf-8")


def _bar(row: dict, grouped: bool) -> Bar:
    runner, ratio = str(row["runner"]), row.get("ratio")
    note = f"{ratio:.2f}×" if ratio is not None else ""
    ours = bool(row.get("ours", runner.startswith(OURS)))
    return Bar(runner, float(row["value"]), note, ours, str(row.get("metric", "")) if grouped else "")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x_label: str,
    y_label: str,
    path: Path,
    log: bool = True,
    limit: float | None = None,
) -> None:
    """Curves on two logarithmic axes: on them growth by a power is a straight line.

    Args:
        series: name -> points (x, y), by rising x, all above 0 when `log`. Names that begin with "edgegen"
            come first in line for the accent colour; without one the first series takes it.
        log: False: plain axes, y from 0.
        limit: a dashed level line at this y.
    Raises:
        ValueError: no points, or some that a logarithmic axis cannot show.
    """
    kept = {name: [(float(x), float(y)) for x, y in points] for name, points in series.items() if points}
    if not kept:
        raise ValueError(f"{path}: no points in {list(series)}")
    if log and any(value <= 0 for points in kept.values() for point in points for value in point):
        raise ValueError(f"{path}: a logarithmic axis shows only values above 0")
    first = next((name for name in kept if name.startswith(OURS)), None)
    axes = Axes(x_label, y_label, x_log=log, y_log=log, zero=not log)
    drawn = line_chart(kept, title, axes, Limit(limit, "to reach") if limit is not None else None, first)
    path.write_text(standalone(*drawn), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("--unit", default="s")
    parser.add_argument("--x-label", default="")
    parser.add_argument("--y-label", default="")
    parser.add_argument("--limit", type=float)
    args = parser.parse_args()
    result = json.loads(args.result.read_text("utf-8"))
    if isinstance(result, list):
        plot(result, args.title, args.unit, args.output, args.limit)
    else:
        lines(result, args.title, args.x_label, args.y_label, args.output, limit=args.limit)


if __name__ == "__main__":
    main()
