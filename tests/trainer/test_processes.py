"""Two processes compute what one does: every method, a moving alpha, gathered features, and parameters in shards."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer.objectives import info_nce

from ..scripts.conftest import TINY, TWO_PICTURES
from ..scripts.forks import start
from .process_runs import (
    ALPHAS,
    HOLES,
    METHODS,
    REFUSED,
    RESUMED,
    SHARDED,
    SIZES,
    draw_features,
    launch,
    run,
    run_alpha,
    run_holes,
    run_method,
    run_probe,
)
from .toy import SMALLEST

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def launched(folder):
    """The results of both processes of one launch, each a `dict` by case."""
    tiny = yaml.safe_load((ROOT / "scripts" / "configs" / "demo.yaml").read_text()) | TINY
    tiny |= TWO_PICTURES | {"per_device_train_batch_size": 8}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    process = start(folder / "log", launch, folder, folder / "tiny.yaml", cwd=ROOT)
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return [torch.load(folder / f"result-{rank}.pt") for rank in (0, 1)]


def results_of(launched, *case):
    """What the first process and the second found in a case in which nothing went wrong."""
    found = [results[case] for results in launched]
    for result in found:
        assert "error" not in result, result["traceback"]
    return found


def assert_equal(one, first, second):
    """Runs (`dict`) of one process and of each of two."""
    for key, value in one["weights"].items():
        torch.testing.assert_close(value, first["weights"][key], rtol=1e-3, atol=2e-5)
        assert torch.equal(first["weights"][key], second["weights"][key])
    assert one["losses"] == pytest.approx(first["losses"], rel=1e-3, abs=1e-5)
    assert one["alphas"] == pytest.approx(first["alphas"], rel=1e-3)
    assert first["alphas"] == second["alphas"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method(name, launched, tmp_path):
    assert_equal(run_method(tmp_path, name, 1), *results_of(launched, "method", name))


@pytest.mark.parametrize("case", HOLES)
def test_samples_that_lack_modalities(case, launched, tmp_path):
    """Each process has others, and other numbers of them."""
    assert_equal(run_holes(tmp_path, case, 1), *results_of(launched, "holes", case))


@pytest.mark.parametrize(("alpha", "matching", "every"), ALPHAS)
def test_a_moving_alpha(alpha, matching, every, launched, tmp_path):
    one = run_alpha(tmp_path, alpha, matching, every, 1)
    both = results_of(launched, "alpha", alpha, matching, every)
    assert_equal(one, *both)
    assert [result["passed"] for result in both] == [one["passed"] / 2] * 2, "each does its part of an update"
    moved = len(set(one["alphas"]))
    assert moved == 2 if every == "epoch" else moved > 1  # every three steps it may come back to where it was


def test_a_linear_probe(launched, tmp_path):
    found = [results["probe"] for results in launched]
    assert all("error" not in result for result in found), found
    assert_equal(run_probe(tmp_path, 1), *found)


@pytest.mark.parametrize("sizes", SIZES)
def test_gathered_info_nce_equals_the_big_batch(sizes, launched):
    parts = results_of(launched, "gather", *sizes)
    weight, features = draw_features(sum(sizes))
    loss = info_nce(features(slice(None)), 0.5)
    loss.backward()
    for key, expected in (("loss", loss.detach()), ("gradient", weight.grad)):
        mean = sum(part[key] for part in parts) / len(parts)
        torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
    for part, mine in zip(parts, (slice(sizes[0]), slice(sizes[0], None)), strict=True):
        torch.testing.assert_close(part["alone"], info_nce(features(mine), 0.5).detach())
        assert part["calls"] == (1 if sizes[0] == sizes[1] else 2), "where sizes may differ, they are asked for"


def test_the_program_trains_and_prints_once(launched, folder):
    printed = "".join(results["program"] for results in launched)
    assert printed.count("model, metrics and plots:") == 1
    assert printed.count("28,218 parameters") == 1
    # 96 samples less the held-out tenth, in steps of 2 x 8.
    assert json.loads((folder / "program" / "trainer_state.json").read_text())["global_step"] == 6
    assert (folder / "program" / "model.safetensors").is_file()


def test_processes_that_do_not_see_the_same_folder_are_told(launched, folder):
    for rank, results in enumerate(launched):
        assert f"output_dir={folder / 'apart' / str(rank)} is not one folder to all 2" in results["apart"]["error"]


@pytest.mark.parametrize("name", SHARDED)
def test_a_learned_alpha_and_parameters_in_shards(name, launched, folder, tmp_path):
    """By FSDP2, which also saves them whole."""
    one = run(tmp_path, SMALLEST, 1, method=SHARDED[name], size=48)
    first, second = results_of(launched, "sharded", name)
    assert first["sharded"]
    saved = LfmForMultimodalClassification.from_pretrained(folder / "sharded" / name / "saved").state_dict()
    assert_equal(one, first | {"weights": saved}, second | {"weights": saved})
    assert len(set(one["alphas"])) == 2


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_goes_on_to_the_same_weights(kind, launched, folder, tmp_path):
    """To the bit, also in shards; and what is saved is a model with its own code."""
    for found in results_of(launched, "resumed", kind):
        whole, resumed = found["whole"], found["resumed"]
        assert whole["weights"].keys() == resumed["weights"].keys()
        for key, value in whole["weights"].items():
            assert torch.equal(value, resumed["weights"][key]), key
        assert whole["losses"] == resumed["losses"]
        assert whole["alphas"] == resumed["alphas"]
        assert len(set(whole["alphas"])) == 2
        assert not kind or f"sharding was {kind!r} and is" in found["refused"]
    saved = folder / "resumed" / (kind or "whole") / "saved"
    model = LfmForMultimodalClassification.from_pretrained(saved)
    for key, value in model.state_dict().items():
        assert torch.equal(value, whole["weights"][key]), key
    model.save_pretrained(tmp_path)
    assert {file.name for file in saved.iterdir()} == {file.name for file in tmp_path.iterdir()} | {"training_args.bin"}
    assert model.config.auto_map["AutoModel"] == "modeling_lfm.LfmForMultimodalClassification"


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_whole_parameters_is_refused_at_the_start(name, launched):
    for results in launched:
        assert REFUSED[name][1] in results["refused", name]["error"]
