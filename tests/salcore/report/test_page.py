import base64
import html
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import salcore
from salcore import figures, layout, until
from salcore.errors import Damaged, UserError
from salcore.figures.colour import BLANK
from salcore.figures.signs import MINUS, percent
from salcore.report import build, gather
from salcore.report.methods import likeness, noise
from salcore.report.one_sign import share_of_one_sign
from salcore.significance import CONTROLLED


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


def test_every_chosen_sample_shows_its_image_and_six_maps(page):
    cards = re.findall(r'<article class="sample">.*?</article>', page, re.DOTALL)
    assert len(cards) == 6
    first = cards[0].split("<details>")[0]
    assert first.count("<img") == 7
    for caption in ("image", "mean map", "standard deviation", "t map", "significant", "member"):
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


def test_equal_members_are_told_to_be_equal_everywhere(make_run, digits, noisy, logits):
    sample, label = digits
    maps = {"gradient": np.repeat(noisy(1, 20, 0.5), 4, axis=0)}
    page = html.unescape(build(make_run("equal", maps, sample, label, logits(label, [0.9] * 4))))
    for words in ("None of 20: all members' maps by gradient are equal.", "all 4 maps of gradient are equal"):
        assert words in page
    assert "no SNR is defined" not in page
    assert "differ from zero beyond the noise" not in page


def test_the_hero_picture_is_wide(run):
    width, height = Image.open(BytesIO(figures.hero(run))).size
    assert width > 3 * height


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8), (6,)])
def test_classes_named_like_formulas_are_drawn(make_run, digits, noisy, logits, shape):
    sample, label = digits
    maps = {"gradient": noisy(3, 20, 0.5, shape=shape)}
    run = make_run("prices", maps, sample, label, logits(label, [0.9] * 3), data="folder:/nowhere")
    record = run.record(0) | {"classes": [f"${k}_$10" for k in range(10)]}
    run.store.write_json(layout.member_file(0, "member.json"), record)
    run = salcore.open(run.store.uri)
    assert ">$3_$10<" in build(run)
    assert Image.open(BytesIO(figures.hero(run))).size


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


def test_statistics_of_before_are_asked_to_be_made_again(make_run, digits, noisy, logits):
    sample, label = digits
    run = make_run("old", {"gradient": noisy(3, 20, 0.5)}, sample, label, logits(label, [0.9] * 3))
    run.store.write_parquet(layout.SUMMARY, run.store.read_parquet(layout.SUMMARY).drop_columns("significant_share"))
    with pytest.raises(UserError, match=r"jobs\.reduce"):
        build(salcore.open(run.store.uri))


def test_what_significance_promises_is_said_once(page):
    assert page.count(html.escape(CONTROLLED)) == 1


def test_masks_show_the_mean_map_where_any_channel_is_significant_and_grey_elsewhere(make_run, digits, logits):
    sample, label = digits
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((8, 20, 2, 8, 8)).astype(np.float32)
    maps[:, :, 0, :2] += 9
    maps[:, :, 1, 7] -= 9
    run = make_run("masks", {"gradient": maps}, sample, label, logits(label, [0.9] * 8))
    card = re.findall(r'<article class="sample">.*?</article>', build(run), re.DOTALL)[0]
    number = int(re.search(r"Sample (\d+)", card).group(1))
    place = list(sample).index(number)
    shown = re.search(r'<img alt="significant" src="data:image/png;base64,([^"]*)"', card).group(1)
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(shown))).convert("RGB"))
    grey = (pixels == BLANK).all(axis=-1)
    assert (~grey == run.significant("gradient")[place].any(axis=0)).all()
    assert not grey[:2].any()
    assert not grey[7].any()
    assert grey[2:7].mean() > 0.8
    share = run.column("gradient", "significant_share")[place]
    assert f"{percent(share)} of the map" in card


def test_tables_hold_what_the_summary_holds(run, page):
    rows = {row["method"]: row for row in run.summary.to_pylist()}
    for name in ("gradient", "smoothgrad"):
        row = rows[name]
        cells = re.findall(rf"<tr><td>{name}</td>(.*?)</tr>", page, re.DOTALL)
        noise, likeness = (next(c for c in cells if f"{row[key]:.3f}" in c) for key in ("snr_at_30", "ssim_to_mean"))
        for key in ("snr", "snr_debiased", "snr_scale_free"):
            assert f">{row[key]:.3f}" in noise
        for key in ("ssim_pairwise", "cosine_to_mean", "spearman_to_mean", "sign_agreement", "top_overlap"):
            assert f">{row[key]:.3f}".replace("-", MINUS) in likeness
        assert percent(row["significant_share"]) in likeness


def test_a_member_unlike_the_others_is_named(make_run, digits, noisy, logits):
    sample, label = digits
    maps = noisy(8, 20, 2.0)
    maps[3] = noisy(1, 20, 0.0, seed=9)[0]
    found = gather(make_run("odd", {"gradient": maps}, sample, label, logits(label, [0.9] * 8)))
    outlying = found.methods[0].outlying
    assert (outlying.outliers, outlying.least[0]) == ((3,), 3)
    expected = np.mean([cosine(maps[5, n], np.delete(maps[:, n], 5, axis=0).mean(axis=0)) for n in range(20)])
    assert outlying.cosines[5] == pytest.approx(expected, abs=1e-6)
    assert ">member 3<" in likeness(found)


