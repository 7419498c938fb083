"""prepare_data.py: what it writes, kills, broken media, refusals, the Hub, and training from the shards."""

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeling_lfm import LfmProcessor
from modeling_lfm.data import LfmDataCollator, load_benchmark, load_prepared
from modeling_lfm.data.prepared import read_footer
from modeling_lfm.data.shards import check_output
from modeling_lfm.data.sources import SOURCES
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import prepare_data
from modeling_lfm.scripts import train as train_program
from modeling_lfm.scripts.common.console import run
from modeling_lfm.trainer.checkpoints import LOCK

from ..data.layouts import make_crema_d
from ..data.media import tone, wav_bytes, write_video
from .conftest import ROOT, TOWER
from .forks import find_forks, run_program, start
from .hub_stub import START, failure, serving_hub

CONFIG = {
    "benchmark": "crema_d",
    "modalities": {"audio": TOWER, "video": {**TOWER, "in_chans": 3}},
    "hidden_size": 8,
    "processor": {
        "audio": {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5},
        "video": {"type": "video", "size": [24, 32], "stored_frames": 4, "num_frames": 2, "augment": True},
    },
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "eval_strategy": "epoch",
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CREMA-D's layout with real media: 36 clips of train, 12 of test."""
    folder, known = tmp_path_factory.mktemp("files"), {}

    def content(kind, cls):
        if kind == "wav":
            noise = np.random.default_rng(cls).normal(0, 0.01, 4800)
            return wav_bytes(tone(200 + 100 * cls, 0.6) + noise)
        if cls not in known:
            known[cls] = write_video(folder / f"{cls}.flv", frames=10 + cls).read_bytes()
        return known[cls]

    return make_crema_d(folder / "crema_d", counts=(6, 2), content=content)


@pytest.fixture
def words(config, files):
    """The command line but for the output."""
    own = ["--benchmark", "crema_d", "--config", config, "--data_dir", files, "--samples_per_shard", 3]
    return [str(word) for word in own]


@pytest.fixture(scope="module")
def prepared(config, files, tmp_path_factory):
    """A folder that was prepared without interruption."""
    folder = tmp_path_factory.mktemp("prepared") / "crema_d"
    own = ["--benchmark", "crema_d", "--config", config, "--data_dir", files, "--samples_per_shard", 3]
    prepare_data.main([*map(str, own), "--output", str(folder), "--num_proc", "1"])
    return folder


def prepare(words, output, *more):
    prepare_data.main([*words, "--output", str(output), "--num_proc", "1", *map(str, more)])


def fails(capsys, words, *more):
    """The error on stderr with which the program ends."""
    with pytest.raises(SystemExit) as stop:
        run(lambda: prepare_data.main([*words, *map(str, more)]))
    assert stop.value.code == 2
    return capsys.readouterr().err.rpartition("error: ")[2]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path):
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


READER = """
import sys, datasets, numpy as np
data = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])
assert not any(name.startswith("modeling_lfm") for name in sys.modules)
row = data["train"][0]
print({name: len(part) for name, part in data.items()}, data["test"].features["labels"].names)
print(np.frombuffer(row["video_values"], "uint8").reshape(4, 3, 24, 32).shape)
"""


