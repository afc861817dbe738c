"""A judge rates each answer together with the reference answer, in both orders, as in AIR-Bench chat."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alm.common.json_text import read_log
from alm.common.storage.cache import cache_folder
from eval.errors import MetricUnavailable
from eval.metrics._base import TextMetric, mean_result
from eval.models._requests import Busy, Refused, endpoint_judge

JUDGE_VARIABLE = "ALM_JUDGE"
"""Environment variable: the judge, `http://host/v1#model`; its key is in OPENAI_API_KEY."""

PROMPT_VERSION = "1"
# The protocol of the published script (a description of the audio, the reference and the answer rated from 1 to 10), in
# words of our own: scores under other words do not compare.
PROMPT = (
    "You rate two answers to a question about a recording that you know by its description.\n"
    "Description of the recording: {description}\nQuestion: {question}\n"
    "Answer 1: {first}\nAnswer 2: {second}\n"
    "Rate how helpful, relevant, accurate and complete each answer is, from 1 (worst) to 10 (best). Reply with one "
    "line that holds the two numbers alone, that of answer 1 first, with a space between them."
)
_THREADS = 8


class JudgeScore(TextMetric):
    """The mean rating of the answers by a judge; each is rated twice, before and after the reference answer."""

    citation = (
        "Yang et al. 2024, AIR-Bench: Benchmarking Large Audio-Language Models via Generative Comprehension."
    )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        questions: Sequence[str] | None = None,
        descriptions: Sequence[str] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return `judge_score`, `per_sample` and `backend`.

        Args:
            predictions: Answers.
            references: Reference answers; the first of each is rated together with the answer.
            questions: The questions.
            descriptions: The content of each recording in words; the judge gets no audio.
            **options: None are known.

        Raises:
            MetricUnavailable: No judge is given, or it gives no rating for an answer.
        """
        source = os.environ.get(JUDGE_VARIABLE, "")
        if not source.startswith(("http://", "https://")):
            raise MetricUnavailable(f"needs a judge; set {JUDGE_VARIABLE} to http://host/v1#model")
        judge = _Judge(source)
        asked = []
        blank = [""] * len(predictions)
        rows = zip(predictions, references, questions or blank, descriptions or blank, strict=True)
        for said, targets, question, description in rows:
            for place, (first, second) in enumerate(((targets[0], said), (said, targets[0]))):
                words = {"description": description, "question": question, "first": first, "second": second}
                asked.append((_filled(words), 1 - place))
        ratings = judge.ratings([prompt for prompt, _ in asked])
        mine = [pair[place] for pair, (_, place) in zip(ratings, asked, strict=True)]
        samples = [(mine[at] + mine[at + 1]) / 2 for at in range(0, len(mine), 2)]
        return mean_result("judge_score", samples, f"judge_score[{judge.name},prompt={PROMPT_VERSION}]")


class _Judge:
    """The judge at an endpoint, with a cache of its replies on disk.

    Args:
        source: `http://host/v1#model`.
    """

    def __init__(self, source: str) -> None:
        address, _, model = source.partition("#")
        self._model, self._address = model or "default", address.rstrip("/")
        self.name = f"{self._model}@{self._address}"
        digest = hashlib.sha256(f"{self.name} {PROMPT_VERSION}".encode()).hexdigest()[:16]
        self._path = cache_folder("judge") / f"{digest}.jsonl"

    def ratings(self, prompts: Sequence[str]) -> list[tuple[float, float]]:
        """The two numbers of each reply; stored replies are reused.

        Raises:
            MetricUnavailable: The endpoint fails, or a reply does not hold two numbers from 1 to 10.
        """
        known = _replies(self._path)
        left = [prompt for prompt in dict.fromkeys(prompts) if _key(prompt) not in known]
        ask = endpoint_judge(self._address, self._model, max_tokens=16)
        try:
            with ThreadPoolExecutor(_THREADS) as threads, open(self._path, "a", encoding="utf-8") as file:
                for prompt, reply in zip(left, threads.map(ask, left), strict=True):
                    self._read(reply)  # an invalid reply is not stored, so the next run asks again
                    known[_key(prompt)] = reply
                    file.write(json.dumps({"key": _key(prompt), "reply": reply}) + "\n")
                    file.flush()
        except (Busy, Refused) as error:
            raise MetricUnavailable(f"judge {self.name}: {error}") from error
        return [self._read(known[_key(prompt)]) for prompt in prompts]

    def _read(self, reply: str) -> tuple[float, float]:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)[\s,/]+(\d+(?:\.\d+)?)\s*", reply)
        pair = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if not all(1 <= one <= 10 for one in pair):
            raise MetricUnavailable(
                f"judge {self.name}: replied {reply[:80]!r}, expected two numbers from 1 to 10; choose a model that "
                "follows instructions"
            )
        return pair


def _filled(words: dict[str, str]) -> str:
    """The prompt with its words, in which braces of an answer stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], PROMPT)


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8")).hexdigest()


def _replies(path: Path) -> dict[str, str]:
    """Replies of earlier runs; a line that was cut off is ignored."""
    return {line["key"]: str(line["reply"]) for line in read_log(path) if {"key", "reply"} <= line.keys()}
