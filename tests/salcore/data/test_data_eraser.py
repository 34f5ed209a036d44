"""Texts in ERASER's layout: words, queries, padding, vectors, and everything that can be wrong with the files."""

import json
import tarfile

import numpy as np
import pytest

from salcore.data import load
from salcore.data.eraser import SEPARATOR
from salcore.errors import UserError

VECTORS = "good 1 2\nbad 3 4\nfilm 5 6\nis 7 8\n"


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def instance(name, label, document, query="?", **keys):
    evidences = [[{"docid": document, "text": "", "start_token": 0, "end_token": 1}]]
    return {"annotation_id": name, "classification": label, "query": query, "evidences": evidences} | keys


FILES = {
    "train.jsonl": lines(
        *(instance(f"t{n}", ("POS", "NEG")[n % 2], ("a", "b")[n % 2], f"Is it {n}?") for n in range(8))
    ),
    "val.jsonl": lines(instance("v0", "POS", "a", "Is it?"), instance("v1", "NEG", "b", "Is it?")),
    "test.jsonl": lines(instance("e0", "NEG", "c"), instance("e1", "POS", "a"), instance("e2", "POS", "a")),
    "docs/a": "a good film .\n\nIt is\tgood .\n",
    "docs/b": "a bad film",
    "docs/c": "unseen",
}


@pytest.fixture
def eraser(tmp_path, spec):
    """Writes `FILES` with changes (None: leave it out) and a file of vectors; gives the spec of the set."""

    def write(changes=None, archive=None, table=VECTORS, **keys):
        top = tmp_path / "set"
        for name, text in (FILES | (changes or {})).items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).unlink(missing_ok=True)
            if text is not None:
                (top / name).write_bytes(text.encode() if isinstance(text, str) else text)
        (tmp_path / "vectors.txt").write_text(table)
        if archive:
            with tarfile.open(tmp_path / archive[0], archive[1]) as tar:
                tar.add(top, arcname="inner/set")
            top = tmp_path / archive[0]
        given = {"vectors": str(tmp_path / "vectors.txt"), "validation_fraction": 0.2, "eval_samples": 3}
        return spec(f"eraser:{top}", **(given | keys))

    return write


def words_of(data, part, row):
    return [data.words[number] for number in part.values[row, : part.lengths[row]]]


def test_a_text_is_the_query_a_separator_and_the_document(eraser):
    data = load(eraser())
    assert (data.kind, data.classes, data.shape) == ("text", ("NEG", "POS"), (12, 2))
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (8, 2, 3)
    train = data.train
    expected = ["Is", "it", "0", "?", SEPARATOR, "a", "good", "film", ".", "It", "is\tgood", "."]
    assert words_of(data, train, 0) == expected
    assert words_of(data, train, 1) == ["Is", "it", "1", "?", SEPARATOR, "a", "bad", "film"]
    assert train.query.tolist() == [5] * 8 + [4] * 2
    assert train.lengths.tolist() == [12, 8] * 4 + [11, 7]
    assert train.labels.tolist() == [1, 0] * 5
    assert words_of(data, data.evaluation, 0) == ["?", SEPARATOR, "unseen"]
    assert train.values.dtype == np.int32
    assert (train.values[train.lengths[:, None] <= np.arange(12)] == 0).all()


def test_words_have_their_vectors_and_padding_has_none(eraser):
    data = load(eraser())
    table = dict(zip(data.words, data.vectors.tolist(), strict=True))
    assert (table["good"], table["Is"], table[""]) == ([1, 2], [7, 8], [0, 0])
    assert (data.words[0], len(set(data.words)), data.vectors.dtype) == ("", len(data.words), np.float32)
    assert data.mean.tolist() == [0, 0]
    assert data.std.tolist() == [1, 1]


def test_a_query_that_never_changes_is_left_out(eraser):
    same = "".join(lines(json.loads(line) | {"query": "Is it?"}) for line in FILES["train.jsonl"].splitlines())
    data = load(eraser({"train.jsonl": same}))
    assert data.train.query is None
    assert words_of(data, data.train, 1) == ["a", "bad", "film"]
    assert SEPARATOR not in data.words


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("Kesha's name wasn't 3,000.5 in the U.S.", "Kesha 's name wasn't 3,000.5 in the U.S ."),
        ('"Men, in-law" (1987)...', '" Men , in-law " ( 1987 ) ...'),
        ("did n't `` -LRB- x -RRB- '' ?", "did n't `` -LRB- x -RRB- ' ' ?"),
        ("what: 8:30?!", "what : 8:30 ? !"),
    ],
)
def test_queries_are_parted_as_documents_are(eraser, query, words):
    first = lines(instance("t", "POS", "a", query), instance("u", "NEG", "b"))
    data = load(eraser({"train.jsonl": first}))
    assert words_of(data, data.train, 0)[: data.train.query[0] - 1] == words.split()


