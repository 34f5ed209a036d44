import re

import numpy as np
import pytest

import salcore
from salcore import figures, layout
from salcore.report import build, gather


@pytest.fixture(scope="module")
def run(make_run, digits, noisy, logits):
    sample, label = digits
    maps = {
        "gradient": noisy(6, 20, 0.5),
        "smoothgrad": noisy(6, 20, 1.5, seed=1),
        "gradcam": np.abs(noisy(6, 12, 1.0, seed=2)),
    }
    return make_run("toy", maps, sample, label, logits(label, [0.9, 0.85, 0.8, 0.9, 0.95, 0.1]), failures=(6,))


@pytest.fixture(scope="module")
def page(run):
    return build(run)


def test_the_page_asks_no_server_for_anything_and_is_small(page):
    fetched = re.findall(r'(?:src|href|xlink:href)="([^"]*)"|url\(([^)]*)\)|@import', page)
    targets = {a or b for a, b in fetched}
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert "<script" not in page
    assert len(page) < 4_000_000


def test_the_page_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(page):
    from html.parser import HTMLParser

    class Checker(HTMLParser):
        VOID = frozenset({"meta", "link", "img", "br"})

        def __init__(self):
            super().__init__()
            self.open, self.ids, self.links = [], [], []

        def handle_starttag(self, tag, attrs):
            self.ids += [value for key, value in attrs if key == "id"]
            self.links += [value[1:] for key, value in attrs if key in ("href", "xlink:href") and value.startswith("#")]
            if tag not in self.VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            self.handle_starttag(tag, attrs)
            if tag not in self.VOID:
                self.open.pop()

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert set(checker.links) <= set(checker.ids)


def test_the_same_run_gives_the_same_bytes(run, page):
    assert build(run) == page


def test_text_of_others_is_escaped(page):
    assert "loss became NaN &lt;in epoch 2&gt;" in page
    assert "<in epoch" not in page
    assert "& co" not in page


def test_failures_and_members_at_chance_are_named(page):
    assert "Member 6 failed" in page
    assert "member 5 (10.0\N{NO-BREAK SPACE}%)" in page


def test_methods_without_negative_values_are_marked(page):
    assert "gradcam *" in page
    assert "gradient *" not in page


def test_every_chosen_sample_shows_its_image_and_five_maps(page):
    cards = re.findall(r'<article class="sample">.*?</article>', page, re.DOTALL)
    assert len(cards) == 6
    first = cards[0].split("<details>")[0]
    assert first.count("<img") == 6
    for caption in ("image", "mean map", "standard deviation", "t map", "member"):
        assert f"<figcaption>{caption}" in first


def test_the_page_is_made_without_the_data_set(make_run, digits, noisy, logits):
    sample, label = digits
    run = make_run(
        "away", {"gradient": noisy(4, 20, 0.5)}, sample, label, logits(label, [0.9] * 4), data="folder:/nowhere"
    )
    page = build(run)
    assert "Without images" in page
    assert "/nowhere" in page
    assert '<img alt="image"' not in page


def test_a_data_set_that_changed_is_not_shown(make_run, digits, noisy, logits):
    sample, label = digits
    run = make_run("moved", {"gradient": noisy(3, 20, 0.5)}, sample[::-1].copy(), label, logits(label, [0.9] * 3))
    assert "other evaluation samples" in build(run)


@pytest.mark.parametrize("members", [1, 2, 3])
def test_few_members(make_run, digits, noisy, logits, members):
    sample, label = digits
    run = make_run("few", {"gradient": noisy(members, 20, 0.5)}, sample, label, logits(label, [0.9] * members))
    page = build(run)
    assert "nan" not in re.sub(r'"data:[^"]*"', "", page).lower()
    assert ("need at least 3" in page) == (members < 3)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels(make_run, digits, noisy, logits, channels):
    sample, label = digits
    maps = {"gradient": noisy(3, 20, 0.5, shape=(channels, 8, 6))}
    page = build(make_run("colour", maps, sample, label, logits(label, [0.9] * 3)))
    assert (f"summed over their {channels} channels" in page) == (channels > 1)


