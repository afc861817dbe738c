"""The chat page in a real browser, against a real server: what is asked, heard, compared and requested."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
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
from alm.common.errors import UserError
from alm.common.processes import child_environment, tied_child_command
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


@pytest.fixture(scope="module")
def window(files, tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and chromedriver")
    made = Browser(
        tmp_path_factory.mktemp("profile"), "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={files[0]}",
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def browser(request, window, page):
    """Open the page in a window of this width: no errors, nothing wider than the window, no requests to other hosts."""
    window.resize(request.param)
    window.open("about:blank")  # the page before may have been in the middle of something
    window.logged()
    window.open(page)
    window.find("#alm-box input[type=file]")
    yield window
    if SHOTS:
        window.shoot(Path(SHOTS) / f"{request.node.name}.png")
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.logged() == []
    asked = [urlsplit(one) for one in window.asked()]
    assert {one.netloc for one in asked if one.scheme in ("http", "https", "ws", "wss")} == {
        urlsplit(page).netloc
    }


def count(browser, css):
    return browser.run("return document.querySelectorAll(arguments[0]).length", css)


def value(browser, css):
    return browser.run("const e = document.querySelector(arguments[0]); return e && e.value", css)


def letters(text):
    """The part of a random model's answer that a page shows unchanged."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def whole(asker, messages):
    *_, answer = asker.stream(messages, 0.0, 128)
    return answer


def upload(browser, file):
    n = count(browser, "#alm-box .thumbnail-item")
    browser.run(
        "document.querySelector('#alm-box input[type=file]').value = ''"
    )  # the driver appends to the text that is in the box
    browser.type("#alm-box input[type=file]", str(file))
    browser.wait(lambda: count(browser, "#alm-box .thumbnail-item") > n, "clip in the box")
    browser.wait(lambda: Path(file).name in browser.text("#alm-clips"), "clip drawn")


def ask(browser, words):
    """The whole answer."""
    n = count(browser, "#alm-talk .bot.message")
    browser.type("#alm-box textarea", words)
    browser.click("#alm-box .submit-button")
    browser.wait(
        lambda: count(browser, "#alm-talk .bot.message") > n and not value(browser, "#alm-box textarea"),
        "answered",
    )
    return browser.run("return [...document.querySelectorAll('#alm-talk .bot.message')].at(-1).innerText")


WIDE, PHONE = (pytest.mark.parametrize("browser", [width], indirect=True) for width in (1280, 390))


@WIDE
def test_clips_turns_and_whether_the_model_listens(browser, served, files):
    upload(browser, files[0])
    first = ask(browser, "What is this?")
    browser.click("#alm-checks label:nth-of-type(1) input")
    browser.click("#alm-checks label:nth-of-type(2) input")
    browser.type("#alm-other input[type=file]", files[0])
    browser.find("#alm-other audio, #alm-other [data-testid*=waveform]")
    upload(browser, files[1])
    second = ask(browser, "And this?")
    asker = Asker(served, KEY)  # the server's own answers to the same conversations
    one = question("What is this?", files[:1])
    expected = whole(asker, [one])
    assert letters(first) == letters(expected) != ""
    both = [one, {"role": "assistant", "content": expected}, question("And this?", files[1:])]
    assert letters(second) == letters(whole(asker, both))
    for css, messages in (
        ("#alm-without textarea", without_audio(both)),
        ("#alm-changed textarea", with_clip(both, files[0])),
    ):
        expected = letters(whole(asker, messages))
        browser.wait(lambda css=css, expected=expected: letters(value(browser, css)) == expected, css)
        assert expected != letters(second)
    browser.click("#alm-new")
    browser.wait(lambda: count(browser, "#alm-talk .message") == 0, "cleared")
    without = whole(asker, [question("What is this?", [])])  # a conversation of its own, without clips
    assert letters(ask(browser, "What is this?")) == letters(without) != letters(first)


@PHONE
def test_microphone_and_playhead(browser):
    browser.click("#alm-box .microphone-button")
    browser.click("#alm-box .record-button")
    browser.wait(lambda: "1" in browser.text("#alm-box .timestamp"), "a second recorded")
    browser.click("#alm-box [aria-label='Stop recording']")
    browser.click("#alm-box .confirm-button")
    browser.find("#alm-clips audio")
    browser.run("const a = document.querySelector('#alm-clips audio'); a.currentTime = a.duration / 2")
    place = "return parseFloat(document.querySelector('.alm-head').style.left)"
    browser.wait(lambda: 45 < (browser.run(place) or 0) < 55, "the playhead moves")
    assert ask(browser, "What did you hear?")


