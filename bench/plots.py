"""Line plots; the only module that uses matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

Curve = tuple[Sequence[float], Sequence[float]]


def draw(path: Path, curves: Mapping[str, Curve], *, x: str, y: str, marks: bool = True) -> Path:
    """Draw *curves*, by name, to a PNG at *path*; both axes start at zero."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.2), dpi=100)
    for name, (xs, ys) in curves.items():
        axes.plot(xs, ys, marker="o" if marks else "", label=name, linewidth=1.2)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return path
