"""Sets that do not fit in memory give the same members, from a memory-mapped file."""

import pickle

import numpy as np
import pytest
import torch

from salcore.data import load, mapped
from salcore.data.batches import epoch_batches
from salcore.errors import UserError


@pytest.fixture
def tree(pictures):
    return pictures({"train/cat": 8, "train/dog": 8, "test/cat": 3, "test/dog": 3})


def batches(data):
    generator = torch.Generator().manual_seed(0)
    return torch.cat([x for x, *_ in epoch_batches(data.train, data, batch_size=5, order=generator)])


@pytest.mark.parametrize("image_size", [None, 4])
def test_a_mapped_set_equals_the_one_in_memory(tree, spec, monkeypatch, image_size, tmp_path):
    given = spec(f"folder:{tree}", image_size=image_size)
    inside = load(given)
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    outside = load(given)
    for part in ("train", "validation", "evaluation"):
        assert isinstance(getattr(outside, part).values, np.memmap)
        assert getattr(outside, part).digest() == getattr(inside, part).digest()
        np.testing.assert_array_equal(getattr(outside, part).index, getattr(inside, part).index)
    assert not isinstance(inside.train.values, np.memmap)
    assert outside.digest == inside.digest
    assert torch.equal(batches(outside), batches(inside))
    assert len(list((tmp_path / "root" / "decoded").iterdir())) == 2


def test_a_mapped_set_is_made_once(tree, spec, monkeypatch):
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    digest = load(spec(f"folder:{tree}")).digest
    monkeypatch.setattr("salcore.data.pictures._decoded", lambda *_: pytest.fail("decoded again"))
    assert load(spec(f"folder:{tree}")).digest == digest


def test_what_another_decoder_made_is_not_taken_but_equal_pixels_are_the_same_data(tree, spec, monkeypatch):
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    before = load(spec(f"folder:{tree}"))
    monkeypatch.setattr("salcore.data.pictures.DECODER", 0)
    after = load(spec(f"folder:{tree}"))
    assert before.train.values.filename != after.train.values.filename
    assert before.digest == after.digest


@pytest.mark.parametrize("change", ["content", "name", "image_size"])
def test_a_changed_folder_is_decoded_again(tree, spec, monkeypatch, change):
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    before, keys = load(spec(f"folder:{tree}")), {}
    first = tree / "train" / "cat" / "000.png"
    if change == "content":
        first.write_bytes((tree / "train" / "dog" / "000.png").read_bytes())
    elif change == "name":
        first.rename(tree / "train" / "cat" / "zzz.png")
    else:
        keys["image_size"] = 3
    after = load(spec(f"folder:{tree}", **keys))
    assert before.train.values.filename != after.train.values.filename


def test_a_broken_picture_leaves_no_file(tree, spec, monkeypatch, tmp_path):
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    broken = tree / "train" / "dog" / "007.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"dog/007\.png"):
        load(spec(f"folder:{tree}"))
    assert list((tmp_path / "root" / "decoded").iterdir()) == []


def test_a_mapped_part_is_pickled_by_its_path(tree, spec, monkeypatch):
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    part = load(spec(f"folder:{tree}")).train
    sent = pickle.dumps(part)
    assert part.values.tobytes()[:50] not in sent
    back = pickle.loads(sent)
    assert isinstance(back.values, np.memmap)
    assert back.digest() == part.digest()
    with pytest.raises(ValueError, match="read-only"):
        back.values[0] = 0
    part.values.filename.unlink()
    with pytest.raises(UserError, match=r"data\.root: expected a folder that every node sees"):
        pickle.loads(sent)


def test_a_view_of_a_map_is_pickled_by_value(tree, spec, monkeypatch):
    """A slice of a memory-map carries the offset of the whole, so its path would lead to other images."""
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    part = load(spec(f"folder:{tree}")).train
    view = type(part)(values=part.values[5:], labels=part.labels[5:], index=np.arange(3))
    assert pickle.loads(pickle.dumps(view)).digest() == view.digest()


def test_a_disk_without_room_is_refused_before_writing(tree, spec, monkeypatch):
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "100")
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("salcore.data.mapped.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"data\.root: expected a folder with .* GB free"):
        load(spec(f"folder:{tree}"))


def test_the_limit_is_half_of_what_is_free_or_as_given(monkeypatch):
    monkeypatch.delenv("SALCORE_MEMORY_LIMIT", raising=False)
    assert 0 < mapped.memory_limit() < 1 << 60
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "12")
    assert mapped.memory_limit() == 12
    monkeypatch.setenv("SALCORE_MEMORY_LIMIT", "12 GB")
    with pytest.raises(UserError, match="SALCORE_MEMORY_LIMIT"):
        mapped.memory_limit()
