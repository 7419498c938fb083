"""The page of demo.py: inputs of a model, what it predicts of them, what each of them adds, and where it looks."""

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from modeling_lfm.audio_lfm import load_audio
from modeling_lfm.scripts.page.guard import POLICY, Guard, take_stored_files
from modeling_lfm.trainer.analysis.contributions import coalition_values
from modeling_lfm.trainer.analysis.maps import draw_look, measure_maps
from modeling_lfm.trainer.analysis.observations import coalition_logits
from modeling_lfm.trainer.objectives import shapley_values
from modeling_lfm.trainer.plots import new_figure, tidy

LOCAL = ["127.0.0.1", "localhost"]
MAX_UPLOAD, MAX_TOTAL = 20_000_000, 500_000_000  # bytes of one file, and of all that are kept
KEPT = 3600  # seconds that an upload is kept
WAITING = 32  # questions that wait for their turn; more are told to come back
MAX_TEXT, MAX_SOUND = 5000, 300  # characters and seconds; the rest is not read
# The first rule shows small pictures; trimming a video needs a program from another server.
CSS = ".image-frame img { min-height: 112px; object-fit: contain; }"
CSS += '[aria-label="Trim video to selection"] { display: none; }'
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def find_examples(folder, names):
    """The files of examples (`dict` by example of `dict[str, Path]` by modality), links resolved: one folder each, in
    which they are named after the modalities `names`, `audio.wav`, `text.txt`.

    Raises:
        FileNotFoundError: no such folder. ValueError: no example in it, or a link to a file that lies elsewhere.
    """
    whole, examples = Path(folder).resolve(), {}
    if not whole.is_dir():
        raise FileNotFoundError(f"no folder of examples at {folder}.")
    for file in sorted(path for path in whole.glob("[!.]*/*") if path.is_file() and path.stem in names):
        if not file.resolve().is_relative_to(whole):
            raise ValueError(f"{file} is a link out of {folder}: put the file itself there.")
        examples.setdefault(file.parent.name, {})[file.stem] = file.resolve()
    if not examples:
        raise ValueError(f"{folder} holds no examples: put each into a folder of its own, with files {names[0]}.* ...")
    return examples


def make_input(name, kind):
    """The component in which a modality (`str`) is given, by its `kind` (`str`), the type of the processor."""
    common = {"label": name, "elem_id": f"input-{name}", "render": False}
    if kind == "text":
        return gr.Textbox(lines=3, max_length=MAX_TEXT, placeholder="Write something", **common)
    if kind in ("spectrogram", "waveform"):
        return gr.Audio(type="filepath", sources=["upload", "microphone"], buttons=[], **common)
    if kind in ("video", "flow"):
        return gr.Video(sources=["upload", "webcam"], buttons=[], height=280, **common)
    return gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], buttons=[], height=280, **common)


def build_page(pipeline, title, examples=None):
    """The page of a pipeline (`gradio.Blocks`), whose components take uploads and the `examples` of a folder alone."""
    kinds = {name: pipeline.processor.modalities[name]["type"] for name in pipeline.reader.names}
    found = find_examples(examples, list(kinds)) if examples else {}
    files = [file for example in found.values() for file in example.values()]
    gr.set_static_paths(files)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        page.queue(max_size=WAITING, api_open=False)  # nobody passes by the others that wait
        labels = pipeline.model.config.num_labels
        gr.Markdown(f"# {title}\nGives one of {labels} labels from {', '.join(kinds)}, or a part of them.")
        inputs = [make_input(name, kind) for name, kind in kinds.items()]
        if found:
            rows = [[_read_example(files.get(name), kind) for name, kind in kinds.items()] for files in found.values()]
            gr.Examples(rows, inputs, example_labels=list(found))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                for component in inputs:
                    component.render()
                with gr.Row():
                    clear = gr.ClearButton(inputs)
                    button = gr.Button("Predict", variant="primary")
            with gr.Column(scale=3, min_width=320):
                outputs = [gr.Textbox(label="In words", interactive=False, lines=2, elem_id="words")]
                with gr.Row():
                    heads = ["fused", *(f"{name} alone" for name in kinds)]
                    outputs += [gr.Label(label=head, num_top_classes=5, min_width=200) for head in heads]
                outputs += [gr.Plot(show_label=False, format="png") for _ in ("what each adds", "where it looks")]
                with gr.Accordion("The numbers, as JSON", open=False):
                    outputs.append(gr.JSON(show_label=False))
        gr.on(
            [button.click, *(component.change for component in inputs)],
            lambda *values: tell(pipeline, dict(zip(kinds, values, strict=True))),
            inputs,
            outputs,
            api_name="predict",
            trigger_mode="always_last",
            show_progress="minimal",
        )
        clear.add(outputs)
    take_stored_files(page, [Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), *files])
    return page


def _read_example(file, kind):
    return file and (file.read_text("utf-8", "replace") if kind == "text" else str(file))


