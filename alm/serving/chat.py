"""The chat page: clips, questions, streamed answers of `alm serve`, and a test of whether the model uses the audio.

The page sends requests only to the server, with OpenAI's client; it loads no model.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import numpy as np
import openai
import soundfile

from alm.common.errors import AudioError, UserError

_RATE_HZ = 16000
_SHOWN_S = 600.0  # longest clip whose spectrogram is drawn
_WINDOW, _COLUMNS = 512, 1200  # samples of a column of a spectrogram, and most columns
_FONTS = ["system-ui", "sans-serif"]
_MONO = ["ui-monospace", "monospace"]

_HEAD = """<script>
for (const kind of ["timeupdate", "seeking", "play"]) document.addEventListener(kind, (event) => {
  const clip = event.target.closest && event.target.closest(".alm-clip");
  if (!clip || !event.target.duration) return;
  clip.querySelector(".alm-head").style.left = 100 * event.target.currentTime / event.target.duration + "%";
}, true);
</script>"""

_CSS = """
.alm-clip { margin-bottom: 0.5rem; overflow-wrap: anywhere; } .alm-clip audio { width: 100%; }
.alm-spectrogram { position: relative; } .alm-spectrogram img { width: 100%; height: 110px; display: block; }
.alm-head { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; background: #fff; }
"""


class Asker:
    """Sends requests to a server.

    Args:
        url: Its address, with `/v1`.
        key: Its key; None if it needs none.

    Raises:
        UserError: It does not answer, or serves no model.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.client = openai.OpenAI(base_url=self.url, api_key=key or "none", max_retries=0)
        try:
            models = [one.id for one in self.client.models.list()]
        except openai.APIError as error:
            raise UserError(
                f"{self.url}: does not answer ({error}); start it with: alm serve MODEL"
            ) from error
        if not models:
            raise UserError(f"{self.url}: serves no model")
        self.model = models[0]

    def stream(self, messages: list[dict[str, Any]], temperature: float, max_tokens: int) -> Iterator[str]:
        """The answer as it grows.

        Raises:
            UserError: The server refuses the request, or fails.
        """
        said = ""
        asked: Any = messages
        try:
            with self.client.chat.completions.create(
                model=self.model,
                messages=asked,
                stream=True,
                temperature=temperature,
                max_tokens=max_tokens,
            ) as chunks:
                for chunk in chunks:
                    for choice in chunk.choices:
                        said += choice.delta.content or ""
                        yield said
            yield said or "(no words)"
        except openai.APIStatusError as error:
            why = error.body.get("message") if isinstance(error.body, dict) else None
            raise UserError(f"Error {error.status_code}: {why or error.message}") from error
        except openai.APIError as error:
            raise UserError(f"Error: {error.message}") from error


def question(text: str, files: Sequence[str]) -> dict[str, Any]:
    """A message of the user: clips, then the text."""
    items: list[dict[str, Any]] = []
    for file in files:
        data = base64.b64encode(Path(file).read_bytes()).decode()
        kind = Path(file).suffix.lstrip(".").lower() or "wav"
        items.append({"type": "input_audio", "input_audio": {"data": data, "format": kind}})
    return {"role": "user", "content": [*items, {"type": "text", "text": text}]}


def without_audio(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation without its clips."""
    return [_with(message, lambda item: None) for message in messages]


def with_clip(messages: Sequence[dict[str, Any]], file: str) -> list[dict[str, Any]]:
    """The same conversation with one clip in place of each."""
    clip = question("", [file])["content"][0]
    return [_with(message, lambda item: clip) for message in messages]


def _with(message: dict[str, Any], change: Any) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    items = [item if item["type"] == "text" else change(item) for item in message["content"]]
    return {**message, "content": [item for item in items if item is not None]}


def as_python(url: str, model: str, text: str, files: Sequence[str], temperature: float, n: int) -> str:
    """A program that asks the same."""
    names = [Path(file).name for file in files]
    return f"""import base64, os
from openai import OpenAI

client = OpenAI(base_url={url!r}, api_key=os.environ.get("ALM_API_KEY", "none"))
clips = [base64.b64encode(open(path, "rb").read()).decode() for path in {names!r}]
content = [{{"type": "input_audio", "input_audio": {{"data": clip, "format": "wav"}}}} for clip in clips]
content.append({{"type": "text", "text": {text!r}}})
answer = client.chat.completions.create(
    model={model!r}, messages=[{{"role": "user", "content": content}}], temperature={temperature!r}, max_tokens={n}
)
print(answer.choices[0].message.content)
"""


def as_curl(url: str, model: str, text: str, files: Sequence[str], temperature: float, n: int) -> str:
    """A shell command that asks the same."""
    marks = [f"@CLIP{i}@" for i in range(len(files))]
    items: list[dict[str, Any]] = [
        {"type": "input_audio", "input_audio": {"data": mark, "format": "wav"}} for mark in marks
    ]
    items.append({"type": "text", "text": text})
    body = {"model": model, "messages": [{"role": "user", "content": items}],
            "temperature": temperature, "max_tokens": n}  # fmt: skip
    words = shlex.quote(json.dumps(body))
    for mark, file in zip(marks, files, strict=True):
        words = words.replace(mark, "'\"$(base64 -w0 " + shlex.quote(Path(file).name) + ")\"'")
    return (
        f"printf %s {words} |\n  curl {shlex.quote(url + '/chat/completions')} -H 'Content-Type: application/json' \\\n"
        '    -H "Authorization: Bearer $ALM_API_KEY" --data-binary @-\n'
    )


def clip_html(file: str) -> str:
    """A player with the clip's spectrogram, over which a line shows the time.

    Raises:
        AudioError: It cannot be decoded.
    """
    from encoders.audio import load_audio
    from encoders.audio.limits import limited

    with limited(_SHOWN_S):
        wave = load_audio(file, _RATE_HZ)
    played = io.BytesIO()
    soundfile.write(played, wave, _RATE_HZ, format="WAV", subtype="PCM_16")
    data = base64.b64encode(played.getvalue()).decode()
    image = base64.b64encode(spectrogram_png(wave)).decode()
    name = html.escape(Path(file).name)
    return (
        f'<div class="alm-clip"><div>{name}, {len(wave) / _RATE_HZ:.1f} s, 0 to {_RATE_HZ // 2000} kHz</div>'
        f'<div class="alm-spectrogram"><img alt="spectrogram of {name}" src="data:image/png;base64,{image}">'
        f'<div class="alm-head"></div></div><audio controls src="data:audio/wav;base64,{data}"></audio></div>'
    )


def spectrogram_png(wave: np.ndarray) -> bytes:
    """An image of a clip: time to the right, frequency upwards, 80 dB of level.

    Args:
        wave: (S,) mono.
    """
    from matplotlib import image

    wave = np.pad(wave, (0, max(0, _WINDOW - len(wave))))
    starts = np.arange(0, len(wave) - _WINDOW + 1, max(_WINDOW // 4, len(wave) // _COLUMNS))
    windows = wave[starts[:, None] + np.arange(_WINDOW)] * np.hanning(_WINDOW)  # (columns, window)
    power = (np.abs(np.fft.rfft(windows, axis=1)) ** 2).T  # (frequencies, columns)
    level = 10 * np.log10(np.maximum(power, 1e-12))
    file = io.BytesIO()
    image.imsave(
        file, level, vmin=level.max() - 80, vmax=level.max(), cmap="magma", origin="lower", format="png"
    )
    return file.getvalue()


def _or_error(pieces: Iterator[str]) -> Iterator[str]:
    """The growing text of a streamed answer, or the error if there is none."""
    try:
        yield from pieces
    except UserError as error:
        yield str(error)


def build_page(asker: Asker, examples: Sequence[str] = ()) -> Any:
    """The page.

    Args:
        asker: Sends the requests.
        examples: Audio files to choose from.
    """
    switches = ("without the audio", "with another clip")
    empty = {"text": "", "files": []}

    def show(message: dict[str, Any] | None) -> Any:
        files = (message or {}).get("files") or []
        if not files:
            return gr.skip()  # keep showing the clips of the last question
        shown = []
        for file in files:
            try:
                shown.append(clip_html(file))
            except (AudioError, OSError) as error:  # show the file's name, not its temporary path
                reason = str(error).replace(file, Path(file).name)
                shown.append(f'<div class="alm-clip">{html.escape(reason)}</div>')
        return "".join(shown)

    def answer(
        message: dict[str, Any],
        shown: list[dict[str, Any]],
        said: list[dict[str, Any]],
        checks: list[str],
        other: str | None,
        temperature: float,
        n: int,
    ) -> Iterator[tuple[Any, ...]]:
        text, files = (message.get("text") or "").strip(), list(message.get("files") or [])
        if not text:
            raise gr.Error("Write a question.")
        if switches[1] in checks and other is None:
            raise gr.Error("Choose the other clip, or clear its switch.")
        asked = [*said, question(text, files)]
        shown = [*shown, *({"role": "user", "content": {"path": file}} for file in files),
                 {"role": "user", "content": text}]  # fmt: skip
        code = [write(asker.url, asker.model, text, files, temperature, n) for write in (as_python, as_curl)]
        words = ""
        try:
            for words in asker.stream(asked, temperature, n):
                turn = {"role": "assistant", "content": words}
                yield [*shown, turn], [*asked, turn], gr.skip(), "", "", *code
        except UserError as error:  # the question stays in its box, and out of the conversation
            turn = {"role": "assistant", "content": f"{words}\n\n{error}".strip()}
            yield [*shown, turn], said, gr.skip(), "", "", *code
            return
        rest = [gr.skip(), gr.skip()]
        yield *rest, empty, "", "", *code
        without, changed = "", ""
        if switches[0] in checks:
            for without in _or_error(asker.stream(without_audio(asked), temperature, n)):
                yield *rest, gr.skip(), without, changed, *code
        if switches[1] in checks and other is not None:
            for changed in _or_error(asker.stream(with_clip(asked, other), temperature, n)):
                yield *rest, gr.skip(), without, changed, *code

    with gr.Blocks(title=f"alm chat: {asker.model}", analytics_enabled=False) as page:
        gr.Markdown(f"## {asker.model}")
        said = gr.State([])
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                talk = gr.Chatbot(label="Conversation", height=380, buttons=["copy"], elem_id="alm-talk")
                box = gr.MultimodalTextbox(
                    label="Question", placeholder="Add clips, and ask", sources=["upload", "microphone"],
                    file_types=["audio"], file_count="multiple", elem_id="alm-box",
                )  # fmt: skip
                with gr.Row():
                    stop = gr.Button("Stop", size="sm", min_width=100, elem_id="alm-stop")
                    new = gr.Button("New conversation", size="sm", min_width=100, elem_id="alm-new")
                if examples:
                    gr.Examples(
                        [[{"text": "What is this sound?", "files": [one]}] for one in examples], [box]
                    )
            with gr.Column(scale=2, min_width=300):
                clips = gr.HTML(elem_id="alm-clips")
                checks = gr.CheckboxGroup(
                    list(switches), label="Does the model listen? Also answer", elem_id="alm-checks"
                )
                other = gr.Audio(
                    label="The other clip", type="filepath", sources=["upload"], buttons=[], visible=False,
                    elem_id="alm-other",
                )  # fmt: skip
                with gr.Row():
                    without, changed = (
                        gr.Textbox(
                            label=f"Answer {name}", lines=2, interactive=False, visible=False, elem_id=key
                        )
                        for name, key in zip(switches, ("alm-without", "alm-changed"), strict=True)
                    )
                temperature = gr.Slider(0, 2, 0, step=0.1, label="Temperature")
                n = gr.Slider(1, 1024, 128, step=1, precision=0, label="Longest answer in tokens")
                with gr.Accordion("The last question as a program", open=False):
                    python = gr.Code(label="Python", language="python", elem_id="alm-python")
                    curl = gr.Code(label="curl", language="shell")
        outputs = [talk, said, box, without, changed, python, curl]
        box.change(show, [box], [clips], show_progress="hidden")
        checks.change(
            lambda chosen: [gr.update(visible=name in chosen) for name in (*switches, switches[1])],
            [checks], [without, changed, other], show_progress="hidden",
        )  # fmt: skip
        inputs = [box, talk, said, checks, other, temperature, n]
        asking = box.submit(answer, inputs, outputs, concurrency_limit=None)
        stop.click(lambda: empty, None, [box], cancels=[asking])
        for event in (new.click, talk.clear):
            event(lambda: ([], [], empty, "", "", "", "", ""), None, [*outputs, clips], cancels=[asking])
    return page


def open_page(page: Any, port: int) -> str:
    """Serve the page at localhost, in threads; returns its address.

    Raises:
        UserError: The port is taken.
    """
    try:
        url: str = page.launch(
            server_name="127.0.0.1", server_port=port or None, share=False, quiet=True, prevent_thread_lock=True,
            footer_links=[], ssr_mode=False, pwa=False, run_history=False, css=_CSS, head=_HEAD,
            theme=gr.themes.Default(font=_FONTS, font_mono=_MONO), max_file_size="24mb", show_error=True,
        )[1]  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: cannot listen there ({error}); choose another one") from error
    return url
