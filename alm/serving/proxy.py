"""The engine that forwards checked requests to vLLM's server, a child of this process."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import secrets
import shlex
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import soundfile
import torch

from alm.common.errors import ConfigError, UserError
from alm.common.processes import child_environment, interrupts_kept_from_children, tied_child_command
from alm.common.text import error_line
from alm.serving.engine import Finish, StoppedText
from alm.serving.requests import ChatRequest, RequestError

logger = logging.getLogger("alm.serving")

_CPU_CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"
_STOP_S = 20.0
_LONGEST_SOCKET = 90  # the system's limit for the path of a socket is 104 or 108


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that only this user can open, with a path that is short enough for a socket in it."""
    where = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(
        prefix="alm-", dir=where if len(where) < _LONGEST_SOCKET - 20 else "/tmp"
    )


def vllm_settings() -> dict[str, str]:
    """Environment variables that vLLM needs to start on this machine, besides those that the user has set.

    On a CPU vLLM takes 92 % of all memory for its cache, and does not start if less is free. So the cache gets a
    quarter of the free memory, unless the user has set a size.
    """
    settings = {"VLLM_NO_USAGE_STATS": "1"}
    if not torch.accelerator.is_available() and _CPU_CACHE_GIB not in os.environ:
        settings[_CPU_CACHE_GIB] = str(max(1, psutil.virtual_memory().available // 2**30 // 4))
    return settings


class VllmEngine:
    """Starts `vllm serve`, and asks it.

    vLLM listens at a socket in a folder that only this user can open, not at a port, because vLLM's key does not
    protect all paths that answer or fetch (`/invocations`). Clips are sent as float wav files at the model's rate, so
    that they are not resampled again.

    Args:
        folder: The model directory.
        processor: Its processor, for the rate and the marker of clips.
        name: The model's name.
        batch_size: Maximum number of requests in a batch.
        max_new_tokens: Length limit of an answer in tokens, for requests without one.
        options: Further options of `vllm serve`, as one string.
        trust_remote_code: Run code that comes with the model's LLM.
    """

    def __init__(
        self,
        folder: Path,
        processor: Any,
        name: str,
        batch_size: int,
        max_new_tokens: int,
        options: str = "",
        trust_remote_code: bool = False,
    ) -> None:
        self.sample_rate: int = processor.sample_rate
        self.audio_token: str = processor.audio_token
        self.name, self.max_new_tokens = name, max_new_tokens
        try:
            more = shlex.split(options)
        except ValueError as error:
            raise ConfigError(f"--engine-options: {error}") from error
        self._folder = private_folder()
        path = str(Path(self._folder.name) / "vllm")
        words = ["--model", str(folder), "--served-model-name", name, "--max-num-seqs", str(batch_size), *more,
                 "--uds", path]  # fmt: skip
        if trust_remote_code:
            words.append("--trust-remote-code")
        key = secrets.token_urlsafe()
        # A connection for each request: vLLM closes idle ones after 5 s, perhaps just when one is used again. How many
        # there are is limited before.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        transport = httpx2.AsyncHTTPTransport(uds=path, limits=limits)
        self._client = openai.AsyncOpenAI(
            base_url="http://vllm/v1", api_key=key, max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(transport=transport),
        )  # fmt: skip
        with interrupts_kept_from_children():
            self._child = subprocess.Popen(
                tied_child_command("vllm.entrypoints.openai.api_server", *words),
                env=child_environment({**vllm_settings(), "VLLM_API_KEY": key}),
                stdout=2,  # its log; standard output holds the one line that says where this server is
                start_new_session=True,
            )

    async def start(self) -> None:
        """Wait until vLLM answers.

        Raises:
            UserError: vLLM has ended.
        """
        while True:
            if self._child.poll() is not None:
                raise UserError(
                    f"vLLM did not start (exit code {self._child.returncode}); its output says why"
                )
            try:
                await self._client.models.list()
                return
            except openai.APIError:
                await asyncio.sleep(0.3)

    async def stop(self) -> None:
        """End it and all its processes."""
        await self._client.close()
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._child.wait, _STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._child.wait()
        self._folder.cleanup()

    def problem(self) -> str | None:
        """Why it cannot answer; None where it can."""
        code = self._child.poll()
        return None if code is None else f"vLLM ended with exit code {code}"

    async def answer(self, request: ChatRequest) -> AsyncGenerator[str | Finish, None]:
        """Pieces of the answer, then how it ended.

        Raises:
            RequestError: vLLM refuses the request, or has ended.
        """
        written = StoppedText([])
        reason, usage = "stop", None
        messages: Any = await asyncio.to_thread(self._messages, request)
        try:
            stream = await self._client.chat.completions.create(
                model=self.name,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                temperature=request.temperature,
                top_p=openai.omit if request.top_p is None else request.top_p,
                seed=openai.omit if request.seed is None else request.seed,
                stop=request.stop or openai.omit,
                max_tokens=request.max_new_tokens or self.max_new_tokens,
            )
            async with stream:
                async for chunk in stream:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        reason = choice.finish_reason or reason
                        if piece := written.add(choice.delta.content or ""):
                            yield piece
        except openai.APIStatusError as error:
            if error.status_code >= 500:
                logger.warning("vLLM failed with status %d: %s", error.status_code, error_line(error))
                raise RequestError(503, "the engine failed; try again later", "engine_down") from error
            said = error.body.get("message") if isinstance(error.body, dict) else None
            raise RequestError(400, f"the engine refuses it: {said or error}", "invalid_prompt") from error
        except Exception as error:  # the openai client does not wrap HTTP errors during a stream
            logger.warning("vLLM did not answer: %r", error.__cause__ or error)
            raise RequestError(503, f"no answers at present: {self.problem() or 'the engine failed'}",
                               "engine_down", retry_after_s=30) from error  # fmt: skip
        if rest := written.end():
            yield rest
        yield Finish(reason, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)

    def _messages(self, request: ChatRequest) -> list[dict[str, Any]]:
        """Messages for vLLM: clips in place of their markers, between the texts."""
        clips = iter(request.clips)
        out = []
        for message in request.messages:
            before, *others = message["content"].split(self.audio_token)
            content: list[dict[str, Any]] = [{"type": "text", "text": before}]
            for text in others:
                file = io.BytesIO()
                soundfile.write(file, next(clips), self.sample_rate, format="WAV", subtype="FLOAT")
                data = base64.b64encode(file.getvalue()).decode()
                content.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
                content.append({"type": "text", "text": text})
            said = [one for one in content if one.get("text") != ""]
            out.append({"role": message["role"], "content": said or content})
        return out
