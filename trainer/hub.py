"""What of a trained model others get: which files, what must not leave this machine, and how the trainer sends them."""

import json
import os
import re
import shutil
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import Trainer
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from .cards.card import as_list, save_card
from .cards.facts import gather_from_trainer
from .cards.record import describe_run, write_record

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_NAMES = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CARD = "README.md"
SETTINGS = (
    *("config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
)
VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
RUN_FILES = (
    *("all_results.json", "train_results.json", "eval_results.json", "test_results.json"),
    *("trainer_state.json", "lfm_run.json"),
)
TEXTS = (".json", ".md", ".py", ".txt", ".jinja", ".svg")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
MAX_BYTES = 50 * 2**20  # of a file that holds no weights; large vocabularies have 30 MB

_SHOWN = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img\b[^>]*\bsrc=["']([^"']+)""")
# Under these lie people's own files. Of other paths, those that exist on this machine are told apart from mere slashes.
PRIVATE_ROOTS = {"home", "root", "Users", "tmp", "mnt", "media", "scratch", "Volumes"}
SYSTEM_ROOTS = {"bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"}
_PATH = re.compile(r"""(?:(?<![\w./~-])|(?<=file://))/([^\s"'`<>|,;:()\[\]{}*?\\/]+)/([^\s"'`<>|,;:()\[\]{}*?\\/]+)""")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/]{1,2}Users[\\/]{1,2}\w+")
_SECRETS = {
    "an access token of the Hub": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a token of GitHub": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "a token of GitLab": re.compile(r"\bglpat-[\w-]{20,}"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a key of Google": re.compile(r"\bAIza[\w-]{35}"),
    "a token of Slack": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a secret key": re.compile(r"(?<![\w-])sk-(?=[\w-]*\d)[\w-]{20,}"),
    "a signed token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"""\w://[^\s/:@"']+:[^\s/:@"']+@"""),
    "a password or key": re.compile(
        r"""(?i)(?:api_?key|secret|passw(?:or)?d|(?:hub|access|auth)_token)["']?\s*[:=]\s*["'](?![<$])[^"'\s]{8,}["']"""
    ),
}


def list_weights(folder):
    """The files that hold a model's weights.

    Args:
        folder (`str` or `Path`)

    Returns:
        `dict[str, Path]`: by name, `model.safetensors`, or the index and its shards.

    Raises:
        FileNotFoundError: there are none, or a shard is missing. ValueError: they are pickled; a damaged index.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return _pick(folder, [WEIGHTS])
    if not (folder / INDEX).is_file():
        pickled = next((name for name in PICKLED_WEIGHTS if (folder / name).is_file()), None)
        if pickled is not None:
            raise ValueError(f"{folder / pickled} is pickled; save the model anew, as safetensors (save_pretrained).")
        raise FileNotFoundError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX} with its shards.")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(WEIGHT_NAMES.fullmatch(str(name)) for name in weight_map.values()):
        raise ValueError(f"{folder / INDEX} is damaged: no map from weights to shards; save the model anew.")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / shard} is missing, which {INDEX} names; save the model anew.")
    return _pick(folder, [INDEX, *shards])


def list_other_files(folder, run=True):
    """What belongs to a shared model beside its weights. Nothing else leaves: no optimizer, pickles, logs of
    TensorBoard, checkpoints of the training, data or hidden files.

    Args:
        folder (`str` or `Path`)
        run (`bool`): with results, log and record of the training, and the model card with its pictures.

    Returns:
        `dict[str, Path]`: by name: settings, tokenizer, code and what `run` adds.

    Raises:
        ValueError: a file is too large, or a link that leads out of the folder; the card shows a missing picture.
    """
    folder = Path(folder)
    names = [*SETTINGS, *VOCABULARIES, *list_code(folder)]
    if run:
        names += [*RUN_FILES, CARD, *list_pictures(folder)]
    files = _pick(folder, [name for name in names if (folder / name).is_file()])
    for file in files.values():
        if file.stat().st_size > MAX_BYTES:
            size, most = file.stat().st_size // 2**20, MAX_BYTES // 2**20
            raise ValueError(f"{file} has {size} MB; a file that holds no weights may have {most}: remove it.")
    return files


def list_code(folder):
    """Names of the files of code that a folder's settings refer to, and of what these import (`list[str]`).

    Empty if the settings refer to none, or if one is missing, without which the others are of no use.
    """
    folder, modules = Path(folder), []
    for name in SETTINGS:
        if name.endswith(".json") and (folder / name).is_file():
            modules += _find_modules(read_json(folder / name))
    entries = [folder / f"{module}.py" for module in dict.fromkeys(modules)]
    try:
        imported = [Path(file) for entry in entries for file in get_relative_import_files(entry)]
    except FileNotFoundError:
        return []
    return sorted({file.name for file in [*entries, *imported]})


def _find_modules(settings):
    """Modules beside the weights whose classes settings (`dict`) name: `auto_map`, `custom_pipelines`."""
    named = [*(settings.get("auto_map") or {}).values()]
    named += [task["impl"] for task in (settings.get("custom_pipelines") or {}).values()]
    flat = [name for entry in named for name in (entry if isinstance(entry, (list, tuple)) else [entry])]
    return [name.rpartition(".")[0] for name in flat if name is not None and "--" not in name]  # -- is elsewhere


def list_pictures(folder):
    """Names of the pictures of a folder that its model card shows (`list[str]`).

    Raises:
        ValueError: the card shows one that is not in the folder, or that is no picture; the message names the line.
    """
    folder, found = Path(folder), []
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        for links in _SHOWN.findall(line):
            link = "".join(links)
            if re.match(r"[a-z]+:|//", link):  # from the network
                continue
            name, where = os.path.normpath(link), f"{card}, line {number}: the picture {link}"
            if os.path.isabs(name) or name.startswith("..") or not (folder / name).is_file():
                raise ValueError(f"{where} is not in the folder; put it there, or take it out of the card.")
            if Path(name).suffix.lower() not in PICTURES or name.startswith("."):
                raise ValueError(f"{where} is none of {', '.join(PICTURES)}; take it out of the card.")
            found.append(Path(name).as_posix())
    return list(dict.fromkeys(found))


def _pick(folder, names):
    """The files `names` of a folder (`dict[str, Path]`), each of which must truly lie in it."""
    files = {name: folder / name for name in names}
    for file in files.values():
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{file} is a link that leads out of the folder; put the file itself there.")
    return files


def read_json(file):
    """The mapping that a file (`Path`) holds (`dict`).

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} is damaged ({error}); save it anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is damaged: it should hold a JSON object.")
    return content


