"""The server: OpenAI's own client gets the answers of `alm ask`; every wrong request gets a status and a reason."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import soundfile
import torch
from tiny_model import save_tiny_model

from alm.cli import main
from alm.common.errors import AudioError
from alm.common.processes import child_environment, tied_child_command
from alm.generation import generate_answers

openai = pytest.importorskip("openai", reason="needs alm-toolkit[serve]")
uvicorn = pytest.importorskip("uvicorn", reason="needs alm-toolkit[serve]")
pytest.importorskip("starlette", reason="needs alm-toolkit[serve]")

from starlette.requests import Request  # noqa: E402

from alm.serving.access import Address, check_address, read_key  # noqa: E402
from alm.serving.app import Service  # noqa: E402
from alm.serving.engine import Finish, LocalEngine, StoppedText  # noqa: E402
from alm.serving.proxy import VllmEngine, vllm_settings  # noqa: E402
from alm.serving.requests import ChatRequest, Limits, RequestError, decode_clips, read_request  # noqa: E402
from alm.serving.server import _Server  # noqa: E402

KEY = "a-key-for-these-tests"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, llm_dir):
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    torch.manual_seed(0)
    return save_tiny_model(llm_dir, folder)


@pytest.fixture(scope="module")
def parts(model_dir):
    from alm.checkpoint import load_model, load_processor

    return load_model(model_dir), load_processor(model_dir)


@pytest.fixture(scope="module")
def engine(parts):
    made = LocalEngine(*parts, max_new_tokens=24)
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


@contextmanager
def running(engine, limits=None, **settings):
    """A server of its own in a thread; yields its service and its URL."""
    made: dict = {}
    ready = threading.Event()

    async def run():
        made["service"] = service = Service(engine, "tiny", limits or Limits(), **settings)
        service.loop = asyncio.get_running_loop()
        config = uvicorn.Config(service, port=0, log_level="critical", lifespan="off", ws="none")
        made["server"] = service.server = server = _Server(config, service)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        made["port"] = server.servers[0].sockets[0].getsockname()[1]
        ready.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield made["service"], f"http://127.0.0.1:{made['port']}"
    finally:
        made["server"].should_exit = made["server"].force_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def url(engine):
    with running(engine, Limits(body_bytes=4 << 20, audio_s=20, clips=3)) as (_, url):
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def recording(wave, kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, wave, 16000, format=kind, subtype="FLOAT" if kind == "WAV" else None)
    return file.getvalue()


def audio(wave, kind="WAV"):
    data = wave if isinstance(wave, bytes) else recording(wave, kind)
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(data).decode(), "format": kind.lower()},
    }


def text(words):
    return {"type": "text", "text": words}


def user(*items):
    return {"role": "user", "content": list(items)}


def ask(client, messages, **options):
    return client.chat.completions.create(model="tiny", messages=messages, **options)


def expected(parts, messages, clips, n=24):
    """The answer of the path behind `alm ask`."""
    [(_, answer)] = generate_answers(*parts, [messages], [clips], n)
    return answer


def refused(call):
    """Status code, `error.code` and message of a refused request."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    body = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}, body
    return caught.value.status_code, body["code"], body["message"]


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("base64")), reason="needs curl and base64")
def test_the_command_with_curl_on_the_page_is_answered(url, client, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```console\n(curl .*?)^```", page, re.M | re.S)
    wave = 0.1 * np.sin(np.arange(16000) * 0.1)
    (tmp_path / "sound.ogg").write_bytes(recording(wave, "OGG"))
    command = command.replace("http://127.0.0.1:8000", url).replace('"model": "model"', '"model": "tiny"')
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)["choices"][0]["message"]["content"]
    sound = audio((tmp_path / "sound.ogg").read_bytes(), "OGG")
    assert answer == ask(client, [user(sound, text("Which sound comes first?"))]).choices[0].message.content


def test_answers_are_those_of_alm_ask(client, model_dir, tmp_path, clips, capsys):
    path = tmp_path / "a.wav"
    path.write_bytes(recording(clips[0]))
    assert main(["ask", str(model_dir), str(path), "What is this?", "--max-new-tokens", "20", "--jsonl"]) == 0
    answer = ask(client, [user(audio(clips[0]), text("What is this?"))], max_tokens=20)
    choice = answer.choices[0]
    assert " ".join(choice.message.content.split()) == json.loads(capsys.readouterr().out)["answer"] != ""
    assert choice.finish_reason == "length" and answer.usage.completion_tokens == 20
    assert answer.model == "tiny" and answer.usage.total_tokens == answer.usage.prompt_tokens + 20


def test_several_clips_turns_and_ways_to_send_them(client, parts, clips):
    data = "data:audio/flac;base64," + base64.b64encode(recording(clips[1], "FLAC")).decode()
    content = [text("First"), audio(clips[0]), text("then"), {"type": "audio_url", "audio_url": {"url": data}},
               text("Same?")]  # fmt: skip
    from encoders.audio import load_audio

    heard = [clips[0], load_audio(data, 16000)]
    first = ask(client, [user(*content)]).choices[0].message
    said = [{"role": "user", "content": "First<|audio|>then<|audio|>Same?"}]
    assert first.content == expected(parts, said, heard) != ""
    # The client's own message goes back as it came
    turns = [user(*content), first, user(audio(clips[2]), text("And this?"))]
    said += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "<|audio|>And this?"},
    ]
    second = ask(client, turns).choices[0].message.content
    assert second == expected(parts, said, [*heard, clips[2]]) != first.content
    plain = ask(client, [{"role": "user", "content": "Hello"}]).choices[0].message.content
    assert plain == expected(parts, [{"role": "user", "content": "Hello"}], [])