@pytest.mark.parametrize(
    "keys",
    [
        {"docids": ["b", "a"], "evidences": []},
        {"docids": None, "evidences": [[{"docid": "b"}], [{"docid": "a"}]]},
        {"evidences": [{"docid": "b"}, {"docid": "a"}, {"docid": "b"}]},
        {"evidences": [], "annotation_id": "a"},
        {"evidences": None, "annotation_id": "b"},
    ],
    ids=["docids", "groups", "no groups", "named after it", "no evidences"],
)
def test_documents_are_found_by_every_route(eraser, keys):
    first = lines(instance("t0", "POS", "a") | keys, instance("t1", "NEG", "b"))
    data = load(
        eraser({"train.jsonl": first, "val.jsonl": None, "test.jsonl": FILES["test.jsonl"]}, validation_fraction=0)
    )
    text = words_of(data, data.train, 0)
    a, b = ["a", "good", "film", ".", "It", "is\tgood", "."], ["a", "bad", "film"]
    told = {"docids": b + a, "evidences": a + b}
    expected = told["docids"] if keys.get("docids") else told["evidences"]
    assert text == {"a": a, "b": b}.get(keys.get("annotation_id"), expected)


def test_a_folder_an_archive_and_a_list_of_documents_are_one_set(eraser):
    digests = [load(eraser()).digest]
    for name, mode in (("set.tar", "w"), ("set.tar.gz", "w:gz"), ("set.tgz", "w:gz")):
        digests.append(load(eraser(archive=(name, mode))).digest)
    listed = lines(*({"docid": name, "document": FILES[f"docs/{name}"]} for name in "abc"))
    digests.append(load(eraser({f"docs/{name}": None for name in "abc"} | {"docs.jsonl": listed})).digest)
    assert len(set(digests)) == 1


def test_an_archive_is_read_where_it_lies(eraser, tmp_path):
    given = eraser(archive=("set.tar", "w"))
    with tarfile.open(tmp_path / "set.tar", "a") as tar:
        for name in ("../outside", "/tmp/outside", "inner/set/docs/../../../outside"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("inner/set/docs/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    load(given)
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluation_texts_change_neither_digest_nor_numbers(eraser):
    first = load(eraser())
    second = load(eraser({"docs/c": "other words that are good"}))
    assert second.digest == first.digest
    np.testing.assert_array_equal(first.train.values, second.train.values)
    count = first.train.values.max() + 1
    np.testing.assert_array_equal(first.vectors[:count], second.vectors[:count])
    assert first.words[:count] == second.words[:count]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"docs/b": "a bad flim"}, {}),
        ({}, {"table": VECTORS.replace("1 2", "1 3")}),
        ({"docs/b": "a bad film\n\nfilm"}, {}),
        ({}, {"length": 11}),
        ({}, {"length": 13}),
    ],
    ids=["word", "vector", "longer", "cut", "padded"],
)
def test_the_digest_notices(eraser, changes, keys):
    digest = load(eraser()).digest
    assert load(eraser(changes, **keys)).digest != digest


def test_two_words_that_trade_places_are_noticed(eraser):
    """The numbers of words stay the same; the words themselves and their vectors do not."""
    swapped = {name: text.replace("good", "fine") for name, text in FILES.items() if name.startswith("docs/")}
    digests = [load(eraser(changes, table=VECTORS + "fine 1 2\n")).digest for changes in ({}, swapped)]
    assert digests[0] != digests[1]


def test_long_texts_are_cut_at_the_end_and_what_is_cut_is_forgotten(eraser):
    data = load(eraser(length=7))
    assert data.shape == (7, 2)
    assert words_of(data, data.train, 0) == ["Is", "it", "0", "?", SEPARATOR, "a", "good"]
    assert (data.train.query[0], data.train.lengths[0]) == (5, 7)
    assert "is\tgood" not in data.words
    longer = load(eraser(length=20))
    assert longer.shape == (20, 2)
    assert longer.train.lengths.max() == 12


def test_a_length_that_only_the_query_fills_is_refused(eraser):
    with pytest.raises(UserError, match=r"data\.length: expected more than the 5 words of the longest query, got 5"):
        load(eraser(length=5))


