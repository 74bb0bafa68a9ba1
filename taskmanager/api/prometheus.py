"""Metrics in the text format of Prometheus, version 0.0.4."""

from collections.abc import Iterable, Iterator, Mapping

from taskmanager.queue.figures.metrics import Gauge, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = _IN_HELP | str.maketrans({'"': r"\""})


def text_of(metrics: Iterable[Gauge | Histogram]) -> str:
    """One line a value, after the two that say what it means and of what kind it is."""
    lines: list[str] = []
    for metric in metrics:
        name = metric.name
        lines.append(f"# HELP {name} {metric.help.translate(_IN_HELP)}")
        if isinstance(metric, Histogram):
            lines += [f"# TYPE {name} histogram", *_lines_of(metric)]
        else:
            lines.append(f"# TYPE {name} gauge")
            lines += [f"{name}{_labels(labels)} {value}" for labels, value in metric.samples]
    return "\n".join(lines) + "\n"


def _lines_of(histogram: Histogram) -> Iterator[str]:
    name = histogram.name
    for labels, up_to, events, total in histogram.series:
        for bound, count in up_to.items():
            yield f"{name}_bucket{_labels({**labels, 'le': str(bound)})} {count}"
        yield f"{name}_bucket{_labels({**labels, 'le': '+Inf'})} {events}"
        yield f"{name}_sum{_labels(labels)} {total}"
        yield f"{name}_count{_labels(labels)} {events}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = [f'{name}="{value.translate(_IN_LABEL)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}"