def find_private(name, text):
    """What a text holds that others should not see: absolute paths of this machine or user, tokens, passwords.

    Args:
        name (`str`): of its file. The words of a vocabulary may look like paths.
        text (`str`)

    Returns:
        `list[str]`: such as `"config.json, line 3: the path /home/me of this machine"`; of a secret, its beginning.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        matches = {what: pattern.search(line) for what, pattern in _SECRETS.items()}
        entries = [f"{what} ({match[0][:6]}...)" for what, match in matches.items() if match]
        if Path(name).name not in VOCABULARIES:
            paths = [match[0] for match in _PATH.finditer(line) if _is_private(match[1], match[2])]
            paths += [match[0] for match in _WINDOWS_PATH.finditer(line)]
            entries += [f"the path {path} of this machine" for path in dict.fromkeys(paths)]
        found += [f"{name}, line {number}: {entry}" for entry in entries]
    return found


def _is_private(top, second):
    return top in PRIVATE_ROOTS or (top not in SYSTEM_ROOTS and os.path.exists(f"/{top}/{second}"))


def check_contents(files):
    """Refuse files whose text holds paths or secrets, see [`find_private`]; what is not text is not looked into.

    Args:
        files (`dict[str, Path]`): by name.

    Raises:
        ValueError: names each file and line, and how to mend it.
    """
    found = []
    for name, file in files.items():
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


logger = logging.get_logger(__name__)


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
        `evaluate` with `metric_key_prefix="test"`. Only the main process writes.

        Args:
            language, tags (`str` or `list[str]`, *optional*), license, model_name (`str`, *optional*): see
                [`render_model_card`][modeling_lfm.trainer.model_card.render_model_card].
            finetuned_from (`str` or `list[str]`, *optional*): models of the Hub whose weights the towers started from.
            tasks (`str` or `list[str]`, *optional*): tasks of the Hub; the first becomes the `pipeline_tag`.
            dataset_tags (`str` or `list[str]`, *optional*): data sets of the Hub.
            dataset (`str` or `list[str]`, *optional*): names of the data, for people.
            dataset_args (`str` or `list[str]`, *optional*): which part or configuration of it.

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
