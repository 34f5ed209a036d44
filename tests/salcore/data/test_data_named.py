"""Sets by name: scikit-learn's digits, and torchvision's from a mirror, against the original files."""

import gzip
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets

from salcore.data import load
from salcore.errors import UserError


def idx(path, offset):
    """The bytes of an original file after its header of `offset` bytes."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=offset)


def test_digits_keep_all_their_grey_levels(spec):
    data = load(spec("digits", eval_samples=512))
    bunch = load_digits()
    assert data.shape == (1, 8, 8)
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (960, 240, 512)
    assert data.classes == tuple("0123456789")
    index = data.evaluation.index
    restored = np.round(data.evaluation.values[index, 0] * (16 / 255))
    np.testing.assert_array_equal(restored, bunch.images[index])
    np.testing.assert_array_equal(data.evaluation.labels[index], bunch.target[index])
    assert data.train.values.max() == 255


def test_the_digits_evaluation_split_is_part_of_the_set(spec):
    parts = [load(spec("digits", split_seed=seed, eval_samples=597)) for seed in (0, 5)]
    assert set(parts[0].evaluation.index) == set(parts[1].evaluation.index)
    trained = np.concatenate([parts[0].train.index, parts[0].validation.index])
    assert not set(trained) & set(parts[0].evaluation.index)


@pytest.mark.parametrize("below", [False, True])
def test_fashion_mnist_from_a_mirror(test_data, spec, below, tmp_path):
    mirror = test_data / "fashion_mnist"
    mirrors_before = list(datasets.FashionMNIST.mirrors)
    given = spec("fashion_mnist", mirror=str(test_data if below else mirror), train_samples=1000, eval_samples=512)
    data = load(given)
    assert (len(data.train), len(data.validation), data.shape) == (800, 200, (1, 28, 28))
    assert data.classes[0] == "T-shirt/top"
    pixels = idx(mirror / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    truth = idx(mirror / "t10k-labels-idx1-ubyte.gz", 8)
    index = data.evaluation.index
    np.testing.assert_array_equal(data.evaluation.values[index], pixels[index])
    np.testing.assert_array_equal(data.evaluation.labels[index], truth[index])
    assert set(np.bincount(truth[index])) == {51, 52}
    train = idx(mirror / "train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    np.testing.assert_array_equal(data.train.values[data.train.index], train[data.train.index])
    assert datasets.FashionMNIST.mirrors == mirrors_before
    # Fetched once: without the mirror the root has it, and nothing but the set is left there.
    assert load(given.model_copy(update={"mirror": None})).digest == data.digest
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["FashionMNIST"]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of the server in this process
def test_mnist_from_a_mirror_on_another_machine(test_data, spec):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(test_data / "mnist")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        data = load(spec("mnist", mirror=url, train_samples=100))
    finally:
        server.shutdown()
        server.server_close()
    index = data.evaluation.index
    truth = idx(test_data / "mnist" / "t10k-labels-idx1-ubyte.gz", 8)
    np.testing.assert_array_equal(data.evaluation.labels[index], truth[index])
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "imagenette"])
def test_a_mirror_without_the_files_is_refused(name, spec, tmp_path):
    with pytest.raises(UserError, match=r"data\.mirror: expected a folder with .*(gz|tgz)") as caught:
        load(spec(name, mirror=str(tmp_path)))
    assert caught.value.key == "data.mirror"
    assert list((tmp_path / "root").iterdir()) == []


def test_a_mirror_with_another_file_is_refused(test_data, spec, tmp_path):
    mirror = tmp_path / "mirror"
    shutil.copytree(test_data / "fashion_mnist", mirror, copy_function=shutil.copyfile)
    mirror.chmod(0o755)
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(UserError, match=r"data\.mirror: expected t10k-labels-idx1-ubyte\.gz with the MD5 sum"):
        load(spec("fashion_mnist", mirror=str(mirror)))
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10", "imagenette"])
def test_no_network_says_what_to_pass(name, spec, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", unreachable)
    with pytest.raises(UserError, match=r"pass data\.mirror .* or data\.root .*Name or service not known"):
        load(spec(name))
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("length", [0, 3, 1000])
def test_files_cut_short_in_the_root_are_fetched_again(test_data, spec, tmp_path, monkeypatch, file, length):
    given = spec("mnist", mirror=str(test_data))
    digests = [load(given).digest]
    broken = tmp_path / "root" / "MNIST" / "raw" / file
    broken.write_bytes(broken.read_bytes()[:length])
    digests.append(load(given).digest)
    assert digests[0] == digests[1]
    broken.write_bytes(broken.read_bytes()[:length])
    with pytest.raises(UserError, match=r"a folder with train-images-idx3-ubyte\.gz"):
        load(spec("mnist", mirror=str(tmp_path)))


def test_a_root_that_is_a_file_is_refused(test_data, spec, tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"data\.root: expected a folder that can be written"):
        load(spec("mnist", mirror=str(test_data)))


def test_root_by_environment(test_data, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("SALCORE_DATA", str(tmp_path / "from environment"))
    load(spec("mnist", root=None, mirror=str(test_data)))
    assert (tmp_path / "from environment" / "MNIST").is_dir()


def test_imagenette_from_an_archive(imagenette, spec, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with tarfile.open(mirror / "imagenette2-320.tgz", "w:gz", compresslevel=1) as archive:
        archive.add(imagenette, "imagenette2-320")
    original = datasets.Imagenette._ARCHIVES["320px"][0]
    checksum = datasets.utils.calculate_md5(mirror / "imagenette2-320.tgz")
    monkeypatch.setitem(datasets.Imagenette._ARCHIVES, "320px", (original, checksum))
    data = load(spec("imagenette", mirror=str(mirror), image_size=32, eval_samples=30))
    assert data.shape == (3, 32, 32)
    assert data.classes[:2] == ("tench", "English springer")
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (80, 20, 30)
    same = load(spec(f"folder:{imagenette}", image_size=32, eval_samples=30))
    assert same.train.digest() == data.train.digest()
    assert same.evaluation.digest() == data.evaluation.digest()


def test_cifar10_as_torchvision_unpacks_it(cifar10, spec, tmp_path, monkeypatch):
    """The real images in the layout of torchvision's archive, with its checksums put in place of the full set's."""
    import pickle

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    path = mirror / "cifar-10-python.tar.gz"
    with np.load(cifar10) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    flat = {split: found[f"{split}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072) for split in ("train", "test")}
    batches = {f"data_batch_{n + 1}": ("train", slice(400 * n, 400 * (n + 1))) for n in range(5)}
    batches["test_batch"] = ("test", slice(None))
    contents = {
        name: {"data": flat[split][rows], "labels": found[f"{split}_labels"][rows].tolist()}
        for name, (split, rows) in batches.items()
    }
    contents["batches.meta"] = {"label_names": found["classes"].tolist()}
    sums = {}
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            (tmp_path / name).write_bytes(pickle.dumps(content))
            sums[name] = datasets.utils.calculate_md5(tmp_path / name)
            archive.add(tmp_path / name, f"cifar-10-batches-py/{name}")
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "tgz_md5", datasets.utils.calculate_md5(path))
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    data = load(spec("cifar10", mirror=mirror.as_uri()))
    assert data.digest == load(spec(f"npz:{cifar10}")).digest


def test_an_unpacked_file_is_never_half_there(test_data, spec, tmp_path, monkeypatch):
    """Killed while unpacking, the next run must not take what is there for the set."""
    real = gzip.open

    def cut(*args, **keys):
        raise KeyboardInterrupt

    monkeypatch.setitem(datasets.utils._COMPRESSED_FILE_OPENERS, ".gz", cut)
    with pytest.raises(KeyboardInterrupt):
        load(spec("mnist", mirror=str(test_data)))
    assert list((tmp_path / "root").iterdir()) == []
    monkeypatch.setitem(datasets.utils._COMPRESSED_FILE_OPENERS, ".gz", real)
    assert len(load(spec("mnist", mirror=str(test_data))).train) == 48000
