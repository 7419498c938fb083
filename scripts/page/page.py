"""The page of demo.py: its inputs, what happens when they change, and a server that gives nothing else away."""

import os
import re

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"
os.environ.pop("GRADIO_ALLOWED_PATHS", None)

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from modeling_lfm.scripts.page.answer import MAX_SOUND
from modeling_lfm.scripts.page.charts import CSS, draw_answer
from modeling_lfm.scripts.page.inputs import MAX_TEXT
from modeling_lfm.trainer.analysis.report import listing

KEPT = 3600  # seconds that an upload is kept
LOCAL = ["127.0.0.1", "localhost"]
WAITING = 32  # questions that wait for their turn; more are told to come back
# Scripts, fonts and pictures come from this server alone.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; base-uri 'self'; form-action 'self'"
)
# What the page asks for; the rest of what Gradio answers (proxies of other addresses, among others) is refused.
ASKED = re.compile(
    r"/(|config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|(static|assets|svelte)/.*"
    r"|gradio_api/(info|config|app_id|startup-events|upload|upload_progress|cancel|reset|run/predict|queue/(join|data)"
    r"|(heartbeat|call)/.*|file=(?![A-Za-z][A-Za-z0-9+.-]*:).*)/?)"
)


class Guard:
    """An ASGI middleware: answers nothing but what the page needs, takes nothing that is too large.

    Args:
        app: the application behind it.
        limit (`int`): bytes of a request.
        policy (`str`, *optional*): the `Content-Security-Policy` of answers.
    """

    def __init__(self, app, limit, policy=None):
        self.app, self.limit = app, limit
        self.headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
        self.headers += [(b"content-security-policy", policy.encode())] if policy else []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if not ASKED.fullmatch(scope["path"]):
                return await PlainTextResponse("not found", 404)(scope, receive, send)
            if not length.isdigit() or int(length) > self.limit:
                return await PlainTextResponse("too large", 413)(scope, receive, send)
        elif scope["type"] == "websocket":
            return None
        taken = 0

        async def receive_a_part():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= self.limit else {"type": "http.disconnect"}

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        return await self.app(scope, receive_a_part, send_with_headers)


def make_input(source):
    """The component in which one input of the model (a [`Source`]) is given."""
    names = " and ".join(source.modalities)
    label = source.name if source.modalities == (source.name,) else f"{source.name} ({names})"
    if source.kind == "text":
        settings = {"lines": 3, "max_length": MAX_TEXT, "placeholder": "Write something"}
        return gr.Textbox(label=label, elem_id=f"input-{source.name}", render=False, **settings)
    kinds = {
        "spectrogram": (gr.Audio, {"type": "filepath", "sources": ["upload", "microphone"]}),
        "image": (gr.Image, {"type": "filepath", "sources": ["upload", "webcam", "clipboard"], "height": 240}),
        "video": (gr.Video, {"sources": ["upload", "webcam"]}),
    }
    component, settings = kinds[source.kind]
    return keep_local(component(label=label, elem_id=f"input-{source.name}", buttons=[], render=False, **settings))


def keep_local(component):
    """Let `component` hand over the path of what was uploaded as it is: an address is not fetched, nothing is decoded
    or converted here, so that what cannot be read is told by the model's own reader."""
    move = component.async_move_resource_to_block_cache

    async def move_file(path):
        if path is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(path)):
            raise gr.Error("Give a file; addresses are not fetched.", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_file
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def build_page(reader, title, examples=None):
    """The page.

    Args:
        reader ([`Reader`])
        title (`str`)
        examples (`dict[str, list]`, *optional*): of [`read_examples`].

    Returns:
        `gradio.Blocks`
    """
    names = [source.name for source in reader.sources]

    def predict(*values):
        given = dict(zip(names, values, strict=False))
        answer = reader.answer(given, borrow=bool(values[-1]) and reader.lender is not None)
        return draw_answer(answer, reader.places), answer.to_dict()

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        page.queue(max_size=WAITING, api_open=False)  # nobody passes by the others that wait
        limits = [f"Of {name} the first {length or MAX_SOUND:g} s are read." for name, length in reader.lengths.items()]
        gr.Markdown(f"# {title}\n{' '.join([describe_model(reader.model.config), *limits])}")
        inputs = [make_input(source) for source in reader.sources]
        if examples:
            gr.Examples(list(examples.values()), inputs, label="Examples", example_labels=list(examples))
            for component in inputs:
                component.keep_in_cache |= component.temp_files  # or they would be deleted with old uploads
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                for component in inputs:
                    component.render()
                controls = []
                if reader.lender:
                    controls = [gr.Checkbox(reader.one_file, label="Take the sound from the video")]
                with gr.Row():
                    clear = gr.ClearButton(value="Clear", min_width=100)
                    button = gr.Button("Predict", variant="primary", min_width=100)
            with gr.Column(scale=3, min_width=320):
                output = gr.HTML(draw_answer(reader.answer({}), reader.places), elem_id="answer")
                with gr.Accordion("The numbers, as JSON", open=False):
                    numbers = gr.JSON(show_label=False, elem_id="numbers")
        clear.add(inputs)
        gr.on(
            [button.click, *(component.change for component in [*inputs, *controls])],
            predict,
            [*inputs, *controls],
            [output, numbers],
            api_name="predict",
            trigger_mode="always_last",
            show_progress="minimal",
            concurrency_limit=1,
        )
    return page


def describe_model(config):
    """What a model does, in a sentence or two."""
    names = config.modality_names
    text = f"Gives one of {config.num_labels} labels from {listing(names)}"
    if config.problem_type == "multi_label_classification":
        text = f"Tells which of {config.num_labels} labels hold, from {listing(names)}"
    if len(names) == 1:
        return f"{text}."
    return f"{text}, or from a part of them. Leave any input out to see what the model makes of the others."


def launch(page, host, port, max_upload):
    """Serve the page from a thread, with uploads in a folder of their own.

    Args:
        page (`gradio.Blocks`), host (`str`), port (`int`)
        max_upload (`float`): MB (10^6 bytes) of a file.

    Returns:
        `str`: the address.

    Raises:
        OSError: the port is taken.
    """
    limit = round(max_upload * 1e6)
    on_space = bool(os.environ.get("SPACE_ID"))  # whose own scripts frame the page
    guards = [Middleware(Guard, limit=limit + 100_000, policy=None if on_space else POLICY)]
    if host in LOCAL:  # a name that somebody else's page made point here is not answered
        guards.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL))
    font = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        max_file_size=limit,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": guards, "docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=gr.themes.Default(**font),
        css=CSS,
    )
    return address
