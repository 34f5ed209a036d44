"""A run that keeps no maps: the same statistics and figures, nothing stored but what they come to."""

import re

import pytest
from PIL import Image, ImageChops

from jobs.status import status
from salcore.storage import Store
from tests.run_files import METHODS, assert_same_statistics, files, weights

UNKEPT = "attribution.keep_maps=false"


@pytest.fixture(scope="module")
def unkept(ensemble, tmp_path_factory):
    run = tmp_path_factory.mktemp("unkept") / "run"
    return run, ensemble("small.yaml", UNKEPT, run_dir=run)


def test_its_statistics_are_those_of_a_run_that_keeps_them(unkept, whole):
    run, finished = unkept
    assert finished.status == 0, finished.err
    assert weights(run) == weights(whole[0])
    assert_same_statistics(run, whole[0])
    assert not [name for name in files(run) if re.fullmatch(r"maps/.*/part-.*", name)]


def test_its_figures_show_the_same_maps(unkept, whole):
    pictures = [Image.open(run / "report" / "maps.png").convert("RGB") for run, _ in (unkept, whole)]
    assert ImageChops.difference(*pictures).getbbox() is None


def test_the_same_command_again_does_nothing(unkept, ensemble):
    before = Store(unkept[0]).files()
    again = ensemble("small.yaml", UNKEPT, run_dir=unkept[0])
    assert again.status == 0, again.err
    assert "nothing to do" in again.out
    assert Store(unkept[0]).files() == before


def test_the_plan_and_the_status_say_so(unkept, ensemble, job, tmp_path):
    plan = ensemble("small.yaml", UNKEPT, "--plan", run_dir=tmp_path / "new")
    assert "not kept: made twice, where they are reduced" in plan.out
    told = job(status, unkept[0]).out
    for method, parts in zip(METHODS, (3, 3, 2), strict=True):
        assert f"reduce   {method}: {parts}/{parts} ranges, maps are not kept" in told
