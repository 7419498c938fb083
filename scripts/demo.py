"""Show a trained model on a web page: predictions from files, from all modalities or a part of them.

usage: python scripts/demo.py --checkpoint DIR [--setting value ...]

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

import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, require, run, say
from modeling_lfm.scripts.common.settings import read_arguments


@dataclass
class DemoArguments:
    """Settings of `demo.py`: the model that is shown, and the address of the page."""

    checkpoint: str = HfArg(help="Folder of the model that train.py wrote, or a model on the Hub.")
    host: str = HfArg(default="127.0.0.1", help="Address of the page; 0.0.0.0 lets other machines in.")
    port: int = HfArg(default=7860, help="Port on which the page is served.")
    title: str | None = HfArg(default=None, help="Title of the page; the model's name if not given.")
    examples: str | None = HfArg(
        default=None, help="Folder of examples: one folder each, its files named after the inputs, such as audio.wav."
    )
    export: str | None = HfArg(
        default=None, help="Folder to write in place of serving: the page as a Hugging Face Space."
    )

    def __post_init__(self):
        if not 0 < self.port < 65536:
            raise ValueError(f"port={self.port} must lie between 1 and 65535.")
        self.title = self.title or Path(self.checkpoint).resolve().name


def serve(args):
    """Serve the page until the program is stopped."""
    from modeling_lfm import MultimodalClassificationPipeline

    try:
        place = socket.create_server((args.host, args.port))
    except (OSError, UnicodeError) as error:
        raise OSError(f"nothing can be served at host={args.host!r}, port={args.port} ({error}).") from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder of uploads goes then too
    with place, tempfile.TemporaryDirectory(prefix="lfm-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        classifier = MultimodalClassificationPipeline(*runs.load_run(args.checkpoint))

        from modeling_lfm.scripts.page import page  # which takes seconds

        blocks = page.build_page(classifier, args.title, args.examples)
        say(f"{args.checkpoint} on http://{args.host}:{args.port}/ (stop: Ctrl-C)")
        page.make_server(page.make_app(blocks, args.host)).run(sockets=[place])


def main(argv=None):
    args = read_arguments(argv, __doc__, DemoArguments)
    require("demo", "gradio", "captum")
    hide_progress_bars()
    if not args.export:
        return serve(args)

    from modeling_lfm.scripts.page.space import export

    folder = export(args)
    say(f"a Space: {folder}")
    say(f"here:        python {folder / 'app.py'}")
    say(f"on the Hub:  hf upload USER/NAME {folder} . --repo-type space")


if __name__ == "__main__":
    run(main)
