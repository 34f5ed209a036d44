"""The tables of a run's experiments against what the functions of `parameter_space` say of the same samples."""

import numpy as np
import pytest
import torch

from salcore.blame import items, numbers
from salcore.blame.results import column
from salcore.blame.splits import part_of
from salcore.data.batches import inputs_of
from salcore.member_files import load_member
from salcore.parameter_space.effects import order
from salcore.parameter_space.neighbours import nearest, same_pair
from salcore.parameter_space.pruning import prune
from salcore.spec.parameters import ParametersSpec


def standardised(blame, split, member):
    rows = np.concatenate([block for _, block in blame.profiles(split, member).blocks()])
    return blame.statistics(member).standardise(rows)


def test_every_mistake_is_studied_and_nothing_else(blame):
    for member in blame.members:
        profiles = blame.profiles("validation", member)
        wrong = set(profiles.sample[profiles.label != profiles.prediction].tolist())
        assert len(wrong) > 5
        for what in ("neighbours", "pruning", "finetuning"):
            table = blame.table(what, member)
            assert set(column(table, "sample").tolist()) == wrong
            assert (column(table, "label") != column(table, "prediction")).all()


def test_pruning_is_that_of_the_member_s_own_network_and_order(made, blame):
    member = made.members[1]
    profiles = blame.profiles("validation", 1)
    places = np.flatnonzero(profiles.wrong)[:3]
    part = part_of(made.data, "validation")
    inputs, _ = inputs_of(part, profiles.sample[places], made.data)
    labels = torch.from_numpy(profiles.label[places].astype(np.int64))
    rows = torch.from_numpy(standardised(blame, "validation", 1)[places])
    model = load_member(made.store, member, made.data)
    for choice in ("most", "random", "least"):
        columns = order(rows, choice, 5, samples=profiles.sample[places].tolist(), seed=0)
        effect = prune(model, inputs, labels, columns, [1, 2, 5], blame.filters, mode="silenced")
        table = blame.table("pruning", 1)
        keep = (column(table, "choice") == choice) & (column(table, "mode") == "silenced")
        for row, sample in enumerate(profiles.sample[places]):
            own = keep & (column(table, "sample") == sample)
            assert column(table, "filters")[own].tolist() == [1, 2, 5]
            np.testing.assert_allclose(column(table, "incorrect")[own], effect.incorrect[row], atol=1e-5)
            np.testing.assert_allclose(column(table, "true")[own], effect.true[row], atol=1e-5)
            np.testing.assert_array_equal(column(table, "corrected")[own], effect.corrected[row])


def test_neighbours_are_of_the_independent_split_and_pairs_count_both_ways(blame):
    profiles, others = blame.profiles("validation", 0), blame.profiles("evaluation", 0)
    table = blame.table("neighbours", 0)
    rows = standardised(blame, "evaluation", 0)
    queries = standardised(blame, "validation", 0)
    place = int(np.flatnonzero(profiles.sample == column(table, "sample")[0])[0])
    near = nearest(queries[[place]], [(slice(0, len(rows)), rows)], 4).place[0]
    own = (column(table, "layers") == "all") & (column(table, "sample") == profiles.sample[place])
    assert column(table, "neighbour")[own].tolist() == others.sample[near].tolist()
    assert column(table, "rank")[own].tolist() == [1, 2, 3, 4]
    shared = same_pair(profiles.label[place], profiles.prediction[place], others.label, others.prediction)
    assert column(table, "same_pair")[own].tolist() == shared[near].tolist()
    np.testing.assert_allclose(column(table, "chance")[own], shared.mean())
    wrong = others.label != others.prediction
    np.testing.assert_allclose(column(table, "chance_of_mistakes")[own], shared[wrong].mean())


def test_layers_and_filters_are_of_all_held_out_samples(blame):
    profiles, rows = blame.profiles("validation", 0), standardised(blame, "validation", 0)
    layers, filters = blame.table("layers", 0), blame.table("filters", 0)
    np.testing.assert_allclose(column(layers, "mean"), rows.mean(1), rtol=1e-4, atol=1e-6)
    slices = blame.filters.slices().values()
    expected = np.stack([rows[:, where].mean(1) for where in slices], axis=1)
    np.testing.assert_allclose(column(layers, "layers"), expected, rtol=1e-4, atol=1e-5)
    for name, kind in (("right", ~profiles.wrong), ("wrong", profiles.wrong)):
        np.testing.assert_allclose(column(filters, name), rows[kind].mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(column(filters, "raw"), blame.statistics(0).mean)
    assert filters["layer"].to_pylist() == blame.filters.columns()["layer"]


def test_fewer_mistakes_are_the_first_of_the_same_order(blame):
    profiles = blame.profiles("validation", 0)
    every = items.mistakes(profiles, None, 3)
    assert sorted(every) == np.flatnonzero(profiles.wrong).tolist()
    assert items.mistakes(profiles, 4, 3).tolist() == every[:4].tolist()
    assert items.mistakes(profiles, None, 4).tolist() != every.tolist()


def test_members_study_the_same_ones_of_the_mistakes_that_they_share(blame):
    """The rank of a sample is its own: it does not depend on what else a member mistakes."""
    profiles = [blame.profiles("validation", member) for member in blame.members]
    orders = [each.sample[items.mistakes(each, None, 0)].tolist() for each in profiles]
    shared = [[sample for sample in order if sample in set(orders[1 - place])] for place, order in enumerate(orders)]
    assert shared[0] == shared[1]
    assert len(shared[0]) > 2


def test_a_member_without_a_mistake_has_no_experiments(blame):
    class Right:
        wrong, sample = np.zeros(3, bool), np.arange(3)

    planned = items.planned(0, Right(), ParametersSpec())
    assert [item.what for item, _ in planned] == ["filters", "layers"]


def test_what_was_not_done_is_told(blame):
    with pytest.raises(ValueError, match="masking"):
        blame.table("masking", 0)


def test_rows_of_all_members_stand_side_by_side(blame):
    found = numbers.pruned(blame, "paper", "incorrect")["most"]
    wrong = [int(blame.profiles("validation", member).wrong.sum()) for member in blame.members]
    assert found.values.shape == (sum(wrong), 3)
    table = blame.table("pruning", 0)
    keep = (column(table, "choice") == "most") & (column(table, "mode") == "paper")
    row = keep & (column(table, "sample") == found.sample[2])
    np.testing.assert_array_equal(found.values[2], column(table, "incorrect")[row])
