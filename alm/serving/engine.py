"""The contract of an engine, which answers requests, and the engine that runs `transformers` in this process.

It does not use `transformers serve`, which takes requests one after another, decodes audio on its event loop, reads any
path that a request names, and drops fields that it does not know. Only `generate` comes from `transformers`; requests
that wait together are answered in one batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from alm.common.errors import UserError
from alm.decoding import decoding_settings, decoding_with
from alm.serving.requests import ChatRequest, RequestError
from encoders.devices import pick_device


@dataclass(frozen=True)
class Finish:
    """How an answer ended.

    Attributes:
        reason: `stop`, or `length` if the limit cut it.
        prompt_tokens: Tokens of the prompt, audio included.
        answer_tokens: Tokens that were generated.
    """

    reason: str
    prompt_tokens: int
    answer_tokens: int


class Engine(Protocol):
    """Answers checked requests with decoded clips."""

    sample_rate: int
    audio_token: str

    async def start(self) -> None:
        """Make it ready to answer."""

    async def stop(self) -> None:
        """End what it started."""

    def problem(self) -> str | None:
        """Why it cannot answer at present; None where it can."""

    def answer(self, request: ChatRequest) -> AsyncGenerator[str | Finish, None]:
        """Pieces of the answer, then how it ended; closing the generator stops the generation."""


def shutting_down() -> RequestError:
    """The error for a caller whose answer cannot be finished because the server is ending."""
    return RequestError(
        503, "the server is shutting down; try again later", "shutting_down", retry_after_s=30
    )


class LocalEngine:
    """Generates in this process, in one thread; requests that wait together share a batch.

    Args:
        model: An `alm.model.AudioLanguageModel`.
        processor: Its processor.
        batch_size: Maximum number of requests in a batch.
        max_new_tokens: Length limit of an answer in tokens, for requests without one; less if the context is full.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 16, max_new_tokens: int = 256) -> None:
        self.model, self.processor = model.to(pick_device()).eval(), processor
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.sample_rate: int = processor.sample_rate
        self.audio_token: str = processor.audio_token
        # A copy: the model's generation_config is replaced during generation.
        self._own = SimpleNamespace(generation_config=model.generation_config)
        self._tokenizing = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="generate", daemon=True)

    async def start(self) -> None:
        """Start the thread that generates."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop all answers."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def problem(self) -> str | None:
        """Why it cannot answer; None where it can."""
        return None if self._thread.is_alive() and not self._ending else "the engine has ended"

    async def answer(self, request: ChatRequest) -> AsyncGenerator[str | Finish, None]:
        """Pieces of the answer, then how it ended.

        Raises:
            RequestError: The prompt does not fit into the context, or its template refuses it.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | Finish | Exception] = asyncio.Queue()

        def send(piece: str | Finish | Exception) -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = await asyncio.to_thread(self._prepare, request, send)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if isinstance(piece, Finish):
                    return
        finally:
            job.cancelled.set()

    def _prepare(self, request: ChatRequest, send: Callable[[str | Finish | Exception], None]) -> _Job:
        """Check template and length with the model's processor, before the request is queued."""
        try:
            with self._tokenizing:
                prompt = self.processor.apply_chat_template(
                    request.messages,
                    audio=request.clips,
                    tokenize=True,
                    return_dict=True,
                    add_generation_prompt=True,
                    n_new_tokens=request.max_new_tokens or 1,
                )
            n_prompt = int(prompt["input_ids"].shape[1])
            context = self.processor.context_length
            left = self.max_new_tokens if context is None else min(self.max_new_tokens, context - n_prompt)
            options: dict[str, Any] = {}
            if request.temperature > 0:
                options = {"do_sample": True, "temperature": request.temperature}
                options |= {} if request.top_p is None else {"top_p": request.top_p}
            settings = decoding_settings(self._own, self.processor, request.max_new_tokens or left, **options)
        except UserError as error:
            raise RequestError(400, str(error), "invalid_prompt", "messages") from error
        return _Job(request, settings, n_prompt, send)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if self._ending:
                    return
                jobs = self._next_batch()
            if not jobs:
                continue
            try:
                self._generate(jobs)
            except Exception as error:  # reported to the callers of this batch; the next batch may succeed
                for job in jobs:
                    job.send(error)
            del jobs

    def _next_batch(self) -> list[_Job]:
        """The oldest job, and others that can share its batch; jobs whose client has disconnected are dropped."""
        waiting = [job for job in self._waiting if not job.cancelled.is_set()]
        jobs = [job for job in waiting if job.key() == waiting[0].key()][: self.batch_size]
        if jobs and jobs[0].request.seed is not None:
            jobs = jobs[:1]  # in a batch, its random numbers would depend on the other requests
        self._waiting = deque(job for job in waiting if job not in jobs)
        return jobs

    @torch.no_grad()
    def _generate(self, jobs: list[_Job]) -> None:
        seed = jobs[0].request.seed
        if seed is not None:
            torch.manual_seed(seed)
        settings = jobs[0].settings | {"max_new_tokens": max(job.n_most for job in jobs)}
        with self._tokenizing:
            batch = self.processor.apply_chat_template(
                [job.request.messages for job in jobs],
                audio=[job.request.clips for job in jobs],
                tokenize=True,
                return_dict=True,
                add_generation_prompt=True,
            ).to(self.model.device)
        writers = [_Writer(job, self.processor.tokenizer, settings["eos_token_id"]) for job in jobs]
        with decoding_with(self.model, settings) as config:
            self.model.generate(
                **batch,
                generation_config=config,
                streamer=_Streamer(writers),
                stopping_criteria=[_Done(writers, lambda: self._ending)],
            )
        for writer in writers:
            writer.finish()


