"""The chat page in a real browser, against a real server: what is asked, heard, compared and requested."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import torch
from test_alm_serving import KEY, running
from transformers import AutoTokenizer
from webdriver import CHROMIUM, DRIVER, Browser

from alm.checkpoint import load_llm
from alm.cli import main
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class

gradio = pytest.importorskip("gradio", reason="needs alm-toolkit[chat]")

from alm.serving.chat import (  # noqa: E402
    Asker,
    as_curl,
    as_python,
    build_page,
    open_page,
    question,
    spectrogram_png,
    with_clip,
    without_audio,
)
from alm.serving.engine import LocalEngine  # noqa: E402

SHOTS = os.environ.get("ALM_SCREENSHOTS")  # a folder, to look at the page


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, hz in (("low", 300), ("high", 3000)):
        soundfile.write(
            folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hz * np.arange(16000) / 16000), 16000
        )
    return [str(folder / "low.wav"), str(folder / "high.wav")]


@pytest.fixture(scope="module")
def served(llm_dir):
    import asyncio

    torch.manual_seed(0)
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir)
    )
    engine = LocalEngine(model, build_processor(AutoTokenizer.from_pretrained(llm_dir), model))
    asyncio.run(engine.start())
    with running(engine, key=KEY) as (_, url):
        yield f"{url}/v1"
    asyncio.run(engine.stop())


@pytest.fixture(scope="module")
def page(served, files):
    made = build_page(Asker(served, KEY), files)
    yield open_page(made, 0)
    made.close()


def browser_for(tmp_path, *flags, **options):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and chromedriver")
    return Browser(tmp_path / "profile", *flags, **options)


BUSY = "return !!document.querySelector('#alm-box .stop-button')"


def ask(browser, words, *files):
    n_before = browser.run("return document.querySelectorAll('#alm-talk .bot.message').length")
    for i, file in enumerate(files):
        browser.type("#alm-box input[type=file]", file)
        browser.wait(
            lambda i=i: browser.run("return document.querySelectorAll('.alm-clip').length") == i + 1,
            "clip shown",
        )
    browser.type("#alm-box textarea", words)
    browser.click("#alm-box .submit-button")
    browser.wait(
        lambda: (
            browser.run("return document.querySelectorAll('#alm-talk .bot.message').length") > n_before
            and not browser.run(BUSY)
        ),
        "answered",
    )
    return browser.run("return [...document.querySelectorAll('#alm-talk .bot.message')].at(-1).innerText")


def check_quiet(browser, page):
    """Nothing went wrong, and nothing was asked of others."""
    assert browser.logged() == []
    home = urlsplit(page).netloc
    others = {
        urlsplit(one).netloc
        for one in browser.asked()
        if urlsplit(one).scheme in ("http", "https", "ws", "wss")
    }
    assert others == {home}


def test_upload_ask_second_turn_and_switch(page, files, tmp_path):
    browser = browser_for(tmp_path)
    try:
        browser.open(page)
        first = ask(browser, "What is this?", files[0])
        assert first
        browser.click("#alm-checks label:nth-of-type(1) input")
        browser.click("#alm-checks label:nth-of-type(2) input")
        browser.type("#alm-other input[type=file]", files[1])
        browser.find("#alm-other audio, #alm-other [data-testid*=waveform]")
        second = ask(browser, "And this?", files[0])
        value = "return document.querySelector(arguments[0] + ' textarea').value"
        browser.wait(lambda: browser.run(value, "#alm-changed"), "the answer with another clip")
        deaf, changed = browser.run(value, "#alm-deaf"), browser.run(value, "#alm-changed")
        assert second and deaf and changed and len({deaf, changed}) == 2
        if SHOTS:
            browser.shoot(Path(SHOTS) / "wide.png")
        check_quiet(browser, page)
    finally:
        browser.close()


def test_microphone_at_the_width_of_a_phone(page, files, tmp_path):
    browser = browser_for(
        tmp_path, "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={files[0]}", width=390,
    )  # fmt: skip
    try:
        browser.open(page)
        browser.click("#alm-box .microphone-button")
        browser.click("#alm-box .record-button")
        browser.find("#alm-box .stop-button, #alm-box .stop-button-paused")
        import time

        time.sleep(1.5)  # a recording of some length
        browser.click("#alm-box .stop-button")
        browser.find(".alm-clip audio")
        browser.run("document.querySelector('.alm-clip audio').currentTime = 0.5")
        browser.wait(
            lambda: browser.run("return document.querySelector('.alm-head').style.left") not in ("", "0%"),
            "the playhead moves",
        )
        assert ask(browser, "What did you hear?")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        if SHOTS:
            browser.shoot(Path(SHOTS) / "phone.png")
        check_quiet(browser, page)
    finally:
        browser.close()


def test_answers_stream_and_errors_of_the_server_are_shown(served, files):
    asker = Asker(served, KEY)
    said = list(asker.stream([question("What is this?", files)], 0.0, 40))
    assert len(said) > 3 and all(
        later.startswith(earlier) for earlier, later in zip(said, said[1:], strict=False)
    )
    [error] = asker.stream([question("What?", files * 20)], 0.0, 40)
    assert error == "Error 413: messages: 40 clips, more than the limit of 16"
    asker.client = asker.client.with_options(api_key="wrong")
    [error] = asker.stream([question("What?", files)], 0.0, 40)
    assert error.startswith("Error 401: no valid API key")


def test_the_switch_changes_the_audio_alone(files):
    turns = [question("One?", files), {"role": "assistant", "content": "yes"}, question("Two?", files[:1])]
    deaf = without_audio(turns)
    assert [m["content"] for m in deaf] == [[turns[0]["content"][2]], "yes", [turns[2]["content"][1]]]
    clip = question("", files[1:])["content"][0]
    other = with_clip(turns, files[1])
    assert other[0]["content"] == [clip, clip, turns[0]["content"][2]] and other[2]["content"][0] == clip
    assert turns[0]["content"][0] != clip


def test_the_copied_programs_ask_the_same(served, files):
    """They run as they stand, quotes and all."""
    asker = Asker(served, KEY)
    words = 'What\'s "this" $HOME `id`?'
    *_, answer = asker.stream([question(words, files)], 0.0, 12)
    environment = {**os.environ, "ALM_API_KEY": KEY}
    folder = Path(files[0]).parent
    import sys

    program = as_python(served, asker.model, words, files, 0.0, 12)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.stdout.rstrip("\n") == answer, run.stderr
    command = as_curl(served, asker.model, words, files, 0.0, 12)
    run = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    import json

    assert json.loads(run.stdout)["choices"][0]["message"]["content"] == answer, run.stderr


def test_a_spectrogram_shows_where_a_tone_is(tmp_path):
    from matplotlib import image

    for seconds in (0.01, 1, 90):
        wave = np.sin(2 * np.pi * 2000 * np.arange(round(16000 * seconds)) / 16000).astype(np.float32)
        path = tmp_path / "a.png"
        path.write_bytes(spectrogram_png(wave))
        pixels = image.imread(path)[..., :3].sum(-1)  # (frequency from above, time)
        assert pixels.shape[0] == 257 and pixels.shape[1] <= 1300
        assert abs(256 - pixels.mean(1).argmax() - 64) <= 2


def test_the_command_says_what_it_needs(capsys, tmp_path):
    assert main(["chat"]) == 2 and "give a MODEL, or --url" in capsys.readouterr().err
    assert main(["chat", "--url", "http://127.0.0.1:9/v1"]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert main(["chat", str(tmp_path / "none")]) == 2
