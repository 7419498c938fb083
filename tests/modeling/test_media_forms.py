"""Every form in which people have media: transparency, depth, arrays, folders, decoders; and files cut short."""

import base64
import io

import datasets
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from modeling_lfm import LfmProcessor
from modeling_lfm.audio_lfm import load_audio
from modeling_lfm.media_lfm import read_image
from modeling_lfm.video_lfm import evenly_spaced, read_frames
from tests.data.media import image_bytes, tone, wav_bytes, write_video

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)


def shape_on(ground, mode):
    """A black bar on transparent ground whose hidden colour is `ground`, in a mode of Pillow."""
    rgba = np.full((8, 8, 4), (*[ground] * 3, 0), np.uint8)
    rgba[2:5] = (0, 0, 0, 255)
    image = Image.fromarray(rgba)
    if mode == "P":
        image = image.convert("RGB").quantize(4)
        image.info["transparency"] = image.getpixel((0, 0))
    if mode == "La":
        image = image.convert("LA")
    return image if mode in ("RGBA", "P") else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "P"])
def test_transparent_pictures_are_put_on_white(mode):
    image = shape_on(40, mode)
    pixels = np.asarray(read_image(image).convert("L"))
    assert pixels[2:5].max() < 10
    assert pixels[:2].min() == 255
    assert pixels[5:].min() == 255
    red = np.asarray(read_image(image, background=(255, 0, 0)).convert("RGB"))
    assert red[0, 0].tolist() == [255, 0, 0]
    if mode in ("RGBA", "LA", "P"):
        assert np.array_equal(pixels, np.asarray(read_image(image_bytes_of(image)).convert("L")))
        assert np.asarray(read_image(image, background=None).convert("RGB"))[0, 0].tolist() == [40] * 3


def image_bytes_of(image):
    file = io.BytesIO()
    image.save(file, format="PNG", **({"transparency": image.info["transparency"]} if image.mode == "P" else {}))
    return file.getvalue()


def test_two_digits_on_transparent_ground_differ():
    first, second = (np.zeros((8, 8, 4), np.uint8) for _ in range(2))
    first[1:3, :, 3], second[5:7, :, 3] = 255, 255  # all is black, alpha alone tells them apart
    processor = LfmProcessor({"image": {"type": "image", "size": [8, 8], "num_channels": 1}})
    values = processor(image=[first, second])["image_values"]
    assert not torch.equal(values[0], values[1])
    dropped = LfmProcessor({"image": {"type": "image", "size": [8, 8], "num_channels": 1, "background": None}})
    values = dropped(image=[first, second])["image_values"]
    assert torch.equal(values[0], values[1])


def test_a_picture_of_pillow_is_turned_as_its_file_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = image_bytes(PIXELS, exif=exif)
    from_file = read_image(content)
    from_pillow = read_image(Image.open(io.BytesIO(content)))
    assert from_file.size == from_pillow.size == (8, 10)
    assert np.array_equal(np.asarray(from_file), np.asarray(from_pillow))


@pytest.mark.parametrize("form", ["array", "PNG", "Pillow", "int32", "float"])
def test_depth_of_16_bits_needs_its_range(form):
    depth = np.linspace(0, 4000, 64).reshape(8, 8).round().astype(np.uint16)
    value = {
        "array": lambda: depth,
        "PNG": lambda: image_bytes(depth),
        "Pillow": lambda: Image.fromarray(depth),
        "int32": lambda: torch.tensor(depth.astype(np.int32)),
        "float": lambda: depth.astype(np.float32),
    }[form]()
    with pytest.raises(ValueError, match="range"):
        read_image(value)
    found = np.asarray(read_image(value, value_range=(1000, 3000)))
    expected = np.rint((depth.astype(float).clip(1000, 3000) - 1000) / 2000 * 255)
    assert np.array_equal(found, expected)


