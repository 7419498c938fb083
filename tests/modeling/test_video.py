"""Reading video: exactly the frames of a full decode from every container, by seeking, with limits and clear errors."""

import struct

import av
import numpy as np
import pytest
from PIL import Image

from modeling_lfm import media_lfm, video_lfm
from modeling_lfm.audio_lfm import audio_track, load_audio, read_waveform
from modeling_lfm.video_lfm import Clip, evenly_spaced, optical_flow, read_frames
from tests.data.media import decode_all, numbered_frame, read_number, tone, wav_bytes, write_video

OPEN_GOP = {"x264-params": "open-gop=1"}
CASES = {
    "avi": {},  # MPEG-4
    "avi with B-frames": {"b_frames": 2},
    "avi, H.264": {"codec": "libx264"},
    "avi, H.264 with B-frames": {"codec": "libx264", "b_frames": 2},
    "avi, H.264 with open GOPs": {"codec": "libx264", "b_frames": 2, "options": OPEN_GOP},
    "avi, MJPEG": {"codec": "mjpeg"},
    "avi, uncompressed": {"codec": "rawvideo"},
    "flv": {},  # Sorenson Spark, as in CREMA-D
    "flv, H.264 with B-frames": {"codec": "libx264", "b_frames": 2},
    "mp4": {},
    "mp4 with B-frames": {"b_frames": 3},
    "mp4 with open GOPs": {"b_frames": 3, "options": OPEN_GOP},
    "mp4, MPEG-4 with B-frames": {"codec": "mpeg4", "b_frames": 2},
    "mp4, HEVC": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mp4 in fragments": {"b_frames": 2, "metadata": {"movflags": "frag_keyframe+empty_moov"}},
    "mp4 of varying frame rate": {"b_frames": 2, "times": [0.001 * (i * i + 40 * i) for i in range(40)]},
    "mkv with B-frames": {"b_frames": 2},
    "mkv with open GOPs": {"b_frames": 2, "options": OPEN_GOP},
    "mkv of varying frame rate": {"times": [0.01 * i * (1 + i % 3) + i for i in range(40)]},
    "mkv without index": {"b_frames": 2, "metadata": {"live": "1"}},
    "webm": {},  # VP9
    "webm, VP8": {"codec": "libvpx"},
}


def make(folder, case, **changes):
    settings = {"frames": 40, **CASES[case], **changes}
    if settings.get("codec") not in (None, *av.codecs_available):
        pytest.skip(f"PyAV was built without {settings['codec']}")
    name = case.replace(" ", "_").replace(",", "")
    return write_video(folder / f"{name}.{case[:4].strip(' ,')}", **settings)


