"""The synthetic series against the table of their boxes, sample by sample."""

import numpy as np
import pytest
from scipy import stats

from salcore.data import load
from salcore.data.synthetic import SETS
from salcore.errors import UserError

# Box time x feature, first and last starts on both axes, as the published code draws them.
TABLE = {
    "middle": ((30, 30), (10, 10), (10, 10)),
    "small_middle": ((14, 14), (18, 18), (18, 18)),
    "moving_middle": ((30, 30), (0, 0), (19, 19)),
    "moving_small_middle": ((15, 15), (0, 0), (34, 34)),
    "rare_time": ((6, 40), (22, 5), (22, 5)),
    "moving_rare_time": ((6, 40), (0, 0), (43, 9)),
    "rare_feature": ((40, 6), (5, 22), (5, 22)),
    "moving_rare_feature": ((40, 6), (0, 0), (9, 43)),
    "earlier": ((30, 80), (0, 10), (0, 10)),
    "center": ((60, 60), (20, 20), (20, 20)),
    "later": ((30, 80), (70, 10), (70, 10)),
}
LARGE = ("earlier", "center", "later")
MOVING = [name for name in TABLE if name.startswith("moving")]


@pytest.fixture(scope="module")
def loaded():
    """Loads each set once, with all its test samples."""
    from salcore.spec import DataSpec

    found = {}

    def get(name):
        if name not in found:
            found[name] = load(DataSpec(name=f"synthetic:{name}", eval_samples=300 if name in LARGE else 100))
        return found[name]

    return get


def boxes(part):
    """Start (time, feature) and size of each sample's box, checked to be a box."""
    for cells in part.informative[part.index]:
        features, steps = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
        assert cells.sum() == len(features) * len(steps)
        assert cells[features[0] : features[-1] + 1, steps[0] : steps[-1] + 1].all()
        yield (steps[0], features[0]), (len(steps), len(features))


def test_all_thirteen_are_there():
    assert sorted(SETS) == sorted([*TABLE, "positional_time", "positional_feature"])


@pytest.mark.parametrize("name", TABLE)
def test_boxes_lie_where_the_published_code_puts_them(loaded, name):
    data = loaded(name)
    size, first, last = TABLE[name]
    side = 100 if name in LARGE else 50
    assert (data.kind, data.shape, len(data.evaluation)) == ("series", (side, side), 300 if name in LARGE else 100)
    assert len(data.train) + len(data.validation) == 1000
    for part in (data.train, data.evaluation):
        starts, sizes = zip(*boxes(part), strict=True)
        assert set(sizes) == {size}
        assert (np.min(starts, 0) >= first).all()
        assert (np.max(starts, 0) <= last).all()


@pytest.mark.parametrize("name", MOVING)
def test_moving_boxes_reach_all_but_the_last_place_that_fits(loaded, name):
    size, _, last = TABLE[name]
    starts = np.array([start for start, _ in boxes(loaded(name).train)])
    for axis in (0, 1):
        places = np.bincount(starts[:, axis], minlength=last[axis] + 1)
        assert len(places) == last[axis] + 1 == 50 - size[axis]
        assert stats.chisquare(places).pvalue > 1e-3
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.12


@pytest.mark.parametrize("name", [*TABLE, "positional_time", "positional_feature"])
def test_the_box_is_the_sign_and_the_rest_is_noise(loaded, name):
    data = loaded(name)
    part = data.train
    values, informative, labels = (array[part.index] for array in (part.values, part.informative, part.labels))
    expected = np.ones(len(labels)) if name.startswith("positional") else 2 * labels - 1
    means = values.mean((1, 2), where=informative)
    count = informative[0].sum()
    assert abs((means - expected) * np.sqrt(count)).max() < 5  # standard normal, 800 of them
    assert values.dtype == np.float32
    noise = values - expected[:, None, None] * informative
    assert noise.mean() == pytest.approx(0, abs=5 / np.sqrt(noise.size))
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))
    assert noise[informative].std() == pytest.approx(1, abs=5 / np.sqrt(2 * informative.sum()))
    assert 0.45 < labels.mean() < 0.55


@pytest.mark.parametrize(("name", "axis"), [("positional_time", 1), ("positional_feature", 0)])
def test_positional_sets_carry_the_class_on_one_axis_only(loaded, name, axis):
    """Axis 0 is time, 1 feature: `positional_time` carries it on the features, as the published code does."""
    part = loaded(name).train
    labels = part.labels[part.index]
    starts, sizes = map(np.array, zip(*boxes(part), strict=True))
    assert (sizes == 20).all()
    np.testing.assert_array_equal(starts[:, axis], np.where(labels == 1, 1, 29))
    other = starts[:, 1 - axis]
    assert (other.min(), other.max()) == (0, 29)
    assert stats.ks_2samp(other[labels == 0], other[labels == 1]).pvalue > 0.01


def test_sets_follow_the_seed_and_samples_differ(spec):
    def values(name, **keys):
        return load(spec(f"synthetic:{name}", **keys)).train.values

    first = values("rare_time")
    np.testing.assert_array_equal(first, values("rare_time"))
    assert len({row.tobytes() for row in first}) == 1000
    for other in (values("rare_time", split_seed=1), values("rare_feature")):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.1
    tests = load(spec("synthetic:rare_time")).evaluation.values
    assert not {row.tobytes() for row in first} & {row.tobytes() for row in tests}


def test_cut_series_keep_their_cells(spec):
    whole, cut, longer = (load(spec("synthetic:middle", length=length)) for length in (None, 20, 60))
    assert (whole.shape, cut.shape, longer.shape) == ((50, 50), (50, 20), (50, 60))
    np.testing.assert_array_equal(cut.train.values, whole.train.values[..., :20])
    np.testing.assert_array_equal(cut.train.informative, whole.train.informative[..., :20])
    assert cut.train.lengths is None
    assert (longer.train.lengths == 50).all()
    assert not longer.train.informative[..., 50:].any()
    np.testing.assert_allclose(longer.std, whole.std, rtol=1e-6)  # padding is not measured


@pytest.mark.parametrize(("name", "told"), [("midle", "did you mean synthetic:middle"), ("x", "one of middle, small")])
def test_unknown_sets_are_told(spec, name, told):
    with pytest.raises(UserError, match=told):
        load(spec(f"synthetic:{name}"))
