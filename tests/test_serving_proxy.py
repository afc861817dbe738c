"""`alm serve --engine vllm`: OpenAI's own client gets our answers through vLLM, and the same refusals."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest

from alm.common.processes import child_environment, tied_child_command

openai = pytest.importorskip("openai", reason="needs alm-toolkit[serve]")
pytest.importorskip("uvicorn", reason="needs alm-toolkit[serve]")

from test_alm_serving import KEY, ask, audio, expected, refused, text, user, wait_for  # noqa: E402
from test_serving_vllm import SETTINGS, TEMPLATE, build, mixed_clips  # noqa: E402

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vllm is not installed (pip install 'alm-toolkit[vllm]')",
    ),
]
ENGINE = "--engine-options=--dtype float32 --enforce-eager --max-model-len 512"
CLIPS = mixed_clips(4, 2.0, seed=5)


@pytest.fixture(scope="module")
def model_dir(llm_dir, tmp_path_factory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    tokenizer.chat_template = TEMPLATE
    return build(tokenizer, tmp_path_factory.mktemp("proxied") / "tiny")


@pytest.fixture(scope="module")
def parts(model_dir):
    from alm.checkpoint import load_model, load_processor

    return load_model(model_dir), load_processor(model_dir)


@contextmanager
def serving(model_dir, *words):
    """`alm serve` with vLLM's engine: its process and its URL."""
    ours = (
        "VLLM_ENABLE_V1_MULTIPROCESSING",
        "VLLM_CPU_KVCACHE_SPACE",
    )  # `alm serve` chooses the cache itself
    settings = {name: value for name, value in SETTINGS.items() if name not in ours}
    server = subprocess.Popen(
        tied_child_command("alm", "serve", str(model_dir), "--engine", "vllm", "--port", "0", ENGINE, *words),
        env=child_environment({**settings, "ALM_API_KEY": KEY}), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = re.fullmatch(r"serving tiny at (http://127\.0\.0\.1:\d+/v1)\n", server.stdout.readline())[1]
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            yield server, client
    finally:
        server.terminate()
        server.wait(90)


@pytest.fixture(scope="module")
def client(model_dir):
    limits = ("--max-audio-s", "20", "--max-clips", "3", "--max-requests", "3", "--max-new-tokens", "24")
    with serving(model_dir, *limits) as (_, client):
        yield client


def answer(client, messages, **options):
    return ask(client, messages, **options).choices[0].message.content


def whole(text):
    """The answer without a last character that the limit of tokens cut, which vLLM does not write."""
    return re.sub(r"[\ufffd\s]+$", "", text)


def test_clips_turns_and_text_alone(client, parts):
    first = [user(text("First"), audio(CLIPS[0]), text("then"), audio(CLIPS[1]), text("Same?"))]
    said = [{"role": "user", "content": "First<|audio|>then<|audio|>Same?"}]
    one = answer(client, first)
    assert whole(one) == whole(expected(parts, said, CLIPS[:2])) != ""
    turns = [*first, {"role": "assistant", "content": one}, user(audio(CLIPS[2]), text("And this?"))]
    said += [{"role": "assistant", "content": one}, {"role": "user", "content": "<|audio|>And this?"}]
    assert whole(answer(client, turns)) == whole(expected(parts, said, CLIPS[:3])) != whole(one)
    hello = [{"role": "user", "content": "Hello"}]
    assert whole(answer(client, hello)) == whole(expected(parts, hello, [])) != ""
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_stream_says_the_same_in_pieces(client, parts):
    messages = [user(audio(CLIPS[3]), text("What is this?"))]
    full = ask(client, messages)
    chunks = list(ask(client, messages, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    said = [{"role": "user", "content": "<|audio|>What is this?"}]
    assert "".join(pieces) == full.choices[0].message.content
    assert whole("".join(pieces)) == whole(expected(parts, said, CLIPS[3:])) != ""
    assert sum(map(bool, pieces)) > 3 and chunks[-2].choices[0].finish_reason == "length"
    inputs = parts[1].apply_chat_template(
        said, audio=CLIPS[3:], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    for usage in (full.usage, chunks[-1].usage):
        assert usage.prompt_tokens == inputs["input_ids"].shape[1] and usage.completion_tokens == 24


def test_sampling_follows_the_seed_and_stop_ends_the_answer(client):
    messages = [user(audio(CLIPS[0]), text("What?"))]
    sampled = [answer(client, messages, temperature=1.0, top_p=0.9, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    full = answer(client, messages)
    stop = full[len(full) // 2 : len(full) // 2 + 2]
    cut = ask(client, messages, stop=[stop]).choices[0]
    assert cut.message.content == full[: full.index(stop)].rstrip() and cut.finish_reason == "stop"


def test_wrong_requests_get_the_statuses_of_the_other_engine(client):
    def send(*items, **options):
        return refused(lambda: ask(client, [user(*items)], **options))

    assert send(audio(b"no audio at all"))[:2] == (422, "invalid_audio")
    assert send(audio(np.zeros(21 * 16000, np.float32), "FLAC"))[:2] == (413, "audio_too_long")
    assert send(*[audio(CLIPS[0])] * 4)[:2] == (413, "invalid_value")
    assert send(text("long " * 600))[:2] == (400, "invalid_prompt")
    status, code, message = send(text("Hello"), max_tokens=100_000)
    assert (status, code) == (400, "invalid_prompt") and "max_model_len=512" in message
    keyless = client.with_options(api_key="none")
    assert refused(lambda: ask(keyless, [user(text("Hello"))]))[:2] == (401, "invalid_api_key")


def test_too_many_requests(client):
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n"
    )
    messages = [user(text("Hello"))]
    callers = []

    def is_full():
        """Another caller announces a body and sends none; the previous one may have collided with our own request."""
        callers.append(socket.create_connection((client.base_url.host, client.base_url.port)))
        callers[-1].sendall(head.encode())
        return status(client, messages) == 429

    try:
        wait_for(is_full)
    finally:
        for caller in callers:
            caller.close()
    wait_for(lambda: status(client, messages) == 200)


def status(client, messages):
    try:
        return 200 if answer(client, messages) else None
    except openai.APIStatusError as error:
        return error.status_code


def test_sigterm_finishes_the_answer_and_leaves_no_process(model_dir):
    with serving(model_dir) as (server, client):
        children = processes_below(server.pid)
        assert len(children) > 1
        stream = iter(ask(client, [user(audio(CLIPS[0]), text("What?"))], stream=True, max_tokens=300))
        for _ in range(3):
            next(stream)
        server.send_signal(signal.SIGTERM)
        assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")
        assert server.wait(90) == 0 and server.stdout.read() == ""
        assert not [pid for pid in children if alive(pid)]


def test_an_engine_that_is_killed_ends_the_stream_and_the_server(model_dir):
    with serving(model_dir) as (server, client):
        messages = [user(audio(CLIPS[0]), text("What?"))]
        children = processes_below(server.pid)
        stream = iter(ask(client, messages, stream=True, max_tokens=400))
        for _ in range(3):
            next(stream)
        os.kill(children[0], signal.SIGKILL)
        with pytest.raises(openai.APIError, match="no answers at present|shutting down"):
            list(stream)
        assert server.wait(90) == 2
        assert not [pid for pid in children if alive(pid)]


def test_options_that_vllm_refuses_end_the_command(model_dir):
    done = subprocess.run(
        tied_child_command("alm", "serve", str(model_dir), "--engine", "vllm", "--port", "0",
                           "--engine-options=--no-such-option"),
        env=child_environment({}), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert "vLLM did not start (exit code 2)" in done.stderr


def processes_below(pid):
    """Ids of the processes that a process and its children started, oldest first."""
    found = []
    for line in subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True).splitlines():
        child, parent = map(int, line.split())
        if parent == pid:
            found += [child, *processes_below(child)]
    return found


def alive(pid):
    """Whether a process runs and has not ended as a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
