"""The page of demo.py, made of Gradio's own parts, and the server that answers it."""

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from modeling_lfm.scripts.page.guard import POLICY, Guard, take_stored_files
from modeling_lfm.scripts.page.inputs import MAX_TEXT, find_examples
from modeling_lfm.scripts.page.reader import draw_shares

KEPT = 3600  # seconds that an upload is kept
LOCAL = ["127.0.0.1", "localhost"]
WAITING = 32  # questions that wait for their turn; more are told to come back
# The first rule shows small pictures; trimming a video needs a program from another server.
CSS = ".image-frame img { min-height: 112px; object-fit: contain; }"
CSS += '[aria-label="Trim video to selection"] { display: none; }'
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def make_input(source):
    """The component in which one input of the model (a [`Source`]) is given."""
    label = source.name if len(source.modalities) == 1 else f"{source.name} ({' and '.join(source.modalities)})"
    common = {"label": label, "elem_id": f"input-{source.name}", "render": False}
    if source.kind == "text":
        return gr.Textbox(lines=3, max_length=MAX_TEXT, placeholder="Write something", **common)
    if source.kind == "spectrogram":
        return gr.Audio(type="filepath", sources=["upload", "microphone"], buttons=[], **common)
    if source.kind == "video":
        return gr.Video(sources=["upload", "webcam"], buttons=[], height=280, **common)
    return gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], buttons=[], height=280, **common)


def build_page(reader, title, examples=None):
    """The page.

    Args:
        reader ([`Reader`]), title (`str`)
        examples (`str`, *optional*): a folder, see [`find_examples`].

    Returns:
        `gradio.Blocks`; its components take uploads and examples alone.
    """
    names = [source.name for source in reader.sources]
    found = find_examples(examples, reader.sources) if examples else {}
    files = [file for example in found.values() for file in example.values()]
    gr.set_static_paths(files)
    texts = {source.name for source in reader.sources if source.kind == "text"}
    rows = [
        [None if n not in row else row[n].read_text("utf-8", "replace") if n in texts else str(row[n]) for n in names]
        for row in found.values()
    ]

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        page.queue(max_size=WAITING, api_open=False)  # nobody passes by the others that wait
        given = ", ".join(reader.names)
        gr.Markdown(f"# {title}\nGives one of {reader.model.config.num_labels} labels from {given}, or a part of them.")
        inputs = [make_input(source) for source in reader.sources]
        if rows:
            gr.Examples(rows, inputs, example_labels=list(found))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                for component in inputs:
                    component.render()
                borrow = gr.Checkbox(label="Take the sound from the video", visible=reader.lender is not None)
                with gr.Row():
                    clear = gr.ClearButton(inputs)
                    button = gr.Button("Predict", variant="primary")
            with gr.Column(scale=3, min_width=320):
                outputs = make_outputs(reader)

        def predict(*values):
            values = dict(zip([*names, "borrow"], values, strict=True))
            if values.pop("borrow") and not values[reader.borrower]:
                values[reader.borrower] = values[reader.lender]
            return list(tell(reader, values).values())

        gr.on(
            [button.click, *(component.change for component in [*inputs, borrow])],
            predict,
            [*inputs, borrow],
            outputs,
            api_name="predict",
            trigger_mode="always_last",
            show_progress="minimal",
        )
        clear.add(outputs)
    take_stored_files(page, [Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), *files])
    return page


def make_outputs(reader):
    """Where the answer stands: the components that [`tell`] fills, in its order."""
    outputs = [gr.Textbox(label="In words", interactive=False, lines=2, elem_id="words")]
    with gr.Row():
        outputs.append(gr.Label(label="fused", num_top_classes=5, min_width=200))
        if len(reader.names) > 1:
            outputs += [gr.Label(label=f"{name} alone", num_top_classes=5, min_width=200) for name in reader.names]
    outputs.append(gr.Plot(show_label=False, format="png"))
    texts = {name for source in reader.sources if source.kind == "text" for name in source.modalities}
    for name in reader.names:
        label = f"Where the model looks: {name}"
        outputs.append(gr.HighlightedText(label=label) if name in texts else gr.Plot(show_label=False, format="png"))
    with gr.Accordion("The numbers, as JSON", open=False):
        outputs.append(gr.JSON(show_label=False))
    return outputs


def tell(reader, values):
    """The answer to raw inputs (`dict` by source), as the values of the components of [`make_outputs`]."""
    batch, problems = reader.read(values)
    answer = {}
    if batch:
        try:
            answer = reader.answer(batch)
        except ValueError as error:  # numbers that are not finite
            problems.append(str(error))
    alone = answer.get("modalities", {})
    words = [describe(answer)] if answer else [] if problems else ["Give the model at least one input."]
    shown = {"words": "\n".join([*words, *problems]), "fused": _by_label(answer)}
    if len(reader.names) > 1:
        shown |= {f"{name} alone": _by_label(alone.get(name)) for name in reader.names}
    shown["shares"] = draw_shares(answer) if answer else None
    shown |= {f"look {name}": reader.look(batch, name) if name in alone else None for name in reader.names}
    return {**shown, "numbers": {**answer, "problems": problems}}


def _by_label(report):
    return {entry["label"]: entry["score"] for entry in report["scores"]} if report else None


def describe(answer):
    """What is predicted, and from what, in a sentence."""
    scores = {entry["label"]: entry["score"] for entry in answer["scores"]}
    labels = answer.get("labels", [answer["scores"][0]["label"]])
    named = ", ".join(f"{label} ({100 * scores[label]:.1f} %)" for label in labels) or "none of the labels"
    return f"{named}, from {' and '.join(answer['modalities'])}."


def make_app(page, host, max_upload, max_total):
    """The ASGI application of a page, behind its guard.

    Args:
        page (`gradio.Blocks`), host (`str`): the address that is served.
        max_upload, max_total (`float`): MB (10^6 bytes) of one file, and of all that are kept.
    """
    limit = round(max_upload * 1e6)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        show_error=False,
        max_file_size=limit,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(**FONTS),
        css=CSS,
    )
    space = os.environ.get("SPACE_HOST")  # set on a Space, whose own scripts frame the page
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    app = Guard(app, {space} - {None}, folder, limit, round(max_total * 1e6), None if space else POLICY)
    # A name that somebody else's page made point here is not answered.
    return TrustedHostMiddleware(app, LOCAL) if host in LOCAL else app


def make_server(app):
    """A `uvicorn.Server` of an ASGI application, to be run on sockets."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