def tell(pipeline, values):
    """The answer to raw inputs, see [`read_inputs`]: what the components show (`list`), the numbers (`dict`) last."""
    batch, problems = read_inputs(pipeline, values)
    answer = {}
    if batch:
        try:
            answer = explain(pipeline, batch)
        except ValueError as error:  # numbers that are not finite
            problems.append(str(error))
    if not answer:
        words = problems or ["Give the model at least one input."]
        return ["\n".join(words), *[None] * (len(pipeline.reader.names) + 3), {"problems": problems}]
    scores = {entry["label"]: entry["score"] for entry in answer["scores"]}
    labels = answer.get("labels", [answer["scores"][0]["label"]])
    said = ", ".join(f"{label} ({100 * scores[label]:.1f} %)" for label in labels) or "none of the labels"
    words = [f"{said}, from {' and '.join(answer['modalities'])}.", *problems]
    alone = [answer["modalities"].get(name) for name in pipeline.reader.names]
    heads = [head and {entry["label"]: entry["score"] for entry in head["scores"]} for head in (answer, *alone)]
    figures = [draw_shares(answer), draw_looks(pipeline, batch, list(answer["modalities"]))]
    return ["\n".join(words), *heads, *figures, {**answer, "problems": problems}]


def read_inputs(pipeline, values):
    """The tensors (`dict`) of one sample, from `values` (by modality a path, a text, or nothing), and what could
    not be read (`list[str]`, in sentences)."""
    rows, problems = {}, []
    for name, value in values.items():
        kind = pipeline.processor.modalities[name]["type"]
        if not value or not value.strip():
            continue
        try:
            given = value[:MAX_TEXT] if kind == "text" else value
            if kind in ("spectrogram", "waveform"):
                wave, rate = load_audio(value, seconds=MAX_SOUND)
                given = {"array": wave, "sampling_rate": rate}
            rows |= pipeline.reader.read({name: given})
        except (ValueError, OSError, ImportError) as error:  # without the folders of this machine
            problems.append(str(error).replace(value, "the text" if kind == "text" else Path(value).name))
    batch = pipeline.reader.stack([rows]) if rows else {}
    return {key: tensor.to(pipeline.model.device) for key, tensor in batch.items()}, problems


def explain(pipeline, batch):
    """The pipeline's answer to a sample (`dict`), and `shapley`: the class `of` which the `modalities` (those that are
    there) each add a Shapley value to the probability that nothing gives, the `baseline`. A `ValueError` where numbers
    are not finite."""
    answer, config = pipeline.postprocess(pipeline.forward(batch), top_k=None), pipeline.model.config
    best = answer["scores"][0]["label"]
    number = next(number for number, label in config.id2label.items() if label == best)
    logits = coalition_logits(pipeline.model, batch)
    logits = {kept: part.double().cpu().numpy() for kept, part in logits.items()}
    values = coalition_values(logits, multi_label=config.is_multi_label)
    values = {kept: float(part[0, number]) for kept, part in values.items()}
    shares = dict(zip(config.modality_names, shapley_values(values, config.modality_names), strict=True))
    shares = {name: shares[name] for name in answer["modalities"]}
    return {**answer, "shapley": {"of": best, "baseline": values[frozenset()], "modalities": shares}}


def draw_shares(answer):
    """What leads from no input to the fused prediction of an answer, as a `matplotlib.figure.Figure`."""
    label, shares = answer["shapley"]["of"], answer["shapley"]["modalities"]
    steps = {"no input": answer["shapley"]["baseline"], **shares, "fused": answer["scores"][0]["score"]}
    figure = new_figure(5, 0.8 + 0.32 * len(steps))
    axes = figure.subplots()
    axes.bar_label(axes.barh(list(steps), [100 * step for step in steps.values()]), fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    title = f"What each input adds to {label[:40]} (Shapley values, percentage points)"
    axes.set_title(title, fontsize=9, parse_math=False)
    return tidy(figure, [axes], grid="x")


def draw_looks(pipeline, batch, names):
    """Where the model looks in each of `names`, modalities of a sample (`matplotlib.figure.Figure`)."""
    figure = new_figure(5, 2.5 * len(names))
    for name, axes in zip(names, figure.subplots(len(names), 1, squeeze=False).flat, strict=True):
        title, found = "where the model looks", None
        try:
            found = measure_maps(pipeline.model, batch, name)["fused"]["map"][0]
        except ValueError:
            title = "the model tells not where it looks"
        draw_look(axes, pipeline.processor, name, batch, values=found)
        axes.set_title(f"{name}: {title}", fontsize=9)
    return figure


def make_app(page, host, limit=MAX_UPLOAD, total=MAX_TOTAL):
    """The ASGI application of a page that is served at `host`, behind its guard; `limit` and `total` are bytes of one
    file, and of all that are kept."""
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
    app = Guard(app, {space} - {None}, folder, limit, total, None if space else POLICY)
    # A name that somebody else's page made point here is not answered.
    return TrustedHostMiddleware(app, LOCAL) if host in LOCAL else app


def make_server(app):
    """A `uvicorn.Server` of an ASGI application, to be run on sockets."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
