"""Encoders of transformers: attention as it is before dropout, padding that is nothing, and what is refused."""

import contextlib
import copy
import json
import logging
import math
import pickle
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import AttentionInterface, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from salcore.errors import UserError
from salcore.models import build, builder, check, encoders, load_weights
from salcore.models.language import LanguageModel
from salcore.models.tokens import check_tokens
from salcore.padding import bound
from salcore.seeds import forked
from salcore.settings import settings_of
from salcore.spec import ModelSpec

KINDS = ("bert", "roberta", "distilbert", "electra")
SMALL = {"layers": 2, "width": 32, "heads": 4}
STEPS, VOCABULARY = 9, 50
SHAPE = (STEPS, VOCABULARY)


def spec(name, **settings):
    return ModelSpec(name=f"transformers:{name}", **settings)


def make(kind="bert", shape=SHAPE, classes=3, seed=0, **settings):
    with forked(seed):
        return build(spec(kind, **{**SMALL, **settings}), input_shape=shape, classes=classes)


def read(folder, shape=SHAPE, classes=3, seed=0, **settings):
    with forked(seed):
        return build(spec(folder, **settings), input_shape=shape, classes=classes)


def batch(samples=4, steps=STEPS):
    """Tokens, the first ones of each text, and which ones they are; no padding in the first text."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (samples, steps), generator=generator)
    lengths = torch.randint(1, steps, (samples, 1), generator=generator)
    lengths[0] = steps
    return ids, torch.arange(steps) < lengths


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def network(kind):
    return make(kind).eval()


@pytest.fixture
def folder(tmp_path):
    """A function that saves a network's model as a user would, and names the folder."""

    def save(network, **changes):
        with encoders.quiet():
            network.model.save_pretrained(tmp_path / "model")
        config = tmp_path / "model" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        return str(tmp_path / "model")

    return save


