"""As much of the Hub, on this machine, as loading a model needs: repositories with revisions, to be downloaded."""

import hashlib
import json
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from tests.scripts.servers import serving


class ModelHub:
    """Repositories of models.

    Attributes:
        url (`str`): where they are served.
        requests (`list[str]`): what was asked for, such as `GET /me/model/resolve/main/config.json`.
        stopped (`bool`): whether it answers nothing more; so once `/stop` was asked for.
    """

    def __init__(self):
        self.commits, self.refs, self.requests, self.url, self.stopped = {}, {}, [], None, False

    def commit(self, repo, files, *refs):
        """Add a commit to the repository `repo`, and let the branches or tags `refs` point to it.

        Args:
            files (`pathlib.Path` or `dict[str, bytes]`): a folder, without what lies in folders of it; or its content.

        Returns:
            `str`, its hash.
        """
        if not isinstance(files, dict):
            files = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(repo.encode() + content).hexdigest()
        self.commits[repo, commit] = files
        for ref in (*refs, commit):
            self.refs[repo, ref] = commit
        return commit

    def answer(self, method, path, body):
        self.requests.append(f"{method} {path}")
        if self.stopped or path == "/stop":
            answers = 503 if self.stopped else 200
            self.stopped = True
            return answers, {}, b""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            return self._describe("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve(method, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return 404, {}, b""

    def _find(self, repo, ref):
        """Hash and files of a revision, or the answer that there is none."""
        if not any(repo == known for known, _ in self.refs):
            return None, missing("RepoNotFound")
        commit = self.refs.get((repo, ref))
        return (commit, self.commits[repo, commit]) if commit else (None, missing("RevisionNotFound"))

    def _describe(self, repo, rest):
        ref = rest[1] if len(rest) > 1 else "main"
        commit, files = self._find(repo, ref)
        if commit is None:
            return files
        if rest[:1] == ["tree"]:
            if len(rest) > 2:
                return missing("EntryNotFound")
            found = [{"type": "file", "path": name, "size": len(data), "oid": commit} for name, data in files.items()]
        else:
            siblings = [{"rfilename": name} for name in files]
            found = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()

    def _resolve(self, method, repo, ref, name):
        commit, files = self._find(repo, ref)
        if commit is None:
            return files
        if name not in files:
            return missing("EntryNotFound", commit)
        etag = hashlib.sha1(files[name]).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Content-Length": str(len(files[name]))}
        return 200, headers, b"" if method == "HEAD" else files[name]


def missing(what, commit=None):
    """The Hub's answer that there is no such thing: `RepoNotFound`, `RevisionNotFound` or `EntryNotFound`."""
    return 404, {"X-Error-Code": what, **({"X-Repo-Commit": commit} if commit else {})}, b""


@contextmanager
def serving_models():
    """A [`ModelHub`] that is served; a process that is started with `HF_ENDPOINT` set to its `url` asks it."""
    hub = ModelHub()
    with serving(hub.answer) as hub.url:
        yield hub