def test_unlabelled_samples(make_run, digits, noisy, logits):
    sample, label = digits
    label = np.full_like(label, -1)
    run = make_run("blind", {"gradient": noisy(3, 20, 0.5)}, sample, label, logits(label, [1.0] * 3))
    page = build(run)
    assert "unlabelled" in page
    assert "have no labels" in page


def test_one_sample_of_one_class(make_run, digits, noisy, logits):
    sample, label = digits[0][:1], np.zeros(1, np.int64)
    page = build(make_run("one", {"gradient": noisy(3, 1, 0.5)}, sample, label, logits(label, [1.0] * 3, 1), classes=1))
    assert page.count('<article class="sample">') == 1
    assert "undefined" in page


def test_maps_of_zeros(make_run, digits, logits):
    sample, label = digits
    run = make_run(
        "dead", {"gradient": np.zeros((3, 20, 1, 8, 8), np.float32)}, sample, label, logits(label, [0.9] * 3)
    )
    assert "<article" in build(run)


def test_the_hero_picture_is_wide(run):
    from io import BytesIO

    from PIL import Image

    width, height = Image.open(BytesIO(figures.hero(run))).size
    assert width > 3 * height


def test_passwords_do_not_travel_with_the_page(make_run, digits, noisy, logits):
    sample, label = digits
    spec = {"tracking": {"uri": "https://ann:secret@host:5000/api"}}
    maps = {"gradient": noisy(3, 20, 0.5)}
    page = build(make_run("private", maps, sample, label, logits(label, [0.9] * 3), spec=spec))
    assert "https://host:5000/api" in page
    assert "secret" not in page


def test_maps_that_are_not_finite_are_told_and_drawn_without(make_run, digits, noisy, logits):
    sample, label = digits
    maps = {"gradient": noisy(4, 20, 0.5), "smoothgrad": noisy(4, 20, 0.5, seed=1), "gradcam": noisy(4, 20, 0.5)}
    maps["gradient"][1, [2, 3]], maps["gradient"][:3, 5], maps["gradient"][:, 7, 0, 1, 1] = np.nan, np.inf, -np.inf
    maps["smoothgrad"][:, :, 0, 0, 0] = np.nan
    run = make_run("broken", dict(sorted(maps.items(), reverse=True)), sample, label, logits(label, [0.9] * 4))
    assert run.methods[0] == "smoothgrad"
    page, facts = build(run), gather(run)
    samples = ", ".join(str(sample[place]) for place in (2, 3, 5))
    assert f"gradient: 9 of 80 maps are not finite (members 0, 1, 2 and 3; samples {samples} and {sample[7]})" in page
    assert "smoothgrad: 80 of 80 maps are not finite" in page
    assert [left.method for left in facts.left_out] == ["smoothgrad", "gradient"]
    assert facts.main != "smoothgrad"
    members, shown = run.finite_maps("gradient", 5)
    assert members == (3,)
    np.testing.assert_array_equal(shown, maps["gradient"][3:, 5])
    np.testing.assert_array_equal(run.mean("gradient")[5], maps["gradient"][3, 5])
    assert np.isnan(run.mean("gradient")[7]).all()


def test_a_run_without_any_finite_map_has_a_page(make_run, digits, logits):
    sample, label = digits
    maps = {"gradient": np.full((3, 20, 1, 8, 8), np.nan, np.float32)}
    run = make_run("nothing", maps, sample, label, logits(label, [0.9] * 3))
    assert "gradient: 60 of 60 maps are not finite" in build(run)


def test_a_summary_of_before_has_no_such_maps(make_run, digits, noisy, logits):
    sample, label = digits
    run = make_run("older", {"gradient": noisy(3, 20, 0.5)}, sample, label, logits(label, [0.9] * 3))
    run.store.write_parquet(layout.SUMMARY, run.store.read_parquet(layout.SUMMARY).drop_columns("non_finite"))
    assert gather(salcore.open(run.store.uri)).left_out == ()
