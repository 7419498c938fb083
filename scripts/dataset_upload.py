"""Sending a prepared folder to the Hub."""

from contextlib import contextmanager

LEFT = [".*", "**/.*"]  # what is not sent


def open_dataset(name, public):
    """Make a data set on the Hub, private unless `public`, or check the one that is there.

    Args:
        name (`str`): such as `me/crema_d`. public (`bool`)

    Raises:
        OSError: not logged in, not allowed, or no network. ValueError: it is public, but `public` was not asked for.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(name):
        api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        private = api.repo_info(name, repo_type="dataset").private
    if not public and not private:
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
    with _explained(name):
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            ignore_patterns=list(LEFT),  # the library adds to it
            delete_patterns="data/*.parquet",  # of an earlier preparation
            commit_message="Prepared data",
        )
    return f"{api.endpoint}/datasets/{name}"


@contextmanager
def _explained(name):
    """Errors of the Hub's library, whose types differ from version to version, as an `OSError` with a remedy."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{name} on the Hub: {text} (to log in: hf auth login); what is prepared is kept; run the same command "
            "again."
        ) from error
