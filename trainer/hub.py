"""Sending to the Hub: repositories, one commit, what went wrong in plain words; and a trainer that sends its model.

`create_commit` and not `upload_folder`, which sends a folder in several commits where hf_xet is installed. What is sent
is chosen in `staging.py`; what must not be in it, in `privacy.py`.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from .cards.card import CARD, MARKER, as_list, save_card
from .cards.facts import gather_from_trainer
from .cards.record import describe_run, write_record
from .privacy import check_contents
from .staging import WEIGHT_NAMES, list_other_files, list_weights

logger = logging.get_logger(__name__)


def open_repository(name, repo_type="model", private=False, revision=None, create_pr=False):
    """Log in, and find a repository or make it.

    Args:
        name (`str`): such as `me/av_mnist`. repo_type (`str`): `"model"` or `"dataset"`.
        private (`bool`): make it so that only you see it.
        revision (`str`, *optional*): a branch, made if it is not there; `main` if not given.
        create_pr (`bool`): it belongs to somebody else, and must be there.

    Returns:
        What the Hub tells of the repository (`huggingface_hub.ModelInfo`), or None if it was made now.

    Raises:
        OSError: not logged in, not allowed, the name is taken, no network. ValueError: it is public, but should be
            private.
    """
    api, found = HfApi(), None
    with explained(name):
        if ((api.whoami().get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise OSError("the token may only read; make one that may write")
        try:
            found = api.repo_info(name, repo_type=repo_type)
        except errors.RepositoryNotFoundError:
            if create_pr:
                raise
            api.create_repo(name, repo_type=repo_type, private=private)
    if private and found is not None and not found.private:
        remedy = "give --public" if repo_type == "dataset" else "leave --private out"
        raise ValueError(f"{name} is public on the Hub; {remedy} if everybody may have it, or choose another name.")
    if revision is not None and not revision.startswith("refs/"):
        with explained(name):
            api.create_branch(name, branch=revision, repo_type=repo_type, exist_ok=True)
    return found


def is_edited(name, revision=None):
    """Whether the model card in a repository (`str`) is there and was edited by hand (`bool`)."""
    with explained(name):
        try:
            path = HfApi().hf_hub_download(name, CARD, revision=revision)
        except errors.LocalEntryNotFoundError:  # no connection; it is an EntryNotFoundError, too
            raise
        except errors.EntryNotFoundError:
            return False
    return MARKER not in Path(path).read_text(encoding="utf-8", errors="replace")


def push_files(name, files, message, repo_type="model", revision=None, create_pr=False, stale=WEIGHT_NAMES):
    """Send files in one commit. What the Hub has already is not sent again.

    Args:
        name (`str`): a repository that is there, see [`open_repository`].
        files (`dict[str, Path]`): by name in the repository.
        message (`str`): of the commit.
        repo_type, revision, create_pr: as in [`open_repository`].
        stale (`re.Pattern`): files of the repository so called are removed in the same commit, if not among `files`.

    Returns:
        `huggingface_hub.CommitInfo`, or None if the Hub had it all already.

    Raises:
        OSError: it fails; the message tells whether anything was committed.
    """
    api = HfApi()
    with explained(name):
        there = api.repo_info(name, repo_type=repo_type, revision=revision)
        names = [file.rfilename for file in there.siblings if file.rfilename not in files]
        operations = [CommitOperationAdd(file, str(path)) for file, path in files.items()]
        operations += [CommitOperationDelete(file, is_folder=False) for file in names if stale.fullmatch(file)]
        commit = api.create_commit(
            name, operations, commit_message=message, repo_type=repo_type, revision=revision, create_pr=create_pr
        )
        return None if commit.oid == there.sha else commit


def push_dataset(name, folder):
    """Send a prepared folder (`Path`) to a data set of the Hub, but hidden files and what it has already.

    Returns:
        `str`: its address.

    Raises:
        OSError: it fails; run again to go on.
    """
    api = HfApi()
    with explained(name):
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            ignore_patterns=[".*", "**/.*"],
            delete_patterns="data/*.parquet",  # of an earlier preparation
            commit_message="Prepared data",
        )
    return f"{api.endpoint}/datasets/{name}"


@contextmanager
def explained(name):
    """Errors of the Hub's library, whose types differ from version to version, as an `OSError` that tells cause and
    remedy for the repository `name` (`str`), and whether a commit may have arrived."""
    try:
        yield
    except Exception as error:
        chain = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(cause)
        raise OSError(f"{name} on the Hub: {_diagnose(chain, name)}") from error


def _diagnose(chain, name):
    """What errors (`list`, each raised from the next) of the Hub's library mean (`str`)."""
    said = next((told for cause in chain if (told := getattr(cause, "server_message", None))), str(chain[0]))
    said = " ".join(said.split()).rstrip(".") or type(chain[0]).__name__
    responses = [response for cause in chain if (response := getattr(cause, "response", None)) is not None]
    status = responses[0].status_code if responses else None
    in_commit = any("/commit/" in _requested(cause) for cause in chain)
    known = {
        403: f"you may not write there ({said}); use a token that may write to {name.partition('/')[0]}, or your name",
        404: "it was not found, or you may not see it; check the name and the branch",
        409: f"the name is taken ({said}); choose another",
        429: f"too many requests ({said}); wait some minutes",
    }
    if in_commit:
        known[409] = known[412] = f"somebody changed it at the same moment ({said})"
    lost = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    again, open_end = "run the same command again, and what was uploaded is not sent twice.", False
    if "OfflineModeIsEnabled" in lost:
        return "HF_HUB_OFFLINE is set, so that nothing is asked of it; unset it. Nothing was committed."
    if status == 401 or "LocalTokenNotFoundError" in lost:
        what = (
            "you are not logged in" if status is None else f"the token is not valid ({' '.join(str(chain[0]).split())})"
        )
        remedy = f"run 'hf auth login' or set HF_TOKEN, with a token that may write, of {constants.ENDPOINT}"
        return f"{what}; {remedy}/settings/tokens. Nothing was committed."
    if status is None and lost & {"ConnectionError", "TimeoutError", "TransportError", "RequestException"}:
        why = " ".join(str(chain[-1]).split()) or type(chain[-1]).__name__
        what, open_end = f"no connection to {constants.ENDPOINT}, or it was lost ({why}); see to the network", in_commit
    elif status is not None and status >= 500:
        what, open_end = f"the Hub itself failed ({said}); wait a little", in_commit
    elif status == 429 or (in_commit and status in (409, 412)):
        what = known[status]
    else:
        return f"{known.get(status, said)}. Nothing was committed."
    if open_end:
        return f"{what}. It was lost in the commit, of which either all or nothing arrived; {again}"
    return f"{what}. Nothing was committed; {again}"


