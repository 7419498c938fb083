"""What the programs share on the console: messages from the main process only, and errors without tracebacks."""

import json
import os
import sys
from pathlib import Path


def is_main_process():
    """`bool`: whether this process prints and writes, under `accelerate launch` or `torchrun` or alone."""
    return os.environ.get("RANK", "0") == "0"


def say(*text):
    """Print on the main process."""
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
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if path is not None and is_main_process():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text + "\n", encoding="utf-8")
    say(text)


def run(main):
    """Run `main()`; bad input ends the program with status 2 and its message on stderr, without a traceback.

    Bad input is a `ValueError` or an `OSError` (a missing or damaged file), and likewise an `ImportError`, of a package
    that the program needs and that is not installed. LFM_TRACEBACK=1 shows where it came from.
    """
    try:
        main()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError, ImportError) as error:
        _fail(error)
    except Exception as error:
        # datasets wraps what went wrong in building a benchmark.
        if type(error).__name__ != "DatasetGenerationError" or not isinstance(error.__cause__, (ValueError, OSError)):
            raise
        _fail(error.__cause__)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error):
    if os.environ.get("LFM_TRACEBACK") == "1":
        raise error
    if is_main_process():
        text = "\n".join(line.rstrip() for line in str(error).splitlines() if line.strip())
        print(f"error: {text or type(error).__name__}", file=sys.stderr, flush=True)
    sys.exit(2)
