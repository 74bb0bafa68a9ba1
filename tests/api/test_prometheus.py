"""The text format of Prometheus, read back by its own parser."""

from prometheus_client.parser import text_string_to_metric_families

from taskmanager.api.prometheus import text_of
from taskmanager.queue.figures.metrics import Gauge

ODD_TEXTS = ["", 'a "quoted" one', "back\\slash\\", "line\nfeed", "\\n", "{},= #", "ü 💥"]


def test_whatever_a_label_says_comes_back_as_it_was() -> None:
    samples = [({"type": text, "status": "pending"}, n) for n, text in enumerate(ODD_TEXTS)]
    [family] = text_string_to_metric_families(text_of([Gauge("tasks", "Some.", samples)]))
    assert [(sample.labels, sample.value) for sample in family.samples] == samples


def test_numbers_are_not_rounded() -> None:
    values = [0, 0.001, 2**53 - 1, 1_769_860_800.123, 1e-7, 1e22]
    samples = [({"n": str(n)}, value) for n, value in enumerate(values)]
    [family] = text_string_to_metric_families(text_of([Gauge("g", "", samples)]))
    assert [sample.value for sample in family.samples] == values


def test_each_gauge_says_what_it_means_and_one_without_values_stays_known() -> None:
    gauges = [Gauge("a", "First\nand \\ second.", [({}, 1)]), Gauge("b", "None.", [])]
    text = text_of(gauges)
    assert text.endswith("\n")
    first, second = text_string_to_metric_families(text)
    assert (first.name, first.documentation, first.type) == ("a", "First\nand \\ second.", "gauge")
    assert first.samples[0].labels == {}
    assert (second.name, second.samples) == ("b", [])
