"""Any OpenAI-compatible endpoint, named `openai:MODEL@URL`: `transformers serve`, vLLM, or a paid API."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from alm.common.errors import ConfigError
from alm.common.settings import check_ranges
from eval.errors import EvaluationError
from eval.models._pool import Pool
from eval.models._requests import Connections, Refused, RetriesExhausted
from eval.models._wav import base64_wav
from eval.models.base import Answer, Answerer, ModelKind, Opening, Prompt

_PREFIX = "openai:"
_FAILURES = ("error", "wrong")
_LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
# Decoding settings that a request may hold; all other fields are set here.
_DECODING = frozenset(
    ["temperature", "top_p", "top_k", "min_p", "seed", "stop", "frequency_penalty", "presence_penalty",
     "repetition_penalty", "reasoning_effort"]
)  # fmt: skip
# For the estimate: English text has about four characters a token; audio models hear 12.5 to 50 tokens a second.
_CHARACTERS_PER_TOKEN = 4
_AUDIO_TOKENS_PER_S = 25.0
# This many consecutive failures, without an answer between them, end the run.
_MOST_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class EndpointSettings:
    """Requests to an OpenAI-compatible endpoint.

    Attributes:
        requests: Largest number of concurrent requests. A run begins with a few; their number grows with every answer,
            and halves when the endpoint reports overload.
        requests_per_minute: Largest number of requests in a minute; None sets no limit. The endpoint's own limit
            (Retry-After) is followed in any case.
        attempts: Number of attempts before a question counts as failed.
        timeout_s: Longest wait for a whole answer in seconds.
        failures: What to do about failed questions: `error` ends the run with an error when all others are answered,
            and the same command asks them again; `wrong` scores them as wrong.
        token_budget: Largest number of tokens, of prompts and answers together, that the evaluation may use, as the
            endpoint counts them; None sets no limit.
        price_in: Price of a million prompt tokens, for the estimate; 0 is unknown or free.
        price_out: Price of a million answer tokens.
        key_env: Environment variable that holds the key; the key is never written anywhere.
        sample_rate: Rate in Hz of the wav files that are sent.
        length_field: `max_tokens`, or `max_completion_tokens` for endpoints that know only that.
    """

    requests: int = 32
    requests_per_minute: float | None = None
    attempts: int = 6
    timeout_s: float = 600.0
    failures: str = "error"
    token_budget: int | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    key_env: str = "OPENAI_API_KEY"
    sample_rate: int = 16000
    length_field: str = "max_tokens"

    def __post_init__(self) -> None:
        """Check the values."""
        check_ranges(
            "endpoint", self, requests=(1, 1024), attempts=(1, 100), sample_rate=(1000, 768000), price_in=(0, None),
            price_out=(0, None), token_budget=(1, None),
        )  # fmt: skip
        for name in ("timeout_s", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"endpoint.{name} is {value}; expected more than 0")
        for name, known in (("failures", _FAILURES), ("length_field", _LENGTH_FIELDS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"endpoint.{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}"
                )


class Endpoint(Answerer):
    """A model behind an OpenAI-compatible endpoint.

    Args:
        model: Its name there.
        url: Address up to and including `/v1`.
        max_new_tokens: Longest answer in tokens.
        decoding: Fields of the request in place of `temperature: 0`.
        settings: Limits and failures of requests.
    """

    streams: ClassVar[bool] = True
    cannot_rank = "an endpoint gives no likelihoods of given answers"

    def __init__(
        self,
        model: str,
        url: str,
        max_new_tokens: int = 64,
        decoding: Mapping[str, Any] | None = None,
        settings: EndpointSettings | None = None,
    ) -> None:
        self._model, self._settings = model, settings or EndpointSettings()
        self.model_id, self.max_new_tokens = f"{_PREFIX}{model}@{url}", max_new_tokens
        self.sample_rate = self._settings.sample_rate
        self.differs = dict(decoding or {})
        if self.sample_rate != EndpointSettings.sample_rate:
            self.differs["sample_rate"] = self.sample_rate
        self.decoding = {"temperature": 0, **(decoding or {}), self._settings.length_field: max_new_tokens}
        self._connections = Connections(
            url.rstrip("/") + "/chat/completions",
            os.environ.get(self._settings.key_env, ""),
            self._settings.timeout_s,
        )
        self._used = 0
        self._clipped = 0
        self._failed: list[str] = []

    def announce(
        self, prompts: Iterable[Prompt], seconds: float, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        """Print what the answers may cost.

        Raises:
            EvaluationError: The prompts alone take more tokens than the budget has left.
        """
        listed = list(prompts)
        characters = sum(len(turn["content"]) for prompt in listed for turn in prompt.messages)
        n_in = int(characters / _CHARACTERS_PER_TOKEN + seconds * _AUDIO_TOKENS_PER_S)
        n_out = len(listed) * self.max_new_tokens
        self._used = sum(sum(line["tokens"].values()) for line in earlier if "tokens" in line)
        text = (
            f"{len(listed)} questions with {seconds / 60:.1f} minutes of audio: about {n_in:,} prompt tokens and at "
            f"most {n_out:,} answer tokens"
        )
        if prices := (self._settings.price_in, self._settings.price_out):
            if any(prices):
                text += (
                    f", about {(n_in * prices[0] + n_out * prices[1]) / 1e6:.2f} at most at the given prices"
                )
        print(f"{text} (estimate)", file=sys.stderr)
        budget = self._settings.token_budget
        if budget is not None and self._used + n_in > budget:
            raise EvaluationError(
                f"endpoint.token_budget is {budget:,}: about {n_in:,} tokens are needed for the prompts alone, and "
                f"{self._used:,} are used; raise it, or set a limit of questions"
            )

    def generate(self, prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts with as many concurrent requests as the endpoint accepts; `batch_size` is not used.

        Raises:
            EvaluationError: The endpoint refuses the requests, several consecutive questions fail, the token budget is
                used up, or questions have no answer.
        """
        pool = Pool(
            self._settings.requests,
            self._settings.attempts,
            self._settings.requests_per_minute,
            self._connections,
        )
        failed: list[tuple[str, Exception]] = []
        in_a_row = answered = 0
        budget = self._settings.token_budget
        with closing(pool.run(len(prompts), lambda index: self.request(prompts[index]))) as answers:
            for index, found in answers:
                prompt = prompts[index]
                if isinstance(found, RetriesExhausted | Refused):
                    failed.append((prompt.id, found))
                    in_a_row += 1
                    if isinstance(found, Refused) and found.hopeless or in_a_row >= _MOST_FAILURES_IN_A_ROW:
                        raise EvaluationError(f"{self.model_id}: question {prompt.id}: {found}") from found
                    continue
                if isinstance(found, Exception):
                    raise found
                in_a_row = 0
                answered += 1
                text, tokens = found
                self._used += sum(tokens.values())
                yield index, Answer(text, extra={"tokens": tokens} if tokens else {})
                if budget is not None and self._used >= budget:
                    pool.finish()
        if budget is not None and self._used >= budget and answered + len(failed) < len(prompts):
            raise EvaluationError(
                f"endpoint.token_budget of {budget:,} is used up; the answers so far are kept: raise it and run the "
                "same command"
            )
        self._failed = [identifier for identifier, _ in failed]
        if failed and self._settings.failures == "error":
            identifier, error = failed[0]
            raise EvaluationError(
                f"{self.model_id}: {len(failed)} of {len(prompts)} questions have no answer; the first is "
                f"{identifier}: {error}; run the same command to ask them again, or set endpoint.failures=wrong"
            )

    def remarks(self) -> list[str]:
        """How many questions failed, and how many recordings were clipped."""
        found = []
        if self._failed:
            named = ", ".join(self._failed[:5]) + (", …" if len(self._failed) > 5 else "")
            found.append(f"{len(self._failed)} questions got no answer and count as wrong: {named}.")
        if self._clipped:
            found.append(
                f"{self._clipped} times a recording exceeded full scale and was clipped in the wav file sent."
            )
        return found

    def request(self, prompt: Prompt) -> bytes:
        """The request of a prompt."""

        def item(clip: np.ndarray) -> dict[str, Any]:
            self._clipped += bool(np.abs(clip).max(initial=0.0) > 1.0)
            return {
                "type": "input_audio",
                "input_audio": {"data": base64_wav(clip, self.sample_rate), "format": "wav"},
            }

        messages = [
            {**turn, "content": turn["content"][0]["text"]}
            if len(turn["content"]) == 1 and turn["content"][0]["type"] == "text"
            else turn
            for turn in prompt.content(item)
        ]
        return json.dumps({"model": self._model, "messages": messages, **self.decoding}).encode("utf-8")


def _open(name: str, opening: Opening) -> Answerer:
    model, at, url = name.removeprefix(_PREFIX).rpartition("@http")
    url = at[1:] + url
    parts = urlsplit(url)
    if not model or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"model {name!r}: expected openai:MODEL@URL, for example openai:m@http://localhost:8000/v1"
        )
    settings = opening.options.get("endpoint") or EndpointSettings()
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"model openai:{model}@…: the address holds a user, a query or a fragment; keys come from the environment "
            f"variable {settings.key_env} alone"
        )
    for key in opening.decoding:
        if key not in _DECODING:
            raise ConfigError(
                f"decoding.{key}: not a setting of an endpoint; expected some of {', '.join(sorted(_DECODING))}"
            )
    return Endpoint(model, url.rstrip("/"), opening.max_new_tokens, opening.decoding, settings)


MODEL_KIND = ModelKind("openai:MODEL@URL", lambda name: name.startswith(_PREFIX), _open, order=5)