@dataclass(eq=False)
class _Job:
    """A request that waits for its answer, or gets it."""

    request: ChatRequest
    settings: dict[str, Any]
    n_prompt: int
    send: Callable[[str | Finish | Exception], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def n_most(self) -> int:
        """Length limit of its answer in tokens."""
        n: int = self.settings["max_new_tokens"]
        return n

    def key(self) -> tuple[Any, ...]:
        """Jobs with the same key can share a batch."""
        same = {name: value for name, value in self.settings.items() if name != "max_new_tokens"}
        return (repr(sorted(same.items())), self.request.seed)


class _Writer:
    """Turns the tokens of one answer into pieces of text, and detects its end."""

    def __init__(self, job: _Job, tokenizer: Any, ends: list[int]) -> None:
        self.job, self.tokenizer, self.ends = job, tokenizer, set(ends)
        self.text = StoppedText(job.request.stop)
        self.tokens: list[int] = []
        self.reason: str | None = None
        # Text up to token `sent` has been sent; decoding from `since` on gives it the context that it needs
        self.since, self.sent = 0, 0

    def put(self, token: int) -> None:
        """Take the next token."""
        if self.reason is not None:
            return
        self.tokens.append(token)
        self._write(whole=False)
        if self.text.stopped or token in self.ends:
            self.reason = "stop"
        elif len(self.tokens) >= self.job.n_most:
            self.reason = "length"

    def over(self) -> bool:
        """Whether no more tokens are wanted."""
        return self.reason is not None or self.job.cancelled.is_set()

    def finish(self) -> None:
        """Send what is left, and how it ended."""
        self._write(whole=True)
        if rest := self.text.end():
            self.job.send(rest)
        if self.reason is None:
            self.job.send(shutting_down())
        else:
            self.job.send(Finish(self.reason, self.job.n_prompt, len(self.tokens)))

    def _write(self, whole: bool) -> None:
        before = self._decode(self.tokens[self.since : self.sent])
        now = self._decode(self.tokens[self.since :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not whole):  # a part of a character
            return
        self.since, self.sent = self.sent, len(self.tokens)
        if piece := self.text.add(now[len(before) :]):
            self.job.send(piece)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class StoppedText:
    """The growing text of an answer, without blanks around it, ended before the first stop text.

    Args:
        stop: The texts that end it.
    """

    def __init__(self, stop: list[str]) -> None:
        self.stop, self.stopped = stop, False
        self._kept, self._begun = "", False

    def add(self, text: str) -> str:
        """Take more text; returns the text that is certain to be in the answer."""
        if self.stopped:
            return ""
        self._kept += text
        found = [place for place in map(self._kept.find, self.stop) if place >= 0]
        if found:
            self.stopped = True
            self._kept = self._kept[: min(found)]
            return self._release(len(self._kept.rstrip()))
        held = max((_overlap(self._kept, stop) for stop in self.stop), default=0)
        return self._release(len(self._kept[: len(self._kept) - held].rstrip()))

    def end(self) -> str:
        """What is left when no more text comes."""
        return self._release(len(self._kept.rstrip()))

    def _release(self, n: int) -> str:
        piece, self._kept = self._kept[:n], self._kept[n:]
        piece = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(piece)
        return piece


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which `stop` begins."""
    most = min(len(stop) - 1, len(text))  # stop may have megabytes
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)


class _Streamer:
    """Passes the new tokens of a batch to their writers."""

    def __init__(self, writers: list[_Writer]) -> None:
        self.writers, self.prompt_seen = writers, False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompts, then one token per row."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        for writer, token in zip(self.writers, value.flatten().tolist(), strict=True):
            writer.put(token)

    def end(self) -> None:
        """Nothing: the writers finish when the batch is done."""


class _Done:
    """Tells `generate` which rows are finished."""

    def __init__(self, writers: list[_Writer], ending: Callable[[], bool]) -> None:
        self.writers, self.ending = writers, ending

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether each row (B,) is over."""
        over = [self.ending() or writer.over() for writer in self.writers]
        return torch.tensor(over, device=input_ids.device)