def test_coverage_is_told_of_the_training_texts(eraser):
    data = load(eraser({"val.jsonl": None}))
    row = [words_of(data, data.train, n) for n in range(8)]
    tokens = [word for words in row for word in words]
    known = {"good", "bad", "film", "Is", "is"}
    types, share = len(known & set(tokens)) / len(set(tokens)), sum(word in known for word in tokens) / len(tokens)
    assert data.notes == (
        f"vectors.txt knows {types:.1%} of the {len(set(tokens))} different words of the training texts, "
        f"{share:.1%} of their {len(tokens)} words",
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train.jsonl": None}, r"a file train\.jsonl in .*set.*docs, test\.jsonl, val\.jsonl"),
        ({"docs/b": None}, r"the document 'b' of line 2 of train\.jsonl in .*set"),
        ({"docs/c": None}, r"the document 'c' of line 1 of test\.jsonl"),
        ({"docs/b": " \n"}, r"words in the documents of line 2 of train\.jsonl .*got 'none in b'"),
        ({"docs/b": b"a \xff"}, r"the document 'b' of .*set in UTF-8"),
        ({"train.jsonl": "{}\n"}, r"annotation_id, classification as line 1 of train\.jsonl.*annotation_id: Field req"),
        ({"train.jsonl": FILES["train.jsonl"] + "{oops\n"}, r"line 9 of train\.jsonl.*Invalid JSON"),
        ({"val.jsonl": "[]\n"}, r"line 1 of val\.jsonl"),
        ({"val.jsonl": "\n"}, r"lines in val\.jsonl of .*got 'none'"),
        ({"val.jsonl": lines(instance("v", "POS", "a", docids="a"))}, r"line 1 of val\.jsonl.*docids"),
        ({"val.jsonl": lines(instance("v", "POS", "a", evidences=[[{"text": ""}]]))}, r"line 1 of val\.jsonl.*docid"),
        (
            {"val.jsonl": lines(instance("v", "POS", "gone", docids=["a"]))},
            r"the document 'gone' of line 1 of val\.jsonl",
        ),
        ({"test.jsonl": lines(instance("e", "MAYBE", "a"))}, r"NEG, POS.* line 1 of test\.jsonl.*got 'MAYBE'"),
        (
            {"train.jsonl": lines(instance("t", "POS", "a")), "val.jsonl": None, "test.jsonl": None},
            "at least 2 classes",
        ),
        ({f"docs/{name}": None for name in "abc"} | {"docs.jsonl": "{}"}, r"docid, document as line 1 of docs\.jsonl"),
    ],
)
def test_broken_sets_are_told_in_a_line_that_names_what_is_broken(eraser, changes, told):
    with pytest.raises(UserError, match=told) as caught:
        load(eraser(changes))
    assert caught.value.key == "data.name"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("gone", None), ("x.tar.gz", b"\x1f\x8bno"), ("x.tar", b"no")])
def test_what_is_no_archive_is_refused(spec, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"data\.name: expected eraser:PATH of .*{name}"):
        load(spec(f"eraser:{tmp_path / name}", vectors="v"))


def test_a_cut_archive_is_refused(eraser, tmp_path):
    given = eraser(archive=("set.tar.gz", "w:gz"))
    path = tmp_path / "set.tar.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"eraser:PATH of a readable"):
        load(given)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"vectors": None}, r"data\.vectors: expected a file of word vectors in GloVe's"),
        ({"vectors": "/no/such/file"}, r"data\.vectors: .*'/no/such/file"),
        ({"image_size": 8}, r"data\.image_size: expected null, as the samples of eraser:.* are text, got 8"),
        ({"train_samples": 11}, r"data\.train_samples: expected at most 10"),
    ],
)
def test_keys_that_do_not_fit_are_refused(eraser, keys, told):
    with pytest.raises(UserError, match=told):
        load(eraser(**keys))


def test_a_vocabulary_without_a_known_word_is_refused(eraser):
    with pytest.raises(UserError, match=r"data\.vectors: expected vectors of the texts' words .*none of 19, such as"):
        load(eraser(table="unseen 1 2\n"))


def test_parts_are_chosen_as_of_images(eraser):
    data = load(eraser(train_samples=4, validation_fraction=0.5, eval_samples=2))
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (2, 2, 2)
    for part in (data.train, data.validation, data.evaluation):
        assert sorted(part.labels[part.index]) == [0, 1]
    assert data.train.values is data.validation.values


def test_movies_as_they_are(test_data, spec):
    archive, glove = test_data / "eraser_movies" / "movies.tar.gz", test_data / "glove_twitter_25d"
    data = load(spec(f"eraser:{archive}", vectors=str(next(glove.glob("*.gz"))), length=300, eval_samples=199))
    assert (data.classes, data.shape, data.train.query) == (("NEG", "POS"), (300, 25), None)
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (1440, 360, 199)
    assert np.bincount(data.evaluation.labels).tolist() == [100, 99]
    with tarfile.open(archive) as tar:
        last = json.loads(tar.extractfile("movies/test.jsonl").read().splitlines()[-1])
        document = tar.extractfile(f"movies/docs/{last['annotation_id']}").read().decode().split()
    assert words_of(data, data.evaluation, 198) == document[:300]


def test_fever_keeps_its_claims(test_data, spec, tmp_path):
    with tarfile.open(test_data / "eraser_fever_valtest" / "fever_valtest.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    top = tmp_path / "fever"
    (top / "val.jsonl").rename(top / "train.jsonl")
    glove = next((test_data / "glove_twitter_25d").glob("*.gz"))
    data = load(spec(f"eraser:{top}", vectors=str(glove), length=100, eval_samples=6111))
    assert data.classes == ("REFUTES", "SUPPORTS")
    assert np.bincount(data.evaluation.labels).tolist() == [3078, 3033]
    for part in (data.train, data.evaluation):
        for row in part.index[:300]:
            words = words_of(data, part, row)
            assert words.index(SEPARATOR) == part.query[row] - 1
    assert " ".join(words_of(data, data.train, 0)[:6]) == f"Steve Wozniak designed homes . {SEPARATOR}"
    assert (data.train.query < data.train.lengths).all()