@pytest.fixture
def offline(monkeypatch):
    """A hub that cannot be reached, without the half minute of retrying."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def rewritten(folder, change):
    """The folder, its weights changed by a function of their dict."""
    path = f"{folder}/model.safetensors"
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path, {"format": "pt"})
    return folder


# What a network for tokens has to do.


def test_the_checks_that_every_command_makes_are_passed(kind):
    check(spec(kind, **SMALL), SHAPE, 3, "text", tokens=True)


def test_tokens_and_their_embeddings_have_the_same_logits_bit_for_bit(network):
    ids, valid = batch()
    embeddings = network.embedded(ids)
    assert embeddings.shape == (4, STEPS, 32)
    for mode in (True, False):
        outputs = []
        for inputs in (ids, embeddings):
            with forked(5):
                outputs.append(network.train(mode)(inputs, valid))
        assert torch.equal(*outputs)
        assert outputs[0].shape == (4, 3)


def test_tokens_may_be_of_32_bits_and_valid_may_be_left_out(network):
    ids, _ = batch()
    everything = torch.ones_like(ids, dtype=torch.bool)
    assert torch.equal(network(ids.int()), network(ids, everything))


def test_what_stands_in_the_padding_is_nothing_to_a_text(network):
    ids, valid = batch()
    logits = network(ids, valid)
    for other in (0, 1, VOCABULARY - 1):
        assert torch.equal(network(ids.where(valid, other), valid), logits)
    embeddings = network.embedded(ids)
    embeddings[~valid] = 1e3
    assert torch.equal(network(embeddings, valid), logits)


def test_a_text_has_the_same_logits_alone_and_without_its_padding(network):
    ids, valid = batch()
    logits, attentions = network.attended(ids, valid)
    for row, length in enumerate(valid.sum(1)):
        alone, own = network.attended(ids[row : row + 1, :length])
        torch.testing.assert_close(alone[0], logits[row], rtol=1e-5, atol=1e-6)
        for one, all_ in zip(own, attentions, strict=True):
            torch.testing.assert_close(one[0], all_[row, :, :length, :length], rtol=1e-5, atol=1e-6)


def test_padding_that_is_a_roberta_s_own_number_or_another_text_s_word_counts_no_position():
    network = make("roberta").eval()
    padding = network.model.config.pad_token_id
    ids, _ = batch()
    ids[:, 3] = padding  # a word that has the padding's number
    with torch.no_grad():
        logits = network(ids)
        positions = torch.arange(padding + 1, STEPS + padding + 1).expand(4, -1)
        expected = network.model(input_ids=ids, position_ids=positions).logits
    torch.testing.assert_close(logits, expected)


def test_of_an_empty_text_the_first_token_counts(network):
    ids, valid = batch()
    none, one = valid.clone(), valid.clone()
    none[2], one[2] = False, torch.arange(STEPS) < 1
    assert torch.equal(network(ids, none), network(ids, one))


def test_a_bound_network_takes_embeddings_alone_and_has_a_gradient_for_each_word_and_none_for_padding(network):
    ids, valid = batch()
    embeddings = network.embedded(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(bound(network, valid)(embeddings)[:, 0].sum(), embeddings)
    assert (gradient.abs().sum(2) > 0).equal(valid)


def test_inputs_of_another_shape_are_refused(network):
    for wrong in (torch.zeros(2, 3), torch.zeros(2, 3, 4, dtype=torch.long), torch.zeros(5, dtype=torch.long)):
        with pytest.raises(ValueError, match="`inputs`: expected whole numbers"):
            network(wrong)


# Attention.


@pytest.mark.parametrize("train", [True, False])
def test_attention_is_a_distribution_in_both_modes_and_zero_at_padding(network, train):
    ids, valid = batch()
    logits, attentions = network.train(train).attended(ids, valid)
    assert logits.shape == (4, 3)
    assert [each.shape for each in attentions] == [(4, 4, STEPS, STEPS)] * 2
    for each in attentions:
        torch.testing.assert_close(each.sum(3), torch.ones(4, 4, STEPS))
        assert (each.mT[~valid[:, None].expand(-1, 4, -1)] == 0).all()


def test_transformers_own_attention_in_training_is_after_dropout(kind):
    network = make(kind, dropout=0.5)
    network.model.set_attn_implementation("eager")
    own = network.model(input_ids=batch()[0], output_attentions=True).attentions
    assert all((each == 0).any() and (each.sum(3) - 1).abs().max() > 0.1 for each in own)


def test_in_training_logits_are_of_the_dropped_out_attention(kind):
    ids, valid = batch()
    network = make(kind, dropout=0.5).train()
    with forked(3):
        ours = network.attended(ids, valid)[0]
    network.model.set_attn_implementation("eager")
    with forked(3):
        theirs = network.model(inputs_embeds=network.embedded(ids), attention_mask=valid.long()).logits
    torch.testing.assert_close(ours, theirs)


def test_forward_and_attended_have_the_same_logits_and_match_the_fused_attention(network):
    ids, valid = batch()
    logits = network(ids, valid)
    assert torch.equal(network.attended(ids, valid)[0], logits)
    network.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(network(ids, valid), logits, rtol=1e-4, atol=1e-5)


def test_the_first_layer_s_attention_is_the_softmax_of_queries_by_keys():
    network = make("bert").eval().double()
    ids, valid = batch()
    embeddings = network.embedded(ids)
    bert, width = network.model.bert, 32 // 4
    table = bert.embeddings
    states = embeddings + table.position_embeddings.weight[:STEPS] + table.token_type_embeddings.weight[0]
    states = nn.functional.layer_norm(states, [32], table.LayerNorm.weight, table.LayerNorm.bias, 1e-12)
    layer = bert.encoder.layer[0].attention.self
    _, attentions = network.attended(ids, valid)
    for head in range(4):
        part = slice(head * width, (head + 1) * width)
        queries = states @ layer.query.weight[part].T + layer.query.bias[part]
        keys = states @ layer.key.weight[part].T + layer.key.bias[part]
        scores = queries @ keys.mT / math.sqrt(width)
        expected = scores.masked_fill(~valid[:, None], -torch.inf).softmax(-1)
        torch.testing.assert_close(attentions[0][:, head], expected)


def test_logits_come_from_the_attention_and_attention_from_the_weights(network):
    ids, valid = batch()
    logits, attentions = network.train().attended(ids, valid)
    for gradient in torch.autograd.grad(logits[:, 0].sum(), attentions, retain_graph=True):
        assert gradient.abs().sum() > 0
    loss = sum((each[:, :, 0] * torch.arange(STEPS)).sum() for each in attentions)
    embedding = network.model.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("failure", [None, ZeroDivisionError])
def test_attention_is_collected_in_the_block_that_asks_for_it_alone(network, failure):
    ids, valid = batch()
    with contextlib.suppress(ZeroDivisionError), encoders.attention_seen() as found:
        network(ids, valid)
        if failure:
            raise failure
    network(ids, valid)
    assert len(found) == 2


def test_attention_can_be_differentiated_twice(network):
    ids, valid = batch()
    embeddings = network.embedded(ids)
    (gradient,) = torch.autograd.grad(network(embeddings, valid)[:, 0].sum(), embeddings, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), embeddings)[0].isfinite().all()


def test_attention_under_autocast_is_a_distribution(network):
    ids, valid = batch()
    with torch.autocast("cpu", torch.bfloat16):
        _, attentions = network.train().attended(ids, valid)
    for each in attentions:
        torch.testing.assert_close(each.float().sum(3), torch.ones(4, 4, STEPS))


# Building.


def test_equal_seeds_give_equal_networks(kind):
    one, other, third = make(kind), make(kind), make(kind, seed=1)
    assert all(module.training for module in one.modules())
    pairs = zip(one.state_dict().values(), other.state_dict().values(), third.state_dict().values(), strict=True)
    same = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs]
    assert all(first for first, _ in same)
    assert not all(second for _, second in same)


@pytest.fixture
def told():
    """What transformers and the hub log, from a level that nobody else sets."""
    records, loggers = [], [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels, handler = [each.level for each in loggers], logging.Handler()
    handler.emit = records.append
    for each in loggers:
        each.setLevel(25)
        each.addHandler(handler)
    yield records
    for each, level in zip(loggers, levels, strict=True):
        assert each.level == 25
        each.setLevel(level)
        each.removeHandler(handler)


def test_nothing_is_told_and_everything_is_put_back_after_success_and_failure(folder, told):
    bars, dtype = transformers_logging.is_progress_bar_enabled(), torch.get_default_dtype()
    place = folder(make())
    read(place, classes=5)
    rewritten(place, lambda state: state.pop("bert.embeddings.word_embeddings.weight"))
    refused("model.name", "missing", read, place)
    assert told == []
    assert (transformers_logging.is_progress_bar_enabled(), torch.get_default_dtype()) == (bars, dtype)
    AutoModelForSequenceClassification.from_pretrained(place)
    assert told, "it would have been told"


def test_settings_are_the_sizes_and_every_dropout(kind):
    network = make(kind, layers=3, width=24, heads=3, inside=20, dropout=0.25, max_tokens=40)
    config, shapes = network.model.config, {tuple(each.shape) for each in network.parameters()}
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 24, 3)
    assert {(20, 24), (24, 20), (VOCABULARY, 24), (3, 24)} <= shapes
    assert network.embedded(torch.zeros(1, 1, dtype=torch.long)).shape == (1, 1, 24)
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert encoders.positions(network.model) == 40
    assert (4 * 24, 24) in {tuple(each.shape) for each in make(kind, width=24).parameters()}


def test_there_are_positions_for_the_longest_text_whatever_max_tokens_says(kind):
    network = make(kind, shape=(60, VOCABULARY), max_tokens=5).eval()
    assert encoders.positions(network.model) == 60
    assert network(torch.zeros(1, 60, dtype=torch.long)).isfinite().all()


def test_every_token_but_padding_has_an_embedding_that_learns(kind):
    network = make(kind)
    ids = torch.arange(VOCABULARY)[None]
    (gradient,) = torch.autograd.grad(network(ids).square().sum(), network.model.get_input_embeddings().weight)
    assert (gradient.abs().sum(1) > 0).tolist() == [False] + [True] * (VOCABULARY - 1)


def test_weights_come_back_from_a_file_and_a_copy(kind, tmp_path):
    network, other = make(kind).eval(), make(kind, seed=1).eval()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    load_weights(other, path)
    ids, valid = batch()
    assert torch.equal(other(ids, valid), network(ids, valid))
    assert torch.equal(copy.deepcopy(network)(ids, valid), network(ids, valid))


def test_a_network_can_be_pickled_after_use_and_used_where_nothing_was_built(kind):
    network, ids = make(kind).eval(), torch.arange(8)[None]
    expected = network.attended(ids)[0]
    content = pickle.dumps(network)
    AttentionInterface._global_mapping.pop(encoders.attention_name())
    encoders.attention_name.cache_clear()  # as in another process
    assert torch.equal(pickle.loads(content).attended(ids)[0], expected)


def test_a_network_of_another_number_of_classes_starts_fine_tuning_with_a_new_head(kind, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(make(kind, classes=5).state_dict(), path)
    left = load_weights(make(kind), path, strict=False)
    assert all(name.startswith("model.classifier") for name in left)
    assert len(left) == 2


def test_transformers_is_imported_by_who_asks_for_it_alone():
    code = "import sys, salcore.models, salcore.models.language; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# Pretrained.


def test_a_folder_is_read_back(kind, folder, capfd):
    network = make(kind).eval()
    place = folder(network)
    check(spec(place), SHAPE, 3, "text", tokens=True)
    again = read(place)
    assert all(module.training for module in again.modules())
    ids, valid = batch()
    assert torch.equal(again.eval()(ids, valid), network(ids, valid))
    assert next(again.parameters()).dtype == torch.float32
    assert capfd.readouterr() == ("", "")


def test_a_head_for_other_classes_is_new_and_drawn_from_the_seed(kind, folder, capfd):
    network = make(kind)
    place = folder(network)
    one, other, third = (read(place, classes=5, seed=seed) for seed in (0, 0, 1))
    states = [each.state_dict() for each in (one, other, third)]
    differing = {name for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert differing
    assert all(name.startswith("model.classifier") for name in differing)
    encoder = [name for name in network.state_dict() if name not in states[0] or "classifier" not in name]
    assert all(torch.equal(states[0][name], network.state_dict()[name]) for name in encoder)
    assert capfd.readouterr() == ("", "")


def test_dropout_is_the_model_s_own_or_the_one_that_is_asked_for(kind, folder):
    place = folder(make(kind, dropout=0.3))
    rates = [
        {each.p for each in read(place, **given).modules() if isinstance(each, nn.Dropout)}
        for given in ({}, {"dropout": 0.0})
    ]
    assert rates == [{0.3}, {0.0}]
    assert list(settings_of(builder(f"transformers:{place}"), ("input_shape", "classes"))) == ["dropout"]


def test_weights_of_half_precision_are_read_as_float32(folder):
    place = folder(make().half())
    assert {each.dtype for each in read(place).parameters()} == {torch.float32}


COMMIT = 40 * "a"


@pytest.fixture
def downloaded(folder, tmp_path, monkeypatch, offline):
    """A function that puts a network's model where the hub's client keeps what it has downloaded, and names it."""

    def save(network):
        cached = tmp_path / "hub" / "models--someone--some-model"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(COMMIT)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        shutil.move(folder(network), cached / "snapshots" / COMMIT)
        return "someone/some-model", cached / "snapshots" / COMMIT

    return save


def test_a_model_of_the_hub_is_read_at_one_commit(downloaded, monkeypatch, capfd):
    network, asked = make().eval(), []
    name, _ = downloaded(network)
    loading = PreTrainedModel.from_pretrained.__func__
    spy = classmethod(lambda cls, *args, **given: asked.append(str(given["revision"])) or loading(cls, *args, **given))
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", spy)
    ids, valid = batch()
    assert torch.equal(read(name).eval()(ids, valid), network(ids, valid))
    assert asked == [COMMIT], "on a branch transformers would have pickles converted by a public service"
    assert capfd.readouterr() == ("", "")


def test_pickled_weights_of_the_hub_are_not_read(downloaded):
    network = make()
    name, snapshot = downloaded(network)
    (snapshot / "model.safetensors").unlink()
    torch.save(network.model.state_dict(), snapshot / "pytorch_model.bin")
    refused("model.name", "a model with safetensors on a hub", read, name)


def test_an_encoder_under_another_head_or_none_starts_a_classifier(folder):
    def language_head(state):
        del state["classifier.weight"], state["classifier.bias"]
        state["cls.predictions.bias"] = torch.zeros(VOCABULARY)

    def bare(state):
        content = {name.removeprefix("bert."): value for name, value in state.items() if name.startswith("bert.")}
        state.clear()
        state.update({name: value for name, value in content.items() if "pooler" not in name})

    network = make()
    for change in (language_head, bare):
        again = read(rewritten(folder(network), change))
        kept = again.model.bert.encoder.state_dict()
        assert all(torch.equal(kept[name], value) for name, value in network.model.bert.encoder.state_dict().items())


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_part_of_an_encoder_is_refused_by_name(folder, prefix):
    def renamed(state):
        if not prefix:
            content = {name.removeprefix("bert."): value for name, value in state.items() if name.startswith("bert.")}
            state.clear()
            state.update(content)

    def lacking(state):
        renamed(state)
        del state[f"{prefix}encoder.layer.1.output.dense.weight"]

    def more(state):
        renamed(state)
        state[f"{prefix}encoder.layer.2.output.dense.weight"] = torch.zeros(2, 2)

    def reshaped(state):
        renamed(state)
        state[f"{prefix}embeddings.word_embeddings.weight"] = torch.zeros(7, 32)

    for change, words in (
        (lacking, "1 missing, first bert.encoder.layer.1.output.dense.weight"),
        (more, f"1 unexpected, first {prefix}encoder.layer.2.output.dense.weight"),
        (reshaped, "1 mismatched, first bert.embeddings.word_embeddings.weight"),
    ):
        refused("model.name", f"the weights of a whole encoder: {words}", read, rewritten(folder(make()), change))


# What is refused.


def refused(key, words, function, *arguments, **settings):
    with pytest.raises(UserError) as error:
        function(*arguments, **settings)
    assert error.value.key == key
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_pickled_weights_are_not_read(folder, tmp_path):
    network = make()
    place = folder(network)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(network.model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    refused("model.name", "safetensors, as pickled ones are not read", read, place)


def test_a_folder_without_a_model_is_refused(tmp_path):
    refused("model.name", "a folder with config.json and model.safetensors", read, str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    refused("model.name", "a folder with config.json and model.safetensors", read, str(tmp_path))


def test_weights_that_cannot_be_read_are_refused(folder, tmp_path):
    place = folder(make())
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nonsense")
    refused("model.name", "a folder with config.json and model.safetensors (SafetensorError", read, place)


@pytest.mark.usefixtures("offline")
def test_a_model_that_the_hub_does_not_give_is_refused(capfd):
    refused(
        "model.name", "(nearest: distilbert), a model with safetensors on a hub that can be reached", read, "distilbrt"
    )
    refused("model.name", "a folder with config.json and model.safetensors (", read, "someone/some-model")
    assert capfd.readouterr() == ("", "")


def test_code_that_a_model_brings_is_not_run(folder, tmp_path):
    place = folder(
        make(), model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Net"}
    )
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused("model.name", "a folder with config.json and model.safetensors (", read, place)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("setting", ["layers", "width", "heads", "inside", "max_tokens"])
def test_sizes_of_a_pretrained_model_are_its_own(folder, setting):
    refused(f"model.{setting}", "one of dropout", read, folder(make()), **{setting: 2})


def test_sizes_that_do_not_fit_are_refused():
    refused("model.heads", "a divisor of the width 32, got 5", make, heads=5)
    refused("model.layers", "of 1 or more", make, layers=0)
    refused("model.dropout", "to below 1", make, dropout=1.0)
    refused("model.name", "transformers:NAME", builder, "transformers:")


def test_more_tokens_than_positions_and_a_vocabulary_beyond_the_model_s_are_refused(kind, folder):
    place = folder(make(kind, max_tokens=20))
    assert read(place, (20, VOCABULARY - 1))(torch.zeros(1, 20, dtype=torch.long)).shape == (1, 3)
    refused(
        "data.length", f"at most 20 tokens, for which transformers:{place} has positions, got 21", read, place, (21, 9)
    )
    refused("data.tokenizer", f"{place}, which has {VOCABULARY} tokens, got '51 tokens'", read, place, (9, 51))
    refused("data.length", "at most 20 tokens", check, spec(place), (21, 9), 3, "text", tokens=True)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("fnet", "it has no num_attention_heads"),
        ("gpt2", "it has no intermediate_size"),
        ("llama", "padding"),
        ("deberta-v2", "attention of 0 layers out of 2"),
        ("convbert", "padding"),
        ("longformer", "Error"),
        ("mra", "attention of 0 layers out of 2"),
    ],
)
def test_a_model_whose_attention_cannot_be_read_is_refused(kind, why):
    words = "a language model whose attention can be read, such as bert, roberta, distilbert or electra ("
    refused("model.name", words, check, spec(kind, **SMALL), SHAPE, 3, "text", tokens=True)
    refused("model.name", why, check, spec(kind, **SMALL), SHAPE, 3, "text", tokens=True)


class Wrong(LanguageModel):
    """A language model that is wrong in one way."""

    def __init__(self, model, how):
        super().__init__(model)
        self.how = how

    def embedded(self, ids):
        return super().embedded(ids) * (2 if self.how == "embedding" else 1)

    def attended(self, inputs, valid=None):
        logits, attentions = super().attended(inputs, valid)
        if self.how == "aside":
            attentions = tuple(each.clone() for each in attentions)
        if self.how == "dropped":
            attentions = tuple(nn.functional.dropout(each, 0.5, self.training) for each in attentions)
        return logits, tuple(each[:, 0] for each in attentions) if self.how == "shape" else attentions


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("embedding", "word embeddings are not all"),
        ("aside", "RuntimeError"),
        ("dropped", "does not sum to 1"),
        ("shape", "attention of shape (2, 9, 9)"),
    ],
)
def test_each_check_of_attention_can_fail(how, why):
    with forked(0):
        check_tokens(lambda shape: Wrong(make().model, "right"), "transformers:bert", input_shape=SHAPE, classes=3)
        refused(
            "model.name",
            why,
            check_tokens,
            lambda shape: Wrong(make().model, how),
            "transformers:bert",
            input_shape=SHAPE,
            classes=3,
        )


def test_networks_and_data_that_are_not_for_each_other_are_refused():
    for name, settings in (("bilstm", {}), ("small_cnn", {}), ("resnet18", {})):
        words = "a network for tokens: transformers:NAME or python:package.module:function"
        refused("model.name", words, check, ModelSpec(name=name, **settings), SHAPE, 3, "text", tokens=True)
    refused("data.tokenizer", "as transformers:bert takes tokens", check, spec("bert"), (9, 8), 3, "text")
    refused("model.name", "a network for images", check, spec("bert"), (1, 8, 8), 3, "images")
    refused("model.name", "a network for series", check, spec("bert"), (8, 8), 3, "series")


OWN = """
import torch
from torch import nn

class Bag(nn.Module):
    def __init__(self, input_shape, classes, wrong=""):
        super().__init__()
        self.embedding, self.linear, self.wrong = nn.Embedding(input_shape[1], 4), nn.Linear(4, classes), wrong
        if wrong != "none":
            self.embedded = self.embedding

    def forward(self, inputs, valid=None):
        words = inputs if inputs.is_floating_point() else self.embedding(inputs) + (self.wrong == "more")
        if self.wrong != "padding":
            words = words * valid[..., None]
        return self.linear(words.sum(1))[:, : 2 if self.wrong == "classes" else None]
"""


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("", None),
        ("none", "AttributeError"),
        ("more", "other logits for embeddings"),
        ("padding", "padding"),
        ("classes", "an output of (2, 2), not logits (2, 3)"),
    ],
)
def test_a_user_s_own_network_for_tokens_is_tried(tmp_path, monkeypatch, wrong, why):
    (tmp_path / "own_bag.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    given = ModelSpec(name="python:own_bag:Bag", wrong=wrong), SHAPE, 3, "text", True
    if why is None:
        check(*given)
    else:
        refused("model.name", why, check, *given)
    sys.modules.pop("own_bag")
