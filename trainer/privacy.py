"""What must not leave this machine with a model: paths of it, tokens, passwords; in texts, JSON and pictures.

Patterns cannot know every secret. They are made to find what ends up in settings, logs, cards and notebooks by mistake.
"""

import functools
import os
import re
from enum import Enum
from pathlib import Path
from urllib.parse import unquote

VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
TEXTS = (".json", ".md", ".py", ".txt", ".jinja", ".svg", ".ipynb", ".yaml", ".yml")
RASTERS = (".png", ".jpg", ".jpeg", ".gif", ".webp")

# Of these tops of paths people's own files lie below, and below `/dev/shm`. Other paths count if they exist on this
# machine, and no system has them.
_PRIVATE_ROOT = re.compile(
    r"(?:home|root|users?|tmp|mnt|media|scratch|volumes?|nfs|gpfs|lustre|beegfs|ceph(?:fs)?|efs|fsx|afs|dbfs|data|"
    r"datasets?|disks?|hdd|ssd|nvme|raid|storage|share[sd]?|work(?:space)?|projects?|clusters?|exports?|private|srv|"
    r"teamspace)[-_]?\d*",
    re.IGNORECASE,
)
_SYSTEM_ROOTS = {"bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"}
_PART = r"""[^\s"'`<>|,;:()\[\]{}*?\\/]+"""
_PATH = re.compile(rf"(?:(?<![\w./~-])|(?<=file://))/({_PART})/({_PART})")
# D:\\data, D:/data and \\\\server\\share, as JSON and code write them; D:\new, but not Q:\nA:\n; \\server\share.
_DOUBLED = re.compile(r"""(?<![\w/.-])[A-Za-z]:(?:\\\\|/(?!/))[^\s"'`<>|\\/:]+|(?<!\\)\\\\\\\\[\w.-]{2,}\\\\[\w$.-]+""")
_DRIVE = re.compile(r"(?<![\w/.-])[A-Za-z]:\\(?![nrt0](?![a-z])|x\d)[\w.$-]+")
_SHARE = re.compile(r"(?<![\\\w$&}])\\\\\w[\w.-]+\\[\w$.-]+")