def test_the_range_is_a_setting_and_is_checked():
    settings = {"type": "image", "size": [8, 8], "num_channels": 1, "mean": 0, "std": 1, "range": [0, 1000]}
    values = LfmProcessor({"depth": settings})(depth=np.full((8, 8), 500, np.uint16))["depth_values"]
    assert values.mean() == pytest.approx(0.5, abs=0.003)
    for key, wrong in (("range", [5, 1]), ("range", 3), ("range", [0, float("nan")]), ("background", "red")):
        with pytest.raises(ValueError, match=key):
            LfmProcessor({"depth": {**settings, key: wrong}})


def test_video_of_16_bits_needs_its_range(tmp_path):
    import av

    depth = np.linspace(0, 60000, 32 * 48).reshape(32, 48).astype(np.uint16)
    path = tmp_path / "depth.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "gray16le"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(depth // (number + 1), format="gray16le")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"depth\.mkv.*range"):
        read_frames(path, lambda count: [0])
    found = read_frames(path, lambda count: [1], value_range=(0, 60000))
    assert np.abs(np.asarray(found[0], float) - depth / 2 / 60000 * 255).max() <= 1


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: pixels.transpose(2, 0, 1),
        lambda pixels: torch.tensor(pixels).permute(2, 0, 1),
        lambda pixels: pixels / 255,
        lambda pixels: torch.tensor(pixels / 255, dtype=torch.float32).permute(2, 0, 1).requires_grad_(),
        lambda pixels: pixels.tolist(),
        lambda pixels: io.BytesIO(image_bytes(pixels)),
        lambda pixels: "data:image/png;base64," + base64.b64encode(image_bytes(pixels)).decode(),
    ],
)
def test_forms_of_a_picture(form):
    assert np.array_equal(np.asarray(read_image(form(PIXELS))), PIXELS)


def test_half_precision_is_read_as_far_as_it_goes():
    values = torch.tensor(PIXELS / 255)
    for dtype, most in ((torch.float16, 1), (torch.bfloat16, 2)):
        found = np.asarray(read_image(values.to(dtype)), int)
        assert np.abs(found - PIXELS).max() <= most


def test_forms_of_a_sound(tmp_path):
    wave = tone(440)
    stereo = np.stack([wave, wave])
    forms = [wave, stereo, stereo.T, torch.tensor(wave), wave.tolist(), {"array": stereo.T, "sampling_rate": 8000}]
    for form in forms:
        assert np.allclose(load_audio(form, 8000)[0], wave, atol=1e-6)
    content = wav_bytes(wave)
    uri = "data:audio/wav;base64," + base64.b64encode(content).decode()
    expected = load_audio(content)[0]
    for form in (io.BytesIO(content), uri):
        assert np.array_equal(load_audio(form)[0], expected)
    assert np.allclose(load_audio(torch.tensor(wave).bfloat16(), 8000)[0], wave, atol=2e-3)


@pytest.mark.parametrize("uri", ["data:image/png,notbase64", "data:image/png;base64,@@@", "data:"])
def test_bad_data_uris_are_told(uri):
    with pytest.raises(ValueError, match="base64"):
        read_image(uri)


def test_forms_of_a_clip(tmp_path):
    frames = RNG.integers(0, 256, (12, 8, 10, 3), dtype=np.uint8)
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(frames):
        (folder / f"frame{number}.png").write_bytes(image_bytes(frame))  # 10 comes after 9
    (folder / "notes.txt").write_text("no picture")
    forms = [
        frames,
        frames.transpose(0, 3, 1, 2),
        torch.tensor(frames / 255),
        folder,
        str(folder),
        {"bytes": None, "path": str(folder)},
        [Image.fromarray(frame) for frame in frames],
        [str(folder / f"frame{number}.png") for number in range(12)],
        [image_bytes(frame) for frame in frames],
        list(frames),
        [torch.tensor(frame).permute(2, 0, 1) for frame in frames],
        frames.tolist(),
    ]
    for form in forms:
        found = read_frames(form, lambda count: evenly_spaced(count, 4))
        assert [np.asarray(image).tolist() for image in found] == frames[evenly_spaced(12, 4)].tolist()
    (tmp_path / "empty").mkdir()
    for wrong in ([], tmp_path / "empty", np.zeros((2, 0, 3))):
        with pytest.raises(ValueError, match=r"frames|pictures"):
            read_frames(wrong, lambda count: [0])