def test_datasets_reads_it_without_our_code(prepared, files, tmp_path):
    command = [sys.executable, "-c", READER, str(prepared), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = ["neutral", "happy", "sad", "fear", "disgust", "anger"]
    assert result.stdout.splitlines() == [
        f"{ {'train': 32, 'validation': 4, 'test': 12} } {names}",
        "(4, 3, 24, 32)",
    ]
    card = (prepared / "README.md").read_text()
    for part in ("license: odbl", "| train | 32 |", '"float32").reshape([1, 65, 31])', "Open Database License"):
        assert part in card
    assert str(files) not in "".join(path.read_text() for path in prepared.glob("*.*")), "paths of this machine"
    assert json.loads((prepared / "report.json").read_text())["counts"]["test"]["published"] == 744


def test_samples_are_those_of_the_processor(prepared, files, tmp_path):
    processor = LfmProcessor.from_pretrained(prepared / "processor")
    read = load_prepared(prepared, processor, cache_dir=str(tmp_path))
    raw = load_benchmark("crema_d", files)
    for split, part in raw.items():
        assert read[split].features["labels"].names == part.features["label"].names
        for one, sample in zip(read[split], part, strict=True):
            assert one["labels"] == sample["label"]
            for name in ("audio", "video"):
                assert torch.equal(one[f"{name}_values"], torch.as_tensor(processor.encode(name, sample[name])))
    collator = LfmDataCollator(processor)
    (batch,) = torch.utils.data.DataLoader(read["test"], batch_size=12, collate_fn=collator, num_workers=1)
    expected = collator([read["test"][i] for i in range(12)])
    assert all(torch.equal(batch[key], expected[key]) for key in expected), "from a process, through shared memory"
    assert batch["video_values"].is_shared()


def wait_for(condition, seconds=600):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "waited too long"
        time.sleep(0.01)


def kill_program(words, output):
    """End it and nothing else when three shards are there."""
    command = [ROOT / "scripts" / "prepare_data.py", *words, "--output", output, "--num_proc", "2"]
    before = find_forks()
    program = start(output.with_name("log"), run_program, *command)
    wait_for(lambda: len(list(output.glob("data/*.parquet"))) >= 3)
    children = find_forks() - before
    program.kill()
    program.join()
    assert len(children) >= 1 + 2
    assert psutil.wait_procs(children, timeout=300)[1] == [], "no process outlives the program"


def test_killed_and_resumed_gives_the_same_bytes(words, prepared, tmp_path):
    """What is finished when all is killed is not done again."""
    output, shards = tmp_path / "out", len(list(prepared.glob("data/*.parquet")))
    for _ in range(5):  # until the kill is in time
        shutil.rmtree(output, ignore_errors=True)
        kill_program(words, output)
        entered = json.loads((output / "preparation.json").read_text())["shards"]
        finished = {output / path: (output / path).stat().st_mtime_ns for path in entered}
        if len(finished) < shards:
            break
    assert 1 <= len(finished) < shards
    assert not (output / "README.md").exists()
    prepare(words, output)
    assert contents(output) == contents(prepared)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_damaged_and_strange_shards_are_written_again(words, prepared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    first, second, third, fourth = sorted((folder / "data").iterdir())[:4]
    first.write_bytes(first.read_bytes()[:-10])
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(second)
    shutil.copy(sorted((folder / "data").iterdir())[-1], third)
    (third.parent / f".{third.name}.part").write_bytes(b"half")
    prepare(words, folder)
    assert contents(folder) == contents(prepared)
    flip(fourth)
    prepare(words, folder)
    assert contents(folder) != contents(prepared), "finished shards are not read again"
    prepare(words, folder, "--verify")
    assert contents(folder) == contents(prepared)


def test_broken_clips_are_named_and_left_out(words, files, tmp_path, capsys):
    mine = tmp_path / "files"
    shutil.copytree(files, mine)
    test = [line.split(",")[0] for line in (mine / "test.csv").read_text().split()]
    for clip in test[:3]:  # a whole shard
        (mine / "VideoFlash" / f"{clip}.flv").write_bytes(b"no video")
    (mine / "VideoFlash" / f"{test[3]}.flv").unlink()
    words[words.index(str(files))] = str(mine)
    prepare(words, tmp_path / "out")
    printed = capsys.readouterr().out
    for clip in test[:3]:
        assert f"test: AudioWAV/{clip}.wav: column 'video': VideoFlash/{clip}.flv cannot be opened" in printed
    assert f"test: {test[3]}: no file VideoFlash/{test[3]}.flv" in printed
    assert "test                 8        12        744" in printed
    assert printed.count(f"listed samples are in {mine}.") == 2
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["missing"]) == 4
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="test", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 8
    strict = ["--output", tmp_path / "out", "--strict", "--num_proc", 1]
    assert "Missing samples, left out: 1" in fails(capsys, words, *strict)
    for clip in test:
        (mine / "VideoFlash" / f"{clip}.flv").write_bytes(b"no video")
    nothing = fails(capsys, words, "--output", tmp_path / "nothing", "--num_proc", 1)
    assert "no sample of the split 'test' can be read" in nothing


def test_two_preparations_are_not_mixed(words, prepared, files, config, tmp_path, capsys):
    before = contents(prepared)
    longer = fails(capsys, words, "--output", prepared, "--processor.audio.duration", 1)
    assert "was prepared with processor.audio.duration = 0.5, but here it is 1" in longer
    assert "samples_per_shard = 3" in fails(capsys, words, "--output", prepared, "--samples_per_shard", 4)
    shutil.copytree(files, tmp_path / "files")
    (tmp_path / "files" / "AudioWAV" / "1001_IEO_NEU_XX.wav").write_bytes(wav_bytes(tone(300, 1)))
    words[words.index(str(files))] = str(tmp_path / "files")
    assert "other files: those in data_dir have changed" in fails(capsys, words, "--output", prepared)
    assert contents(prepared) == before


def test_bad_input_is_told_before_anything_is_computed(words, config, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    wrong_config = tmp_path / "wrong.yaml"
    wrong_config.write_text("benchmark: sarcasm")
    for more, message in [
        (["--benchmark", "imagenet"], "unknown benchmark 'imagenet'"),
        (["--data_dir", tmp_path / "nowhere"], f"no folder at {tmp_path / 'nowhere'}"),
        (["--data_dir", tmp_path / "full"], "no train.csv in"),
        (["--output", tmp_path / "full"], "holds something else, such as thesis.txt"),
        (["--output", config], "is a file; choose another --output"),
        (["--config", wrong_config], "is a configuration of 'sarcasm', not of 'crema_d'"),
        (["--learning_rate", 1], "unknown setting 'learning_rate'"),
        (["--num_proc", 0], "num_proc=0 must be at least 1"),
        (["--columns.audio", "sound"], "no column 'sound' for the modality 'audio'; it has audio, video"),
        (["--benchmark_options.vallidation", 0.2], "has no options ['vallidation']"),
        (["--processor.video.size", 8000, "--processor.video.stored_frames", 1000], "GB are free"),
        (["--strict"], "Fetch what is missing"),
        (["--public"], "give that too"),
    ]:
        assert message in fails(capsys, [*words, "--output", str(tmp_path / "new")], *more), more
    assert not list(tmp_path.glob("new/data/*"))
    assert "--output is missing" in fails(capsys, words)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become a user without rights")
def test_no_permission_to_write():
    """In a process of another user: root may write everywhere."""
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            check_output(Path("/usr/prepared/crema_d"))
        except PermissionError as error:
            os._exit(not ("/usr" in str(error) and "--output" in str(error)))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_disk_that_fills_up_loses_nothing(words, prepared, tmp_path, capsys):
    shutil.copytree(prepared, tmp_path / "out")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "out" / "data").iterdir())
    for path in sorted((tmp_path / "out" / "data").iterdir())[3:]:
        path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0] // 2, limits[1]))  # the nearest to a full disk
    try:
        message = fails(capsys, words, "--output", tmp_path / "out", "--num_proc", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written (File too large); make room and run the same command again" in message
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3, "the finished ones, and no half one"
    prepare(words, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(prepared)


def test_one_at_a_time(words, prepared, capsys):
    parent = psutil.Process(os.getppid())
    holder = {"pid": parent.pid, "host": platform.node(), "started": parent.create_time(), "since": "today"}
    (prepared / LOCK).write_text(json.dumps(holder))
    assert f"process {parent.pid}" in fails(capsys, words, "--output", prepared)
    (prepared / LOCK).unlink()


def test_how_tells_of_one_or_all(capsys):
    prepare_data.main(["--how"])
    printed = capsys.readouterr().out
    assert all(f"{name}: {source.title}" in printed for name, source in SOURCES.items())
    prepare_data.main(["--how", "--benchmark", "crema_d"])
    printed = capsys.readouterr().out
    for part in ("git lfs clone", "Open Database License", "VideoFlash/{clip}.flv", "train 6,698, test 744"):
        assert part in printed
    assert "VGGSound" not in printed


def test_it_is_sent_to_the_hub(words, prepared, tmp_path, monkeypatch, capsys):
    push = ["--output", str(prepared), "--push_to_hub", "me/data"]
    with serving_hub(monkeypatch, tmp_path) as hub:
        hub.fault = lambda method, path: failure(401, "Invalid username or password.")
        told = fails(capsys, words, *push)
        assert "me/data on the Hub" in told
        assert "token" in told
        hub.fault = lambda method, path: None
        earlier = {"data/train-00000-of-00099.parquet": b"of an earlier preparation"}
        hub.commit("datasets/me/data", START | earlier, "main")
        hub.private["datasets/me/data"] = True
        prepare(words, *push[1:])
        assert f"sent to {hub.url}/datasets/me/data" in capsys.readouterr().out
        assert hub.files("datasets/me/data") == contents(prepared)
        hub.private["datasets/me/data"] = False
        assert "me/data is public on the Hub; give --public" in fails(capsys, words, *push)
        prepare(words, prepared, "--push_to_hub", "me/new")
        assert hub.private["datasets/me/new"]


def train(config, data_dir, output, *more):
    words = [str(config), "--data_dir", str(data_dir), "--output_dir", str(output), "--do_predict"]
    train_program.main([*words, *map(str, more)])
    return json.loads((output / "all_results.json").read_text())


def test_training_from_the_shards_equals_training_from_the_files(config, files, prepared, tmp_path):
    results = [train(config, folder, tmp_path / name) for folder, name in ((files, "raw"), (prepared, "shards"))]
    for key in ("train_loss", "eval_accuracy", "test_loss", "test_video_map"):
        assert results[0][key] == results[1][key]
    raw, shards = (load_file(tmp_path / name / "model.safetensors") for name in ("raw", "shards"))
    assert all(torch.equal(raw[key], shards[key]) for key in raw)
    out = tmp_path / "metrics.json"
    words = ["--checkpoint", tmp_path / "shards", "--data_dir", prepared, "--output", out, "--use_cpu"]
    eval_program.main([str(word) for word in words])
    assert json.loads(out.read_text())["loss"] == pytest.approx(results[1]["test_loss"], abs=1e-5)


SHARD = "data/train-00001-of-00011.parquet"


def rewrite(folder, change):
    """Write the samples of a shard anew."""
    pq.write_table(change(pq.read_table(folder / SHARD)), folder / SHARD)


def shift_labels(table):
    labels = [(label + 1) % 6 for label in table["labels"].to_pylist()]
    return table.set_column(table.column_names.index("labels"), table.schema.field("labels"), [labels])


def reverse_names(table):
    features = datasets.Features.from_arrow_schema(table.schema)
    features["labels"].names = features["labels"].names[::-1]
    return table.replace_schema_metadata(features.arrow_schema.metadata)


def reverse_manifest(folder):
    path = folder / "preparation.json"
    manifest = json.loads(path.read_text())
    manifest["schema"]["labels"]["names"].reverse()
    path.write_text(json.dumps(manifest))


DAMAGES = {
    "a shard of another split": lambda folder: shutil.copy(folder / "data/test-00000-of-00004.parquet", folder / SHARD),
    "another shard of the split": lambda f: shutil.copy(f / SHARD.replace("00001-", "00002-"), f / SHARD),
    "some of the rows": lambda folder: rewrite(folder, lambda table: table.slice(0, 1)),
    "shifted labels": lambda folder: rewrite(folder, shift_labels),
    "reversed names": lambda folder: rewrite(folder, reverse_names),
    "reversed names in the manifest": reverse_manifest,
    "a flipped bit": lambda folder: flip(folder / SHARD),
    "half of it": lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:999]),
    "no Parquet": lambda folder: (folder / SHARD).write_bytes(b"PAR1" * 9),
    "somebody else's": lambda folder: pq.write_table(pq.read_table(folder / SHARD).select(["labels"]), folder / SHARD),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_shards_that_are_not_what_was_written_are_refused(damage, prepared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    processor = LfmProcessor.from_pretrained(folder / "processor")
    load_prepared(folder, processor, split="train", cache_dir=str(tmp_path / "cache"))
    DAMAGES[damage](folder)
    name = "train-00000-of-00011" if "manifest" in damage else "train-00001-of-00011"
    for _ in range(2):
        with pytest.raises(ValueError, match=name):
            load_prepared(folder, processor, split="train", cache_dir=str(tmp_path / "cache"))
    if "manifest" not in damage:
        load_prepared(folder, processor, split="test", cache_dir=str(tmp_path / "cache"))


def test_checksums_are_computed_once_and_when_asked_for(prepared, tmp_path):
    folder, cache = tmp_path / "copy", str(tmp_path / "cache")
    shutil.copytree(prepared, folder)
    processor = LfmProcessor.from_pretrained(folder / "processor")
    load_prepared(folder, processor, cache_dir=cache)
    state = (folder / SHARD).stat()
    flip(folder / SHARD)
    os.utime(folder / SHARD, ns=(state.st_atime_ns, state.st_mtime_ns))  # as nobody but an attacker or a disk does it
    load_prepared(folder, processor, cache_dir=cache)
    with pytest.raises(ValueError, match="train-00001-of-00011"):
        load_prepared(folder, processor, cache_dir=cache, verify=True)
    with pytest.raises(ValueError, match="train-00001-of-00011"):
        load_prepared(folder, processor, cache_dir=str(tmp_path / "other"))


def test_a_shard_that_unpacks_to_gigabytes_is_not_read(tmp_path):
    bomb = tmp_path / "bomb.parquet"
    schema = pa.schema({"labels": pa.int64()})
    pq.write_table(pa.table({"labels": np.zeros(2**22, np.int64)}, schema=schema), bomb, compression="zstd")
    assert bomb.stat().st_size < 2**20
    footer = read_footer(bomb)
    with pytest.raises(ValueError, match=r"bomb\.parquet is damaged \(a part of it unpacks to"):
        read_footer(bomb, largest=footer.row_group(0).total_byte_size - 1)
    bomb.write_bytes(b"PAR1" + (2**31 - 1).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match=r"bomb\.parquet"):
        read_footer(bomb)


ZERO = '{"format": 5, "processor": {}, "columns": {}, "schema": {}, "samples": {}, "files": {}, "shards": {}, '
ZERO += '"samples_per_shard": 0}'


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"format": 4}', '{"format": 5, "shards": 3}', ZERO, "[" * 9999])
def test_a_damaged_manifest_is_named(text, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    (tmp_path / "copy" / "preparation.json").write_text(text)
    with pytest.raises(ValueError, match=r"preparation\.json"):
        load_prepared(tmp_path / "copy", LfmProcessor.from_pretrained(prepared / "processor"))


def test_training_refuses_shards_of_other_settings(config, prepared, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(prepared, unfinished)
    (unfinished / "data" / "train-00000-of-00011.parquet").unlink()
    second = json.dumps(CONFIG["processor"]["video"])
    for more, message in [
        (["--processor.audio.duration", 1], "was prepared with processor.audio.duration = 0.5, but here it is 1"),
        (["--benchmark_options.validation", 0.2], "benchmark_options.validation = 0.1, but here it is 0.2"),
        (["--columns.audio", "video"], 'columns.audio = "audio", but here it is "video"'),
        (
            ["--processor.depth", second, "--modalities.depth", json.dumps(TOWER)],
            "holds no modality 'depth', only audio",
        ),
        (["--data_dir", unfinished], "is not finished: 1 of 17 shards are missing, such as data/train-00000-of-00011"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            train(config, prepared, tmp_path / "run", *more)
    processor = LfmProcessor({"video": {**CONFIG["processor"]["video"], "num_frames": 4, "augment": False}})
    part = load_prepared(prepared, processor, split="test", cache_dir=str(tmp_path))  # what only matters in reading
    assert part.column_names == ["video_values", "labels"]
