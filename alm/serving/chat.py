"""The chat page: clips, questions and streamed answers of a server of `alm serve`, and whether the model listens.

The page asks the server alone, through OpenAI's client; it holds no model.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import numpy as np
import openai

from alm.common.errors import AudioError, UserError

_RATE_HZ = 16000
_SHOWN_S = 600.0  # longest clip whose spectrogram is drawn
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
.alm-clip { margin-bottom: 0.5rem; } .alm-clip audio { width: 100%; }
.alm-spectrogram { position: relative; } .alm-spectrogram img { width: 100%; height: 110px; display: block; }
.alm-head { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; background: #fff; }
"""


class Asker:
    """Asks a server.

    Args:
        url: Its address, with `/v1`.
        key: Its key; None where it needs none.

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
        """The answer as it grows; an error of the server is its last words."""
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
            yield f"{said}\n\nError {error.status_code}: {error.message}".strip()
        except openai.APIError as error:
            yield f"{said}\n\nError: {error.message}".strip()


def question(text: str, files: Sequence[str]) -> dict[str, Any]:
    """A message of the user: clips, then the text."""
    items: list[dict[str, Any]] = []
    for file in files:
        data = base64.b64encode(Path(file).read_bytes()).decode()
        kind = Path(file).suffix.lstrip(".").lower() or "wav"
        items.append({"type": "input_audio", "input_audio": {"data": data, "format": kind}})
    return {"role": "user", "content": [*items, {"type": "text", "text": text}]}


def without_audio(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation with all clips left out."""
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
    import json
    import shlex

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
    from encoders.audio.waveforms import save_wav

    with limited(_SHOWN_S):
        wave = load_audio(file, _RATE_HZ)
    played = Path(file).with_suffix(".heard.wav")
    save_wav(played, wave, _RATE_HZ)
    data = base64.b64encode(played.read_bytes()).decode()
    played.unlink()
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
    from scipy.signal import spectrogram

    wave = np.pad(wave, (0, max(0, 512 - len(wave))))
    hop = max(128, len(wave) // 1200)
    overlap = max(0, 512 - hop)
    if hop > 512:  # long clips: every hop-th window
        starts = np.arange(0, len(wave) - 511, hop)
        windows = wave[starts[:, None] + np.arange(512)] * np.hanning(512)
        power = (np.abs(np.fft.rfft(windows, axis=1)) ** 2).T
    else:
        power = spectrogram(wave, nperseg=512, noverlap=overlap, mode="psd")[2]
    level = 10 * np.log10(np.maximum(power, 1e-12))
    file = io.BytesIO()
    image.imsave(
        file, level, vmin=level.max() - 80, vmax=level.max(), cmap="magma", origin="lower", format="png"
    )
    return file.getvalue()


def build_page(asker: Asker, examples: Sequence[str] = ()) -> Any:
    """The page.

    Args:
        asker: What answers.
        examples: Audio files to choose from.
    """
    others = ("without the audio", "with another clip")

    def show(message: dict[str, Any] | None) -> str:
        try:
            return "".join(clip_html(file) for file in (message or {}).get("files", []))
        except (AudioError, OSError) as error:
            return f"<p>{html.escape(str(error))}</p>"

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
        if others[1] in checks and other is None:
            raise gr.Error("Give the other clip, or clear the switch.")
        said = [*said, question(text, files)]
        shown = [*shown, *({"role": "user", "content": {"path": file}} for file in files),
                 {"role": "user", "content": text}]  # fmt: skip
        code = [
            make(asker.url, asker.model, text, files, temperature, int(n)) for make in (as_python, as_curl)
        ]
        words = ""
        for words in asker.stream(said, temperature, int(n)):
            yield [*shown, {"role": "assistant", "content": words}], said, gr.skip(), "", "", *code
        shown = [*shown, {"role": "assistant", "content": words}]
        done = [*said, {"role": "assistant", "content": words}]
        cleared = {"text": "", "files": []}
        yield shown, done, cleared, "", "", *code
        deaf, changed = "", ""
        if others[0] in checks:
            for deaf in asker.stream(without_audio(said), temperature, int(n)):
                yield shown, done, gr.skip(), deaf, changed, *code
        if others[1] in checks and other is not None:
            for changed in asker.stream(with_clip(said, other), temperature, int(n)):
                yield shown, done, gr.skip(), deaf, changed, *code

    with gr.Blocks(title=f"alm chat: {asker.model}", analytics_enabled=False) as page:
        gr.Markdown(f"## {asker.model}")
        said = gr.State([])
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                talk = gr.Chatbot(label="Conversation", height=380, elem_id="alm-talk")
                box = gr.MultimodalTextbox(
                    label="Question", placeholder="Add clips, and ask", sources=["upload", "microphone"],
                    file_types=["audio"], file_count="multiple", elem_id="alm-box",
                )  # fmt: skip
                if examples:
                    gr.Examples(
                        [[{"text": "What is this sound?", "files": [file]}] for file in examples], [box]
                    )
                clear = gr.Button("New conversation", elem_id="alm-clear")
            with gr.Column(scale=2, min_width=300):
                clips = gr.HTML(label="Clips of the next question", elem_id="alm-clips")
                checks = gr.CheckboxGroup(
                    list(others), label="Does it listen? Also answer", elem_id="alm-checks"
                )
                other = gr.Audio(
                    label="Another clip", type="filepath", sources=["upload"], elem_id="alm-other"
                )
                with gr.Row():
                    deaf = gr.Textbox(label="Without the audio", interactive=False, elem_id="alm-deaf")
                    changed = gr.Textbox(label="With another clip", interactive=False, elem_id="alm-changed")
                temperature = gr.Slider(0, 2, 0, step=0.1, label="Temperature")
                n = gr.Slider(1, 1024, 128, step=1, label="Longest answer in tokens", elem_id="alm-length")
                with gr.Accordion("The same question as a program", open=False):
                    python = gr.Code(label="Python", language="python")
                    curl = gr.Code(label="curl", language="shell")
        outputs = [talk, said, box, deaf, changed, python, curl]
        box.change(show, [box], [clips], show_progress="hidden")
        box.submit(answer, [box, talk, said, checks, other, temperature, n], outputs)
        clear.click(lambda: ([], [], {"text": "", "files": []}, "", "", "", ""), None, outputs)
    return page


def open_page(page: Any, port: int) -> str:
    """Show the page at this machine's own address, in threads; returns its address.

    Raises:
        UserError: The port is taken.
    """
    try:
        _, url, _ = page.launch(
            server_name="127.0.0.1", server_port=port or None, share=False, quiet=True, prevent_thread_lock=True,
            footer_links=[], ssr_mode=False, pwa=False, run_history=False, css=_CSS, head=_HEAD,
            theme=gr.themes.Default(font=_FONTS, font_mono=_MONO), max_file_size="24mb", show_error=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: cannot listen there ({error}); choose another one") from error
    return url
