"""What must not leave is found, and what only looks like it is not."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modeling_lfm.trainer import privacy
from modeling_lfm.trainer.privacy import check_contents, find_private, portable

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz"
MACHINE = " of this machine"
NAMED = "a password or key"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('"data_dir": "/home/me/data/av_mnist",', "the path /home/me" + MACHINE),
        ("read from /Users/me/x.wav", "the path /Users/me" + MACHINE),
        ("--data_dir=/mnt/disk/x", "the path /mnt/disk" + MACHINE),
        ("file:///tmp/me/a.png", "the path /tmp/me" + MACHINE),
        ("PATH=/usr/bin:/root/bin", "the path /root/bin" + MACHINE),
        ("staged in /dev/shm/me/train", "the path /dev/shm" + MACHINE),
        ("read from /nfs/lab/clips", "the path /nfs/lab" + MACHINE),
        ("/data1/me/av_mnist", "the path /data1/me" + MACHINE),
        ('"\\/home\\/me\\/x"', "the path /home/me" + MACHINE),
        ("file:%2F%2F%2Fhome%2Fme", "the path /home/me" + MACHINE),
        ("me@node7:/scratch/me", "the path /scratch/me" + MACHINE),
        ('"C:\\\\Users\\\\me\\\\x"', "the path C:\\\\Users" + MACHINE),
        ("E:/clips/x", "the path E:/clips" + MACHINE),
        ('"\\\\\\\\server\\\\share\\\\x"', "the path \\\\\\\\server\\\\share" + MACHINE),
        ("token hf_" + "aB3" * 11 + "x", "an access token of the Hub (hf_aB3...)"),
        ("ghp_" + "a1" * 18, "a token of GitHub (ghp_a1...)"),
        ("glpat-" + "a1" * 10, "a token of GitLab (glpat-...)"),
        ("AKIAIOSFODNN7EXAMPLE", "a key of AWS (AKIAIO...)"),
        ("key: sk-proj-" + "a1" * 20, "a secret key (sk-pro...)"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.abc", "a signed token (eyJhbG...)"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key (-----B...)"),
        ("https://me:letmein@example.org/x", "a password in a URL (s://me...)"),
        ("https://x.org/a?X-Amz-Signature=" + "0a" * 16, "a signed address (?X-Amz...)"),
        ("Authorization: Bearer abc.def.ghi", "a login (Author...)"),
        ('headers = {"Authorization": "Basic bWU6bGV0bWVpbg=="}', "a login (Author...)"),
        ('{"auths": {"x": {"auth": "bWU6bGV0bWVpbg=="}}}', 'a login ("auth"...)'),
        ("curl -s -u me:letmein https://x.org", "a login (curl -...)"),
        ("machine x.org login me password letmein", "a login (machin...)"),
        ("  password hunter2", "a login (passwo...)"),
        ("Cookie: session=0123456789abcdef", "a cookie (Cookie...)"),
        ('{"username": "me", "key": "' + "0a" * 16 + '"}', 'a key in a JSON object ("key":...)'),
        ('"hub_token": "abcdefgh1234"', NAMED + " (hub_to...)"),
        ("api_key = 'abcdefgh1234'", NAMED + " (api_ke...)"),
        ("NAME_API_KEY=abcdefgh1234", NAMED + " (NAME_A...)"),
        ("export WANDB_API_KEY=0a1b2c3d4e5f", NAMED + " (WANDB_...)"),
        ("export TOKEN=abcdef123456", NAMED + " (TOKEN...)"),
        ("SERVICE_TOKEN=abcdefgh1234", NAMED + " (SERVIC...)"),
        ("password=letmein", NAMED + " (passwo...)"),
        ("db_password: hunter2", NAMED + " (db_pas...)"),
        ("train.py --password letmein", NAMED + " (--pass...)"),
        ('os.environ["HF_TOKEN"] = "abcdefgh"', NAMED + " (HF_TOK...)"),
        ('secret: str = "correcthorse"', NAMED + " (secret...)"),
        ('"source": ["api_key = \\"abcdefgh\\"\\n"]', NAMED + " (api_ke...)"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", NAMED + " (aws_se...)"),
    ],
)
def test_what_is_private_is_found_with_its_line(text, what):
    assert find_private("config.json", f"{{\n\n{text}\n}}") == [f"config.json, line 3: {what}"]


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/home/me and ../home/me and ./tmp/x and and/or/not",
        "#!/usr/bin/env python, /dev/null, /dev/shm, /etc/hosts, //tmp/x",
        '"audio": ["/m/09x0r", "/m/0dgw9r"]',
        "Put it into /path/to/file.wav or /data, see /tmp, /nfs or /home.",
        '"mask_token": "<|mask_token|>", "hub_token": "<HUB_TOKEN>", "secret": "short"',
        '"pad_token": "[PAD]", "eos_token": "</s>", "tokenizer_class": "BertTokenizer", "max_new_tokens": 1234567',
        "hf_transfer, hf_hub_download, task-specific-and-very-long-hyphenated-words-2, git@github.com:a/b",
        'text = "Q:\\nA:\\n", a ratio of 16:9, at 10:30, https://x.org:8080/a',
        "It wants a password: at least eight letters. The secret: patience. Passwords are never stored.",
        "password=password, api_key=api_key, token=token, HF_TOKEN=hf_..., API_KEY=<yours>, WANDB_API_KEY=$KEY",
        "Authorization: Bearer $HF_TOKEN and Authorization: Bearer <token>; a bearer of tokens; bearer authentication",
        "client = login(user, password=passphrase)",
        "the commit 5f3b1c2d4e5f60718293a4b5c6d7e8f901234567, sha256=" + "0a" * 32,
        "$\\\\alpha\\beta$ and a regular expression \\\\s+\\\\d and `\\w`",
        "password required",
        "curl -L -u $USER:$PASSWORD https://x.org and a key: sketch-of-a-long-hyphenated-name",
        "![alpha](alpha.png) <img src='a/b.png'> [page](/docs/install) and /api/models",
    ],
)
@pytest.mark.parametrize("name", ["README.md", "config.json", "code.py"])
def test_what_only_looks_like_it_is_not(text, name):
    assert find_private(name, text) == []


def test_windows_paths_of_plain_texts_and_variables_of_code():
    for text, path in [("in D:\\data\\x", "D:\\data"), ("D:\\new", "D:\\new"), ("\\\\nas\\me\\x", "\\\\nas\\me")]:
        assert find_private("README.md", text) == [f"README.md, line 1: the path {path} of this machine"]
    for line in ("login(password=key_2)", "password=letmein", "api_key=os.environ['KEY']", "password = getpass()"):
        assert find_private("a.py", line) == []
    assert find_private("a.py", "login(password='key_two2')") != []


def test_no_file_of_this_project_is_private():
    files = [*ROOT.glob("modeling_lfm/*.py"), *ROOT.glob("model_cards/**/*.md"), *ROOT.glob("trainer/*/*.py")]
    files += [ROOT / "README.md", *ROOT.glob("data/*.py"), *ROOT.glob("model_cards/*/*.png")]
    assert len(files) > 50
    check_contents({str(file.relative_to(ROOT)): file for file in files})


def test_other_paths_of_this_machine_and_vocabularies(tmp_path, monkeypatch):
    monkeypatch.setattr(privacy, "_PRIVATE_ROOT", privacy.re.compile("none"))
    top, second = tmp_path.parts[1:3]
    line = f'"{tmp_path}/x", "/{top}/nothing-of-this-name/x"'
    assert find_private("a.json", line) == [f"a.json, line 1: the path /{top}/{second} of this machine"]
    assert find_private("tokenizer.json", line + '"password": 123456') == []
    assert find_private("tokenizer.json", "hf_" + "a" * 30) != []


def test_contents_are_checked_file_by_file(tmp_path):
    (tmp_path / "a.json").write_text("/home/me/x\n" * 10)
    with pytest.raises(ValueError, match="nothing was sent") as told:
        check_contents({"a.json": tmp_path / "a.json"})
    assert "a.json, line 8: the path /home/me" in str(told.value)
    assert "line 9" not in str(told.value)
    assert "and 2 more\n" in str(told.value)
    (tmp_path / "c.md").write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.md"):
        check_contents({"c.md": tmp_path / "c.md"})


def test_pictures_are_asked_what_they_say_beside_their_pixels(tmp_path):
    image, innocent, chunks = Image.new("RGB", (4, 4)), PngInfo(), {}
    innocent.add_text("Software", "Matplotlib version 3.11, https://matplotlib.org/")
    image.save(tmp_path / "plain.png", pnginfo=innocent)
    image.save(tmp_path / "plain.jpg", exif=_exif(0x010E, "a tower"), comment=b"made by hand")
    check_contents({name: tmp_path / name for name in ("plain.png", "plain.jpg")})
    for kind, zipped in (("tEXt", False), ("zTXt", True)):
        chunks[kind] = PngInfo()
        chunks[kind].add_text("Comment", f"token {TOKEN}", zip=zipped)
        image.save(tmp_path / f"{kind}.png", pnginfo=chunks[kind])
    wide = PngInfo()
    wide.add_itxt("Source", "/home/me/plot.ipynb", zip=True)
    image.save(tmp_path / "iTXt.png", pnginfo=wide)
    image.save(tmp_path / "exif.jpg", exif=_exif(0x010E, "password=letmein"))
    image.save(tmp_path / "user.jpg", exif=_exif(0x9286, b"ASCII\0\0\0/home/me/x", ifd=0x8769))
    image.save(tmp_path / "title.jpg", exif=_exif(0x9C9B, "in /home/me/x".encode("utf-16-le")))
    image.save(tmp_path / "comment.jpg", comment=f"by {TOKEN}".encode())
    image.save(tmp_path / "xmp.webp", xmp=b"<x>/home/me/x</x>")
    for name in ("tEXt.png", "zTXt.png", "iTXt.png", "exif.jpg", "user.jpg", "title.jpg", "comment.jpg", "xmp.webp"):
        with pytest.raises(ValueError, match="nothing was sent") as told:
            check_contents({name: tmp_path / name})
        assert f"{name}, metadata: " in str(told.value)
        assert TOKEN not in str(told.value)
    image.save(tmp_path / "gps.jpg", exif=_exif(0x0001, "N", ifd=0x8825))
    with pytest.raises(ValueError, match=r"gps\.jpg"):
        check_contents({"gps.jpg": tmp_path / "gps.jpg"})
    (tmp_path / "b.png").write_bytes(b"\x89PNG /home/me/x")
    with pytest.raises(ValueError, match=r"b\.png is no picture"):
        check_contents({"b.png": tmp_path / "b.png"})


def _exif(tag, value, ifd=None):
    exif = Image.Exif()
    (exif if ifd is None else exif.get_ifd(ifd))[tag] = value
    return exif


def test_what_is_recorded_belongs_to_no_machine():
    cases = {
        "/home/me/my data/teacher": "teacher",
        "~/x/y": "y",
        "C:\\Users\\me\\model": "model",
        "file:///srv/model": "model",
        "see /etc/passwd please": "see passwd please",
        f"a {TOKEN}": "a hf_...",
        "outputs/teacher": "outputs/teacher",
        "https://huggingface.co/a/b": "https://huggingface.co/a/b",
        "1/2 and/or": "1/2 and/or",
    }
    assert {given: portable(given) for given in cases} == cases
    given = {"a": (1, None, True, 0.5), 2: [Path("/x/y"), {"b": "/z/w"}]}
    assert portable(given) == {"a": [1, None, True, 0.5], "2": ["y", {"b": "w"}]}
    assert json.dumps(portable(given))