def test_columns_of_datasets_are_read():
    depth = RNG.integers(0, 256, (6, 7), dtype=np.uint8)
    features = datasets.Features(
        {"picture": datasets.Array2D((6, 7), "uint8"), "clip": datasets.Array3D((3, 6, 7), "uint8")}
    )
    dataset = datasets.Dataset.from_dict({"picture": [depth], "clip": [np.stack([depth] * 3)]}, features=features)
    row = dataset[0]
    assert isinstance(row["picture"], list)
    assert np.array_equal(np.asarray(read_image(row["picture"])), depth)
    assert np.array_equal(np.asarray(read_frames(row["clip"], lambda count: [2])[0]), depth)


def test_decoders_of_torchcodec_are_read(tmp_path):
    decoders = pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    path = write_video(tmp_path / "a.mp4", frames=20)
    found = read_frames(decoders.VideoDecoder(str(path)), lambda count: [0, count - 1])
    expected = read_frames(path, lambda count: [0, count - 1])
    for one, other in zip(found, expected, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).mean() < 3  # their conversions to RGB differ
    wave = tone(440)
    (tmp_path / "a.wav").write_bytes(wav_bytes(wave))
    found, rate = load_audio(decoders.AudioDecoder(str(tmp_path / "a.wav")))
    assert rate == 8000
    assert np.allclose(found, load_audio(tmp_path / "a.wav")[0], atol=1e-4)


@pytest.mark.parametrize("ending", ["avi", "flv", "mkv", "webm"])
def test_clips_that_are_cut_short_are_told(tmp_path, ending):
    path = write_video(tmp_path / f"whole.{ending}", frames=100)
    content = path.read_bytes()
    assert len(read_frames(path, lambda count: [0, count - 1])) == 2
    load_audio(path)
    broken = tmp_path / f"broken.{ending}"
    broken.write_bytes(content[: int(0.6 * len(content))])
    for read in (lambda: read_frames(broken, lambda count: [0]), lambda: load_audio(broken)):
        with pytest.raises(ValueError, match=rf"broken\.{ending}"):
            read()


def test_an_mp3_that_is_cut_short_is_told(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(440, seconds=5), 8000)
    content = path.read_bytes()
    assert len(load_audio(path)[0]) == 40000
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.mp3 is cut short"):
        load_audio(path)


def test_sound_without_its_beginning_is_told(tmp_path):
    soundfile.write(tmp_path / "a.mp3", tone(440, seconds=2), 8000)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "b.mp3").write_bytes(bytes(50) + content)  # padding does no harm
    assert len(load_audio(tmp_path / "b.mp3")[0]) == 16000
    (tmp_path / "c.flac").write_bytes(b"?" * 50 + content)
    with pytest.raises(ValueError, match=r"c\.flac cannot be read as audio"):
        load_audio(tmp_path / "c.flac")


def test_a_recording_with_a_cover_is_no_video(tmp_path):
    import av

    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44100)
        cover = container.add_stream("mjpeg")
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        wave = (tone(440, rate=44100)[None] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(ValueError, match=r"song\.mp3 holds no video"):
        read_frames(path, lambda count: [0])


def test_sound_out_of_scale_is_told():
    with pytest.raises(ValueError, match=r"3e\+38|not finite"):
        load_audio(np.full(100, 3e38, np.float32), 8000)
    load_audio(np.full(100, 32767.0, np.float32), 8000)  # PCM that nobody scaled is read as it is


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.full((4, 4), np.inf), "not finite"),
        (np.full((4, 4), -0.5), "beyond"),
        (Image.new("LAB", (4, 4)), "LAB"),
    ],
)
def test_what_is_wrong_with_a_picture_is_named(value, named):
    with pytest.raises(ValueError, match=named):
        read_image(value)
