"""A page on which a trained model is tried out: give it files, leave some out, and see what it makes of the rest."""

import importlib.metadata
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.settings import read_arguments

GRADIO = "6.24"  # the first that can be told to keep no history of what was asked
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

The page is served to this machine alone unless --host says otherwise, answers no page of another site, and asks nothing
of other servers. It reads no files but uploads and examples; uploads lie in a folder that is removed at the end.
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
    max_total: float = field(
        default=500.0, metadata={"help": "MB of all uploads that are kept; the oldest make room for new ones."}
    )
    export: str | None = field(
        default=None, metadata={"help": "Folder to write in place of serving: the page as a Hugging Face Space."}
    )

    def __post_init__(self):
        if not 0 < self.port < 65536:
            raise ValueError(f"port={self.port} must lie between 1 and 65535.")
        if not self.max_upload > 0:
            raise ValueError(f"max_upload={self.max_upload} must be above 0 MB.")
        if not self.max_total >= 2 * self.max_upload:
            raise ValueError(f"max_total={self.max_total} must be at least twice max_upload={self.max_upload}.")
        self.title = self.title or Path(self.checkpoint).resolve().name


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


def listen(host, port):
    """A socket that listens at `host` (`str`) on `port` (`int`); an `OSError` that names both if that cannot be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(
            f"cannot serve at {host} on port {port} ({error}); choose another by --host or --port."
        ) from error


def make_app(args):
    """The ASGI application of the page that [`DemoArguments`] describe; uploads go to $GRADIO_TEMP_DIR."""
    model, processor = runs.load_run(args.checkpoint)

    from modeling_lfm.scripts.page import page
    from modeling_lfm.scripts.page.reader import Reader

    reader = Reader(model, processor, runs.recall(args.checkpoint)["columns"])
    blocks = page.build_page(reader, args.title, args.examples)
    return page.make_app(blocks, args.host, args.max_upload, args.max_total)


def serve(args):
    """Serve the page until the program is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder of uploads goes then too
    with listen(args.host, args.port) as place, tempfile.TemporaryDirectory(prefix="lfm-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        app = make_app(args)

        from modeling_lfm.scripts.page.page import make_server

        say(f"{args.checkpoint} on http://{args.host}:{args.port}/ (stop: Ctrl-C)")
        make_server(app).run(sockets=[place])


def export(args):
    """Write the page as a Space."""
    from modeling_lfm.scripts.page.space import export

    folder = export(args)
    say(f"a Space: {folder}")
    say(f"here:        python {folder / 'app.py'}")
    say(f"on the Hub:  hf upload USER/NAME {folder} . --repo-type space")


def main(argv=None):
    args = read_arguments(argv, HELP, DemoArguments)
    check_packages()
    hide_progress_bars()
    export(args) if args.export else serve(args)


if __name__ == "__main__":
    run(main)
