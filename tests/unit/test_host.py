"""What is said of the machine: figures of two generations of a processor are not taken for one machine's."""

from __future__ import annotations

import pytest

from rankdistill.export.measure.host import describe_host, describe_processor

GENERATIONS = [("25", "17"), ("26", "2")]


def cpuinfo(folder, text):
    (folder / "cpuinfo").write_text(text, encoding="utf-8")
    return folder / "cpuinfo"


def test_generations_of_one_name_differ(tmp_path):
    told = {
        describe_processor(cpuinfo(tmp_path, f"cpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n"))
        for family, model in GENERATIONS
    }
    assert told == {"AMD EPYC (family 25, model 17)", "AMD EPYC (family 26, model 2)"}


@pytest.mark.parametrize("text", ["model name\t: Some Xeon\n", "model name\t: Some Xeon\ncpu family\t: 6\n"])
def test_what_is_not_told_is_left_out(tmp_path, text):
    assert describe_processor(cpuinfo(tmp_path, text)) == "Some Xeon"


def test_without_cpuinfo_the_system_is_asked(tmp_path):
    assert describe_processor(tmp_path / "none")


def test_a_host_names_its_processor():
    assert describe_host()["processor"] == describe_processor()
