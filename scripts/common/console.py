"""What the programs share on the console: messages from the main process only, and errors without tracebacks."""

import errno
import importlib.util
import os
import sys
from pathlib import Path

from modeling_lfm.trainer.cards.record import to_json


def is_main_process():
    """`bool`: whether this process prints and writes, under `accelerate launch` or `torchrun` or alone."""
    return os.environ.get("RANK", "0") == "0"


def say(*text):
    """Print `text` on the main process, and nothing on the others."""
    if is_main_process():
        print(*text, flush=True)


def note_missing_processes():
    """Say so where `accelerate launch --cpu` was asked for several processes: without MPI it starts one, silently."""
    one_of_several = "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ
    if one_of_several and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        print(
            "note: accelerate started one process only, as it does with --cpu. For several on a CPU: accelerate launch "
            "--multi_gpu --num_processes N scripts/train.py ... --use_cpu",
            file=sys.stderr,
        )


def hide_progress_bars():
    """No progress bars of transformers and datasets."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def write_json(result, path=None):
    """Print `result` as JSON on the main process and, where `path` is given, write it there."""
    text = to_json(result)
    if path is not None and is_main_process():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    say(text.rstrip())


def check_writable(key, path):
    """Raise an `OSError` that names the setting `key` if its file `path` (`str`, or None) cannot be written; early, or
    the work for it would be lost."""
    if path is None:
        return
    file = Path(path)
    try:
        if (there := file.exists()) and not (file.is_file() or file.is_dir()):  # such as a pipe
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
        if not there:
            file.unlink()
    except OSError as error:
        raise OSError(f"{key}={path} cannot be written ({error.strerror}); name another file.") from error


def require(extra, *packages):
    """Raise an `ImportError` that says how to install those of `packages` that are missing, by modeling-lfm[extra]."""
    missing = " ".join(name for name in packages if importlib.util.find_spec(name) is None)
    if missing:
        raise ImportError(f'this needs {missing}: pip install "modeling-lfm[{extra}]", or pip install {missing}.')


def run(main):
    """Run `main()`; an error ends the program with status 2 and a sentence on stderr, without a traceback.

    Of a `ValueError`, an `OSError` or an `ImportError`, which tell of wrong settings, files and missing packages, it is
    the message; of others also the kind. LFM_DEBUG=1 shows where it came from.
    """
    try:
        main()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("LFM_DEBUG") == "1":
            raise
        if is_main_process():
            print(f"error: {explain(error)}", file=sys.stderr, flush=True)
        sys.exit(2)


def explain(error):
    """What an error says to the user of a program (`str`)."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # datasets wraps what went wrong in building a benchmark
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    text = "\n".join(line if len(line) < 1000 else f"{line[:600]} [...] {line[-300:]}" for line in lines)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}; make room."
    if isinstance(error, FloatingPointError):
        return f"{text} Training diverged, or a number of the data is none: lower learning_rate, or check the data."
    plain = isinstance(error, (ValueError, OSError, ImportError)) and not isinstance(error, UnicodeError)
    plain |= text.startswith("Symlink loop")  # a RuntimeError of pathlib
    if plain and text:
        return text
    return f"{type(error).__name__}{': ' * bool(text)}{text} (LFM_DEBUG=1 shows where)"