def same(images, frames):
    return all(np.array_equal(np.asarray(image), frame) for image, frame in zip(images, frames, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_frames_are_those_of_a_full_decode(tmp_path, case):
    path = make(tmp_path, case)
    every = decode_all(path)
    assert [read_number(frame) for frame in every] == list(range(40))
    rng = np.random.default_rng(0)
    for numbers in ([39], [0], range(40), evenly_spaced(40, 3), *(rng.integers(0, 40, 4).tolist() for _ in range(3))):
        assert same(read_frames(path, lambda count, n=numbers: n), [every[number] for number in numbers]), numbers
    with Clip(path) as clip:  # in any order, one after the other
        assert clip.count == 40
        for number in (20, 39, 3, 38, 0, 21):
            assert same(clip.read([number]), [every[number]]), number


def test_avi_whose_index_is_lost(tmp_path):
    for case in ("avi with B-frames", "avi, H.264 with B-frames", "avi, MJPEG"):
        path = make(tmp_path, case)
        content = path.read_bytes()
        path.write_bytes(content[: content.rindex(b"idx1")])
        every = decode_all(path)
        assert len(every) == 40
        for numbers in ([25], [1, 20, 38]):
            assert same(read_frames(path, lambda count, n=numbers: n), [every[number] for number in numbers])


def test_hidden_frames_are_not_counted(tmp_path):
    """VP8 files may hold frames that are never shown; here some of a clip are made such."""
    plain, path = make(tmp_path, "webm, VP8", sound=None), tmp_path / "hidden.webm"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                content = bytearray(bytes(packet))
                content[0] &= 0xEF if number in (5, 6, 19) else 0xFF
                copy = av.Packet(bytes(content))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)
    every = decode_all(path)
    assert [read_number(frame) for frame in every] == [i for i in range(40) if i not in (5, 6, 19)]
    with Clip(path) as clip:
        assert clip.count == 37
        assert same(clip.read([4, 5, 17, 30]), [every[number] for number in (4, 5, 17, 30)])


def test_frames_that_the_decoder_does_not_give_are_made_up_for(tmp_path, monkeypatch):
    """As above, if nothing told that a frame is hidden: the clip is decoded once for its true count."""
    monkeypatch.setattr(video_lfm.Clip, "_is_hidden", lambda self, packet: False)
    test_path = tmp_path / "again"
    test_path.mkdir()
    plain = make(test_path, "webm, VP8", sound=None)
    content = bytearray(plain.read_bytes())
    with av.open(str(plain)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    start = content.index(b"\xa3", places[20] - 1)  # a SimpleBlock: size, track, time, flags, then the frame
    size = next(n for n in range(1, 9) if content[start + 1] >> (8 - n))
    content[start + 1 + size + 4] &= 0xEF
    plain.write_bytes(content)
    every = decode_all(plain)
    assert len(every) == 39
    found = read_frames(plain, lambda count: [20, count - 1])
    assert same(found, [every[20], every[-1]])


def test_evenly_spaced():
    assert evenly_spaced(10, 3) == [1, 5, 8]
    assert evenly_spaced(81, 10) == evenly_spaced(80, 10) == [4, 12, 20, 28, 36, 44, 52, 60, 68, 76]
    assert evenly_spaced(2, 5) == [0, 0, 1, 1, 1]
    assert evenly_spaced(1, 3) == [0, 0, 0]


def test_a_cut_is_counted_from_its_first_frame(tmp_path):
    path = make(tmp_path, "avi, H.264 with B-frames")

    def numbers(first, last, choose=lambda count: range(count)):
        cut = {"bytes": None, "path": str(path), "first_frame": first, "last_frame": last}
        return [read_number(np.asarray(image)) for image in read_frames(cut, choose)]

    assert numbers(10, 14) == [10, 11, 12, 13, 14]
    assert numbers(7, 7) == [7]
    assert numbers(0, 39, lambda count: [0, count - 1]) == [0, 39]
    assert numbers(37, 40) == [37, 38, 39], "one behind the end, as in NVGesture's lists"
    assert numbers(38, 60) == [38, 39], "a clip that ends early"
    assert numbers(None, None, lambda count: [count - 1]) == [39]
    for first, last in ((40, 50), (12, 11), (-1, 5)):
        with pytest.raises(ValueError, match=rf"\.avi has 40 frames, so the cut from {first} to {last} is outside"):
            numbers(first, last)


def test_every_form_of_video_gives_the_same(tmp_path):
    path = make(tmp_path, "avi, uncompressed", frames=6, size=(32, 48))
    content = path.read_bytes()
    array = np.stack(decode_all(path))
    forms = [path, str(path), content, {"bytes": content, "path": "elsewhere"}, {"bytes": None, "path": str(path)}]
    for form in (*forms, array):
        assert same(read_frames(form, lambda count: [0, 5, 2, 2]), array[[0, 5, 2, 2]])
    grey = read_frames(array[..., 0], lambda count: [1])[0]
    assert grey.mode == "L"
    assert np.array_equal(np.asarray(grey), array[1, :, :, 0])
    for wrong in (array.astype(np.float32), array[0, 0], array[:0]):
        with pytest.raises(ValueError, match=r"8 bits|frames"):
            read_frames(wrong, lambda count: [0])


def test_clips_that_were_filmed_upright_are_turned(tmp_path):
    path = make(tmp_path, "mp4", frames=3, size=(48, 64), picture=lambda n, size: numbered_frame(n + 9, size))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # version, flags and twelve numbers before it
    assert struct.unpack(">9i", content[matrix : matrix + 36])[0] == 0x10000
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)  # clockwise
    path.write_bytes(content)
    (image,) = read_frames(path, lambda count: [2])
    assert image.size == (48, 64)
    assert read_number(np.asarray(image.rotate(90, expand=True))) == 11


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    path = tmp_path / "tag.mkv"
    write_video(path, frames=4)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        target.metadata["title"] = "na\u00efve caf\u00e9"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None or packet.size:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "b.mkv").read_bytes()
    assert "caf\u00e9".encode() in content
    (tmp_path / "b.mkv").write_bytes(content.replace("caf\u00e9".encode(), b"caf\xe9 "))
    assert len(read_frames(tmp_path / "b.mkv", range)) == 4


# -- safety ----------------------------------------------------------------------------------------------------


