"""Preparation: what is read back is what the processor gives; cached, fast, and with errors that name the sample."""

import os
import pickle
import time
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertTokenizer

from modeling_lfm import LfmProcessor
from modeling_lfm.data import LfmDataCollator, fit_processor, prepare_dataset, read_prepared
from modeling_lfm.data.files import digest_files
from modeling_lfm.data.preparation import encode_sample, sample_bytes, stored_features

from ..scripts.forks import start
from .media import image_bytes, read_number, tone, wav_bytes, write_video

AUDIO = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5, "mean": -3.0}
IMAGE = {"type": "image", "size": [12, 10]}
TEXT = {"type": "text", "max_length": 6}
MEDIA = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
TEXTS = ["the cat", "sat on the mat on the mat", "dog", "cat cat cat"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat"]))
    return BertTokenizer(str(path))


def make_raw(size=4, **changes):
    """Samples with audio, a picture, a text and a class, under names that are not those of the modalities."""
    rng = np.random.default_rng(0)
    columns = {
        "sound": [{"bytes": wav_bytes(tone(200 + 50 * i, 0.3 + 0.1 * i)), "path": f"{i}.wav"} for i in range(size)],
        "picture": [
            {"bytes": image_bytes(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)), "path": f"{i}.png"}
            for i in range(size)
        ],
        "caption": [TEXTS[i % 4] for i in range(size)],
        "kind": [i % 2 for i in range(size)],
        "unused": list(range(size)),
    }
    features = {
        "sound": dict(MEDIA),
        "picture": dict(MEDIA),
        "caption": datasets.Value("string"),
        "kind": datasets.ClassLabel(names=["odd", "even"]),
        "unused": datasets.Value("int64"),
    }
    for name, (values, feature) in changes.items():
        columns[name], features[name] = values, feature
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


COLUMNS = {"audio": "sound", "image": "picture", "text": "caption"}


@pytest.fixture(scope="module")
def processor(tokenizer):
    return LfmProcessor({"audio": AUDIO, "image": IMAGE, "text": TEXT}, tokenizer=tokenizer)


def test_batches_equal_the_processor(processor):
    raw = make_raw()
    prepared = prepare_dataset(raw, processor, COLUMNS, label_column="kind", batch_size=3)
    assert prepared.features["labels"].names == ["odd", "even"]
    assert set(prepared.column_names) == {"audio_values", "image_values", "text_input_ids", "labels"}
    assert prepared[0]["audio_values"].shape == (1, 65, 31)
    collator = LfmDataCollator(processor)
    loader = torch.utils.data.DataLoader(prepared, batch_size=3, shuffle=False, collate_fn=collator)
    for first, batch in zip((0, 3), loader, strict=True):
        rows = raw[first : first + 3]
        expected = processor(audio=rows["sound"], image=rows["picture"], text=rows["caption"])
        assert batch.keys() == {*expected.keys(), "labels"}
        for key, value in expected.items():
            assert batch[key].dtype == value.dtype
            assert torch.equal(batch[key], value), key
        assert batch["labels"].tolist() == rows["kind"]
        assert batch["labels"].dtype == torch.int64


def test_prepared_data_can_be_selected_and_sent_to_other_processes(processor):
    prepared = prepare_dataset(make_raw(), processor, COLUMNS, label_column="kind")
    collator = LfmDataCollator(processor)
    picked = prepared.select([3, 1])
    whole = collator([prepared[3], prepared[1]])
    sent = pickle.loads(pickle.dumps(collator))([pickle.loads(pickle.dumps(picked))[i] for i in range(2)])
    assert all(torch.equal(whole[key], sent[key]) for key in whole)
    assert np.asarray(picked.with_format("numpy")["labels"][:]).tolist() == [1, 1]


def test_splits_are_prepared_together(processor):
    names = (["b", "a", "b", "c"], datasets.Value("string"))
    splits = datasets.DatasetDict({"train": make_raw(4, kind=names), "test": make_raw(2, kind=(["c", "a"], names[1]))})
    prepared = prepare_dataset(splits, processor, COLUMNS, label_column="kind")
    assert prepared["test"].features["labels"].names == ["a", "b", "c"]
    assert prepared["test"].with_format("numpy")["labels"][:].tolist() == [2, 0]
    alone = prepare_dataset(splits["test"], processor, COLUMNS, label_column="kind", class_names=["a", "b", "c"])
    assert alone.with_format("numpy")["labels"][:].tolist() == [2, 0]


