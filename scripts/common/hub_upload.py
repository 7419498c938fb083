"""Sending to the Hub: prepared data sets, trained models, and what went wrong, in plain words."""

from contextlib import contextmanager

LEFT = [".*", "**/.*"]  # what is not sent of a prepared folder


def open_dataset(name, public):
    """Make a data set on the Hub, private unless `public`, or check the one that is there.

    Args:
        name (`str`): such as `me/crema_d`. public (`bool`)

    Raises:
        OSError: not logged in, not allowed, or no network. ValueError: it is public, but `public` was not asked for.
    """
    with explained(name, _end_dataset):
        found = _open(name, "dataset", private=not public)
    if not public and found is not None and not found.private:
        raise ValueError(f"{name} is public on the Hub; give --public if everybody may have the data, or another name.")


def push_dataset(name, folder):
    """Send a folder (`Path`) to the data set `name` (`str`) of the Hub, without what it has already.

    Returns:
        `str`: its address.

    Raises:
        OSError: it fails; run again to go on.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with explained(name, _end_dataset):
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            ignore_patterns=list(LEFT),  # the library adds to it
            delete_patterns="data/*.parquet",  # of an earlier preparation
            commit_message="Prepared data",
        )
    return f"{api.endpoint}/datasets/{name}"


def open_model(name, private=False, revision=None, create_pr=False):
    """Log in, and find the repository of a model or make it.

    Args:
        name (`str`): such as `me/av_mnist`.
        private (`bool`): make it so that only you see it.
        revision (`str`, *optional*): a branch, made if it is not there; `main` if not given.
        create_pr (`bool`): it belongs to somebody else, and must be there.

    Returns:
        What the Hub tells of the repository (`huggingface_hub.ModelInfo`), or None if it was made now.

    Raises:
        OSError: not logged in, not allowed, the name is taken, no network. ValueError: it is public, but should be
            private.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with explained(name, _end_model):
        user = api.whoami()
        if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise OSError("the token may only read; make one that may write")
        found = api.model_info(name) if create_pr else _open(name, "model", private)
    if private and found is not None and not found.private:
        raise ValueError(f"{name} is there already, and public: leave --private out, or choose another name.")
    if revision is not None and not revision.startswith("refs/"):
        with explained(name, _end_model):
            api.create_branch(name, branch=revision, exist_ok=True)
    return found


def read_text(name, file, revision=None):
    """The text of a file in a repository of a model (`str`), or None if there is no such file."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with explained(name, _end_model):
        try:
            path = HfApi().hf_hub_download(name, file, revision=revision)
        except LocalEntryNotFoundError:  # no connection; it is an EntryNotFoundError, too
            raise
        except EntryNotFoundError:
            return None
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def push_model(name, files, message, revision=None, create_pr=False, is_stale=None):
    """Send the files of a model in one commit. What the Hub has already is not sent again.

    Args:
        name (`str`): a repository that is there, see [`open_model`].
        files (`dict[str, Path]`): by name in the repository.
        message (`str`): of the commit.
        revision (`str`, *optional*), create_pr (`bool`): as in [`open_model`].
        is_stale (*optional*): tells of the name of a file of the repository whether it is removed in the same commit,
            if it is not among `files`.

    Returns:
        `huggingface_hub.CommitInfo`, or None if the Hub had it all already.

    Raises:
        OSError: it fails; the message tells whether anything was committed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    with explained(name, _end_model):
        there = api.model_info(name, revision=revision)
        names = [file.rfilename for file in there.siblings if file.rfilename not in files]
        removed = [file for file in names if is_stale is not None and is_stale(file)]
        operations = [CommitOperationAdd(file, str(path)) for file, path in files.items()]
        operations += [CommitOperationDelete(file, is_folder=False) for file in removed]
        commit = api.create_commit(name, operations, commit_message=message, revision=revision, create_pr=create_pr)
        return None if commit.oid == there.sha else commit


def _open(name, repo_type, private):
    """What the Hub tells of a repository, or None after making it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    try:
        return api.repo_info(name, repo_type=repo_type)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:  # the Hub answers 401 where nobody is logged in
            raise
        api.create_repo(name, repo_type=repo_type, private=private)
        return None


# -- errors ----------------------------------------------------------------------------------------------------


@contextmanager
def explained(name, end):
    """Errors of the Hub's library, whose types differ from version to version, as an `OSError` with a remedy.

    Args:
        name (`str`): of the repository.
        end (`callable`): from whether trying again may help, and whether a commit may have arrived, to the last words.
    """
    try:
        yield
    except Exception as error:
        text, passes, is_open = diagnose(error, name)
        raise OSError(f"{name} on the Hub: {text}. {end(passes, is_open)}") from error


def _end_dataset(passes, is_open):
    return "What is prepared is kept; run the same command again."


def _end_model(passes, is_open):
    if not passes:
        return "Nothing was committed."
    outcome = "Nothing was committed"
    if is_open:
        outcome = "It was lost in the commit, of which either all or nothing arrived"
    return f"{outcome}; run the same command again, and what was uploaded is not sent twice."


def diagnose(error, name):
    """What an error of the Hub's library means.

    Args:
        error (`Exception`)
        name (`str`): of the repository.

    Returns:
        `(str, bool, bool)`: cause and remedy; whether trying again may help; whether a commit may have arrived.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    chain = list(_causes(error))
    said = next((told for cause in chain if (told := getattr(cause, "server_message", None))), str(error))
    said = " ".join(said.split()) or type(error).__name__
    responses = [response for cause in chain if (response := getattr(cause, "response", None)) is not None]
    status = responses[0].status_code if responses else None
    committing = any("/commit/" in _requested(cause) for cause in chain)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return "HF_HUB_OFFLINE is set, so that nothing is asked of it; unset it", False, False
    if status == 401 or any(isinstance(cause, LocalTokenNotFoundError) for cause in chain):
        what = "you are not logged in" if status is None else f"the token is not valid ({' '.join(str(error).split())})"
        remedy = f"run 'hf auth login' or set HF_TOKEN, with a token that may write, of {constants.ENDPOINT}"
        return f"{what}; {remedy}/settings/tokens", False, False
    namespace = name.partition("/")[0]
    known = {
        403: f"you may not write there ({said}); use a token that may write to {namespace}, or a name of your own",
        404: "it was not found, or you may not see it; check the name and the branch",
        409: f"the name is taken ({said}); choose another",
        429: f"too many requests ({said}); wait some minutes",
    }
    if committing:
        known[409] = known[412] = f"somebody changed it at the same moment ({said}); run the same command again"
    if status is not None and status < 500:
        return known.get(status, said), status == 429, False
    if status is not None:
        return f"the Hub itself failed ({said}); wait a little", True, committing
    if any(_is_about_connection(cause) for cause in chain):
        why = " ".join(str(chain[-1]).split()) or type(chain[-1]).__name__
        return f"no connection to {constants.ENDPOINT}, or it was lost ({why}); see to the network", True, committing
    return said.rstrip("."), False, False


def _causes(error):
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _requested(error):
    """The address that an error of the HTTP library is about, or nothing."""
    try:
        return str(error.request.url)
    except (AttributeError, RuntimeError):  # not of that library; not known
        return ""


def _is_about_connection(error):
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(names & {"TransportError", "RequestException"})
