"""Tables of experiments: how their files are read, what a row changes, and what is told before anything is trained."""

import json
from argparse import Namespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from modeling_lfm.scripts import reproduce
from modeling_lfm.scripts.common.settings import CONFIGS, list_configs, read_config
from modeling_lfm.scripts.common.training import read_run, set_up
from modeling_lfm.scripts.experiments.check import SMALL, ReadOnce, check_cell, check_cells, check_output
from modeling_lfm.scripts.experiments.run import FORCED, run_one
from modeling_lfm.scripts.experiments.tables import TABLES, Table, find_table, make_cells, merge, read_table
from modeling_lfm.trainer.methods import METHODS, make_method
from modeling_lfm.trainer.probe import STRENGTHS

from ..data.media import make_mvsa
from ..modeling.towers import make_tokenizer

PRESETS = ("paper_1", "paper_2", "paper_3", "paper_4", "paper_5", "figure_1")
PROBES = ("Linear probe", "Late fusion of probes")
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 8,
}
CLIP_TEXT = {"tower": "clip_text", "config": {**CLIP, "vocab_size": 50}}
CLIP_IMAGE = {"tower": "clip_vision", "config": {**CLIP, "image_size": 32, "patch_size": 16}}
BERT = {"model_type": "bert", **CLIP, "vocab_size": 10}


def checked(name, benchmark, rows=None, **overrides):
    """Why rows (all if None) of a table that comes along make no sense, by row."""
    table = read_table(find_table(name), benchmark)
    cells = make_cells(
        table, table.settings, rows or table.rows, {key: [str(value)] for key, value in overrides.items()}
    )
    return {row: reason for (_, row), reason in check_cells(cells, FORCED)[0].items()}


@pytest.fixture
def mvsa(tmp_path):
    """Settings of a small `mvsa_single` and of a tokenizer for it."""
    make_tokenizer(tmp_path).save_pretrained(tmp_path / "tokenizer")
    return {"data_dir": make_mvsa(tmp_path / "files"), "tokenizer": tmp_path / "tokenizer"}


def test_mappings_are_changed_key_by_key_and_the_base_is_not():
    base = {
        "modalities": {"a": {"name": "x"}, "b": {"name": "y"}},
        "benchmark_options": {"seed": 1},
        "method": {"name": "lfm", "alpha": "learned"},
    }
    row = {"only": ["b"], "method": {"alpha": "constant"}}
    table = Table(
        "t", {"s": merge(base, {"benchmark_options": {"noise": 2}})}, {"r": row}, {"s": {"r": {"holdout": 0}}}
    )
    assert make_cells(table, ["s"], ["r"], {"modalities.b.name": ["z"]})["s", "r"] == {
        "modalities": {"b": {"name": "z"}},
        "benchmark_options": {"seed": 1, "noise": 2},
        "method": {"name": "lfm", "alpha": "constant"},
        "holdout": 0,
    }
    assert base["benchmark_options"] == {"seed": 1}
    assert base["method"]["alpha"] == "learned"


@pytest.mark.parametrize(
    ("former", "method", "result"),
    [
        (None, {"alpha": "linear"}, {"name": "lfm", "alpha": "linear"}),
        (None, "ogm", {"name": "ogm"}),
        ("ogm", {"alpha": 0.8}, {"name": "ogm", "alpha": 0.8}),
        ({"name": "ogm", "noise": False}, {"alpha": 0.8}, {"name": "ogm", "noise": False, "alpha": 0.8}),
        ({"name": "ogm", "noise": False}, {"name": "ogm", "alpha": 1}, {"name": "ogm", "noise": False, "alpha": 1}),
        ({"name": "ogm", "noise": False}, {"name": "lfm", "alpha": "linear"}, {"name": "lfm", "alpha": "linear"}),
        (
            {"alpha": "linear"},
            {"name": "lfm", "total": "convex"},
            {"name": "lfm", "alpha": "linear", "total": "convex"},
        ),
        ({"alpha": "linear"}, "concat", {"name": "concat"}),
    ],
)
def test_a_method_of_another_name_replaces_the_former_and_its_settings(former, method, result):
    assert merge({} if former is None else {"method": former}, {"method": method})["method"] == result


