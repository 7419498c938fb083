"""What arrives in TensorBoard and trackio: names, values, and one run there for one run here."""

import re
import shutil
import socket
import sys

import pytest

from modeling_lfm.trainer import LfmTrainingArguments

from .toy import NORMALISED, toy_trainer

RUN = {"num_train_epochs": 3, "size": 24, "logging_strategy": "epoch", "eval_strategy": "epoch"}
CURVES = ["accuracy", "audio_accuracy", "text_accuracy", "gap", "loss", "map", "audio_map", "text_f1"]


def logged(history, key, kind):
    """Values of `key` in the log entries that have `kind` (`loss` or `eval_loss`)."""
    return [entry[key] for entry in history if kind in entry]


def test_tensorboard_has_the_curves_and_a_resumed_run_goes_on_in_its_folder(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    settings = {**RUN, "report_to": "tensorboard", "save_strategy": "epoch"}
    toy_trainer(tmp_path, NORMALISED, **settings).train()
    shutil.rmtree(tmp_path / "checkpoint-9")
    shutil.rmtree(tmp_path / "checkpoint-6")  # as if it had been stopped after its first epoch
    trainer = toy_trainer(tmp_path, NORMALISED, **settings)
    trainer.train(resume_from_checkpoint=True)

    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith(tmp_path.name)
    events = EventAccumulator(str(folder)).Reload()
    read = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    history, steps = trainer.state.log_history, (3, 6, 9)
    expected = {f"train/{key}": logged(history, key, "loss") for key in ("alpha", "loss", "loss_cls", "loss_mm")}
    expected |= {f"eval/{key}": logged(history, f"eval_{key}", "eval_loss") for key in CURVES}
    for tag, values in expected.items():
        assert read[tag] == [(step, pytest.approx(value)) for step, value in zip(steps, values, strict=True)], tag

    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert list(charts) == ["accuracy", "modality gap", "alpha", "losses"]
    assert len(charts["accuracy"]) == 3
    for tag in (tag for tags in charts.values() for tag in tags):
        assert sum(bool(re.match(tag, name)) for name in read) == 1, tag


def test_trackio_has_one_run_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    connect, reached = socket.socket.connect, []

    def watched(self, address):
        reached.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    settings = {**RUN, "report_to": ["trackio"], "project": f"lfm-{tmp_path.name}"}
    trainer = toy_trainer(tmp_path, NORMALISED, **settings)
    trainer.train()
    trainer.predict(trainer.eval_dataset, metric_key_prefix="test")
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # ends what predict began

    (run,) = SQLiteStorage.get_runs(settings["project"])
    assert run.startswith(tmp_path.name)
    entries = SQLiteStorage.get_logs(settings["project"], run)
    history = trainer.state.log_history
    for key, wanted, kind in (
        ("train/alpha", "alpha", "loss"),
        ("train/loss_mm", "loss_mm", "loss"),
        *((f"eval/{key}", f"eval_{key}", "eval_loss") for key in CURVES),
    ):
        values = [entry[key] for entry in entries if key in entry]
        assert values == pytest.approx(logged(history, wanted, kind)), key
    assert [entry["test/audio_accuracy"] for entry in entries if "test/audio_accuracy" in entry]
    outside = [address for address in reached if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1")]
    assert not outside


def test_reports_that_cannot_be_sent_are_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"report_to='tensorbord' is unknown; .*tensorboard"):
        LfmTrainingArguments(str(tmp_path), report_to="tensorbord")
    monkeypatch.setitem(sys.modules, "trackio", None)  # as where it is not installed
    with pytest.raises(ValueError, match="report_to='trackio' needs trackio: pip install trackio"):
        LfmTrainingArguments(str(tmp_path), report_to="trackio")
