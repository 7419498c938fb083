"""The six benchmarks of the paper in the exact layout of their sources, small, with annotation files as published.

Media are what `content(kind, number)` returns (`bytes`; kind `wav`, `flv`, `mp4`, `jpg` or `avi`, number of the class);
builders do not decode them, so a few bytes do where nothing else is asked for.
"""

from modeling_lfm.data.benchmarks.crema_d import EMOTIONS
from modeling_lfm.data.benchmarks.kinetics_sounds import CLASS_NAMES as ACTIONS
from modeling_lfm.data.benchmarks.vggsound import CLASS_NAMES as SOUNDS


def few_bytes(kind, number):
    return f"{kind} of class {number}".encode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def youtube_id(number):
    """11 characters with all that an id may hold."""
    return f"-_a{number:08d}"


def make_crema_d(folder, counts=(10, 2), content=few_bytes):
    """So many clips of each emotion in train and test."""
    number = 0
    for split, count in zip(("train", "test"), counts, strict=True):
        lines = []
        for cls, emotion in enumerate(EMOTIONS):
            for _ in range(count):
                number += 1
                clip = f"{1000 + number}_IEO_{emotion}_XX"
                lines.append(f"{clip},{emotion}\n")
                write(folder / "AudioWAV" / f"{clip}.wav", content("wav", cls))
                write(folder / "VideoFlash" / f"{clip}.flv", content("flv", cls))
        write(folder / f"{split}.csv", "".join(lines))
    return folder


def make_kinetics_sounds(folder, counts=(2, 1), content=few_bytes):
    """So many clips of each action in train and test, as the CVDF archives hold them."""
    number = 0
    for split, count in zip(("train", "test"), counts, strict=True):
        lines = []
        for cls in range(len(ACTIONS)):
            for _ in range(count):
                number += 1
                start = number % 400
                padded = f"{youtube_id(number)}_{start:06d}_{start + 10:06d}"
                clip = padded if split == "train" else f"{youtube_id(number)}_{start}"
                lines.append(f"{clip},10,{cls}\n")
                write(folder / "k400" / split / f"{padded}.mp4", content("mp4", cls))
        write(folder / f"my_{split}.txt", "".join(lines))
    return folder


def make_vggsound(folder, counts=(2, 1), content=few_bytes):
    """So many clips of each sound in train and test, as VGGSound's authors name them."""
    number, lines = 0, []
    for split, count in zip(("train", "test"), counts, strict=True):
        for cls, label in enumerate(SOUNDS):
            for _ in range(count):
                number += 1
                quoted = f'"{label}"' if "," in label else label
                lines.append(f"{youtube_id(number)},{number},{quoted},{split}\n")
                write(folder / "video" / f"{youtube_id(number)}_{number:06d}.mp4", content("mp4", cls))
    write(folder / "vggsound.csv", "".join(lines))
    return folder


def make_sarcasm(folder, counts=(6, 2, 2), content=few_bytes):
    """So many tweets of each class in train, validation and test, and in train one more that tells its label."""
    number = 10**17
    for file, count in zip(("train.txt", "valid2.txt", "test2.txt"), counts, strict=True):
        rows = []
        for label in (1, 0):
            for _ in range(count):
                number += 1
                text = f"it 's tweet {number} of class {label} "
                rows.append(
                    [str(number), text, label] if file == "train.txt" else [str(number), text, 1 - label, label]
                )
                write(folder / "dataset_image" / f"{number}.jpg", content("jpg", label))
        if file == "train.txt":
            rows.insert(1, ["7", "what a joke <url>", 1])
        write(folder / "text" / file, "".join(f"{row!r}\r\n" for row in rows))
    return folder


def make_twitter2015(folder, counts=(6, 2, 2), content=few_bytes):
    """So many samples of each sentiment in train, validation and test; two of them share a tweet."""
    number = 0
    headers = {"test.tsv": "index\t#1 ImageID\t#2 String\t#2 String\n"}
    for file, count in zip(("train.tsv", "dev.tsv", "test.tsv"), counts, strict=True):
        lines = [headers.get(file, "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n")]
        for label in range(3):
            for index in range(count):
                number += 1
                image = f"{number - index % 2}.jpg"
                lines.append(f"{number}\t{label}\t{image}\tRT @ somebody : $T$ is {label}\tThing {number}\n")
                write(folder / "twitter2015_images" / image, content("jpg", label))
        write(folder / "twitter2015" / file, "".join(lines))
    return folder


def make_nvgesture(folder, counts=(2, 1), content=few_bytes, frames=(10, 50)):
    """So many gestures of each class in train and test, at those frames of the clips."""
    first, last = frames
    for split, count, people in zip(("train", "test"), counts, ("3", "13"), strict=True):
        lines = []
        for cls in range(1, 26):
            for repeat in range(count):
                path = f"Video_data/class_{cls:02d}/subject{people}_r{repeat}"
                streams = " ".join(
                    f"{name}:{file}:{first}:{last}"
                    for name, file in (("depth", "sk_depth"), ("color", "sk_color"), ("duo_left", "duo_left"))
                )
                lines.append(f"path:./{path} {streams} label:{cls} \n")
                for stream in ("sk_color", "sk_depth"):
                    write(folder / path / f"{stream}.avi", content("avi", cls - 1))
        write(folder / f"nvgesture_{split}_correct_cvpr2016_v2.lst", "".join(lines))
    return folder


def edit(name, change):
    """A function that changes the text of a file `name` in a folder."""

    def damage(folder):
        path = folder / name
        write(path, change(path.read_text(encoding="utf-8")))

    return damage
