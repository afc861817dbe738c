"""A server that speaks as OpenAI-compatible ones do, with the faults that they have."""

import base64
import collections
import contextlib
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile


class ChatServer:
    """Answers each question by its text and what is heard; `faults` says what goes wrong before.

    Attributes:
        faults: Per text of a question the faults of its next requests, as callables or names of `Handler.fault_*`.
        asked: Texts of all requests in their order, with the time they came.
        answered: How often each (text, number of samples) got its answer whole.
        most: Most requests that were under way at a time.
        rate_hz: Rate that recordings must have.
    """

    rate_hz = 16000

    def __init__(self, pause=0.0):
        self.faults = collections.defaultdict(list)
        self.asked, self.bodies, self.headers = [], [], []
        self.answered = collections.Counter()
        self.pause, self.most, self.under_way = pause, 0, 0
        self.lock = threading.Lock()

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                with outer.lock:
                    outer.under_way += 1
                    outer.most = max(outer.most, outer.under_way)
                try:
                    with contextlib.suppress(ConnectionError):
                        self.respond()
                finally:
                    with outer.lock:
                        outer.under_way -= 1

            def respond(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text, clips = heard(body["messages"][-1]["content"], outer.rate_hz)
                with outer.lock:
                    outer.asked.append((text, time.monotonic()))
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    fault = outer.faults[text].pop(0) if outer.faults[text] else None
                time.sleep(outer.pause)
                if fault is not None:
                    return fault(self)
                answer = f"{text.split()[-1]} {sum(map(len, clips))}"
                self.send(200, completion(answer))
                with outer.lock:
                    outer.answered[text, sum(map(len, clips))] += 1

            def send(self, status, content, length=None, **headers):
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(data)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.name = f"openai:fake@{self.url}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def completion(answer, prompt=100, said=5):
    return {
        "choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": said},
    }


def heard(content, rate_hz=16000):
    """The text of a turn, and its recordings as 16-bit samples."""
    if isinstance(content, str):
        return content, []
    text = "".join(part["text"] for part in content if part["type"] == "text")
    clips = []
    for part in content:
        if part["type"] == "input_audio":
            assert part["input_audio"]["format"] == "wav"
            data = io.BytesIO(base64.b64decode(part["input_audio"]["data"], validate=True))
            samples, rate = soundfile.read(data, dtype="int16")
            assert rate == rate_hz and samples.ndim == 1
            clips.append(samples)
    return text, clips


def status(code, message="no", **headers):
    return lambda handler: handler.send(code, {"error": {"message": message}}, **headers)


def wrong_json(content):
    return lambda handler: handler.send(200, content)


def cut(handler):
    """Promises more bytes than it sends."""
    handler.send(200, json.dumps(completion("half"))[:40].encode(), length=4000)
    handler.close_connection = True


def cut_chunks(handler):
    """Ends in the middle of a chunked answer."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    data = json.dumps(completion("half")).encode()
    handler.wfile.write(b"%x\r\n" % len(data) + data[:20])
    handler.close_connection = True


def closed(handler):
    """Closes the connection without a word."""
    handler.close_connection = True


def dripping(handler):
    """Never stops sending, so that no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def as_int16(waveform):
    return np.rint(waveform * 32768.0).clip(-32768, 32767).astype(np.int16)