def _requested(error):
    """The address that an error of the HTTP library is about, or nothing."""
    try:
        return str(error.request.url)
    except (AttributeError, RuntimeError):  # not of that library; not known
        return ""


# -- while training --------------------------------------------------------------------------------------------


class SharingTrainer(Trainer):
    """A `transformers.Trainer` that writes its own model card, and that sends to the Hub what belongs to a model.

    transformers sends all of `output_dir` but its checkpoints: pickled arguments with their paths, logs, other files.
    """

    def create_model_card(
        self,
        language=None,
        license=None,
        tags=None,
        model_name=None,
        finetuned_from=None,
        tasks=None,
        dataset_tags=None,
        dataset=None,
        dataset_args=None,
    ):
        """Write README.md with its pictures, and `lfm_run.json`, from which `write_model_card` can make it again.

        What is not given is taken from the run; results are those in `output_dir` (`save_metrics`), or of the last
        `evaluate` with `metric_key_prefix="test"`. Only the main process writes. Arguments as in transformers; of
        `tasks` the first becomes the `pipeline_tag`, and `dataset_tags` are data sets of the Hub.

        Raises:
            ValueError: a licence or an identifier that the Hub would refuse.
        """
        if not self.is_world_process_zero():
            return
        write_record(self.args.output_dir, run=describe_run(self))
        names = " and ".join(as_list(dataset))
        if names and dataset_args:
            names = f"{names} ({', '.join(as_list(dataset_args))})"
        save_card(
            gather_from_trainer(self),
            self.args.output_dir,
            getattr(self, "hub_model_id", None) or self.args.hub_model_id,
            language=language,
            license=license,
            tags=tags,
            model_name=model_name,
            base_model=finetuned_from,
            pipeline_tag=next(iter(as_list(tasks)), None),
            datasets=dataset_tags,
            dataset_name=names or None,
        )

    def save_state(self):
        """As in transformers; of the best checkpoint `trainer_state.json` holds the name, without its folder."""
        checkpoint = self.state.best_model_checkpoint
        if checkpoint is not None:
            self.state.best_model_checkpoint = os.path.basename(checkpoint)
        super().save_state()
        self.state.best_model_checkpoint = checkpoint

    def push_to_hub(
        self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs
    ):
        """Save the model, write its card, and send both with the results of the run, in one commit.

        Args: as in transformers; `kwargs` go to `create_model_card`.

        Returns:
            `huggingface_hub.CommitInfo`, or its future where `blocking` is False; None but on the main process.

        Raises:
            ValueError: a file holds a path of this machine, a token or a password; the message names the line.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, **({} if private is None else {"private": private}))
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = [*as_list(kwargs.pop("tags", None)), *as_list(getattr(self.model, "model_tags", None))]
        self.create_model_card(tags=list(dict.fromkeys(tags)), **kwargs)
        self._finish_current_push()
        files = list_weights(self.args.output_dir) | list_other_files(self.args.output_dir)
        return self._send(files, commit_message, blocking, token, revision)

    def _send(self, files, message, blocking, token=None, revision=None):
        check_contents({name: file for name, file in files.items() if file.suffix != ".safetensors"})
        return HfApi().create_commit(
            self.hub_model_id,
            [CommitOperationAdd(name, str(file)) for name, file in files.items()],
            commit_message=message,
            token=self.args.hub_token if token is None else token,
            revision=self.args.hub_revision if revision is None else revision,
            run_as_future=not blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder):
        """While training: the model alone. A strategy that sends the optimizer sends all, as in transformers."""
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            super()._push_from_checkpoint(checkpoint_folder)
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or (busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        found = list_weights(checkpoint_folder) | list_other_files(checkpoint_folder, run=False)
        # The checkpoint itself may be deleted before all of it is sent.
        files = {name: Path(shutil.copy(file, self.args.output_dir)) for name, file in found.items()}
        try:
            job = self._send(files, f"Training in progress, step {self.state.global_step}", blocking=False)
        except ValueError as error:  # training goes on
            logger.warning(f"{checkpoint_folder} was not sent to the Hub: {error}")
            return
        self.push_in_progress = PushInProgress([*(self.push_in_progress.jobs if busy else ()), job])