def test_a_stream_says_the_same_in_pieces(client, clips):
    messages = [user(audio(clips[0]), text("What is this?"))]
    whole = ask(client, messages).choices[0]
    chunks = list(ask(client, messages, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(pieces) == whole.message.content and sum(map(bool, pieces)) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 24


def test_requests_under_way_together_share_batches_and_change_no_answer(engine, url, parts, clips):
    said = [[{"role": "user", "content": f"<|audio|>What is number {i}?"}] for i in range(12)]
    alone = [expected(parts, said[i], [clips[i % 4]], 8 + i) for i in range(12)]
    sizes = []
    generate = engine._generate
    engine._generate = lambda jobs: (sizes.append(len(jobs)), generate(jobs))[1]

    async def one(client, i):
        messages = [user(audio(clips[i % 4]), text(f"What is number {i}?"))]
        made = await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=8 + i, stream=i % 2 == 0
        )
        if i % 2:
            return made.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in made])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(12)))

    try:
        together = asyncio.run(all_of_them())
    finally:
        engine._generate = generate
    assert together == alone and len(set(alone)) > 6
    assert sum(sizes) == 12 and max(sizes) > 1


def test_sampling_follows_the_seed_and_stop_ends_the_answer(client, clips):
    messages = [user(audio(clips[0]), text("What?"))]

    def sampled(seed):
        return ask(client, messages, temperature=1.0, top_p=0.9, seed=seed).choices[0].message.content

    assert sampled(1) == sampled(1) != sampled(2)
    whole = ask(client, messages).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    cut = ask(client, messages, stop=[stop]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)].rstrip() and cut.finish_reason == "stop"
    stream = ask(client, messages, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == cut.message.content


def test_only_requests_with_the_same_settings_share_a_batch(parts):
    """A request without a length may fill the rest of the context."""
    asked = [
        {}, {"temperature": 1.0}, {}, {"temperature": 1.0, "top_p": 0.5}, {"temperature": 1.0}, {},
        {"temperature": 1.0}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "seed": 3},
    ]  # fmt: skip
    waiting = LocalEngine(*parts, batch_size=2, max_new_tokens=1 << 20)
    said = [{"role": "user", "content": "What?"}]
    jobs = [waiting._prepare(ChatRequest(said, [], **options), print) for options in asked]
    assert all(job.n_prompt + job.n_most == parts[1].context_length for job in jobs)
    assert waiting._prepare(ChatRequest(said, [], max_new_tokens=5), print).n_most == 5
    waiting._waiting.extend(jobs)
    batches = []
    while batch := waiting._next_batch():
        batches.append([jobs.index(job) for job in batch])
    assert batches == [[0, 2], [1, 4], [3], [5], [6], [7], [8]]  # one with a seed draws alone


VLLM = """
import json, os, sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    n_answers = 0

    def answer(self, kind, text):
        self.n_answers += 1
        if self.n_answers > 1:  # an idle connection, closed just when it is used again
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.answer("application/json", '{"object": "list", "data": []}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with open(os.environ["SEEN"], "a") as file:
            mode = os.stat(os.path.dirname(self.server.server_address)).st_mode & 0o777
            file.write(json.dumps({"words": sys.argv[1:], "mode": mode, "body": json.loads(body)}) + "\\n")
        choice = {"index": 0, "delta": {"content": " a bell "}, "finish_reason": "length"}
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        chunks = [{**common, "choices": [choice]}, {**common, "choices": [], "usage": usage}]
        self.answer("text/event-stream", "".join(f"data: {json.dumps(c)}\\n\\n" for c in chunks) + "data: [DONE]\\n\\n")

    def log_message(self, *args):
        pass

class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

Server(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()
"""


