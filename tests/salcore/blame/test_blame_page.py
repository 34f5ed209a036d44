"""The page of parameter-space saliency, and masking on a set whose objects' boxes are known."""

import re

import numpy as np
import pytest
import torch

from salcore.blame import agreement, numbers
from salcore.blame.page import build, findings
from salcore.blame.results import column
from salcore.blame.splits import boxes_of
from salcore.data.batches import inputs_of
from salcore.figures.signs import number
from salcore.member_files import load_member
from salcore.parameter_space.input_space import input_space_saliency
from salcore.parameter_space.masking import most_salient_outside
from salcore.storage import Store

PASTED = (
    "data={name: pasted, train_samples: 200, validation_fraction: 0.25, eval_samples: 40}",
    "model.width=4",
    "parameters.held_out=evaluation",
    "parameters.independent=validation",
    "parameters.experiments=[masking]",
    "parameters.boosted=3",
)


@pytest.fixture(scope="module")
def masked(make, tmp_path_factory):
    made = make(Store(tmp_path_factory.mktemp("masked") / "run"), *PASTED)
    made.profile()
    made.blame()
    return made


def text(page):
    return re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.S)


def test_the_page_answers_first_and_asks_no_server(blame):
    page = build(blame)
    told = text(page)
    assert told.index("Do mistakes make filters salient?") < told.index("Profiles by layer")
    for section in ("Turning filters off", "Nearest neighbours", "Fine-tuning on one sample"):
        assert section in told
    assert "Which pixels drive" not in told, "it was not asked for"
    assert page.count("<svg") == 3 + 6 + 3 + 1
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_what_is_answered_follows_from_the_numbers(blame):
    found = {finding.question: finding for finding in findings(blame)}
    salience = numbers.salience(blame)
    answer = found["Do mistakes make filters salient?"]
    assert answer.caution == (salience.low <= 0)
    assert number(salience.value, 3) in answer.answer
    gain = (numbers.pruned(blame, "silenced", "incorrect")["most"]
            - numbers.pruned(blame, "silenced", "incorrect")["random"]).mean()[-1]  # fmt: skip
    pruning = found["Does turning salient filters off mend mistakes more than others? (silenced)"]
    assert pruning.answer.startswith("Yes" if gain.high < 0 else "No:" if gain.low > 0 else "Not told apart")


def test_members_are_compared_on_the_mistakes_that_both_make(blame):
    tables = [blame.table("layers", member) for member in blame.members]
    wrong = [column(table, "label") != column(table, "prediction") for table in tables]
    both = wrong[0] & wrong[1]
    means = [column(table, "layers")[both] for table in tables]
    expected = [np.corrcoef(one, two)[0, 1] for one, two in zip(*means, strict=True)]
    found = agreement.layers(blame)
    assert found.shared == both.sum() > 2
    assert found.same == pytest.approx(np.nan_to_num(expected).mean())
    lists = agreement.neighbours(blame)
    assert 0 <= lists.different <= 1
    assert 0 < lists.same <= 1


def test_masking_is_of_the_pixels_that_drive_the_filters_outside_the_object(masked):
    blame = masked.open()
    table = blame.table("masking", 1)
    samples = column(table, "sample")
    model = load_member(masked.store, masked.members[1], masked.data).eval()
    inputs, _ = inputs_of(masked.data.evaluation, samples[:4], masked.data)
    labels = torch.from_numpy(column(table, "label")[:4].astype(np.int64))
    maps = input_space_saliency(model, inputs, labels, statistics=blame.statistics(1), filters=3)
    scale = float(maps.abs().max())
    np.testing.assert_allclose(blame.maps(1, samples[:4]) / scale, maps.numpy() / scale, atol=1e-3)
    boxes = boxes_of(blame.run.spec, blame.data, samples[:4])
    assert ((boxes[:, 2] - boxes[:, 0]) == 11).all(), "an object of the set is 11 pixels wide"
    masks = most_salient_outside(torch.from_numpy(blame.maps(1, samples[:4])), boxes, blame.parameters.masked)
    assert column(table, "pixels")[:4].tolist() == masks.flatten(1).sum(1).tolist() == [51] * 4
    with torch.no_grad():
        before, after = (model(each).softmax(1) for each in (inputs, inputs.masked_fill(masks[:, None], 0.0)))
    rows = torch.arange(4)
    np.testing.assert_allclose(
        column(table, "salient_true")[:4], (after - before)[rows, labels].numpy(), atol=1e-5
    )  # fmt: skip
    predicted = before.argmax(1)
    np.testing.assert_allclose(
        column(table, "salient_incorrect")[:4], (after - before)[rows, predicted].numpy(), atol=1e-5
    )


def test_case_studies_show_what_was_masked(masked):
    blame = masked.open()
    page = build(blame)
    assert blame.has_boxes
    assert "outside the object&#x27;s box" in page
    assert "without salient pixels" in page
    tests = numbers.masking_tests(blame)
    assert set(tests) == {"salient", "random"}
    assert all(0 <= test.incorrect_p <= 1 for test in tests.values())


def test_mistakes_whose_objects_fill_their_images_leave_nothing_to_mask(make, tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("sample,left,top,right,bottom\n" + "".join(f"{number},0,0,1,1\n" for number in range(1000)))
    made = make(Store(tmp_path / "run"), *PASTED, f"parameters.boxes={table}", "ensemble.members=1")
    made.profile()
    made.blame()
    blame = made.open()
    assert blame.table("masking", 0).num_rows == 0
    assert np.isnan(numbers.masking_tests(blame)["salient"].incorrect.value)
    assert "Which pixels drive the salient filters" in build(blame)