@WIDE
def test_a_refused_question_stays_out_of_the_conversation(browser, files):
    broken = Path(files[0]).with_name("broken.wav")
    broken.write_bytes(b"no audio")
    upload(browser, broken)  # the reason stands where the clip would be drawn
    browser.type("#alm-box textarea", "What is this?")
    browser.click("#alm-box .submit-button")
    # The reason names the user's file and not the server's copy.
    browser.wait(lambda: browser.text("#alm-clips").startswith("broken.wav: cannot be decoded"), "the reason")
    browser.wait(lambda: "Error 422: messages[0]" in browser.text("#alm-talk"), "the server's reason")
    assert value(browser, "#alm-box textarea") == "What is this?"
    browser.click("#alm-box .delete-button")
    browser.run("document.querySelector('#alm-box textarea').select()")
    assert "Error" not in ask(browser, "Hello?")  # the broken clip would be refused again


def test_answers_stream_and_errors_of_the_server_are_shown(served, files):
    asker = Asker(served, KEY)
    said = list(asker.stream([question("What is this?", files)], 0.0, 40))
    assert len(said) > 3 and all(
        later.startswith(earlier) for earlier, later in zip(said, said[1:], strict=False)
    )
    with pytest.raises(UserError, match=r"^Error 413: messages: 40 clips, more than the limit of 16$"):
        list(asker.stream([question("What?", files * 20)], 0.0, 40))
    asker.client = asker.client.with_options(api_key="wrong")
    with pytest.raises(UserError, match=r"^Error 401: no valid API key"):
        list(asker.stream([question("What?", files)], 0.0, 40))


def test_the_switch_changes_the_audio_alone(files):
    turns = [question("One?", files), {"role": "assistant", "content": "yes"}, question("Two?", files[:1])]
    without = without_audio(turns)
    assert [m["content"] for m in without] == [[turns[0]["content"][2]], "yes", [turns[2]["content"][1]]]
    clip = question("", files[1:])["content"][0]
    other = with_clip(turns, files[1])
    assert other[0]["content"] == [clip, clip, turns[0]["content"][2]] and other[2]["content"][0] == clip
    assert turns[0]["content"][0] != clip


def test_the_copied_programs_ask_the_same(served, files):
    """The shown programs run as they stand, with quotes and other special characters."""
    asker = Asker(served, KEY)
    words = 'What\'s "this" $HOME `id`?'
    *_, answer = asker.stream([question(words, files)], 0.0, 12)
    environment = {**os.environ, "ALM_API_KEY": KEY}
    folder = Path(files[0]).parent
    program = as_python(served, asker.model, words, files, 0.0, 12)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.stdout.rstrip("\n") == answer, run.stderr
    command = as_curl(served, asker.model, words, files, 0.0, 12)
    run = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
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
    assert (
        main(["chat", "m", "--examples", str(tmp_path)]) == 2 and "is not a file" in capsys.readouterr().err
    )
    assert main(["chat", "--url", "http://127.0.0.1:9/v1"]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert main(["chat", str(tmp_path / "none")]) == 2


def test_the_command_starts_its_own_server_and_ends_with_it(files, tmp_path, llm_dir):
    torch.manual_seed(0)
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir)
    )
    build_processor(AutoTokenizer.from_pretrained(llm_dir), model).save_pretrained(tmp_path / "tiny")
    model.save_pretrained(tmp_path / "tiny")
    chat = subprocess.Popen(
        tied_child_command("alm", "chat", str(tmp_path / "tiny"), "--examples", *files),
        env=child_environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = chat.stdout.readline()
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/) in a browser; Ctrl-C ends it\n", line)
        assert found, (line, chat.stderr.read())
        with urllib.request.urlopen(found[1]) as page:
            assert "alm chat: tiny" in page.read().decode()
        chat.send_signal(signal.SIGINT)
        assert chat.wait(60) == 0
        assert "ended" in chat.stderr.read().splitlines()
    finally:
        chat.kill()
        chat.wait()
