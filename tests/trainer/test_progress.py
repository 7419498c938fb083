"""What is shown while a model trains: a table and a bar on a terminal, plain lines elsewhere."""

import os
import pty
import re
import sys
import termios
import threading
from contextlib import contextmanager

import pytest

from modeling_lfm.trainer.callbacks import LfmProgressCallback

from .toy import NORMALISED, toy_trainer

RUN = {
    "num_train_epochs": 3,
    "size": 24,
    "logging_strategy": "epoch",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "disable_tqdm": False,
}
ONE_EPOCH = {"num_train_epochs": 1, "save_strategy": "no", "load_best_model_at_end": False}


@contextmanager
def terminal(monkeypatch):
    """Standard output and error are a pseudo-terminal; gives a list that holds what was written, when it is over."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (50, 130))
    chunks, written = [], []

    def read():
        try:
            while chunk := os.read(master, 65536):
                chunks.append(chunk)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patch, open(slave, "w", buffering=1) as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield written
    reader.join()
    os.close(master)
    written.append(b"".join(chunks).decode())


def final_screen(text):
    """The lines (`list[str]`) that stand on a terminal after `text`, with the controls that the display uses."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part[0] == "\x1b":
            row -= int(part[2:-1] or 1)
        elif part.endswith("K") and part[0] == "\x1b":
            lines[row] = ""
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def test_terminal_shows_a_row_an_epoch_and_is_left_clean(tmp_path, monkeypatch):
    before = sys.stdout, sys.stderr
    with terminal(monkeypatch) as written:
        trainer = toy_trainer(tmp_path, NORMALISED, **RUN)
        trainer.train()
    assert any(isinstance(callback, LfmProgressCallback) for callback in trainer.callback_handler.callbacks)
    titles, *rows, last = final_screen(written[0])
    names = "epoch|fused %|audio %|text %|gap %|alpha|loss|val. loss|loss_cls|loss_mm|time"
    assert re.sub(r" {2,}", "|", titles.strip()) == names
    history = trainer.state.log_history
    losses = [entry for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    assert len(rows) == 3
    for row, loss, evaluation in zip(rows, losses, evaluations, strict=True):
        words = row.split()
        assert words[0] == format(loss["epoch"], ".4g")
        assert words[5:7] == [format(loss["alpha"], ".3f"), format(loss["loss"], "#.3g")]
        assert float(words[1]) == pytest.approx(100 * evaluation["eval_accuracy"], abs=0.051)
        assert float(words[2]) == pytest.approx(100 * evaluation["eval_audio_accuracy"], abs=0.051)
        assert float(words[4]) == pytest.approx(100 * evaluation["eval_gap"], abs=0.051)
    best = [i for i, row in enumerate(rows) if row.endswith("best")]
    values = [entry["eval_loss"] for entry in evaluations]
    assert best == [i for i, value in enumerate(values) if value == min(values[: i + 1])]
    assert last.startswith("trained in 0:0")
    assert "epoch 1 of 3" in written[0], "the bar was drawn"
    assert (sys.stdout, sys.stderr) == before


def test_what_is_evaluated_first_has_a_table_of_its_own(tmp_path, monkeypatch):
    with terminal(monkeypatch) as written:
        trainer = toy_trainer(tmp_path, NORMALISED, eval_on_start=True, **{**RUN, **ONE_EPOCH})
        trainer.train()
        trainer.evaluate()
    lines = final_screen(written[0])
    heads = [line.split() for line in lines if "fused" in line]
    assert ["loss_mm" in head for head in heads] == [False, True]
    assert lines[-1].startswith("trained in"), "the bar of the last evaluation is gone"


def test_an_error_leaves_the_terminal_as_it_was(tmp_path, monkeypatch):
    with terminal(monkeypatch) as written:
        trainer = toy_trainer(tmp_path, NORMALISED, **RUN)
        monkeypatch.setattr(trainer, "training_step", lambda *args: (_ for _ in ()).throw(ValueError("broken")))
        stdout = sys.stdout
        with pytest.raises(ValueError, match="broken"):
            trainer.train()
        assert sys.stdout is stdout
        print("after")
    assert final_screen(written[0]) == ["after"]


def test_elsewhere_training_prints_plain_lines(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, NORMALISED, **{**RUN, **ONE_EPOCH})
    trainer.train()
    assert any(isinstance(callback, LfmProgressCallback) for callback in trainer.callback_handler.callbacks)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["epoch  1.00"] * 3
    assert "loss_mm" in lines[0]
    assert "eval_gap" in lines[1]
    assert "\x1b" not in printed.out + printed.err
    assert "it/s" not in printed.err
    trainer.evaluate()
    assert capsys.readouterr().out == "", "the caller has the metrics"