def test_all_that_a_request_asks_for_reaches_vllm(tmp_path, monkeypatch, parts, clips):
    """A stand-in with vLLM's module name writes down what the engine sends; vLLM itself is in test_serving_vllm.py."""
    module = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    module.write_text(VLLM)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.jsonl"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    marker, rate_hz = parts[1].audio_token, 22050  # a model's own rate
    processor = SimpleNamespace(audio_token=marker, sample_rate=rate_hz)
    said = [{"role": "user", "content": f"{marker}one {marker}two"}]
    asked = [
        ChatRequest(
            said, [], max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=["x"], clips=clips[:2]
        ),
        ChatRequest(said, [], clips=clips[1::-1]),
    ]

    async def answers():
        vllm = VllmEngine(tmp_path / "m", processor, "tiny", 5, 24, "--dtype float32", trust_remote_code=True)
        try:
            await vllm.start()
            return [[piece async for piece in vllm.answer(request)] for request in asked]
        finally:
            await vllm.stop()

    assert asyncio.run(answers()) == [["a bell", Finish("length", 7, 2)]] * 2
    first, second = map(json.loads, (tmp_path / "seen.jsonl").read_text().splitlines())
    words = " ".join(first["words"])
    wanted = f"--model {tmp_path / 'm'} --served-model-name tiny --max-num-seqs 5 --dtype float32 --uds "
    assert words.startswith(wanted) and words.endswith(" --trust-remote-code")
    # No port of this machine leads past the checks, and nobody else opens the socket
    assert (first["mode"], Path(first["words"][-2]).parent.exists()) == (0o700, False)
    common = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}
    for seen, wanted, order in (
        (first, {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "max_tokens": 9}, (0, 1)),
        (second, {"temperature": 0.0, "max_tokens": 24}, (1, 0)),
    ):
        [message] = seen["body"].pop("messages")
        assert seen["body"] == common | wanted
        first_clip, one, second_clip, two = message["content"]
        assert (one, two, message["role"]) == (text("one "), text("two"), "user")
        for item, number in zip((first_clip, second_clip), order, strict=True):
            wave, sent_hz = soundfile.read(
                io.BytesIO(base64.b64decode(item["input_audio"]["data"])), dtype="float32"
            )
            assert sent_hz == rate_hz and np.array_equal(wave, clips[number])


def test_texts_that_end_an_answer_are_held_back():
    for pieces in (list("one\ntwo END three"), ["one\ntwo E", "ND three"], ["one\ntwo END three"]):
        written = StoppedText(["END"])
        out = [written.add(piece) for piece in pieces]
        assert "".join(out) == "one\ntwo" and written.stopped and not written.end()
    written = StoppedText(["END"])
    assert [written.add(" a E"), written.add("N b "), written.end()] == ["a", " EN b", ""]
    # The stop word that comes first in the answer ends it, not the first in the request.
    written = StoppedText(["LATE", "EARLY"])
    assert written.add("one EARLY two LATE") == "one" and written.stopped