@pytest.mark.parametrize("sign", [1, -1])
def test_maps_of_one_sign_are_marked_whichever_it_is(make_run, digits, noisy, logits, sign):
    sample, label = digits
    lifted = sign * np.abs(noisy(6, 20, 0.0, seed=2))
    lifted[:, :, 0, 0, 0] *= -1  # nearly nowhere of the other sign
    maps = {"gradient": noisy(6, 20, 2.0), "gradcam": lifted}
    found = gather(make_run("lifted", maps, sample, label, logits(label, [0.9] * 6)))
    by_name = {method.name: method for method in found.methods}
    assert (by_name["gradcam"].one_sign, by_name["gradient"].one_sign) == (True, False)
    assert not by_name["gradcam"].non_negative
    assert ">gradcam *<" in noise(found)
    assert found.main == "gradient"


def test_a_signal_of_one_sign_under_the_noise_is_not_marked(make_run, digits, noisy, logits):
    sample, label = digits
    maps = noisy(30, 20, 0.0) + np.float32(0.7)
    run = make_run("signal", {"gradient": maps}, sample, label, logits(label, [0.9] * 30))
    mean = run.mean("gradient")
    assert (np.abs(mean.sum(axis=(1, 2, 3))) / np.abs(mean).sum(axis=(1, 2, 3))).min() > 0.97
    assert not gather(run).methods[0].lifted


def test_the_expected_share_of_one_sign_is_that_of_normal_maps(make_run, digits, noisy, logits):
    sample, label = digits
    maps = noisy(40, 20, 0.5, seed=3) - np.float32(0.6)
    run = make_run("share", {"gradient": maps}, sample, label, logits(label, [0.9] * 40))
    negative = np.maximum(-maps, 0).sum(axis=(0, 2, 3, 4)) / np.abs(maps).sum(axis=(0, 2, 3, 4))
    assert share_of_one_sign(run, "gradient") == pytest.approx(np.median(negative), abs=0.005)


def test_a_run_that_stopped_early_is_whole(make_run, digits, noisy, logits):
    sample, label = digits
    spec = {"ensemble": {"members": 30, "until": {"width": 0.1, "first": 3, "step": 2}}}
    run = make_run("stopped", {"gradient": noisy(5, 20, 0.5)}, sample, label, logits(label, [0.9] * 5), spec=spec)
    recipe = run.fingerprints.get("member", "")
    looks = [until.Round(members=m, value=0.6, low=0.6 - w / 2, high=0.6 + w / 2) for m, w in ((3, 0.3), (5, 0.09))]
    until.write(run.store, run.spec, recipe, looks)
    run = salcore.open(run.store.uri)
    assert (run.planned, gather(run).planned, len(gather(run).looks)) == (5, 5, 2)
    page = build(run)
    assert "Stopped at 5 of at most 30 members" in page
    assert "not trained yet" not in page
    assert "ensemble.members=10 ensemble.until=null" in page


@pytest.fixture
def borrowed(make_run, noisy, logits, tmp_path):
    """A run on two folders of pictures with three members of another run, in which a fourth failed."""
    label = np.arange(6) // 3
    for place, each in enumerate(label):
        folder = tmp_path / "new pictures" / f"class {each} & co"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 40 * place, np.uint8)).save(folder / f"{place}.png")
    z, maps = logits(label, [0.9] * 3, classes=2), {"gradient": noisy(3, 6, 0.5)}
    data = f"folder:{tmp_path / 'new pictures'}"
    run = make_run("toy", maps, np.arange(6), label, z, classes=2, data=data, planned=4)
    for member in run.members:
        record = run.record(member) | {"shape": [1, 8, 8], "mean": [0.5], "std": [0.25]}
        run.store.write_json(layout.member_file(member, "member.json"), record)
    run.store.write(layout.BORROWED, b"ensemble_of: runs/mine\n")
    return salcore.open(run.store.uri)


def test_a_page_of_borrowed_members_says_whose_they_are_and_trains_nothing(borrowed):
    page = html.unescape(build(borrowed))
    data = borrowed.spec.data.name
    assert "copied from the run runs/mine, whose page tells of their training." in page
    assert f"They explain {data} (6 evaluation " in page
    assert page.count(f"python -m jobs.explain runs/mine 'data={data}' --run-dir toy_again") == 2
    for words in ("jobs.ensemble", f"on {data}", "twice the members", "0 training", "planned not trained"):
        assert words not in page


def test_a_file_that_does_not_say_whose_members_they_are_is_damaged(borrowed):
    for content in (b"runs/mine", b"of: runs/mine", b"{"):
        borrowed.store.write(layout.BORROWED, content)
        with pytest.raises(Damaged, match=r"ensemble\.yaml"):
            gather(borrowed)


def cosine(a, b):
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