def test_several_labels_a_sample(processor):
    tags = ([["x", "y"], [], ["z"], ["x"]], datasets.List(datasets.Value("string")))
    prepared = prepare_dataset(make_raw(kind=tags), processor, COLUMNS, label_column="kind")
    labels = LfmDataCollator(processor)([prepared[i] for i in range(4)])["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_audio_and_image_columns_of_datasets(processor):
    """Their own types are read without the decoders that `datasets` would need."""
    raw = make_raw()
    typed = raw.cast_column("sound", datasets.Audio()).cast_column("picture", datasets.Image())
    plain, decoded = (prepare_dataset(d, processor, COLUMNS, label_column="kind") for d in (raw, typed))
    assert all(torch.equal(plain[2][key], decoded[2][key]) for key in ("audio_values", "image_values"))


def test_audio_of_any_length(tmp_path):
    processor = LfmProcessor({"audio": {**AUDIO, "duration": None}})
    raw = make_raw()
    prepared = prepare_dataset(raw, processor, {"audio": "sound"}, label_column="kind")
    batch = LfmDataCollator(processor)([prepared[i] for i in range(4)])
    assert torch.equal(batch["audio_values"], processor(audio=raw["sound"][:])["audio_values"])
    assert prepared[0]["audio_values"].shape != prepared[1]["audio_values"].shape


def prepare_again(raw, processor, *paths):
    """In another process: prints the file of the prepared captions, and the means of the prepared pictures."""
    processor = LfmProcessor.from_pretrained(processor)
    processor(text=["the cat", "sat"])  # the state that a call leaves in the tokenizer decides nothing
    prepared = prepare_dataset(datasets.load_from_disk(raw), processor, {"text": "caption"}, label_column="kind")
    pictures = datasets.Dataset.from_dict({"image": paths, "label": list("aba")})
    pictures = prepare_dataset(pictures, LfmProcessor({"image": {"type": "image", "size": [8, 8]}}))
    print(prepared.cache_files[0]["filename"], *(int(row["image_values"].float().mean()) for row in pictures))


def test_cache_is_found_by_another_process_and_keyed_by_settings(tmp_path, tokenizer):
    make_raw().save_to_disk(tmp_path / "raw")
    raw = datasets.load_from_disk(tmp_path / "raw")
    processor = LfmProcessor({"text": TEXT}, tokenizer=tokenizer)
    processor.save_pretrained(tmp_path / "processor")
    first = prepare_dataset(raw, processor, {"text": "caption"}, label_column="kind")
    file = first.cache_files[0]["filename"]
    written = os.stat(file).st_mtime_ns
    image_processor = LfmProcessor({"image": {"type": "image", "size": [8, 8]}})
    prepare_dataset(MAKERS["paths"](pictures(tmp_path, 80)), image_processor)
    words = [str(tmp_path / "raw"), str(tmp_path / "processor"), *pictures(tmp_path, 120)]  # in place of the others
    process = start(tmp_path / "log", prepare_again, *words, cwd=tmp_path)
    process.join()
    told = (tmp_path / "log").read_text()
    assert process.exitcode == 0, told
    assert told.split()[-4:] == [file, "120", "120", "120"]
    assert os.stat(file).st_mtime_ns == written
    shorter = LfmProcessor({"text": {**TEXT, "max_length": 3}}, tokenizer=tokenizer)
    tokenizer_of_more = BertTokenizer(vocab={**tokenizer.get_vocab(), "dog": 10})
    for other in (shorter, LfmProcessor({"text": TEXT}, tokenizer=tokenizer_of_more)):
        changed = prepare_dataset(raw, other, {"text": "caption"}, label_column="kind")
        assert changed.cache_files[0]["filename"] != file
        assert changed[1]["text_input_ids"] != first[1]["text_input_ids"] or changed[2] != first[2]


def test_reading_a_batch_is_fast():
    """64 samples of 65x63 spectrograms and 3x64x64 images, shuffled: a few milliseconds of one core."""
    settings = {"audio": {**AUDIO, "duration": 1.0}, "image": {"type": "image", "size": [64, 64]}}
    processor = LfmProcessor(settings)
    row = make_raw(1)
    raw = datasets.concatenate_datasets([row] * 256)
    prepared = prepare_dataset(raw, processor, {"audio": "sound", "image": "picture"}, label_column="kind")
    collator = LfmDataCollator(processor)
    rng = np.random.default_rng(0)
    times = []
    for _ in range(20):
        indices = rng.permutation(256)[:64].tolist()
        start = time.process_time()
        batch = collator(prepared.__getitems__(indices))
        times.append(time.process_time() - start)
    assert batch["audio_values"].shape == (64, 1, 65, 63)
    assert min(times) < 0.025, "about 2.5 ms on an idle core; the margin is for slow and busy machines"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sound", {"bytes": b"no sound", "path": "b.wav"}, r"sample 2, column 'sound': b\.wav cannot be read as audio"),
        ("picture", {"bytes": b"no image", "path": "b.png"}, r"sample 2, column 'picture': b\.png cannot be read as"),
        ("sound", {"bytes": None, "path": "nowhere.wav"}, r"sample 2, column 'sound': no file at nowhere\.wav"),
        ("caption", None, "text 1 of 4.*sample 2, column 'caption': it holds nothing"),
    ],
)
def test_errors_name_the_sample_and_the_file(processor, column, value, message):
    raw = make_raw()
    values = raw[column][:]
    values[2] = value
    raw = make_raw(**{column: (values, raw.features[column])})
    with pytest.raises(ValueError, match=message):
        prepare_dataset(raw, processor, COLUMNS, label_column="kind")