# Known by their shape, wherever they stand.
_SHAPES = {
    "an access token of the Hub": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a token of GitLab": r"\bgl[a-z]{2,5}-[\w-]{20,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of Google": r"\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}",
    "a token of Slack": r"\bx(?:ox[abeprs]|app)-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/\w+/\w+",
    "a secret key": r"(?<![\w-])sk-(?=[\w-]*\d)[\w-]{20,}|\b(?:[sr]k_live|gsk|r8|xai|dop_v1)[_-](?=\w*\d)\w{16,}",
    "a token of a package index": r"\bpypi-AgE[\w-]{20,}|\bnpm_[A-Za-z0-9]{36}",
    "a token of Databricks": r"\bdapi[0-9a-f]{32}\b",
    "a key of SendGrid": r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    "a token of a bot": r"\b\d{8,10}:AA[\w-]{33}|discord(?:app)?\.com/api/webhooks/\d+/[\w-]+",
    "a signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
    "a signed address": r"(?i)[?&](?:X-(?:Amz|Goog)-Signature|sig)=[\w%+/=-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY|PuTTY-User-Key-File|AGE-SECRET-KEY-1\w+",
    "a password in a URL": r"""\w://[^\s/:@"']*:[^\s/:@"']+@""",
}
_TOKENS = {what: re.compile(pattern) for what, pattern in _SHAPES.items()}
# Known by what stands before them; not looked for in vocabularies, whose words are anything, and, as that takes long,
# only in lines with one of the `_HINTS`, without which there is none.
_HINTS = {
    "a login": ("auth", "bearer", "curl", "password"),
    "a cookie": ("cook",),
    "a key in a JSON object": ("key",),
    "a password or key": ("pass", "pwd", "key", "secret", "cred", "token", "auth"),
}
_NAMED = {
    "a login": re.compile(
        r"""(?i)\bauthorization["']?\s*[:=,]\s*\\?["']?(?:bearer|basic|token)\s+(?![<$\[{*])[\w.+/=~-]{6,}"""
        r"""|\bbearer\s+(?=[\w.+/~-]*\d)[\w.+/=~-]{16,}|["']_?auth["']\s*:\s*["'][A-Za-z0-9+/]{12,}={0,2}["']"""
        r"""|\bcurl\b.{0,200}\s(?:-u|--user)[\s=]+["']?[\w.@-]+:[^\s"'$]+"""
        r"""|\b(?:machine|login)\s+\S{1,200}.{0,200}\bpassword\s+\S+|^\s*password\s+(?=\S*[\d\W])\S{6,}\s*$"""
    ),
    "a cookie": re.compile(r"""(?i)\bcookie["']?\s*[:=]\s*["']?[\w.-]+=(?![<$])[^\s;"']{12,}"""),
    "a key in a JSON object": re.compile(r"""["']key["']\s*:\s*["'][0-9a-f]{32,}["']"""),
}
_PASSWORD = r"passw(?:or)?d|passphrase|(?<![a-z])pwd"
_KEY = (
    r"api[_-]?key|secret(?:[_-]?(?:access[_-]?)?key)?|(?:access|account|private|encryption)[_-]?key|credentials?|"
    r"(?:hub|hf|access|auth|api|bot|refresh|session|id|git(?:hub|lab)|slack|wandb|user|service|deploy|secret)[_-]?token"
)
# Name, what may close it ("key": or os.environ["KEY"] =), a type, the sign, and the value: quoted or not.
_ASSIGNED = re.compile(
    rf"""(?<![\w.-])(?P<name>[\w.-]{{0,60}}?(?:(?P<word>{_PASSWORD})|{_KEY}|(?P<shell>(?-i:[A-Z0-9]_(?:KEY|PASS|AUTH)|TOKEN|SECRET))))"""
    r"""(?:\\?["']|[\])])*(?:\s*:\s*[A-Za-z][\w.| ]*(?==))?\s*(?P<sign>:=|=>|[:=]|(?<=[\w])\s(?=\S+\s*$))\s*"""
    r"""(?:\\?["'](?P<quoted>[^"'\s\\]+)\\?["']|(?P<plain>[^\s"'`<>()\[\]{},;&\\]+)(?=[\s;&"'`,]|\\n|$))""",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?i)^[<$\[{%*|]|x{4,}|\.{3}|\*{3}|your|example|placeholder|changeme|redacted|^(?:none|null|true|false|required|"
    r"optional|string|str|secret|password|token|bytes)$"
)


def portable(value):
    """`value` as JSON holds it, without what belongs to this machine or its user.

    Of absolute paths, also within a text, the last part is left; of tokens, the first three characters. Objects that
    JSON does not know become their text.

    Example:
        >>> from modeling_lfm.trainer.privacy import portable
        >>> portable({"source": "/srv/me/teacher", "rates": (0.1, 0.2)})
        {'source': 'teacher', 'rates': [0.1, 0.2]}
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, dict):
        return {str(key): portable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [portable(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    for pattern in _TOKENS.values():
        text = pattern.sub(lambda match: f"{match[0][:3]}...", text)
    absolute = re.compile(r"(?:~?[\\/]|\\\\|[A-Za-z]:[\\/]|file:/+)[^/\\]")
    words = [text] if absolute.match(text) else text.split(" ")
    last = (re.split(r"[\\/]", word.rstrip("\\/"))[-1] if absolute.match(word) else word for word in words)
    return " ".join(last)


@functools.lru_cache(maxsize=64)  # long over the code of a package, which is looked through at each sending
def _tokens_in(text):
    """Those of `_TOKENS` that a text holds: mostly none."""
    return {what: pattern for what, pattern in _TOKENS.items() if pattern.search(text)}


def find_private(name, text):
    """What the text of a file called `name` holds that others should not see: absolute paths of this machine or user,
    tokens, passwords; but the words of a vocabulary may look like paths and names of passwords.

    Returns:
        `list[str]`: such as `"config.json, line 3: the path /home/me of this machine"`; of a secret, its beginning.
    """
    suffix, is_vocabulary, found = Path(name).suffix, Path(name).name in VOCABULARIES, []
    patterns = _tokens_in(text) if is_vocabulary else _tokens_in(text) | _NAMED
    for number, line in enumerate(text.splitlines(), start=1):
        folded = line.casefold()
        hinted = {what for what, hints in _HINTS.items() if any(hint in folded for hint in hints)}
        matches = {w: pattern.search(line) for w, pattern in patterns.items() if w in hinted or w not in _HINTS}
        entries = [f"{what} ({match[0].strip()[:6]}...)" for what, match in matches.items() if match]
        if not is_vocabulary:
            assigned = None if entries or "a password or key" not in hinted else _find_assigned(line, suffix)
            if assigned:
                entries.append(f"a password or key ({assigned['name'][:6]}...)")
            entries += [f"the path {path} of this machine" for path in dict.fromkeys(_find_paths(line, suffix))]
        found += [f"{name}, line {number}: {entry}" for entry in entries]
    return found


def _find_assigned(line, suffix):
    """The first assignment of what looks like a secret to a name that says it is one (`re.Match`), or None."""
    is_code = suffix in (".py", ".ipynb")
    for match in _ASSIGNED.finditer(line):
        value = match["quoted"] or match["plain"]
        if _PLACEHOLDER.search(value) or value == match["name"] or len(value) < 6:
            continue
        if match["sign"].isspace() and not match["name"].startswith("--"):
            continue
        has_digit, has_letter = re.search(r"\d", value), re.search(r"[A-Za-z]", value)
        mixed = has_digit and (has_letter or match["word"])
        if match["quoted"]:
            is_secret = mixed or (len(value) >= 8 and not match["shell"])
        elif mixed:
            is_secret = not (is_code and value.isidentifier())
        else:  # a word: of a password where it is written as in a shell or alone, else prose or a variable
            bare = match[0].endswith((f"={value}", f" {value}")) or line.strip() == match[0]
            is_secret = match["word"] and bare and not is_code and line[match.end() :][:1] != ","
        if is_secret:
            return match
    return None


def _find_paths(line, suffix):
    if not {"/", "\\", "%"} & set(line):
        return
    line = unquote(line).replace("\\/", "/")
    for match in _PATH.finditer(line):
        top, second = match.groups()
        known = top not in _SYSTEM_ROOTS and os.path.exists(f"/{top}/{second}")
        in_memory = line.startswith("/dev/shm/", match.start())
        if _PRIVATE_ROOT.fullmatch(top) or known or in_memory:
            yield match[0]
    escaped = suffix in (".json", ".ipynb")  # there a single backslash begins an escape; in code, often
    for pattern in (_DOUBLED, *(() if escaped else (_DRIVE,)), *(() if escaped or suffix == ".py" else (_SHARE,))):
        yield from (match[0] for match in pattern.finditer(line))


def read_picture(file):
    """What a picture says beside its pixels (`str`, a line an entry): text chunks, comments, EXIF, XMP.

    Raises:
        ValueError: the file (`Path`) is no picture; its EXIF tells where it was taken.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()  # a PNG may have text behind its pixels
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(0x8769)}
            told = {**image.info, **getattr(image, "text", {}), **tags}
            place = exif.get_ifd(0x8825)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no picture that can be read ({error}).") from error
    if place:
        raise ValueError(f"{file} tells by its EXIF where it was taken; nothing was sent. Save it without metadata.")
    return "\n".join(f"{key}={_as_text(value)}" for key, value in told.items())


def _as_text(value):
    if not isinstance(value, bytes):
        return str(value)
    wide = value.decode("utf-16-le", "ignore") if value[1:2] == b"\0" else ""
    return value.decode("utf-8", "ignore").replace("\0", " ") + wide


def check_contents(files):
    """Refuse files (`dict[str, Path]` by name) that hold paths or secrets, see [`find_private`]: texts, and what
    pictures say beside their pixels.

    Raises:
        ValueError: names each file and line, and how to mend it.
    """
    found = []
    for name, file in files.items():
        if file.suffix.lower() in RASTERS:
            private = find_private(name, read_picture(file))
            found += [f"{name}, metadata: {entry.split(': ', 1)[1]}" for entry in private]
            continue
        try:
            found += find_private(name, file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            if file.suffix in TEXTS:
                raise ValueError(f"{file} is not a text in UTF-8; nothing was sent. Save it as such.") from error
    if found:
        shown = [*found[:8], *([f"and {len(found) - 8} more"] if len(found) > 8 else [])]
        raise ValueError(
            "nothing was sent; these are not for others to see:\n  " + "\n  ".join(shown) + "\nTake them out of the "
            "files (leave the last part of a path) and run again. Revoke a token that others may have seen."
        )
