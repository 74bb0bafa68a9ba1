"""Metrics in the text format of Prometheus, version 0.0.4."""

from collections.abc import Iterable, Mapping

from taskmanager.queue.figures.metrics import Gauge

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = _IN_HELP | str.maketrans({'"': r"\""})


def text_of(gauges: Iterable[Gauge]) -> str:
    """One line a value, after the two that say what it means and that it goes up and down."""
    lines: list[str] = []
    for gauge in gauges:
        lines.append(f"# HELP {gauge.name} {gauge.help.translate(_IN_HELP)}")
        lines.append(f"# TYPE {gauge.name} gauge")
        lines += [f"{gauge.name}{_labels(labels)} {value}" for labels, value in gauge.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = [f'{name}="{value.translate(_IN_LABEL)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}"
