"""A page on which a trained model is tried out: give it files, leave some out, and see what it makes of the rest."""

import atexit
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import run, say
from modeling_lfm.scripts.page.inputs import read_examples

GRADIO = "6.24"  # the first whose `launch` can be told to keep no history of what was asked
HELP = """
Show a trained model on a web page: predictions from files, from all modalities or a part of them.

usage: python scripts/demo.py --checkpoint DIR [--setting value ...]
       python -m modeling_lfm.scripts.demo --checkpoint DIR [--setting value ...]

The page has an input for each modality of the model (a file, microphone or camera, a text, an example), any of which
can be left out. It shows the probabilities of the fused prediction and of each modality alone, how much each modality
adds to the predicted class (Shapley values), and where in picture, video, spectrogram and text the model looks. It
needs more packages: pip install "modeling-lfm[demo]".

examples:
  python scripts/demo.py --checkpoint outputs/av_mnist
  python scripts/demo.py --checkpoint outputs/av_mnist --port 8000 --examples my_examples
  python scripts/demo.py --checkpoint outputs/av_mnist --export my_space      a folder to be uploaded as a Space

settings:
{settings}

The page is served to this machine alone unless --host says otherwise, and asks nothing of other servers. Uploads are
kept in a folder of their own that is removed at the end; no other file can be reached.
"""


@dataclass
class DemoArguments:
    """What is shown, and where."""

    checkpoint: str = field(metadata={"help": "Folder of the model that train.py wrote, or a model on the Hub."})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address on which the page is served; 0.0.0.0 lets other machines in."},
    )
    port: int = field(default=7860, metadata={"help": "Port on which the page is served."})
    title: str | None = field(default=None, metadata={"help": "Title of the page; the model's name if not given."})
    examples: str | None = field(
        default=None,
        metadata={"help": "Folder of examples: one folder each, its files named after the inputs, such as audio.wav."},
    )
    max_upload: float = field(default=20.0, metadata={"help": "Largest file that can be uploaded, in MB."})
    export: str | None = field(
        default=None,
        metadata={
            "help": "Folder to write in place of serving: the page as a Hugging Face Space that runs on its own."
        },
    )

    def __post_init__(self):
        if not 0 < self.port < 65536:
            raise ValueError(f"port={self.port} must lie between 1 and 65535.")
        if not self.max_upload > 0:
            raise ValueError(f"max_upload={self.max_upload} must be above 0 MB.")


def check_packages():
    """Raise an `ImportError` that tells how to install what the page needs, where it is missing."""
    missing = [name for name in ("gradio", "captum") if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise ImportError(f'the page needs {names}: pip install "modeling-lfm[demo]", or pip install {names}.')

    from packaging.version import Version

    version = importlib.metadata.version("gradio")
    if Version(version) < Version(GRADIO):
        raise ImportError(f'the page needs gradio {GRADIO} or later, not {version}: pip install "gradio>={GRADIO}".')


def hide_bars():
    """No progress bars while the model is read."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def check_port(host, port):
    """Raise an `OSError` if a page cannot be served at `host` (`str`) on `port` (`int`)."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = os.strerror(error.errno) if (error.errno or 0) > 0 else error.strerror
        raise OSError(
            f"cannot serve at {host} on port {port} ({reason}); choose another by --host or --port."
        ) from error


def make_page(args):
    """The page of a model.

    Args:
        args ([`DemoArguments`])

    Returns:
        `gradio.Blocks`

    Raises:
        FileNotFoundError, ValueError: no model, no examples.
    """
    hide_bars()
    model, processor = runs.load_run(args.checkpoint)

    from modeling_lfm.scripts.page.answer import Reader

    reader = Reader(model, processor, runs.recall(args.checkpoint)["columns"])
    examples = read_examples(args.examples, reader.sources) if args.examples else None

    from modeling_lfm.scripts.page.page import build_page

    return build_page(reader, args.title or Path(args.checkpoint).resolve().name, examples)


def keep_uploads_apart():
    """Let Gradio write uploads into a folder of their own, which goes when the program ends, or is asked to."""
    folder = tempfile.mkdtemp(prefix="lfm-demo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["GRADIO_TEMP_DIR"] = folder


def export(args):
    """Write the page as a Space."""
    check_packages()
    hide_bars()

    from modeling_lfm.scripts.page import space

    folder = space.export(args)
    say(f"a Space: {folder}")
    say(f"here:        python {folder / 'app.py'}")
    say(f"on the Hub:  hf upload USER/NAME {folder} . --repo-type space")


def serve(args):
    """Serve the page until the program is stopped."""
    check_packages()
    check_port(args.host, args.port)  # before a model is read
    keep_uploads_apart()
    page = make_page(args)

    from modeling_lfm.scripts.page.page import launch

    address = launch(page, args.host, args.port, args.max_upload)
    say(f"{args.checkpoint} on {address} (stop: Ctrl-C)")
    page.block_thread()


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        arguments.show_help(HELP.format(settings=arguments.describe(DemoArguments)))
    (args,) = arguments.build(arguments.read_settings(argv), DemoArguments)
    export(args) if args.export else serve(args)


if __name__ == "__main__":
    run(main)
