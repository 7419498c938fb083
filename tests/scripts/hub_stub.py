"""As much of the Hub, on this machine, as an upload needs, with what can go wrong."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import yaml

from tests.modeling.hub_server import ModelHub
from tests.scripts.servers import serving

TOKEN, READ_TOKEN = "hf_" + "w" * 34, "hf_" + "r" * 34
PART = 100_000  # larger files are uploaded in parts of so many bytes
START = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}  # what the Hub puts into a new one


class UploadHub(ModelHub):
    """Repositories of a user `me`, who is in the organisation `lab`; those of data sets are called `datasets/...`.

    Attributes:
        private (`dict[str, bool]`): by repository. blobs (`dict[str, bytes]`): large files by SHA-256.
        pushed (`list[dict]`): the commits: `repo`, `branch`, `message`, `added` and `removed` names, `large` names.
        taken (`set[str]`): repositories of others that one does not see.
        fault (`callable`): from method and path to what is answered in place of the right thing, or None.
    """

    def __init__(self):
        super().__init__()
        self.private, self.blobs, self.pushed, self.taken, self.parts = {}, {}, [], set(), {}
        self.fault = lambda method, path: None

    def files(self, repo, branch="main"):
        """What lies in a repository (`dict[str, bytes]`), but what the Hub put there."""
        return {name: data for name, data in self._read(repo, branch).items() if name not in START}

    def add(self, repo, private=False, **files):
        """Make a repository with `files` (`bytes` by name, with `__` for the dot)."""
        self.private[repo] = private
        self.commit(repo, START | {name.replace("__", "."): data for name, data in files.items()}, "main")

    def _read(self, repo, branch):
        return self.commits[repo, self.refs[repo, branch]]

    # -- answers -----------------------------------------------------------------------------------------------

    def check(self, method, path, headers):
        fault = self.fault(method, path)
        if fault is None and not path.startswith("/blobs/"):  # those addresses are signed
            token = (headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in (TOKEN, READ_TOKEN):
                return failure(401, "Invalid username or password.")
            if token == READ_TOKEN and method == "POST":
                return failure(403, "Forbidden: the token may only read.")
            self.role = "write" if token == TOKEN else "read"
        if fault is not None:
            self.requests.append(f"{method} {path}")
        return fault

    def answer(self, method, path, body):
        url = urlsplit(path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "blobs":
            return self._store(method, parts[1:], body)
        if url.path.endswith(".git/info/lfs/objects/batch"):
            return self._offer(json.loads(body))
        if parts[0] != "api":
            return super().answer(method, path, body)
        if method == "GET" and parts[1] == "models":
            return super().answer(method, path, body)
        self.requests.append(f"{method} {path}")
        if parts[1:] == ["whoami-v2"]:
            return answer({"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": self.role}}})
        if parts[1:] == ["repos", "create"]:
            return self._create(json.loads(body))
        if parts[1:] == ["validate-yaml"]:
            return check_card(json.loads(body)["content"])
        repo = "/".join(parts[2:4]) if parts[1] == "models" else "/".join(parts[1:4])
        if method == "GET":
            return self._describe(repo, parts[4:])
        what, branch = parts[4:6]
        if (repo, "main") not in self.refs:
            return failure(404, "Repository not found", "RepoNotFound")
        if what == "branch":
            return self._branch(repo, branch)
        if (repo, branch) not in self.refs:
            return failure(404, "Invalid rev id", "RevisionNotFound")
        if what == "preupload":
            return answer({"files": [self._choose(repo, branch, file) for file in json.loads(body)["files"]]})
        return self._commit(repo, branch, [json.loads(line) for line in body.splitlines()], "create_pr" in url.query)

    def _describe(self, repo, rest):
        status, headers, content = super()._describe(repo, rest)
        if status == 200 and "tree" not in rest:
            content = json.dumps(json.loads(content) | {"private": self.private[repo]}).encode()
        return status, headers, content

    def _create(self, asked):
        kind = "" if asked.get("type", "model") == "model" else f"{asked['type']}s/"
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name in self.taken or (kind + name, "main") in self.refs:
            return failure(409, "You already created this model repo", url=f"{self.url}/{kind}{name}")
        if name.partition("/")[0] not in ("me", "lab"):
            return failure(403, f"You don't have the rights to create a model under the namespace {name}")
        self.add(kind + name, asked.get("visibility") == "private")
        return answer({"url": f"{self.url}/{kind}{name}", "name": name})

    def _branch(self, repo, branch):
        if (repo, branch) in self.refs:
            return failure(409, "Reference already exists")
        self.refs[repo, branch] = self.refs[repo, "main"]
        return answer({})

    def _choose(self, repo, branch, file):
        sample = base64.b64decode(file["sample"])
        large = file["path"].endswith(".safetensors") or b"\0" in sample or file["size"] > 10_000_000
        data = self._read(repo, branch).get(file["path"])
        oid = None
        if data is not None:
            oid = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0%s" % (len(data), data))
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid and oid.hexdigest()}

    # -- large files -------------------------------------------------------------------------------------------

    def _offer(self, asked):
        self.requests.append("POST batch")
        return answer({"transfer": "basic", "objects": [self._offer_one(**entry) for entry in asked["objects"]]})

    def _offer_one(self, oid, size):
        if oid in self.blobs:
            return {"oid": oid, "size": size}
        to = f"{self.url}/blobs/{oid}"
        upload = {"href": to}
        if size > PART:
            count = -(-size // PART)
            upload["header"] = {"chunk_size": str(PART)} | {f"{n:05}": f"{to}/{n}" for n in range(1, count + 1)}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{to}/verify"}}}

    def _store(self, method, parts, body):
        oid, rest = parts[0], parts[1:]
        self.requests.append(f"{method} blob" + "".join(f"/{part}" for part in rest))
        if rest == ["verify"]:
            return answer({}) if json.loads(body)["size"] == len(self.blobs[oid]) else failure(400, "wrong size")
        if method == "PUT" and rest:
            self.parts[oid, int(rest[0])] = body
            return 200, {"ETag": hashlib.md5(body).hexdigest()}, b""
        if method == "POST":
            parts = json.loads(body)["parts"]
            body = b"".join(self.parts[oid, part["partNumber"]] for part in parts)
            assert all(p["etag"] == hashlib.md5(self.parts[oid, p["partNumber"]]).hexdigest() for p in parts)
        if hashlib.sha256(body).hexdigest() != oid:
            return failure(400, "the content is not that of the hash")
        self.blobs[oid] = body
        return answer({})

    def _commit(self, repo, branch, lines, proposed):
        added = {
            entry["value"]["path"]: self.blobs[entry["value"]["oid"]]
            if entry["key"] == "lfsFile"
            else base64.b64decode(entry["value"]["content"])
            for entry in lines
            if entry["key"] in ("file", "lfsFile")
        }
        removed = [entry["value"]["path"] for entry in lines if entry["key"] == "deletedFile"]
        large = {entry["value"]["path"] for entry in lines if entry["key"] == "lfsFile"}
        files = {name: data for name, data in self._read(repo, branch).items() if name not in removed} | added
        branch = "refs/pr/1" if proposed else branch
        oid = self.commit(repo, files, branch)
        message = lines[0]["value"]["summary"]
        self.pushed.append(
            {
                "repo": repo,
                "branch": branch,
                "message": message,
                "added": set(added),
                "removed": removed,
                "large": large,
            }
        )
        request = {"pullRequestUrl": f"{self.url}/{repo}/discussions/1"} if proposed else {}
        return answer({"commitUrl": f"{self.url}/{repo}/commit/{oid}", "commitOid": oid, **request})


def answer(content):
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def failure(status, message, code=None, **more):
    """The Hub's answer that something is wrong."""
    headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
    return status, headers, json.dumps({"error": message, **more}).encode()


def check_card(text):
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    licence = yaml.safe_load(match[1]).get("license") if match else None
    if licence == "nonsense":
        return 400, {}, json.dumps({"errors": [{"message": '"license" must be one of [apache-2.0, ...]'}]}).encode()
    return answer({"errors": [], "warnings": []})


@contextmanager
def serving_hub(monkeypatch, cache):
    """An [`UploadHub`] that `huggingface_hub` talks to in this process, with `cache` (`Path`) for what it fetches."""
    from huggingface_hub import constants

    hub = UploadHub()
    with serving(hub.answer, hub.check) as hub.url:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # it keeps an address
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