@pytest.mark.parametrize("kind", ["DataFrame", "list", "IterableDataset"])
def test_what_is_no_data_set_is_refused(processor, kind):
    raw = make_raw()
    wrong = {"DataFrame": raw.to_pandas, "list": raw.to_list, "IterableDataset": raw.to_iterable_dataset}[kind]()
    for call in (lambda: prepare_dataset(wrong, processor, COLUMNS), lambda: fit_processor(processor, wrong, COLUMNS)):
        with pytest.raises(ValueError, match=rf"a datasets\.Dataset or DatasetDict.*of type {kind}"):
            call()
    with pytest.raises(ValueError, match="no samples"):
        prepare_dataset(raw.select([]), processor, COLUMNS, label_column="kind")


def test_a_processor_is_fitted_on_the_training_split():
    splits = {split: datasets.Dataset.from_dict({"v": [[n, 2.0 * n]]}) for n, split in enumerate(("test", "train"))}
    processor = LfmProcessor({"v": {"type": "vector"}})
    fit_processor(processor, datasets.DatasetDict(splits))
    assert processor.modalities["v"]["mean"] == [1.0, 2.0]


def test_wrong_columns_are_refused(processor):
    raw = make_raw()
    for columns, label, message in [
        (None, "kind", r"no column 'audio' for the modality 'audio'; it has sound, .*columns=\{'audio'"),
        ({"video": "sound"}, "kind", r"columns names \['video'\]; the processor reads audio, image, text"),
        ({}, "kind", "columns names nothing"),
        (COLUMNS, "label", "no column 'label'; it has sound"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare_dataset(raw, processor, columns, label_column=label)
    with pytest.raises(ValueError, match="samples hold"):
        LfmDataCollator(processor)([{"pixels": 1}])


def test_workers_prepare_the_same(processor):
    raw = make_raw()
    one, two = (
        prepare_dataset(raw, processor, COLUMNS, label_column="kind", num_proc=number, batch_size=2)
        for number in (None, 2)
    )
    assert all(torch.equal(one[3][key], two[3][key]) for key in ("audio_values", "image_values"))
    assert one[3]["text_input_ids"] == two[3]["text_input_ids"]


VIDEO = {"type": "video", "size": [48, 64], "stored_frames": 4, "num_frames": 2, "mean": 0.0, "std": 1.0}
FLOW = {"type": "flow", "size": [48, 64], "stored_frames": 4, "num_frames": 2}
CLIPS = {"video": "clip", "flow": "clip", "sound": "clip"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Cuts of two videos with sound: frames 8 to 15 of 20, of six samples, on disk, where a cache has its place."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [write_video(folder / name, frames=20, sound=300) for name in ("a.mp4", "b.avi")]
    rows = [{"bytes": None, "path": str(paths[i % 2]), "first_frame": 8, "last_frame": 15} for i in range(6)]
    feature = {**MEDIA, "first_frame": datasets.Value("int32"), "last_frame": datasets.Value("int32")}
    features = datasets.Features({"clip": feature, "label": datasets.ClassLabel(names=["a", "b"])})
    raw = datasets.Dataset.from_dict({"clip": rows, "label": [i % 2 for i in range(6)]}, features=features)
    raw.save_to_disk(folder / "raw")
    return datasets.load_from_disk(folder / "raw")


def test_clips_equal_the_processor(clips):
    processor = LfmProcessor({"video": VIDEO, "flow": FLOW, "sound": AUDIO})
    prepared = prepare_dataset(clips, processor, CLIPS)
    assert prepared.features["video_values"] == datasets.Value("binary")
    assert prepared[0]["video_values"].shape == (4, 3, 48, 64)
    assert prepared[0]["flow_values"].shape == (3, 2, 48, 64)
    assert [read_number(frame.permute(1, 2, 0).numpy()) for frame in prepared[1]["video_values"]] == [9, 11, 13, 15]
    batch = LfmDataCollator(processor)(prepared.__getitems__([0, 3]))
    rows = [clips[0]["clip"], clips[3]["clip"]]
    expected = processor(video=rows, flow=rows, sound=rows)
    assert batch["video_values"].shape == (2, 2, 3, 48, 64)
    assert all(torch.equal(batch[key], value) for key, value in expected.items())
    # What is read of what is stored needs no second preparation.
    other = LfmProcessor(
        {"video": {**VIDEO, "num_frames": 3, "mean": 0.5, "augment": True}, "flow": {**FLOW, "std": 1}, "sound": AUDIO}
    )
    assert prepare_dataset(clips, other, CLIPS).cache_files == prepared.cache_files != []
    assert LfmDataCollator(other)([prepared[0]])["video_values"].shape == (1, 3, 3, 48, 64)
    fewer = LfmProcessor({"video": {**VIDEO, "stored_frames": 3}, "flow": FLOW, "sound": AUDIO})
    assert prepare_dataset(clips, fewer, CLIPS).cache_files != prepared.cache_files


def test_video_columns_of_datasets(clips):
    typed = datasets.Dataset.from_dict(
        {"video": [row["path"] for row in clips["clip"]], "label": clips["label"]},
        features=datasets.Features({"video": datasets.Video(), "label": clips.features["label"]}),
    )
    processor = LfmProcessor({"video": VIDEO})
    prepared = prepare_dataset(typed, processor)
    assert [read_number(frame.permute(1, 2, 0).numpy()) for frame in prepared[0]["video_values"]] == [2, 7, 12, 17]


def test_prepared_files_are_read_without_what_they_were_made_of(clips, tmp_path):
    processor = LfmProcessor({"video": VIDEO, "sound": AUDIO})
    columns = {"video": "clip", "sound": "clip"}
    stored = [{**encode_sample(processor, columns, row), "labels": row["label"]} for row in clips]
    features = datasets.Features({**stored_features(processor, columns), "labels": clips.features["label"]})
    datasets.Dataset.from_list(stored, features=features).to_parquet(tmp_path / "train.parquet")
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    prepared = prepare_dataset(clips, processor, columns)
    for one, other in zip(read_prepared(loaded, processor), prepared, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_broken_samples_can_be_left_out(clips, tmp_path, caplog, num_proc):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    rows = clips["clip"][:]
    rows[1] = {**rows[1], "path": str(tmp_path / "bad.mp4")}
    rows[4] = {**rows[4], "path": str(tmp_path / "gone.avi")}
    datasets.Dataset.from_dict({"clip": rows, "label": [0, 0, 1, 1, 0, 1]}, features=clips.features).save_to_disk(
        tmp_path / "raw"
    )
    raw = datasets.load_from_disk(tmp_path / "raw")
    processor = LfmProcessor({"video": VIDEO, "sound": AUDIO})
    columns = {"video": "clip", "sound": "clip"}
    with pytest.raises(ValueError, match=r"sample 1, column 'clip': .*bad\.mp4 cannot be opened"):
        prepare_dataset(raw.select([0, 1]), processor, columns)
    for _ in range(2):  # made, and found in the cache
        caplog.clear()
        prepared = prepare_dataset(raw, processor, columns, broken="skip", num_proc=num_proc, batch_size=2)
        assert "2 of 6 samples cannot be read and are left out" in caplog.text
        assert "sample 1, column 'clip': " in caplog.text
        assert "bad.mp4 cannot be opened" in caplog.text
        assert "sample 4, column 'clip': no file at" in caplog.text
        assert set(prepared.column_names) == {"video_values", "sound_values", "labels"}
        assert prepared.with_format("numpy")["labels"][:].tolist() == [0, 1, 1, 1]
        assert torch.equal(prepared[3]["video_values"], torch.as_tensor(processor.encode("video", rows[5])))
    caplog.clear()
    whole = prepare_dataset(clips, processor, columns, broken="skip")
    assert not caplog.text
    assert len(whole) == 6
    with pytest.raises(ValueError, match="2 of 2 samples cannot be read"):
        prepare_dataset(raw.select([1, 4]), processor, columns, broken="skip")
    with pytest.raises(ValueError, match="broken='no' must be 'raise' or 'skip'"):
        prepare_dataset(raw, processor, columns, broken="no")


def test_many_broken_samples_are_counted(tmp_path, caplog):
    raw = make_raw(
        40,
        sound=(
            [{"bytes": b"x", "path": f"{i}.wav"} for i in range(39)] + [{"bytes": wav_bytes(tone(300))}],
            dict(MEDIA),
        ),
    )
    prepared = prepare_dataset(raw, LfmProcessor({"audio": AUDIO}), {"audio": "sound"}, "kind", broken="skip")
    assert len(prepared) == 1
    assert "39 of 40 samples" in caplog.text
    assert "... and 19 more" in caplog.text


def test_memory_of_a_batch_is_bounded(processor):
    big = LfmProcessor({"video": {"type": "video"}, "flow": {"type": "flow"}, "sound": {"type": "spectrogram"}})
    size = sample_bytes(big, big.modalities)
    assert size == 10 * 3 * 224 * 224 + 9 * 2 * 224 * 224 + 4 * 257 * 299
    assert sample_bytes(processor, processor.modalities) == 4 * 65 * 31 + 3 * 12 * 10 + 4 * 1000


def pictures(folder, colour):
    for number in range(3):
        (folder / f"{number}.png").write_bytes(image_bytes(np.full((9, 9, 3), colour, np.uint8)))
    return [str(folder / f"{number}.png") for number in range(3)]


MAKERS = {
    "paths": lambda paths: datasets.Dataset.from_dict({"image": paths, "label": list("aba")}),
    "structs": lambda paths: datasets.Dataset.from_list(
        [{"image": {"bytes": None, "path": path}, "label": "ab"[i % 2]} for i, path in enumerate(paths)]
    ),
    "frame": lambda paths: datasets.Dataset.from_pandas(pd.DataFrame({"image": paths, "label": list("aba")})),
    "images": lambda paths: MAKERS["paths"](paths).cast_column("image", datasets.Image()),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_files_that_were_replaced_are_read_anew(kind, tmp_path):
    """At the same paths, with the same names and sizes."""
    processor = LfmProcessor({"image": {"type": "image", "size": [8, 8]}})

    def prepare(colour):
        prepared = prepare_dataset(MAKERS[kind](pictures(tmp_path, colour)), processor)
        assert [int(row["image_values"].float().mean()) for row in prepared] == [colour] * 3
        return prepared

    first = prepare(40)
    assert prepare_dataset(MAKERS[kind]([str(tmp_path / f"{i}.png") for i in range(3)]), processor).cache_files == (
        first.cache_files
    ), "found again as long as nothing changed"
    prepare(80)


def test_a_broken_file_that_was_replaced_is_read(tmp_path):
    processor = LfmProcessor({"image": {"type": "image", "size": [8, 8]}})
    paths = pictures(tmp_path, 40)
    (tmp_path / "1.png").write_bytes(b"broken")
    assert len(prepare_dataset(MAKERS["paths"](paths), processor, broken="skip")) == 2
    pictures(tmp_path, 40)
    assert len(prepare_dataset(MAKERS["paths"](paths), processor, broken="skip")) == 3


def test_the_state_of_every_named_file_counts(tmp_path):
    """Frames in lists and folders, cuts, samples that are picked; not what is held as bytes, nor addresses."""
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    rows = [
        {"clip": [one, two], "cut": {"bytes": None, "path": two, "first_frame": 1}, "folder": str(tmp_path / "frames")},
        {"clip": [], "cut": {"bytes": b"x", "path": one, "first_frame": 2}, "folder": "https://example.org/a.png"},
    ]
    for path in (one, two, str(tmp_path / "frames" / "0.png")):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("a")
    raw = datasets.Dataset.from_list(rows)

    def changes(column, path, part=raw):
        before = digest_files(part, [column])
        assert before == digest_files(part, [column])
        state = os.stat(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        return digest_files(part, [column]) != before

    assert changes("clip", one)
    assert changes("cut", two)
    assert changes("folder", str(tmp_path / "frames" / "0.png"))
    assert not changes("cut", one)
    assert not changes("clip", one, raw.select([1]))
    assert changes("clip", one, raw.select([1, 0]))
