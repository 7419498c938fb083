"""The processor on video: which frames, their pixels, depth, optical flow, and the sound of a video file."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.audio_lfm import log_spectrogram, read_waveform
from modeling_lfm.media_lfm import image_pixels
from modeling_lfm.video_lfm import optical_flow
from tests.data.media import decode_all, read_number, write_video

SOUND = {"type": "spectrogram"}
VIDEO = {"type": "video", "size": [48, 64], "mean": 0.0, "std": 1.0}
FLOW = {"type": "flow", "size": [48, 64]}


def numbers(values):
    """The frames (B, T, C, H, W) in [0, 1] of numbered clips."""
    return [[read_number(255 * frame.permute(1, 2, 0).numpy()) for frame in clip] for clip in values]


@pytest.mark.parametrize("ending", ["avi", "flv", "mp4", "mkv", "webm"])
def test_video_gives_the_centre_frames(tmp_path, ending):
    path = write_video(tmp_path / f"a.{ending}", frames=80)
    processor = LfmProcessor({"video": VIDEO})
    values = processor(video=str(path))["video_values"]
    assert values.shape == (1, 3, 3, 48, 64)
    assert values.dtype == torch.float32
    assert numbers(values) == [[12, 44, 68]]  # the 2nd, 6th and 9th of 10 that lie evenly over the clip
    every = torch.tensor(np.stack(decode_all(path))).permute(0, 3, 1, 2) / 255
    assert torch.equal(values[0], every[[12, 44, 68]])
    stored = processor.encode("video", path)
    assert stored.shape == processor.shape("video") == (10, 3, 48, 64)
    assert stored.dtype == np.uint8
    assert numbers(torch.tensor(stored[None]) / 255) == [list(range(4, 80, 8))]
    assert torch.equal(processor.stack("video", [stored])["video_values"], values)


def test_cuts_short_clips_and_few_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=60, codec="libx264", b_frames=2)
    cut = {"bytes": None, "path": str(path), "first_frame": 20, "last_frame": 49}
    short = {**cut, "first_frame": 58, "last_frame": 59}
    processor = LfmProcessor({"video": VIDEO})
    assert numbers(processor(video=[cut, short])["video_values"]) == [[24, 36, 45], [58, 59, 59]]
    assert numbers(torch.tensor(processor.encode("video", short)[None]) / 255) == [[58] * 5 + [59] * 5]
    whole = LfmProcessor({"video": {**VIDEO, "stored_frames": 4, "num_frames": 4}})
    assert numbers(whole(video=path)["video_values"]) == [[7, 22, 37, 52]]
    one = LfmProcessor({"video": {**VIDEO, "num_frames": 1}})
    assert numbers(one(video=path)["video_values"]) == [[33]]


def test_depth_has_one_channel(tmp_path):
    path = write_video(tmp_path / "sk_depth.avi", frames=20, codec="libx264")
    depth = LfmProcessor({"depth": {**VIDEO, "num_channels": 1}})
    values = depth(depth=path)["depth_values"]
    assert values.shape == (1, 3, 1, 48, 64)
    grey = torch.tensor(np.stack(decode_all(path))[[3, 11, 17]]).float().mean(-1) / 255
    torch.testing.assert_close(values[0, :, 0], grey, rtol=0, atol=0.01)
    assert LfmProcessor({"depth": {"type": "video", "num_channels": 1}}).kinds["depth"].mean == [0.5]


def test_sizes_of_frames_are_those_of_images(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=12, codec="rawvideo")
    for settings in ({"size": [20, 20]}, {"size": [20, 20], "crop": False}, {"size": 32, "mean": None, "std": None}):
        video = LfmProcessor({"video": {**VIDEO, **settings}})(video=path)["video_values"][0]
        images = [decode_all(path)[number] for number in (1, 6, 10)]
        image = LfmProcessor({"image": {**VIDEO, "type": "image", **settings}})(image=images)["image_values"]
        assert torch.equal(video, image)


def moving(number, size=(48, 64)):
    """A picture that moves a pixel to the left and half a pixel down from frame to frame."""
    texture = np.random.default_rng(0).integers(0, 256, (10, 20), dtype=np.uint8)
    big = np.asarray(Image.fromarray(texture).resize((320, 160), Image.Resampling.BICUBIC))
    window = big[80 - number // 2 : 80 - number // 2 + size[0], number : number + size[1]]
    return np.repeat(window[:, :, None], 3, axis=2)


def test_flow_between_the_sampled_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=40, codec="rawvideo", picture=moving)
    processor = LfmProcessor({"flow": {**FLOW, "bound": 4.2, "std": 0.5}})
    values = processor(flow=path)["flow_values"]
    assert values.shape == (1, 3, 2, 48, 64)
    middle = 4.2 * 0.5 * values[0, :, :, 10:-10, 10:-10]  # pixels
    torch.testing.assert_close(middle[:, 0].median(), torch.tensor(-4.0), rtol=0, atol=0.2)
    torch.testing.assert_close(middle[:, 1].median(), torch.tensor(2.0), rtol=0, atol=0.2)
    stored = processor.encode("flow", path)
    assert stored.shape == processor.shape("flow") == (9, 2, 48, 64)
    assert stored.dtype == np.int8
    assert torch.equal(processor.stack("flow", [stored])["flow_values"], values)
    # What is stored is off by at most bound / 254, and no larger than the bound.
    frames = [image_pixels(Image.fromarray(decode_all(path)[n]), (48, 64), 1)[0] for n in range(2, 40, 4)]
    flow = np.stack([optical_flow(a, b) for a, b in pairwise(frames)])
    assert np.abs(flow).max() > 4.2
    assert np.abs(stored * (4.2 / 127) - flow.clip(-4.2, 4.2)).max() <= 4.2 / 254 + 1e-5
    assert LfmProcessor({"flow": {"type": "flow"}}).kinds["flow"].bound == 56


def test_audio_of_a_video_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=30, seconds=3.5)
    processor = LfmProcessor({"audio": SOUND, "video": VIDEO})
    batch = processor(audio=path, video=path)
    assert batch["audio_values"].shape == (1, 1, 257, 299)
    wave = read_waveform(path, 16000)[:48000]
    assert batch["audio_values"][0, 0, :, 150].argmax() == 14  # 440 Hz
    floor = {"audio": {**SOUND, "floor": 1e-2}}
    expected = torch.from_numpy(log_spectrogram(wave, 512, 159, 1e-2))
    torch.testing.assert_close(LfmProcessor(floor)(audio=path)["audio_values"][0, 0], expected, rtol=0, atol=0.01)
    ten = LfmProcessor({"audio": {**SOUND, "duration": 10.0}})
    assert ten(audio=path)["audio_values"].shape == (1, 1, 257, 1004)


def test_a_model_reads_clips(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=20)
    processor = LfmProcessor(
        {"audio": SOUND, "rgb": VIDEO, "depth": {**VIDEO, "num_channels": 1}, "flow": {**FLOW, "num_frames": 2}}
    )
    tower = {"tower": "timm", "name": "resnet10t", "model_args": {"channels": [8, 8, 8, 8], "stem_width": 8}}
    channels = {"audio": 1, "rgb": 3, "depth": 1, "flow": 2}
    config = LfmConfig({name: {**tower, "in_chans": count} for name, count in channels.items()}, num_labels=3)
    model = LfmForMultimodalClassification.from_towers(config).eval()
    batch = processor(audio=[path, path], rgb=[path, path], depth=[path, path], flow=[path, path])
    assert batch["flow_values"].shape == (2, 2, 2, 48, 64)
    with torch.no_grad():
        output = model(**batch)
    assert output.logits.shape == (2, 3)
    assert torch.isfinite(output.logits).all()


def test_real_gestures(data_dir):
    """NVGesture: colour, depth and flow of a gesture, against pictures that were looked at."""
    folder = data_dir / "formats" / "nvgesture" / "Video_data" / "class_01" / "subject3_r0"
    cut = {"bytes": None, "first_frame": 146, "last_frame": 226}
    rgb, depth = ({**cut, "path": str(folder / f"{name}.avi")} for name in ("sk_wrapped", "sk_depth"))
    processor = LfmProcessor(
        {"rgb": {"type": "video"}, "depth": {"type": "video", "num_channels": 1}, "flow": {"type": "flow"}}
    )
    stored = {name: processor.encode(name, value) for name, value in (("rgb", rgb), ("depth", depth), ("flow", rgb))}
    shapes = {"rgb": (10, 3, 224, 224), "depth": (10, 1, 224, 224), "flow": (9, 2, 224, 224)}
    assert {name: array.shape for name, array in stored.items()} == shapes
    hand = stored["depth"][:, 0] > 60
    assert hand[2].mean() > 2 * hand[0].mean(), "a flat hand against an arm seen from its edge"
    colours = stored["rgb"][2].transpose(1, 2, 0)[hand[2]].mean(0)
    assert colours[0] > colours[2] + 10, "skin"
    moves = np.abs(stored["flow"].astype(float)).mean((1, 2, 3))
    assert moves.min() > 0
    batch = processor(rgb=rgb, depth=depth, flow=rgb)
    assert batch["rgb_values"].shape == (1, 3, 3, 224, 224)
    assert 0.2 < batch["flow_values"].std() < 3