def test_a_benchmark_changes_the_base_and_single_rows(tmp_path):
    (tmp_path / "t.yaml").write_text("""
common: {holdout: 0, seed: 7}
benchmarks:
  mine:
    base: demo
    hidden_size: 8
    processor: {image: {type: image, size: [8, 8]}}
    rows: {OGM: {method: {alpha: 0.8}, learning_rate: 1e-5}}
rows:
  OGM: {method: {name: ogm, noise: false}}
  LFM: {method: {alpha: heuristic}}
""")
    table = read_table(tmp_path / "t.yaml", "mine")
    cells = make_cells(table, ["mine"], table.rows, {"num_train_epochs": ["1"]})
    ogm, lfm = cells["mine", "OGM"], cells["mine", "LFM"]
    assert ogm["method"] == {"name": "ogm", "noise": False, "alpha": 0.8}
    assert (ogm["learning_rate"], lfm["learning_rate"]) == (1e-5, 2e-3)
    assert lfm["method"] == {"name": "lfm", "alpha": "heuristic"}
    assert (lfm["holdout"], lfm["hidden_size"], lfm["num_train_epochs"]) == (0, 8, "1")
    assert lfm["processor"]["image"] == {"type": "image", "size": [8, 8]}
    assert lfm["processor"]["audio"]["type"] == "spectrogram"


