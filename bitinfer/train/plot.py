"""The plot of a training run.  matplotlib is imported on use."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bitinfer.train.report import TrainingReport

_TEACHER, _PACKED = "#555555", "#c8402f"
_STAGES = ("#30638e", "#e0a030", "#4f9d69", "#8a5a99", "#a3b1bf")
_STYLE = {
    "svg.hashsalt": "bitinfer",  # the same file for the same figures
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def as_svg(report: TrainingReport) -> bytes:
    """The dev metric of each stage against the steps of the run.

    The teacher is a horizontal line, the packed model a point at the end.  The same report gives
    the same bytes, for one version of matplotlib.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # Of the defaults alone: what a user set for other plots stays out, and as it was.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(7, 4))
        _draw(figure.subplots(), report)
        file = io.BytesIO()
        nothing: dict[str, Any] = {"Date": None, "Creator": None}
        figure.savefig(file, format="svg", metadata=nothing, facecolor="white")
    return file.getvalue()


def _draw(ax: Axes, report: TrainingReport) -> None:
    scale, unit = (
        (100, "accuracy, %") if report.metric == "accuracy" else (1, "Pearson correlation")
    )
    if report.teacher is not None:
        value = scale * report.teacher.value
        ax.axhline(value, color=_TEACHER, linestyle="--", label="teacher, float")
    before = 0
    for index, stage in enumerate(report.stages):
        colour = _STAGES[index % len(_STAGES)]
        steps = [before + point.step for point in stage.points]
        values = [scale * point.value for point in stage.points]
        ax.plot(steps, values, ".-", color=colour, label=stage.bits)
        ax.plot([before + stage.best_step], [scale * stage.best], "o", color=colour)
        before += stage.steps
    if report.packed is not None:
        error = report.standard_error
        bars = None if error is None else [scale * error]
        label = "packed" if error is None else "packed, with\nstandard error"
        how = {"fmt": "D", "color": _PACKED, "capsize": 3, "zorder": 3, "label": label}
        ax.errorbar([before], [scale * report.value], yerr=bars, **how)
    ax.set_ylabel(f"{unit} ({report.data['dev'].rows:,} dev rows)")
    ax.set_xlabel("steps; a larger dot is the step that was kept")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))  # beside the lines