def test_damaged_files_are_named(tmp_path):
    whole = make(tmp_path, "mp4").read_bytes()
    sound = wav_bytes(tone(440))
    files = {
        "cut.mp4": (whole[: len(whole) // 2], "cannot be opened"),
        "empty.avi": (b"", "cannot be opened"),
        "text.flv": (b"not a video at all" * 100, "cannot be opened"),
        "sound.avi": (sound, "holds no video"),
        "playlist.mp4": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost/a.ts\n", "cannot be opened"),
        "script.mp4": (b"ffconcat version 1.0\nfile other.mp4\n", "cannot be opened"),
    }
    (tmp_path / "other.mp4").write_bytes(whole)
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        for form in (tmp_path / name, {"bytes": content, "path": f"archive/{name}"}):
            with pytest.raises(ValueError, match=rf"{name} {message}"):
                read_frames(form, lambda count: [0])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        read_frames(tmp_path / "nowhere.mp4", lambda count: [0])
    with pytest.raises(ValueError, match="NoneType"):
        read_frames(None, lambda count: [0])


def test_unknown_codecs_are_named(tmp_path):
    content = make(tmp_path, "avi").read_bytes()
    assert content.count(b"FMP4") >= 1
    with pytest.raises(ValueError, match="old holds video of a kind that PyAV cannot decode"):
        read_frames({"bytes": content.replace(b"FMP4", b"ZZZZ"), "path": "old"}, lambda count: [0])


@pytest.mark.parametrize("case", ["avi", "avi, H.264", "flv", "mp4", "mkv with B-frames", "webm"])
def test_damage_anywhere_ends_in_frames_or_in_an_error(tmp_path, case):
    path = make(tmp_path, case)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(15):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 20):
            damaged[place] = rng.integers(256)
        try:
            assert len(read_frames({"bytes": bytes(damaged), "path": "d.x"}, lambda n: evenly_spaced(n, 3))) == 3
        except ValueError as error:
            messages.append(str(error))
    assert all(message.startswith("d.x ") for message in messages)


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = make(tmp_path, "mp4")
    content = bytearray(make(tmp_path, "mkv with B-frames").read_bytes())
    place = content.index(b"\x44\x89\x88") + 3  # Duration, in ms
    assert struct.unpack(">d", content[place : place + 8])[0] == pytest.approx(4000, abs=100)
    content[place : place + 8] = struct.pack(">d", 90_000_000)
    with pytest.raises(ValueError, match="long is refused: it claims to last 90000 s, the limit is 7200 s"):
        read_frames({"bytes": bytes(content), "path": "long"}, lambda count: [0])

    def refuses(message):
        with pytest.raises(ValueError, match=message):
            read_frames(path, lambda count: [count - 1])

    for name, limit, message in (
        ("MAX_FRAMES", 39, r"mp4\.mp4 is refused: more than 39 frames"),
        ("MAX_PIXELS", 3000, r"mp4\.mp4 is refused: frames of 64 x 48 pixels, the limit is 3,000"),
        ("MAX_DECODED", 6000, r"mp4\.mp4 is refused: too much to decode"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(video_lfm, name, limit)
            refuses(message)


def test_frames_that_grow_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    """The limit holds for what the stream turns out to be, not only for what the header tells."""
    small, large = (
        make(tmp_path / str(side), "avi, MJPEG", size=(side, side), frames=2, sound=None) for side in (48, 512)
    )
    with av.open(str(small)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    with av.open(str(large)) as container:
        big = next(bytes(packet) for packet in container.demux(video=0))
    assert len(big) > len(packets[1])
    path = tmp_path / "grows.avi"
    with av.open(str(small)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, content in enumerate((packets[0], big)):
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = source.streams.video[0].time_base, stream, True
            target.mux(packet)
    assert read_frames(path, lambda count: [1])[0].size == (512, 512)
    monkeypatch.setattr(video_lfm, "MAX_PIXELS", 100_000)
    assert read_frames(path, lambda count: [0])[0].size == (48, 48)
    with pytest.raises(ValueError, match=r"grows\.avi is refused: frames of 512 x 512"):
        read_frames(path, lambda count: [1])
    monkeypatch.setitem(media_lfm.OPTIONS, "max_pixels", "100000")
    with pytest.raises(ValueError, match=r"grows\.avi (cannot be decoded|is refused)"):
        read_frames(path, lambda count: [1])


# -- sound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["avi", "flv", "mp4", "mkv with B-frames", "webm"])
def test_sound_of_a_video(tmp_path, case):
    path = make(tmp_path, case, frames=20, fps=10, sound=700)
    wave, rate = load_audio(path)
    assert rate in (16000, 44100, 48000)
    assert wave.dtype == np.float32
    assert len(wave) / rate == pytest.approx(2.0, abs=0.06)  # whole frames of the codec
    wave = read_waveform(path, 16000)
    middle = wave[8000:24000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 700
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.03)
    start = read_waveform({"bytes": path.read_bytes(), "path": None}, 16000, seconds=0.5)
    assert 16000 * 0.5 <= len(start) <= 16000 * 1.5 + 1
    np.testing.assert_allclose(start[:8000], wave[:8000], atol=1e-4)


def test_sound_of_several_channels_is_mixed(tmp_path):
    path = tmp_path / "stereo.mkv"
    left = np.round(32767 * tone(500, 1.0, 16000)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([left, np.zeros_like(left)], 1).reshape(1, -1), "s16", "stereo")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    assert audio_track(path, "a")[0].shape == (2, 16000)
    np.testing.assert_allclose(load_audio(path)[0], left / 65536, atol=1e-6)


def test_some_damage_of_sound_is_passed_over(tmp_path):
    """As FFmpeg does: sound that was cut without decoding often starts with packets that need what came before."""
    path = make(tmp_path, "mp4", seconds=4)
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]

    def damage(count):
        damaged = bytearray(content)
        for packet in packets[2 : 2 + count]:
            damaged[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
        return {"bytes": bytes(damaged), "path": "cut"}

    whole, rate = load_audio(path)
    wave, _ = load_audio(damage(2))
    assert len(whole) - 4096 <= len(wave) < len(whole)
    np.testing.assert_allclose(wave[rate:], whole[-len(wave) :][rate:], atol=0.01)
    with pytest.raises(ValueError, match="the audio of cut cannot be decoded"):
        load_audio(damage(60))


def test_video_without_sound_is_named(tmp_path):
    path = make(tmp_path, "mp4", sound=None)
    with pytest.raises(ValueError, match=r"mp4\.mp4 holds no audio track"):
        load_audio(path)
    with pytest.raises(ValueError, match=r"bad cannot be read as audio"):
        load_audio({"bytes": b"nothing", "path": "bad"})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_audio(tmp_path / "nowhere.mp4")


def test_long_sound_is_read_in_part_or_refused(tmp_path, monkeypatch):
    video = make(tmp_path, "mkv with B-frames", frames=5, seconds=20)
    sound = wav_bytes(tone(440, 20))
    for value in (video, sound):
        assert len(read_waveform(value, 8000, seconds=3)) <= 4 * 8000 + 1
    monkeypatch.setattr("modeling_lfm.media_lfm.MAX_SECONDS", 10)
    monkeypatch.setattr("modeling_lfm.audio_lfm.MAX_SECONDS", 10)
    for value in (video, sound):
        with pytest.raises(ValueError, match=r"is refused: (its audio is longer than 10 s|it claims to last 20 s)"):
            load_audio(value)


# -- flow ------------------------------------------------------------------------------------------------------


def test_flow_follows_what_moves():
    rng = np.random.default_rng(0)
    texture = np.asarray(Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).resize((120, 120)))
    flow = optical_flow(texture[20:84, 20:84], texture[17:81, 15:79])  # contents move 5 to the right and 3 down
    assert flow.shape == (2, 64, 64)
    assert flow.dtype == np.float32
    middle = flow[:, 12:-12, 12:-12]
    np.testing.assert_allclose(middle[0], 5, atol=0.5)
    np.testing.assert_allclose(middle[1], 3, atol=0.5)


def test_flow_depends_on_no_threads():
    import cv2

    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 256, (2, 112, 112), dtype=np.uint8)
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            results.append(optical_flow(first, second))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert all(np.array_equal(result, results[0]) for result in results)


# -- real clips ------------------------------------------------------------------------------------------------


def test_real_gestures(data_dir):
    """NVGesture's clips are H.264 with B-frames in avi, one keyframe or two each."""
    folder = data_dir / "formats" / "nvgesture" / "Video_data"
    paths = sorted(folder.glob("class_0[13]/*_r0/*.avi"))
    assert len(paths) == 4
    for path in paths:
        every = decode_all(path)
        with Clip(path) as clip:
            assert clip.count == len(every)
            numbers = [len(every) - 1, 100, 146, 145, 226]
            assert same(clip.read(numbers), [every[number] for number in numbers]), path
        if path.stem == "sk_depth":
            assert np.ptp(every[200], axis=2).max() == 0, "grey"