@pytest.mark.parametrize(
    ("text", "benchmark", "message"),
    [
        ("base: demo\n", None, "lacks rows, settings"),
        ("benchmarks: {demo: {}}\n", "demo", "lacks rows"),
        ("base: demo\nsettings: {a: {}}\nrows: {b: {}}\n", "demo", "choose with --settings"),
        ("benchmarks: {demo: {}}\nrows: {b: {}}\n", None, "needs --benchmark, one of demo"),
        ("benchmarks: {demo: {}}\nonly_these: true\nrows: {b: {}}\n", "av_mnist", "needs --benchmark, one of demo"),
        ("benchmarks: {demo: {rows: {c: {}}}}\nrows: {b: {}}\n", "demo", r"changes the rows \['c'\]"),
        ("benchmark: {demo: {}}\nrows: {b: {}}\n", None, r"unknown keys \['benchmark'\]"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, text, benchmark, message):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.yaml", benchmark)


def test_tables_are_found_by_number_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_table("3") == find_table("paper_3") == find_table("tables/paper_3") == TABLES / "paper_3.yaml"
    assert find_table("figure_1") == TABLES / "figure_1.yaml"
    (tmp_path / "paper_3.yaml").touch()
    assert find_table("paper_3.yaml").resolve() == tmp_path / "paper_3.yaml"


@pytest.mark.parametrize("name", ["paper_1", "paper_3", "paper_4", "figure_1"])  # the rows of paper_2 are those of 1
def test_tables_of_the_paper_make_sense_on_sound_and_images(name):
    table = read_table(find_table(name), "demo")
    inapplicable = checked(name, "demo")
    assert set(inapplicable) == {"Unimodal-3", *PROBES} & set(table.rows)
    assert table.reference in table.rows
    # The learned alpha watches the validation split, so that all rows train on the same samples.
    assert table.settings["demo"]["holdout"] == 0


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("benchmark", ["av_mnist", "mvsa_single"])
def test_tables_of_the_paper_know_the_data_sets(name, benchmark):
    table = read_table(find_table(name), benchmark)
    assert table.settings[benchmark]["holdout"] == 0
    assert set(table.changes[benchmark]) <= set(table.rows)
    assert benchmark in " ".join(table.notes)
    assert ("MSES waits" in " ".join(table.notes)) == ("MSES" in table.rows)


def test_gradients_are_not_clipped_where_methods_are_compared():
    """No published code but AGM's clips, and a clipped step hides what MMPareto and others do to its length."""
    assert all(read_config(name)["max_grad_norm"] == 0 for name in list_configs() if name not in ("demo", "table"))
    for name in (*PRESETS[:4], "figure_1", "absence", "imbalance", "after_training"):
        assert read_table(find_table(name), "demo").settings["demo"]["max_grad_norm"] == 0


def test_the_main_table_has_every_method_in_its_row():
    rows = read_table(find_table("1"), "av_mnist").rows
    methods = {row: make_method(changes["method"]) for row, changes in rows.items() if row not in PROBES}
    ours = {"auto"}  # in the panel, not in the paper's table
    assert {m.spec.name for m in methods.values()} == {cls.spec.name for cls in METHODS.values()} - ours
    assert list(read_table(find_table("panel"), "mosi").rows) == [*rows, "Auto", "Auto-LB"]
    for row, method in methods.items():
        assert method.spec.row in (row, None) or (row, method.settings.alpha) == ("LFM-H", "heuristic")
    assert methods["LFM-LB"].settings.alpha == "learned"
    assert read_table(find_table("2"), "demo").rows == rows


def test_a_text_tower_rules_out_the_fusions_of_feature_maps(mvsa):
    text = json.dumps({"tower": "transformers", "config": BERT})
    rows = ["Concat", "Unimodal-2", "Unimodal-3", "Channel", "Greedy", "LFM-LB", *PROBES]
    inapplicable = checked("1", "mvsa_single", rows, **{"modalities.text": text}, **mvsa)
    assert set(inapplicable) == {"Unimodal-3", "Channel", "Greedy", *PROBES}
    assert "there are only 2 (image, text)" in inapplicable["Unimodal-3"]


def test_clip_towers_come_from_the_hub_or_from_the_command_line(mvsa):
    with pytest.raises(FileNotFoundError, match=r"openai/clip-vit-base-patch32.*--modalities\.MODALITY\.name"):
        checked("5", "mvsa_single", **mvsa)
    towers = {"modalities.image": json.dumps(CLIP_IMAGE), "modalities.text": json.dumps(CLIP_TEXT)}
    with pytest.raises(ValueError, match=r"mvsa_single, Concat: .*image.*\(2, 3, 224, 224\)"):
        checked("5", "mvsa_single", **towers, **mvsa)
    assert checked("5", "mvsa_single", **towers, **mvsa, **{"processor.image.size": [32, 32]}) == {}


def test_wrong_rows_are_told_before_anything_is_run(tmp_path):
    table = read_table(find_table("1"), "demo")
    table.rows = {"Concat": {"method": "concat"}, "no": {"method": "magic"}}
    table.rows |= {"three": {"method": "unimodal_3"}, "two": {"method": "unimodal_2"}}
    cells = make_cells(table, ["demo"], table.rows, {})
    with pytest.raises(ValueError, match=r"nothing was run(.|\n)*demo, no: .*'magic'"):
        check_cells(cells, FORCED)
    inapplicable, largest = check_cells({key: cells[key] for key in cells if key != ("demo", "no")}, FORCED)
    assert list(inapplicable) == [("demo", "three")]
    assert largest > 4 * 80_000  # two towers of 41,000 weights
    with pytest.raises(ValueError, match="nothing can be run"):
        check_cells({key: cells[key] for key in [("demo", "three")]}, FORCED)
    own = Namespace(settings=["demo"], rows=["Concat", "two"], seeds=[0], jobs=1, output=tmp_path, search=[])
    with pytest.raises(ValueError, match=r"demo, Concat: .*resnet19"):
        reproduce.run_table(table, own, {"modalities.audio.name": ["resnet19"]})
    with pytest.raises(ValueError, match=r"nothing was run(.|\n)*no_such"):
        reproduce.run_table(table, own, {"benchmark_options.no_such": ["1"]})
    with pytest.raises(ValueError, match="speed"):
        reproduce.run_table(table, own, {"metric_for_best_model": ["speed"]})
    assert list(tmp_path.iterdir()) == []


def test_cells_of_the_same_data_read_them_once(mvsa):
    reader = ReadOnce()
    config = merge(read_config("mvsa_single"), {**{key: str(place) for key, place in mvsa.items()}, **FORCED, **SMALL})
    config["modalities"]["text"] = {"tower": "transformers", "config": BERT}
    for changes, read in (({"method": "concat"}, 1), ({"method": "sum"}, 1), ({"benchmark_options": {"seed": 5}}, 2)):
        assert check_cell({**config, **changes}, reader)[0] is None
        assert len(reader.known) == read * len(("load", "check", "train", "validation", "test"))


def test_what_cannot_be_written_is_told_before_anything_is_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/results: .*--output"):
        check_output(tmp_path / "file" / "results", 0, 1)
    with pytest.raises(OSError, match="TMPDIR"):
        check_output(tmp_path / "results", 10**15, 2)


def test_settings_that_authors_publish_for_a_data_set_are_taken():
    """And a table that says otherwise wins, as the command line does over both."""

    def methods(benchmark):
        table = read_table(find_table("1"), benchmark)
        cells = make_cells(table, [benchmark], table.rows, {})
        return {row: make_method(config["method"]).settings for (_, row), config in cells.items()}

    crema_d = methods("crema_d")
    assert (crema_d["OGM"].alpha, crema_d["AGM"].alpha, crema_d["MSES"].patience) == (0.8, 1.5, 80)
    assert crema_d["MSLR"].factors == {"audio": 0.9, "video": 1.1}
    assert (crema_d["PMR"].alpha, crema_d["PMR"].momentum) == (2, 0)
    av_mnist = methods("av_mnist")
    assert av_mnist["MSLR"].factors == {"audio": 1.3, "image": 0.7}
    assert av_mnist["AGM"].cap > 1e6
    assert av_mnist["MSES"].patience == 3  # of ten: the training is short
    assert av_mnist["OGM"].alpha == methods("demo")["OGM"].alpha == 0.1
    cells = make_cells(read_table(find_table("1"), "crema_d"), ["crema_d"], ["OGM"], {"method.alpha": ["0.3"]})
    assert cells["crema_d", "OGM"]["method"]["alpha"] == 0.3


def test_published_settings_fit_their_methods_and_data_sets():
    for benchmark, entries in read_config(CONFIGS / "published_settings.yaml").items():
        assert benchmark in list_configs()
        for name, settings in entries.items():
            assert settings.pop("source")
            method = make_method({"name": name, **settings})
            modalities = read_config(benchmark)["modalities"]
            assert set(getattr(method.settings, "factors", None) or {}) <= set(modalities)


def test_a_probe_is_a_logistic_regression_on_what_frozen_towers_give(tmp_path):
    frozen = {name: {"frozen": True} for name in ("audio", "image")}
    small = {"max_train_samples": 64, "max_eval_samples": 40, "max_test_samples": 40, "use_cpu": True}
    base = merge(read_config("demo"), {**small, "cache_features": True})
    base["modalities"] = {name: {**spec, **frozen[name]} for name, spec in base["modalities"].items()}
    record, late = (run_one(1, {**base, "method": name, "linear_probe": True}) for name in ("concat", "sum"))
    trainer, splits = set_up(*read_run({**base, "do_predict": True, "output_dir": str(tmp_path)}))
    names = trainer.model.config.modality_names
    data = {
        split: (
            [np.stack([np.asarray(row) for row in part[f"{name}_vector"]]) for name in names],
            np.asarray([sample["labels"] for sample in part]),
        )
        for split, part in splits.items()
    }

    def fit(parts):
        scaler = StandardScaler().fit(parts["train"])
        scores = {}
        for strength in STRENGTHS:
            probe = LogisticRegression(C=strength, max_iter=1000).fit(
                scaler.transform(parts["train"]), data["train"][1]
            )
            right = probe.score(scaler.transform(parts["validation"]), data["validation"][1])
            scores.setdefault(right, probe.predict_log_proba(scaler.transform(parts["test"])))
        return scores[max(scores)]

    single = [fit({split: parts[i] for split, (parts, _) in data.items()}) for i in range(len(names))]
    joined = fit({split: np.concatenate(parts, 1) for split, (parts, _) in data.items()})
    alone = list(zip((f"{name}_accuracy" for name in names), single, strict=True))
    for found, fused in ((record, joined), (late, np.mean(single, axis=0))):
        for key, logits in (("accuracy", fused), *alone):
            assert found["test"][key] == pytest.approx((logits.argmax(1) == data["test"][1]).mean())


def test_probes_need_the_vectors_of_frozen_towers():
    small = {"max_train_samples": 64, "max_eval_samples": 40, "max_test_samples": 40, "use_cpu": True}
    config = {**read_config("demo"), **small, "linear_probe": True, **FORCED, **SMALL}
    assert "that of 'audio' is: set frozen: true" in check_cell({**config, "method": "concat"})[0]
    assert "method: concat" in check_cell({**config, "method": "lfm"})[0]