@pytest.mark.parametrize(
    ("change", "status", "code", "message"),
    [
        ({"model": "other"}, 404, "model_not_found", "model 'other' is not served here; use 'tiny'"),
        ({"messages": []}, 400, "invalid_value", "expected a list of messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_value", "messages[0].role is 'tool'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_value", "last message must be of"),
        ({"messages": [user({"type": "image_url"})]}, 400, "invalid_value", "messages[0].content[0] is"),
        ({"messages": [user(text("a <|audio|> b"))]}, 400, "invalid_value", "holds <|audio|>, the model's marker"),
        ({"temperature": 3}, 400, "invalid_value", "temperature is 3; expected a number from 0 to 2"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens is 0; expected a whole number from 1"),
        ({"max_tokens": 100_000}, 400, "invalid_prompt", "more than the LLM's context of 512 tokens"),
        ({"n": 2}, 400, "unsupported_parameter", "n=2 is not supported"),
        ({"extra_body": {"beams": 2}}, 400, "unknown_parameter", "unknown field 'beams'"),
        ({"stop": [""]}, 400, "invalid_value", "stop: expected a text"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(client, change, status, code, message):
    good = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
    found = refused(lambda: client.chat.completions.create(**good | change))
    assert found[:2] == (status, code) and message in found[2]


def read(**change):
    """A request without a server, with some fields changed."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]} | change
    return read_request(body, "tiny", "<|audio|>", Limits(audio_s=0.5))


def audio_part(content: str) -> dict:
    return {"type": "input_audio", "input_audio": {"data": content, "format": "wav"}}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"max_tokens": 4, "max_completion_tokens": 4}, "max_tokens", "two names of one limit"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0; expected a whole"),
        ({"max_tokens": True}, "max_tokens", "max_tokens is True; expected a whole number"),
        ({"max_tokens": (1 << 20) + 1}, "max_tokens", "from 1 to 1048576"),
        ({"seed": 1 << 63}, "seed", "expected a whole number from -9223372036854775808 to 9223372036854775807"),
        ({"top_p": 0}, "top_p", "top_p is 0; expected a number above 0 to 1"),
        ({"temperature": True}, "temperature", "temperature is True; expected a number from 0 to 2"),
        ({"stop": ["a"] * 5}, "stop", "stop: expected a text or up to 4 texts"),
        ({"stop": 7}, "stop", "stop: expected a text or up to 4 texts"),
        ({"stream": 1}, "stream", "stream is 1; expected true or false"),
        ({"stream_options": []}, "stream_options", "expected {'include_usage': true}"),
        ({"stream_options": {"chunks": 2}}, "stream_options", "expected {'include_usage': true}"),
        ({"stream_options": {"include_usage": "yes"}}, "include_usage", "include_usage is 'yes'"),
        ({"response_format": {"type": "json"}}, "response_format", "is not supported; leave it out"),
        ({"tools": [{}]}, "tools", "is not supported; leave it out"),
        ({"messages": ["x"]}, "messages[0]", "messages[0] is 'x'; expected an object with role and content"),
        ({"messages": [{"role": "user", "content": "x", "name": "a"}]}, "messages[0]", "has 'name'; only role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0]", "messages[0].content is 5; expected text"),
        (
            {"messages": [{"role": "system", "content": [audio_part("AAAA")]}, {"role": "user", "content": "x"}]},
            "messages[0].content[0]",
            "only messages of the user hold audio",
        ),
        ({"messages": [user(audio_part("@@@@"))]}, "messages[0].content[0].input_audio.data", "not valid base64"),
        ({"messages": [user(audio_part(""))]}, "messages[0].content[0].input_audio.data", "is empty; encode"),
    ],
)  # fmt: skip
def test_fields_out_of_bounds_are_refused_by_their_name(change, param, message):
    with pytest.raises(RequestError) as caught:
        read(**change)
    error = caught.value.body()["error"]
    assert caught.value.status == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and message in error["message"]


def test_bounds_themselves_other_names_and_fields_without_effect_are_taken():
    plain = read()
    assert (plain.max_new_tokens, plain.temperature, plain.top_p, plain.seed) == (None, 0.0, None, None)
    assert (plain.stop, plain.stream, plain.include_usage) == ([], False, False)
    full = read(
        max_completion_tokens=1 << 20, temperature=2, top_p=1, seed=-(1 << 63), stop=list("abcd"), stream=True,
        stream_options={"include_usage": True}, user="me", n=1, tools=[], logit_bias=None, max_tokens=None,
        messages=[{"role": "user", "content": "x", "name": None, "tool_calls": []}],
    )  # fmt: skip
    assert (full.max_new_tokens, full.temperature, full.top_p, full.seed) == (1 << 20, 2.0, 1.0, -(1 << 63))
    assert (full.stop, full.stream, full.include_usage) == (list("abcd"), True, True)
    assert read(max_tokens=3).max_new_tokens == 3 and read(stop="END").stop == ["END"]
    # Some clients send a whole data address where base64 is expected.
    (source,) = read(messages=[user(audio_part("data:audio/wav;base64,YWJj"))]).sources
    assert source == ("messages[0].content[0]", b"abc")


def test_the_limit_of_audio_holds_for_all_clips_together():
    def clip(seconds: float) -> dict:
        return audio(np.zeros(int(16000 * seconds), np.float32))

    request = read(messages=[user(clip(0.2), clip(0.3))])
    assert [len(wave) for wave in decode_clips(request, 8000, Limits(audio_s=0.5))] == [1600, 2400]
    with pytest.raises(RequestError, match=r"0.5 s for all clips together") as caught:
        decode_clips(read(messages=[user(clip(0.3), clip(0.3))]), 8000, Limits(audio_s=0.5))
    assert (caught.value.status, caught.value.code) == (413, "audio_too_long")
    with pytest.raises(RequestError) as caught:
        decode_clips(read(messages=[user(clip(0.6))]), 8000, Limits(audio_s=0.5))
    assert caught.value.status == 413 and "together" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "invalid_request_error"),
     (413, "invalid_request_error"), (429, "rate_limit_error"), (500, "server_error"), (503, "server_error")],
)  # fmt: skip
def test_errors_have_openais_types(status, kind):
    error = RequestError(status, "m" * 2000, "c", "p").body()["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, "c", "p")
    assert error["message"] == "m" * 1000 + "…"
    assert str(RequestError(status, "m" * 1000)) == "m" * 1000


def test_audio_that_cannot_be_heard(client, clips):
    def send(*items):
        return refused(lambda: ask(client, [user(*items, text("What?"))]))

    assert send(audio(b"no audio at all"))[:2] == (422, "invalid_audio")
    assert "messages[0].content[0]" in send(audio(b"no audio at all"))[2]
    wrong = {"type": "input_audio", "input_audio": {"data": "@@@", "format": "wav"}}
    where = "messages[0].content[0].input_audio.data"
    assert send(wrong) == (
        400, "invalid_value", f"{where}: is not valid base64; encode the file's bytes again")  # fmt: skip
    assert send(*[audio(clips[0])] * 4) == (
        413,
        "invalid_value",
        "messages: 4 clips, more than the limit of 3",
    )
    status, code, message = send(audio(np.zeros(21 * 16000, np.float32), "FLAC"))
    assert (status, code) == (413, "audio_too_long") and "is 21 s long, over the limit of 20 s" in message
    status, code, message = send(*[audio(np.zeros(12 * 16000, np.float32), "FLAC")] * 2)
    assert (status, code) == (413, "audio_too_long") and "(20 s for all clips together)" in message
    assert "ALM_MAX_AUDIO_S" not in message
    # 18 s fit the limit of the server, and not the context of the LLM
    assert send(audio(np.full(18 * 16000, 0.1, np.float32), "FLAC"), text("long " * 400))[:2] == (
        400,
        "invalid_prompt",
    )


def test_hours_in_a_small_file_are_refused_before_they_are_decoded(client, monkeypatch):
    """A flac of 16 hours has 1 MB; its samples would take 3.7 GB."""
    minute = recording(np.zeros(60 * 16000, np.float32), "FLAC")
    n_samples = 16 * 3600 * 16000
    at = 8 + 13  # 36 bits of the stream info hold the number of samples
    claimed = bytearray(minute)
    claimed[at] = (claimed[at] & 0xF0) | (n_samples >> 32)
    claimed[at + 1 : at + 5] = (n_samples & 0xFFFFFFFF).to_bytes(4, "big")
    read = []
    true_read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, *a, **k: read.append(1) or true_read(self, *a, **k)
    )
    status, code, message = refused(lambda: ask(client, [user(audio(bytes(claimed), "FLAC"))]))
    assert (status, code) == (413, "audio_too_long") and "over the limit of 20 s" in message and not read
    # Ogg says nothing in front: it is decoded up to the limit
    ogg = io.BytesIO()
    with soundfile.SoundFile(ogg, "w", 16000, 1, format="OGG") as file:
        for _ in range(120):  # libsndfile's encoder overflows its stack on one long block
            file.write(np.zeros(16000, np.float32))
    assert refused(lambda: ask(client, [user(audio(ogg.getvalue(), "OGG"))]))[:2] == (413, "audio_too_long")


def test_bodies_are_limited_and_must_be_json(url, client):
    import httpx2

    assert refused(lambda: ask(client, [user(audio(b"x" * (10 << 20)))])) == (
        413, "body_too_large", "the body is larger than 4 MiB; send less audio, or flac")  # fmt: skip

    def post(content, kind="application/json", path="/v1/chat/completions", **headers):
        answer = httpx2.post(url + path, content=content, headers={"Content-Type": kind, **headers})
        return answer.status_code, answer.json()["error"]["code"]

    def endless():
        for _ in range(100):
            yield b" " * 100_000

    assert post(endless()) == (413, "body_too_large")  # no length announced
    assert post("{") == post(b"\xff") == post('{"a": NaN}') == (400, "invalid_json")
    assert post("[" * 100_000) == (400, "invalid_json") and post("[]") == (400, "invalid_value")
    assert post("{}", "text/plain") == (400, "invalid_content_type")
    assert post("{}", path="/v1/other") == (404, "not_found")
    assert post("{}", Host="evil.example") == (403, "wrong_host")
    assert httpx2.get(f"{url}/v1/chat/completions").status_code == 405
    assert httpx2.get(f"{url}/health").json() == {"status": "ok", "model": "tiny"}
    assert [one.id for one in client.models.list()] == ["tiny"] and client.models.retrieve(
        "tiny"
    ).id == "tiny"
    assert refused(lambda: client.models.retrieve("a/b"))[:2] == (404, "model_not_found")


def test_a_request_reads_no_file_and_no_address_of_the_server(engine, url, client, clips, tmp_path):
    """They are refused even where the server may fetch addresses."""
    path = tmp_path / "a.wav"
    path.write_bytes(recording(clips[0]))

    def send(client, address):
        return refused(lambda: ask(client, [user({"type": "audio_url", "audio_url": {"url": address}})]))

    for address in (
        str(path),
        f"file://{path}",
        "ftp://example.org/a.wav",
        "/etc/passwd",
        "../a.wav",
        "a.wav",
        "",
    ):
        assert send(client, address)[:2] == (400, "invalid_url"), address
    assert "fetches no addresses" in send(client, "https://example.org/a.wav")[2]
    as_path = {"type": "input_audio", "input_audio": {"data": str(path), "format": "wav"}}
    assert refused(lambda: ask(client, [user(as_path)]))[0] == 400
    asked = []
    with (
        running(engine, Limits(allow_urls=True)) as (_, own),
        socket.create_server(("127.0.0.1", 0)) as other,
        openai.OpenAI(base_url=f"{own}/v1", api_key="none", max_retries=0) as lenient,
    ):
        threading.Thread(target=lambda: asked.append(other.accept()), daemon=True).start()
        port = other.getsockname()[1]
        hosts = (
            "127.0.0.1 localhost 2130706433 0x7f.1 127.1 0 [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] "
            "[64:ff9b::7f00:1] [2002:7f00:1::] [fec0::1] [fd00::1] 10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 "
            "169.254.169.254 [fe80::1]"
        )
        for host in hosts.split():
            status, code, message = send(lenient, f"http://{host}:{port}/a.wav")
            assert (status, code) == (422, "invalid_audio") and "is not a public address" in message, host
        assert send(lenient, f"file://{path}")[:2] == (400, "invalid_url")
    assert not asked


@contextmanager
def page(host, answer):
    """A server that sends each caller what `answer` writes, and notes what is asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            with suppress(OSError):
                answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer((host, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"{host}:{server.server_port}", asked
        server.shutdown()


def test_redirects_and_names_that_change_lead_nowhere_private(monkeypatch):
    """127.0.0.2 plays the public internet."""
    from encoders.audio import fetch_audio, urls

    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.2")

    def send(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"content")

    with page("127.0.0.1", send) as (private, asked), page("127.0.0.2", send) as (public, _):
        assert fetch_audio(f"http://{public}/", public_only=True) == b"content"
        port = private.rpartition(":")[2]
        for target in (f"http://{private}/", f"http://localhost:{port}/", f"http://changing.example:{port}/",
                       "file:///etc/passwd"):  # fmt: skip

            def redirect(handler, target=target):
                handler.send_response(302)
                handler.send_header("Location", target)
                handler.end_headers()

            answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])  # public when it is checked, then private
            true = socket.getaddrinfo

            def resolve(host, port, *a, true=true, answers=answers, **k):
                return true(next(answers) if host == "changing.example" else host, port, *a, **k)

            with monkeypatch.context() as patch, page("127.0.0.2", redirect) as (first, _):
                patch.setattr(socket, "getaddrinfo", resolve)
                with pytest.raises(AudioError, match="not a public address|private network|not allowed"):
                    fetch_audio(f"http://{first}/", public_only=True)
        assert not asked


def test_a_server_that_drips_its_headers_is_given_up(monkeypatch):
    from encoders.audio import fetch_audio, urls

    monkeypatch.setattr(urls, "is_public", lambda address: True)
    whole = []

    def drip(handler):
        handler.send_response(200)
        handler.flush_headers()
        handler.wfile.write(b"X: ")
        for _ in range(100):
            handler.wfile.write(b"y")
            time.sleep(0.1)
        whole.append(handler.path)

    with page("127.0.0.1", drip) as (host, asked):
        with pytest.raises(AudioError, match=r"took longer than 0\.3 s"):
            fetch_audio(f"http://{host}/", max_s=0.3, public_only=True)
        assert asked and not whole


def test_no_host_leads_past_the_key(engine):
    """Host and path that were joined to one address would give another path here."""
    with running(engine, key=KEY, own_host_only=False) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        for name in ("localhost/health#", "localhost/health?", "localhost", "x/health?"):
            with socket.create_connection((host, int(port))) as caller:
                caller.sendall(
                    f"GET /v1/models HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
                )
                assert caller.recv(1 << 16).split(b" ")[1] in (b"400", b"401"), name
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "scheme": "http",
        "server": (host, int(port)),
    }
    service = Service(engine, "tiny", Limits(), key=KEY, own_host_only=False)
    for name in ("localhost/health#", "localhost/health?"):
        with pytest.raises(RequestError, match="no valid API key"):
            service._admit(Request({**scope, "headers": [(b"host", name.encode())], "query_string": b""}))


def test_keys(engine, clips, caplog, capfd):
    with running(engine, key=KEY, own_host_only=False) as (_, url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            assert ask(client, [{"role": "user", "content": "Hello"}]).choices[0].message.content
        for wrong in ("none", KEY + "x", KEY[:-1], KEY.upper(), "x" * 10_000):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=wrong, max_retries=0) as client:
                found = refused(lambda client=client: ask(client, [user(audio(b"x" * (1 << 20)))]))
            assert found == (
                401,
                "invalid_api_key",
                "no valid API key; send it as 'Authorization: Bearer KEY'",
            )
    assert KEY not in caplog.text + "".join(capfd.readouterr())


def test_too_many_requests(engine, clips):
    with (
        running(engine, max_requests=2) as (service, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        host, port = url.removeprefix("http://").split(":")
        with (
            socket.create_connection((host, int(port))) as one,
            socket.create_connection((host, int(port))) as two,
        ):
            for slow in (one, two):  # the clients announce a body and send none of it
                slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                             b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n")  # fmt: skip
            wait_for(lambda: service.n_requests == 2)
            with pytest.raises(openai.RateLimitError) as caught:
                ask(client, [{"role": "user", "content": "Hello"}])
            assert caught.value.response.headers["retry-after"] == "1" and caught.value.code == "queue_full"
        wait_for(lambda: service.n_requests == 0)
        assert ask(client, [{"role": "user", "content": "Hello"}]).choices


def test_a_request_that_takes_too_long_is_ended(engine):
    with running(engine, request_s=0.2) as (service, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                         b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n")  # fmt: skip
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408")
        wait_for(lambda: service.n_requests == 0)


class Endless(LocalEngine):
    """Writes without end, faster than anybody reads."""

    async def answer(self, request):
        try:
            while True:
                yield "word " * 10_000
                await asyncio.sleep(0)
        finally:
            self.closed = True


def test_who_does_not_read_is_given_up_and_holds_up_nobody(parts):
    endless = Endless(*parts)
    asyncio.run(endless.start())
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True})
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    try:
        with running(endless, request_s=1.0) as (service, url):
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as reader:
                reader.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n{body}".encode())
                assert reader.recv(100).startswith(b"HTTP/1.1 200")
                with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                    assert service.n_requests == 1 and [one.id for one in client.models.list()] == ["tiny"]
                wait_for(lambda: service.n_requests == 0 and endless.closed)
    finally:
        asyncio.run(endless.stop())


def test_an_upload_of_ten_megabytes_is_answered(engine, parts):
    from encoders.audio import decode_audio

    time_s = np.arange(96_000 * 10) / 96_000
    wave = (0.3 * np.sin(2 * np.pi * np.array([[440.0], [1234.0]]) * time_s)).T.astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, wave, 96_000, format="WAV", subtype="FLOAT")
    clip = decode_audio(file.getvalue(), "clip", 16_000)
    said = [{"role": "user", "content": f"{parts[1].audio_token}What?"}]
    with (
        running(engine) as (_, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        sent = audio(file.getvalue())
        assert len(sent["input_audio"]["data"]) > 10_000_000
        answer = ask(client, [user(sent, text("What?"))], max_tokens=24).choices[0].message.content
    assert answer == expected(parts, said, [clip]) != ""


def test_connections_that_ask_for_nothing_are_ended(engine, monkeypatch):
    monkeypatch.setattr("alm.serving.server._SILENT_S", 0.05)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running(engine) as (service, url):
        host, port = url.removeprefix("http://").split(":")
        callers = [socket.create_connection((host, int(port)), 30) for _ in range(3)]
        try:
            silent, halfway, busy = callers
            halfway.sendall(head)
            busy.sendall(head + b"Content-Length: 99\r\n\r\n")  # its body may take longer
            wait_for(lambda: service.n_requests == 1)
            wait_for(lambda: len(service.server.server_state.connections) == 3)

            def one_left():
                service.loop.call_soon_threadsafe(service.server.hang_up)
                return len(service.server.server_state.connections) == 1

            wait_for(one_left)
            assert silent.recv(1) == halfway.recv(1) == b"" and service.n_requests == 1
        finally:
            for caller in callers:
                caller.close()


def test_long_texts_are_refused_before_they_hold_up_others():
    """For megabytes of text, a tokenizer takes seconds, and the search for the end of an answer many steps."""

    def send(**change):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]} | change
        with pytest.raises(RequestError) as caught:
            read_request(body, "tiny", "<|audio|>", Limits())
        return caught.value.status, caught.value.code, str(caught.value)

    part = {"role": "user", "content": "x" * 700_000}
    status, code, message = send(messages=[part, part])
    assert (status, code) == (413, "text_too_long") and "1400000 characters of text" in message
    assert send(messages=[{"role": "user", "content": "x"}] * 5000)[:2] == (413, "invalid_value")
    url = {"type": "audio_url", "audio_url": {"url": "ftp://" + "x" * 100_000}}
    assert (
        len(send(messages=[{"role": "user", "content": [url]}])[2]) == 1001
    )  # what is sent back, and logged
    written = StoppedText(["a" * 20_000_000])
    assert [written.add("b aa"), written.add("a c"), written.end()] == ["b", " aaa c", ""]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


class Slow(LocalEngine):
    """Writes each token only when the test allows it."""

    def __init__(self, *parts, **options):
        super().__init__(*parts, **options)
        self.go = threading.Semaphore(0)
        self.n_generated = 0

    def _generate(self, jobs):
        forward = self.model.forward

        def waiting(*args, **kwargs):
            assert self.go.acquire(timeout=60)
            self.n_generated += 1
            return forward(*args, **kwargs)

        self.model.forward = waiting
        try:
            super()._generate(jobs)
        finally:
            del self.model.forward


def test_every_flag_of_the_command_reaches_the_server(model_dir, tmp_path, monkeypatch):
    """Other tests check what the settings do; this one checks that each flag sets its setting."""
    from alm import cli
    from alm.commands import serve

    given = []
    monkeypatch.setattr(
        "alm.serving.server.serve", lambda *args, **settings: given.append((args, settings)) or 0
    )
    (tmp_path / "key").write_text("k" * 20)
    flags = {
        "--host": "0.0.0.0", "--port": "7", "--name": "bird", "--api-key-file": str(tmp_path / "key"),
        "--max-body-mib": "3", "--max-audio-s": "4", "--max-clips": "5", "--max-requests": "6", "--request-s": "7.5",
        "--drain-s": "8.5", "--batch-size": "9", "--max-new-tokens": "10",
    }  # fmt: skip
    assert (
        cli.main(
            ["serve", str(model_dir), "--allow-urls", *(word for pair in flags.items() for word in pair)]
        )
        == 0
    )
    ((make_engine, name, address, key, limits, _), settings) = given.pop()
    assert (name, address, key) == ("bird", Address("0.0.0.0", 7), "k" * 20)
    assert limits == Limits(body_bytes=3 << 20, audio_s=4.0, clips=5, allow_urls=True)
    assert settings == {"max_requests": 6, "request_s": 7.5, "drain_s": 8.5}
    engine = make_engine()
    assert (engine.batch_size, engine.max_new_tokens) == (9, 10)
    # The engine of vLLM starts a process that needs vllm; only what it gets is looked at.
    monkeypatch.setattr(serve, "check_vllm", lambda: None)
    monkeypatch.setattr("alm.serving.proxy.VllmEngine", lambda *args: args)
    words = ["--engine", "vllm", "--engine-options=--seed 1", "--trust-remote-code", "--batch-size", "9"]
    assert cli.main(["serve", str(model_dir), *words]) == 0
    args, _ = given.pop()
    folder, _, name, *rest = args[0]()
    assert (folder, name, rest) == (model_dir, "tiny", [9, 256, "--seed 1", True])


@pytest.fixture
def slow(parts):
    made = Slow(*parts, max_new_tokens=200)
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())
    made.go.release(1000)
    made._thread.join(30)


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_the_generation(slow, stream):
    with running(slow) as (service, url):
        body = json.dumps(
            {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
        ).encode()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as caller:
            head = (
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            caller.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            slow.go.release(5)
            wait_for(lambda: slow.n_generated == 5)
            if stream:
                assert b"200 OK" in caller.recv(1 << 16)
        wait_for(lambda: service.n_requests == 0)
        slow.go.release(195)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            # The next answer proves that the thread is free: the abandoned one took fewer than its 200 steps.
            ask(client, [{"role": "user", "content": "Hello"}], max_tokens=3)
        assert slow.n_generated < 20


def test_an_engine_that_fails_says_so_and_goes_on(slow, parts, monkeypatch):
    with (
        running(slow) as (_, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        slow.go.release(1000)
        monkeypatch.setattr(
            slow, "_generate", lambda jobs: (_ for _ in ()).throw(RuntimeError("secret path"))
        )
        found = refused(lambda: ask(client, [{"role": "user", "content": "Hello"}]))
        assert found == (500, "internal_error", "the answer failed; the server's log says why")
        monkeypatch.undo()
        again = client.with_options(max_retries=2)  # the server may close the connection of a failed request
        assert ask(again, [{"role": "user", "content": "Hello"}], max_tokens=2).choices[0].message.content
        asyncio.run(slow.stop())
        assert refused(lambda: ask(client, [{"role": "user", "content": "Hello"}]))[:2] == (
            503,
            "engine_down",
        )
        with pytest.raises(openai.InternalServerError) as caught:
            client.get("/../health", cast_to=object)
        assert caught.value.status_code == 503


def test_a_server_that_ends_finishes_answers_or_says_so(slow):
    with (
        running(slow, drain_s=0.3) as (service, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        slow.go.release(8)
        stream = ask(client, [{"role": "user", "content": "Hello"}], stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        service.loop.call_soon_threadsafe(service.drain)
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)
        assert refused(lambda: ask(client, [{"role": "user", "content": "Hello"}]))[:2] == (
            503,
            "shutting_down",
        )


def test_the_command_serves_until_sigterm_and_finishes_what_is_under_way(model_dir, clips):
    server = subprocess.Popen(
        tied_child_command("alm", "serve", str(model_dir), "--port", "0"),
        env=child_environment({"ALM_API_KEY": KEY}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = server.stdout.readline()
        url = re.fullmatch(r"serving tiny at (http://127\.0\.0\.1:\d+/v1)\n", line)[1]
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            stream = iter(ask(client, [user(audio(clips[0]), text("What?"))], stream=True, max_tokens=200))
            pieces = [next(stream).choices[0].delta.content or "" for _ in range(3)]
            server.send_signal(signal.SIGTERM)
            chunks = list(stream)
            assert chunks[-1].choices[0].finish_reason in ("stop", "length")
            pieces += [chunk.choices[0].delta.content or "" for chunk in chunks]
            assert len("".join(pieces)) > 20
        assert server.wait(60) == 0
        assert server.stderr.read() == "stopping; current answers are finished first\n"
    finally:
        server.kill()
        server.wait()


def test_who_may_ask_is_settled_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ALM_API_KEY", raising=False)

    def line(*words):
        assert main(["serve", str(tmp_path / "none"), *words]) == 2
        return capsys.readouterr().err

    assert "--host 0.0.0.0: other machines may ask only with a key; set ALM_API_KEY" in line(
        "--host", "0.0.0.0"
    )
    short = tmp_path / "key"
    short.write_text("short\n")
    assert "the key must have 16 or more printable" in line("--api-key-file", str(short))
    assert "cannot be read" in line("--api-key-file", str(tmp_path))
    assert "--engine-options: only vLLM takes them" in line("--engine-options", "--seed 1")
    short.write_text(f"{KEY}\n")
    assert read_key(str(short)) == KEY
    monkeypatch.setenv("ALM_API_KEY", KEY[::-1])
    assert read_key(None) == KEY[::-1] and read_key(str(short)) == KEY
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1"):
        check_address(Address(host), None)
    with pytest.raises(RequestError):
        read_request([], "tiny", "<|audio|>", Limits())


def test_the_engine_is_named_where_it_is_not_installed(tmp_path, monkeypatch, capsys):
    import importlib.metadata
    import importlib.util

    true = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("vllm", "uvicorn") else true(name, *a)
    )
    assert main(["serve", str(tmp_path)]) == 2
    assert "uvicorn is not installed; pip install 'alm-toolkit[serve]'" in capsys.readouterr().err
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else true(name, *a)
    )
    assert main(["serve", str(tmp_path), "--engine", "vllm"]) == 2
    assert "--engine vllm: vLLM is not installed here; pip install vllm, or use" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: true("json", *a))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints())
    assert main(["serve", str(tmp_path), "--engine", "vllm"]) == 2
    assert "vLLM finds no plug-in of alm-toolkit" in capsys.readouterr().err
    assert os.environ.get("VLLM_API_KEY") is None


def test_vllm_leaves_memory_on_a_cpu_to_others_unless_the_user_says_how_much(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    gib = int(vllm_settings()["VLLM_CPU_KVCACHE_SPACE"])
    assert 1 <= gib <= max(1, psutil.virtual_memory().total / 2**30 / 4)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_settings()
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_settings()
