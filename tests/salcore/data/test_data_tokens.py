"""Texts as tokens: against transformers' own tokenizers, and what is known of words, lengths, splits and digests."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from salcore.data import load
from salcore.data.assembly import EVALUATION, SUBSET, VALIDATION
from salcore.data.batches import epoch_batches, inputs_of
from salcore.data.splits import divide
from salcore.data.tokens import load_tokenizer, train_wordpiece
from salcore.errors import UserError
from salcore.layout import Range
from salcore.spec import DataSpec
from salcore.work import range_digest

TRAIN = ["good films , really good", "a bad film", "the filmmaking is n't unreadable", "is it Good ?"]
FILES = {
    "train": "".join(f"{number % 2} ||| {TRAIN[number % 4]}\n" for number in range(20)),
    "dev": "1 ||| zebra good film\n0 ||| zebra bad\n",
    "test": "0 ||| quokka film !\n1 ||| quokka is good\n0 ||| bad\n",
}
CLS, SEP, UNK = 2, 3, 1
DIGITS = "b99fabb0323db9fba457e7a5297615ff96fec6f5458b961bb1461c373334648b"
WORDS = "b59bc60ed2474a675c2069fc285bf07a72b1364fe827bf67bdc4cb8e84a39e2c"
"""Digests from before there were tokens: members that were trained then are still those of their data."""


@pytest.fixture
def sst(tmp_path, spec):
    """Writes a small treebank; gives its spec with a trained WordPiece."""

    def write(changes=None, **keys):
        folder = tmp_path / "sst"
        folder.mkdir(exist_ok=True)
        for name, text in (FILES | (changes or {})).items():
            (folder / f"{name}.txt").unlink(missing_ok=True)
            if text is not None:
                (folder / f"{name}.txt").write_text(text)
        given = {"tokenizer": "wordpiece", "vocabulary": 100, "eval_samples": 1, "validation_fraction": None}
        return spec(f"sst:{folder}", **(given | keys))

    return write


@pytest.fixture
def eraser(tmp_path, spec):
    """Writes a small set with queries; gives its spec with a trained WordPiece."""

    def write(document="a good film [SEP] .\nIt is\tgood .\n", **keys):
        folder = tmp_path / "eraser"
        (folder / "docs").mkdir(parents=True, exist_ok=True)
        (folder / "docs" / "a").write_text(document)
        (folder / "docs" / "b").write_text("unreadably bad")
        for name, count in {"train": 8, "val": 2, "test": 3}.items():
            lines = [
                {"annotation_id": f"{name}{n}", "classification": "ab"[n % 2], "query": "Is it?"[: 6 - n % 3],
                 "docids": ["ab"[n % 2]]} for n in range(count)
            ]  # fmt: skip
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        given = {"tokenizer": "wordpiece", "vocabulary": 100, "eval_samples": 3, "validation_fraction": None}
        return spec(f"eraser:{folder}", **(given | keys))

    return write


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders of tokenizers such as BERT's, RoBERTa's, and one like GPT's that says nothing of blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

    top = tmp_path_factory.mktemp("tokenizers")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "good",
        "Good",
        "film",
        "##s",
        "##making",
        "a",
        "is",
        "n",
        "'",
    ]
    words += [",", "t", "un", "##read", "##able", "the", "zebra", "it"]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizer(vocabulary, do_lower_case=False, model_max_length=9).save_pretrained(top / "bert")

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(TRAIN * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    RobertaTokenizer(model["vocab"], merges, model_max_length=512).save_pretrained(top / "roberta")
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.enable_truncation(3)
    trained.enable_padding(length=5)
    PreTrainedTokenizerFast(tokenizer_object=trained, unk_token="<unk>").save_pretrained(top / "gpt")
    return top


def tokens_of(data, part, row):
    return [data.words[number] for number in part.values[row, : part.lengths[row]]]


def sentences(name):
    return [line.partition(" ||| ")[2].split() for line in FILES[name].splitlines()]


def test_a_text_is_its_pieces_between_special_tokens(sst):
    data = load(sst(vocabulary=100))
    assert tokens_of(data, data.train, 1)[0] == "[CLS]"
    assert data.kind == "text"
    assert data.vectors is None
    assert data.words[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert data.shape == (data.train.values.shape[1], len(data.words))
    assert (data.mean.tolist(), data.std.tolist()) == ([0], [1])
    assert data.train.values.dtype == data.train.word_of.dtype == np.int32
    for row, words in enumerate(sentences("train") + sentences("dev")):
        length, places = data.train.lengths[row], data.train.word_of[row]
        assert data.train.values[row, 0] == CLS
        assert data.train.values[row, length - 1] == SEP
        assert (data.train.values[row, length:] == 0).all()
        assert (places[[0, length - 1]] == -1).all()
        assert (places[length:] == -1).all()
        inside = places[1 : length - 1]
        assert sorted(set(inside)) == list(range(len(words)))
        pieces = tokens_of(data, data.train, row)[1:-1]
        for number, word in enumerate(words[:-1] if row >= 20 else words):
            joined = "".join(
                piece.removeprefix("##") for piece, place in zip(pieces, inside, strict=True) if place == number
            )
            assert joined in (word.lower(), "[UNK]")
    assert len(set(data.train.word_of[2])) < data.train.lengths[2] - 1  # "unreadable" has many pieces


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("length", [None, 6])
def test_tokens_are_those_of_transformers(sst, saved, kind, length):
    from transformers import AutoTokenizer

    data = load(sst(tokenizer=str(saved / kind), length=length))
    theirs = AutoTokenizer.from_pretrained(saved / kind, add_prefix_space=True)
    most = min(length or 10_000, theirs.model_max_length)
    for part, name in ((data.train, "train"), (data.evaluation, "test")):
        for row, words in enumerate(sentences(name)):
            expected = theirs(words, is_split_into_words=True, truncation=True, max_length=most)
            assert part.values[row, : part.lengths[row]].tolist() == expected["input_ids"]
            numbers = [-1 if number is None else number for number in expected.word_ids()]
            assert part.word_of[row, : part.lengths[row]].tolist() == numbers
    assert [data.words[number] for number in range(len(data.words))] == theirs.convert_ids_to_tokens(
        range(len(data.words))
    )


def test_a_trained_wordpiece_is_a_tokenizer_of_transformers(sst, tmp_path):
    from transformers import PreTrainedTokenizerFast

    data = load(sst())
    (tmp_path / "tokenizer.json").write_text(data.tokenizer)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for row, words in enumerate(sentences("train")):
        assert data.train.values[row, : data.train.lengths[row]].tolist() == theirs(" ".join(words))["input_ids"]
    assert theirs.decode(data.train.values[1, 1 : data.train.lengths[1] - 1]) == "a bad film"


def test_words_of_byte_level_tokenizers_have_a_blank_before_them(sst, saved):
    data = load(sst(tokenizer=str(saved / "gpt")))
    assert "".join(tokens_of(data, data.train, 1)) == "ĠaĠbadĠfilm"
    assert (data.train.word_of[1, :3] >= 0).all()
    other = load(sst(tokenizer=str(saved / "roberta")))
    assert "".join(tokens_of(other, other.train, 1)) == "<s>ĠaĠbadĠfilm</s>"


def test_truncation_and_padding_that_a_file_asks_for_are_left_out(saved):
    assert json.loads(load_tokenizer(str(saved / "roberta")).content)["pre_tokenizer"]["add_prefix_space"]
    told = json.loads(load_tokenizer(str(saved / "gpt")).content)
    assert (told["truncation"], told["padding"]) == (None, None)


def test_how_many_tokens_a_model_takes_is_known_or_not(saved):
    found = {kind: load_tokenizer(str(saved / kind)).longest for kind in ("bert", "roberta", "gpt")}
    assert found == {"bert": 9, "roberta": 512, "gpt": None}


def test_texts_beyond_what_the_model_takes_are_cut(sst, saved):
    data = load(sst({"test": f"0 ||| {'good ' * 20}\n1 ||| good\n"}, tokenizer=str(saved / "bert")))
    assert data.evaluation.values.shape[1] == 9
    assert data.evaluation.lengths.tolist() == [9, 3]
    assert data.evaluation.values[0].tolist() == [CLS, *[5] * 7, SEP]
    assert any("1 of 2 test texts" in note and "more than 9 tokens and are cut" in note for note in data.notes)
    with pytest.raises(UserError, match=r"data\.length: expected at most the 9 tokens .*got 10"):
        load(sst(tokenizer=str(saved / "bert"), length=10))


def test_a_text_of_just_the_length_is_not_cut(sst):
    whole = load(sst())
    longest = int(whole.train.lengths.max())
    assert whole.train.values.shape[1] == longest
    assert not any("cut" in note for note in whole.notes)
    same = load(sst(length=longest, cut=False))
    np.testing.assert_array_equal(same.train.values, whole.train.values)
    assert (same.notes, same.digest) == (whole.notes, whole.digest)
    shorter = load(sst(length=longest - 1))
    beyond = int((whole.train.lengths[:20] == longest).sum())
    assert f"{beyond} of 20 training texts have more than {longest - 1} tokens and are cut" in shorter.notes
    row = int(whole.train.lengths.argmax())
    expected = [*whole.train.values[row, : longest - 2], SEP]
    assert shorter.train.values[row].tolist() == expected
    assert shorter.train.word_of[row, -1] == -1
    with pytest.raises(UserError, match=rf"{beyond} of 25 texts are longer, the longest of them {longest}") as caught:
        load(sst(length=longest - 1, cut=False))
    assert caught.value.key == "data.length"


def test_longer_than_the_longest_is_padded(sst):
    data, longer = load(sst()), load(sst(length=40))
    assert longer.train.values.shape == longer.train.word_of.shape == (22, 40)
    np.testing.assert_array_equal(longer.train.lengths, data.train.lengths)
    assert (longer.train.word_of[:, data.train.values.shape[1] :] == -1).all()


def test_the_vocabulary_knows_the_training_split_alone(sst):
    data = load(sst(vocabulary=200))
    told = data.tokenizer
    assert all(letter not in data.words for letter in ("z", "##z", "q", "##q", "!"))  # of zebra, quokka and !
    zebra = data.train.values[20, 1]
    assert zebra == UNK
    assert (
        load(sst({"dev": FILES["dev"].replace("zebra", "yurt"), "test": "0 ||| x x x\n"})).tokenizer
        == load(sst()).tokenizer
    )
    assert load(sst({"train": FILES["train"].replace("films", "fjord")}, vocabulary=200)).tokenizer != told


def test_what_is_set_apart_without_a_test_file_is_no_part_of_the_vocabulary(sst):
    letters = "абвгдежзиклмнопрстуф"
    texts = [f"{n % 2} ||| word x{letter}" for n, letter in enumerate(letters)]
    data = load(sst({"train": "\n".join(texts), "test": None}, eval_samples=4, vocabulary=200))
    apart = {n for n, letter in enumerate(letters) if f"##{letter}" not in data.words}
    assert apart == {int(row) for row in data.evaluation.index if row < 20}
    assert apart
    assert "z" not in data.words  # of the validation split


def test_a_word_of_which_nothing_is_left_is_unknown(sst, saved):
    odd = {"test": "0 ||| good \u200b good\n1 ||| bad\n"}  # a zero-width blank, which BERT cleans away
    data = load(sst(odd))
    assert (data.evaluation.values[0] == UNK).sum() == 1
    assert data.evaluation.word_of[0, : data.evaluation.lengths[0]].tolist()[-3:] == [1, 2, -1]


def test_training_is_the_same_in_every_process(tmp_path):
    words = {word: 1 + len(word) % 3 for text in TRAIN * 2 for word in text.split()}
    words |= {first + second + third: 2 for first in "abcdefgh" for second in "stuvwxyz" for third in "klmnop"}
    words |= {"[SEP]": 5, "QX[MASK]Zé": 5}
    code = (
        "import json, sys, hashlib; from salcore.data.tokens import train_wordpiece;"
        "print(hashlib.sha256(train_wordpiece(dict(json.loads(sys.argv[1])), 150).encode()).hexdigest())"
    )
    found = set()
    for seed, threads in (("1", "1"), ("2", "4")):
        items = list(words.items())[:: 1 if seed == "1" else -1]
        told = subprocess.run(
            [sys.executable, "-c", code, json.dumps(items)],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(told.stdout)
    assert len(found) == 1
    assert len(json.loads(train_wordpiece(words, 150))["model"]["vocab"]) == 150


def test_training_leaves_the_environment_alone(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    train_wordpiece({"word": 3}, 100)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with pytest.raises(UserError, match=r"data\.vocabulary: expected at least 12, one for each .*got 11"):
        train_wordpiece({"word": 3}, 11)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_rare_pairs_and_unmet_words_are_not_joined():
    vocabulary = json.loads(train_wordpiece({"once": 1, "often": 2, "never": 0}, 100))["model"]["vocab"]
    assert "often" in vocabulary
    assert not {"once", "never", "v"} & set(vocabulary)


def test_a_query_is_counted_in_tokens_and_ends_in_the_separator(eraser):
    data = load(eraser())
    for part in (data.train, data.evaluation):
        for row in range(len(part.labels)):
            tokens, asked, words = tokens_of(data, part, row), int(part.query[row]), part.word_of[row].tolist()
            assert tokens[0] == "[CLS]"
            assert tokens[asked - 1] == "[SEP]"
            assert "[SEP]" not in tokens[1 : asked - 1]
            assert words[asked - 1] == words[0] == -1
            query = "Is it?"[: 6 - (row if row < 8 else row - 8) % 3].lower().replace("?", " ?").split()
            assert sorted(set(words[1 : asked - 1])) == list(range(len(query)))
            assert words[asked] == len(query) + 1  # as in words, the separator has a place of its own
            assert "".join(token.removeprefix("##") for token in tokens[1 : asked - 1]) == "".join(query)


def test_only_the_separator_after_the_query_is_no_word(eraser):
    data = load(eraser())
    row, asked = 0, int(data.train.query[0])
    rest = data.train.word_of[row, asked : data.train.lengths[row] - 1]
    assert (rest >= 0).all()
    assert (data.train.values[row, asked : data.train.lengths[row] - 1] == SEP).sum() == 1  # "[SEP]" in the document
    assert sorted(set(rest)) == list(range(4, 4 + 8))  # after Is, it, ? and the separator; "is\tgood" is one word


def test_the_separator_is_not_trained_on(eraser):
    assert "sep" in load(eraser()).words  # of the document's own: "[", "sep" and "]"
    assert not {"p", "[", "]", "sep"} & set(load(eraser("a good film .")).words)


def test_another_tokenizers_separator_stands_after_the_query(eraser, saved):
    data = load(eraser(tokenizer=str(saved / "roberta")))
    asked = int(data.train.query[0])
    assert tokens_of(data, data.train, 0)[asked - 1] == "</s>"
    assert "".join(tokens_of(data, data.train, 0)).count("[SEP]") == 1  # the document's word
    with pytest.raises(UserError, match=r"data\.tokenizer: expected one with a separator token"):
        load(eraser(tokenizer=str(saved / "gpt")))


def test_a_length_that_leaves_no_room_beside_the_query_is_refused(eraser):
    whole = load(eraser())
    longest = int(max(whole.train.query.max(), whole.evaluation.query.max())) + 1  # and the end
    assert load(eraser(length=longest + 1)).train.values.shape[1] == longest + 1
    with pytest.raises(UserError, match=rf"data\.length: expected more than {longest} tokens") as caught:
        load(eraser(length=longest))
    assert caught.value.key == "data.length"


def test_notes_tell_of_pieces_and_of_what_is_unknown(sst, saved):
    from transformers import AutoTokenizer

    data = load(sst(tokenizer=str(saved / "bert")))
    theirs = AutoTokenizer.from_pretrained(saved / "bert")
    found = [
        theirs(words, is_split_into_words=True, add_special_tokens=False)["input_ids"] for words in sentences("train")
    ]
    pieces, words = sum(map(len, found)), sum(map(len, sentences("train")))
    unknown = sum(each.count(UNK) for each in found) / pieces
    assert unknown > 0
    expected = f"bert makes {pieces / words:.2f} tokens of a word of the training texts, {unknown:.1%} of them unknown"
    assert data.notes[0] == expected


def test_the_sets_own_validation_split(sst, eraser):
    data = load(sst())
    assert (data.train.index.tolist(), data.validation.index.tolist()) == (list(range(20)), [20, 21])
    fewer = load(sst(train_samples=6))
    assert (len(fewer.train), fewer.validation.index.tolist()) == (6, [20, 21])
    assert np.bincount(fewer.train.labels[fewer.train.index]).tolist() == [3, 3]
    with pytest.raises(UserError, match=r"data\.train_samples: expected at most 20"):
        load(sst(train_samples=21))
    assert load(eraser()).validation.index.tolist() == [8, 9]
    carved = load(sst(validation_fraction=0.25, train_samples=20))
    assert (len(carved.train), len(carved.validation)) == (15, 5)
    with pytest.raises(UserError, match=r"a share, as sst:.* has no validation split of its own") as caught:
        load(sst({"dev": None}))
    assert caught.value.key == "data.validation_fraction"


def test_texts_of_words_have_their_own_validation_split_too(sst, tmp_path):
    (tmp_path / "vectors").write_text("good 1 2\nfilm 3 4\n")
    data = load(sst(tokenizer=None, vectors=str(tmp_path / "vectors")))
    assert (data.validation.index.tolist(), data.tokenizer, data.train.word_of) == ([20, 21], None, None)
    with pytest.raises(UserError, match=r"data\.length: .* texts are longer, the longest of them 5"):
        load(sst(tokenizer=None, vectors=str(tmp_path / "vectors"), length=3, cut=False))


def test_what_is_set_apart_is_in_no_part_of_the_sets_own_split(sst):
    data = load(sst({"test": None}, eval_samples=4))
    rows = [set(part.index.tolist()) for part in (data.train, data.validation, data.evaluation)]
    assert rows[1] <= {20, 21}
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
    assert rows[0] | rows[1] | rows[2] == set(range(22))


def test_images_have_no_split_of_their_own_and_no_tokens(spec):
    for keys, told in (
        ({"validation_fraction": None}, r"data\.validation_fraction: expected a share, as digits"),
        ({"tokenizer": "wordpiece"}, r"data\.tokenizer: expected null, as the samples of digits are images"),
        ({"eval_split": "all"}, r"data\.eval_split: expected test, as the samples of digits are images, got 'all'"),
        ({"cut": False}, r"data\.cut: expected true, as the samples of digits are images"),
    ):
        with pytest.raises(UserError, match=told):
            load(spec("digits", **keys))


def test_labels_of_a_stratified_share_are_kept(sst):
    lines = "".join(f"{int(n % 5 == 0)} ||| film number {n}\n" for n in range(50))
    whole = load(sst({"train": lines}, validation_fraction=0.2))
    data = load(sst({"train": lines}, validation_fraction=0.2, labelled=0.5))
    np.testing.assert_array_equal(data.train.index, whole.train.index)
    given, truth = data.train.labels[data.train.index], whole.train.labels[whole.train.index]
    kept = given >= 0
    assert kept.sum() == round(0.5 * len(given))
    np.testing.assert_array_equal(given[kept], truth[kept])
    shares = np.bincount(truth) / 2
    assert (np.abs(np.bincount(given[kept]) - shares) <= 1).all()
    for part, other in ((data.validation, whole.validation), (data.evaluation, whole.evaluation)):
        np.testing.assert_array_equal(part.labels[part.index], other.labels[other.index])
    assert (data.train.labels[data.validation.index] >= 0).all()
    assert data.digest != whole.digest
    assert data.classes == whole.classes
    more = load(sst({"train": lines}, validation_fraction=0.2, labelled=0.75)).train
    assert set(data.train.index[kept]) <= set(more.index[more.labels[more.index] >= 0])


def test_a_share_of_no_two_labels_is_refused(sst):
    assert (load(sst(labelled=0.1)).train.labels[:20] >= 0).sum() == 2
    with pytest.raises(UserError, match=r"2 labels or more of 20 training samples, got 0\.07") as caught:
        load(sst(labelled=0.07))
    assert caught.value.key == "data.labelled"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_that_are_kept_are_an_independent_and_stratified_choice(sst, seed):
    lines = "".join(f"{int(n % 5 == 0)} ||| film number {n}\n" for n in range(200))
    data = load(sst({"train": lines}, labelled=0.25, split_seed=seed))
    kept = np.flatnonzero(data.train.labels[:200] >= 0)
    assert np.bincount(data.train.labels[kept]).tolist() == [40, 10]
    for purpose in (SUBSET, VALIDATION, EVALUATION):
        other, _ = divide(np.arange(200) % 5 == 0, 50, seed, purpose)
        assert other.tolist() != kept.tolist()


def test_labels_that_are_left_out_are_left_out_where_everything_is_evaluated(sst):
    data = load(sst({"test": None}, labelled=0.5, eval_split="all", eval_samples=22))
    assert (data.train.labels == -1).sum() == 9  # of 18
    np.testing.assert_array_equal(data.evaluation.labels, data.train.labels)
    assert (load(sst(labelled=0.5)).evaluation.labels >= 0).all()


def test_everything_is_evaluated_in_the_order_of_the_files(sst):
    data, part = load(sst(labelled=0.5)), load(sst(labelled=0.5, eval_split="all")).evaluation
    assert part.index.tolist() == list(range(1))  # eval_samples is 1 here
    given = sst(labelled=0.5, eval_split="all", eval_samples=25)
    whole = load(given)
    everything = whole.evaluation
    unset = given.model_copy(update={"eval_samples": 512})
    unset.model_fields_set.discard("eval_samples")
    assert load(unset).evaluation.index.tolist() == everything.index.tolist() == list(range(25))
    for field in ("values", "lengths", "word_of"):
        array = getattr(everything, field)
        np.testing.assert_array_equal(array[:22], getattr(whole.train, field))
        np.testing.assert_array_equal(array[22:], getattr(data.evaluation, field))
    truth = np.array([n % 2 for n in range(20)] + [1, 0] + [0, 1, 0])
    known = everything.labels >= 0
    assert (~known[:20]).sum() == 10
    assert known[20:].all()
    np.testing.assert_array_equal(everything.labels[known], truth[known])
    assert whole.digest == data.digest
    np.testing.assert_array_equal(whole.train.index, data.train.index)
    with pytest.raises(UserError, match=r"data\.eval_samples: expected at most 25"):
        load(sst(eval_split="all", eval_samples=26))
    assert load(sst({"test": None}, eval_split="all", eval_samples=22)).evaluation.index.tolist() == list(range(22))


def test_everything_keeps_queries(eraser):
    data = load(eraser(eval_split="all", eval_samples=13))
    np.testing.assert_array_equal(data.evaluation.query[:10], data.train.query)
    assert (data.evaluation.query > 0).all()
    assert len(data.evaluation.query) == 13


@pytest.mark.parametrize("changed", ["tokenizer", "word", "query"])
def test_the_digest_is_over_the_tokenizer_and_the_words_of_tokens(sst, eraser, changed, monkeypatch):
    from salcore.data import tokens

    given = eraser() if changed == "query" else sst()
    before, made = load(given), tokens.token_source

    def other(*splits, **keys):
        source = made(*splits, **keys)
        if changed == "tokenizer":
            object.__setattr__(source, "tokenizer", source.tokenizer + " ")
        elif changed == "word":
            source.train.word_of[0, 1] = 7
        else:
            source.train.query[0] -= 1
        return source

    monkeypatch.setattr(tokens, "token_source", other)
    after = load(given)
    np.testing.assert_array_equal(after.train.values, before.train.values)
    assert after.digest != before.digest


def test_digests_of_other_data_are_what_they_were(spec, sst, tmp_path):
    (tmp_path / "vectors").write_text("good 1 2\nfilm 3 4\n")
    words = load(sst(tokenizer=None, vectors=str(tmp_path / "vectors"), validation_fraction=0.2))
    assert load(spec("digits", eval_samples=10)).digest == DIGITS
    assert words.digest == WORDS


def test_evaluation_texts_do_not_change_the_digest(sst):
    data = load(sst(length=12))
    assert load(sst({"test": "0 ||| another\n1 ||| one\n"}, length=12)).digest == data.digest


def test_the_digest_of_a_range_is_over_tokens_and_words(sst):
    data = load(sst(eval_samples=3))
    part = Range(part=0, start=0, stop=2)
    known = range_digest(data, part)
    words = data.evaluation.word_of.copy()
    words[data.evaluation.index[0], 1] = 5
    moved = [{"tokenizer": data.tokenizer + " "}, {"evaluation": _with(data.evaluation, word_of=words)}]
    assert len({known, *(range_digest(_with(data, **change), part) for change in moved)}) == 3
    words = data.evaluation.word_of.copy()
    words[data.evaluation.index[2], 1] = 5
    assert range_digest(_with(data, evaluation=_with(data.evaluation, word_of=words)), part) == known


def _with(frozen, **changes):
    from dataclasses import replace

    return replace(frozen, **changes)


def test_networks_take_numbers_of_tokens(sst):
    data = load(sst())
    rows = np.array([3, 0, 21])
    inputs, valid = inputs_of(data.train, rows, data)
    assert inputs.dtype == torch.int64
    np.testing.assert_array_equal(inputs.numpy(), data.train.values[rows])
    np.testing.assert_array_equal(valid.sum(1).numpy(), data.train.lengths[rows])
    assert (inputs[~valid] == 0).all()
    batches = list(epoch_batches(data.train, data, batch_size=4, order=None))
    for start, batch in zip(range(0, 20, 4), batches, strict=True):
        longest = data.train.lengths[start : start + 4].max()
        np.testing.assert_array_equal(batch[0].numpy(), data.train.values[start : start + 4, :longest])
        assert batch[0].shape == batch[2].shape


def test_parts_of_tokens_survive_pickling(sst):
    data = load(sst())
    back = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(back.train.word_of, data.train.word_of)
    assert back.tokenizer == data.tokenizer


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"vectors": "v"}, r"data\.vectors: expected null, as data\.tokenizer makes tokens of the texts, got 'v'"),
        ({"tokenizer": None}, r"data\.vectors: .*\(or a data\.tokenizer\)"),
        (
            {"tokenizer": "/no/such/folder"},
            r"data\.tokenizer: expected a tokenizer on the hub or in a folder that exists",
        ),
        ({"tokenizer": "./no_such_folder"}, r"data\.tokenizer: .* in a folder that exists, got '\./no_such_folder'"),
        ({"length": 2}, r"data\.length: expected more than 2 tokens, .*got 2"),
    ],
)
def test_keys_that_do_not_fit_are_refused(sst, keys, told):
    with pytest.raises(UserError, match=told):
        load(sst(**keys))


def test_an_empty_sentence_is_refused(sst):
    with pytest.raises(UserError, match=r"`label \|\|\| sentence` in line 2 of .*dev\.txt"):
        load(sst({"dev": "1 ||| good\n0 ||| \n"}))


def test_a_hub_that_does_not_answer_is_told_at_once(sst, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"does not answer: .*save_pretrained") as caught:
        load(sst(tokenizer="salcore-tests/no-such-tokenizer"))
    assert caught.value.key == "data.tokenizer"
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(sst, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.tokenizer: expected a tokenizer on the hub or in a folder, got"):
        load(sst(tokenizer=str(tmp_path / "empty")))
    (tmp_path / "empty" / "tokenizer.json").write_text("{broken")
    with pytest.raises(UserError, match=r"data\.tokenizer: expected a tokenizer on the hub or in a folder, got"):
        load(sst(tokenizer=str(tmp_path / "empty")))


def test_code_that_comes_with_a_tokenizer_is_not_run(sst, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    told = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(UserError, match=r"data\.tokenizer"):
        load(sst(tokenizer=str(folder)))
    assert not (tmp_path / "run").exists()


def test_a_slow_tokenizer_is_refused(sst, tmp_path):
    from transformers import CanineTokenizer

    CanineTokenizer().save_pretrained(tmp_path / "canine")
    with pytest.raises(UserError, match=r"data\.tokenizer: expected a fast tokenizer"):
        load(sst(tokenizer=str(tmp_path / "canine")))


def test_the_treebank_as_it_is(test_data, spec):
    name = f"sst:{test_data / 'sst5'}"
    data = load(spec(name, tokenizer="wordpiece", validation_fraction=None, length=40, eval_samples=2210))
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (8544, 1101, 2210)
    assert data.shape == (40, 8000)
    lines = Path(test_data, "sst5", "train.txt").read_text(encoding="utf-8").splitlines()
    for row in range(0, 8544, 331):
        words = lines[row].partition(" ||| ")[2].split()
        assert data.train.word_of[row].max() == len(words) - 1 or data.train.lengths[row] == 40
        assert data.train.labels[row] == int(lines[row][0])
    assert "8,544 training texts" in data.notes[1]
    assert " 0.0% of them unknown" in data.notes[0]
    everything = load(spec(name, tokenizer="wordpiece", validation_fraction=None, length=40, eval_split="all",
                           eval_samples=11855))  # fmt: skip
    assert len(everything.evaluation) == 8544 + 1101 + 2210
    assert everything.digest == data.digest


def test_movies_as_they_are(test_data, spec):
    archive = test_data / "eraser_movies" / "movies.tar.gz"
    data = load(
        spec(f"eraser:{archive}", tokenizer="wordpiece", validation_fraction=None, length=512, eval_samples=199)
    )
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (1600, 200, 199)
    assert data.shape == (512, 8000)
    assert data.train.query is None
    assert (data.train.values[np.arange(1800), data.train.lengths - 1] == SEP).all()


def test_words_that_people_marked_are_found_again_in_pieces(tmp_path):
    """Two documents, one word in pieces, a query before them, and a cut."""
    folder = tmp_path / "asked"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "one").write_text("alpha beta\ngamma delta\n")
    (folder / "docs" / "two").write_text("epsilon zeta\n")
    lines = []
    for number, query in enumerate(("who", "what", "why", "when")):
        spans = [{"docid": "one", "start_token": 1, "end_token": 3}, {"docid": "two", "start_token": 1, "end_token": 2}]
        values = {"annotation_id": f"a{number}", "classification": "yn"[number % 2], "query": query,
                  "docids": ["one", "two"], "evidences": [spans[:1], spans[1:]]}  # fmt: skip
        lines.append(json.dumps(values))
    for name in ("train", "val", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    asked = {"name": f"eraser:{folder}", "tokenizer": "wordpiece", "vocabulary": 100, "eval_samples": 4}
    found = load(DataSpec(**asked)).evaluation
    text = ["who", "[SEP]", "alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    for row in found.index:
        words = {text[word] for word in found.word_of[row][found.rationale[row]] if word >= 0}
        assert words == {"beta", "gamma", "zeta"}
        assert not found.rationale[row][found.word_of[row] < 0].any()
        assert found.rationale[row].sum() >= 3
    cut = load(DataSpec(**asked, length=30))
    part = cut.evaluation
    assert part.rationale.shape == part.values.shape
