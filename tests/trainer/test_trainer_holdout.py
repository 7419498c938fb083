"""What is kept from training: groups and equal samples stay on one side, and the log tells."""

import logging

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from torch.utils.data import Subset

from modeling_lfm.trainer.holdout import read_column, split_holdout

from .toy import SMOOTH, only, toy_data, toy_trainer

ROWS = [{"labels": place % 3, "speaker": f"s{place // 5}", "x": [float(place // 2 * 2), 1.0]} for place in range(60)]


def sides(dataset, key="x", **settings):
    rest, held = split_holdout(dataset, 0.2, 0, **settings)
    assert len(rest) + len(held) == len(dataset)
    assert 6 <= len(held) <= 18
    return tuple({str(np.asarray(part[place][key]).tolist()) for place in range(len(part))} for part in (rest, held))


@pytest.mark.parametrize("make", [lambda rows: rows, Dataset.from_list])
def test_groups_stay_together(make):
    rest, held = sides(make(ROWS), "speaker", group="speaker")
    assert not rest & held
    assert {row["labels"] for row in ROWS if row["speaker"] in held} == {0, 1, 2}
    with pytest.raises(ValueError, match="'person'"):
        sides(make(ROWS), "speaker", group="person")
    with pytest.raises(ValueError, match="holdout_group='one'"):
        sides(make([{**row, "one": 1} for row in ROWS]), "speaker", group="one")


def test_equal_samples_stay_together():
    """Rows of a table, objects of a list, places of a subset; the split of different ones is as it was."""
    rows = [{key: row[key] for key in ("labels", "x")} for row in ROWS]
    rows = [{**row, "labels": place // 2 % 3} for place, row in enumerate(rows)]
    table = Dataset.from_list(rows)
    shuffled = table.select(np.random.default_rng(0).permutation(60))
    for dataset in (table, shuffled, shuffled.select(range(60))):
        rest, held = sides(dataset)
        assert not rest & held
    objects = [row for row in rows[::2] for _ in range(2)]
    for dataset in (objects, Subset(rows[::2], [place // 2 for place in range(60)])):
        rest, held = sides(dataset)
        assert not rest & held
    different = Dataset.from_list([{**row, "x": [float(place)]} for place, row in enumerate(rows)])
    plain = [dict(row) for row in different]
    assert sides(different) == sides(plain)


def test_group_of_the_settings_and_the_log(tmp_path):
    samples = [{**sample, "speaker": place // 10} for place, sample in enumerate(only(toy_data(80), SMOOTH))]
    told, logger = [], logging.getLogger("modeling_lfm.trainer.holdout")
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        trainer = toy_trainer(tmp_path, SMOOTH, size=80, holdout=0.25, num_train_epochs=1)
        assert len(trainer.holdout_dataset) == 20
        rest, held = split_holdout(samples, 0.25, 1, "speaker")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert "20 of 80" in told[0]
    assert "speaker" in told[1]
    assert not set(read_column(rest, "speaker")) & set(read_column(held, "speaker"))


def test_labels_that_are_not_there_are_told():
    raw = Dataset.from_dict({"label": ["a"]})
    with pytest.raises(ValueError, match=r"needs a column 'labels'; it has \['label'\]\. prepare_dataset makes it"):
        read_column(raw, "labels")
    with pytest.raises(ValueError, match=r"a mapping of data sets \(train, test\): give one of them"):
        read_column(DatasetDict(train=raw, test=raw), "labels")
