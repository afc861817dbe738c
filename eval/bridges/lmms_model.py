"""Makes any model that `alm eval` can evaluate a model of lmms-eval, optionally with our controls.

lmms-eval finds `alm` by the entry point of this package:

    lmms-eval --model alm --model_args model=DIR --tasks clotho_aqa_test

With `controls=true` every question is also asked without its recording and with the recording of another question. A
task selects one of the three answers with a filter, so one run gives the task's own metric for each control:

    filter_list:
      - - name: model
          filter: [{function: alm_control, control: none}, {function: take_first}]
      - - name: another clip's audio
          filter: [{function: alm_control, control: other_clip}, {function: take_first}]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lmms_eval.api.filter import Filter
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.filters import FILTER_REGISTRY
from lmms_eval.models.registry_v2 import ModelManifest

from alm.common.errors import UserError
from alm.common.json_text import parse_json
from alm.data.records import AUDIO_MARKER
from encoders.audio import resample
from eval.models import Opening, open_model
from eval.models.base import Prompt
from eval.scoring.predictions import CONTROLS, HEADLINE

FILTER = "alm_control"


def manifest() -> ModelManifest:
    """The manifest that lmms-eval reads through the entry point."""
    return ModelManifest("alm", simple_class_path=f"{__name__}.LmmsModel")


class LmmsModel(lmms):  # type: ignore[misc]
    """A model that answers the tasks of lmms-eval with recordings.

    Args:
        model: A model directory or hub id, `openai:MODEL@URL`, or a Python file with an `ANSWERER`, as for `alm eval`.
        batch_size: Questions per batch.
        device: Where a local model is put; None takes an accelerator (CUDA, XPU, NPU, MPS) where there is one.
        controls: Whether each question is also asked under our controls; answers are then JSON for the filter.
        trust_remote_code: Run Python code that comes with a model.
    """

    is_simple = True

    def __init__(
        self,
        model: str,
        batch_size: int | str = 1,
        device: str | None = None,
        controls: bool | str = False,
        trust_remote_code: bool | str = False,
    ) -> None:
        super().__init__()
        self._name, self._batch_size = model, int(batch_size)
        self._device, self._trust = device, str(trust_remote_code).lower() == "true"
        self._controls = CONTROLS if str(controls).lower() == "true" else (HEADLINE,)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer requests: texts, or with `controls` JSON objects from control to text.

        Raises:
            UserError: A task that asks for sampling or beams, or a document with something other than recordings.
        """
        said: list[dict[str, str]] = [{} for _ in requests]
        by_length: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            by_length.setdefault(_longest_answer(request), []).append(index)
        for length, rows in by_length.items():
            model = open_model(self._name, Opening(self._device, length, trust_remote_code=self._trust))
            clips = [self._clips(requests[row], model.sample_rate) for row in rows]
            for control in self._controls:
                prompts = [
                    _prompt(requests[row].args[0], _heard(clips, place, control))
                    for place, row in enumerate(rows)
                ]
                for place, answer in model.generate(prompts, self._batch_size):
                    request = requests[rows[place]]
                    said[rows[place]][control] = _until(answer.text, request.args[1].get("until"))
        if self._controls == (HEADLINE,):
            return [found[HEADLINE] for found in said]
        return [json.dumps(found, ensure_ascii=False) for found in said]

    def _clips(self, request: Instance, rate: int) -> list[np.ndarray]:
        _, _, doc_to_visual, doc_id, task, split = request.args
        clips = []
        for item in doc_to_visual(self.task_dict[task][split][doc_id]) or ():
            if hasattr(item, "get_all_samples"):  # torchcodec's decoder, as datasets gives it
                samples = item.get_all_samples()
                item = {"array": samples.data.mean(dim=0).numpy(), "sampling_rate": samples.sample_rate}
            if not isinstance(item, dict) or "array" not in item:
                raise UserError(
                    f"task {task}, document {doc_id}: got a {type(item).__name__}, expected a recording; this model "
                    "hears recordings alone"
                )
            array = np.asarray(item["array"], dtype=np.float32)
            clips.append(resample(array, int(item["sampling_rate"]), rate))
        return clips

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not supported: tasks that need it are refused."""
        raise UserError("tasks of lmms-eval by likelihood are not supported; choose one that generates")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not supported: tasks that need it are refused."""
        raise UserError(
            "tasks of lmms-eval in several rounds are not supported; choose one that generates once"
        )


class ControlFilter(Filter):  # type: ignore[misc]
    """Picks the answers under one control out of those that `LmmsModel` gives with `controls=true`.

    Args:
        control: One of `none`, `no_audio` and `other_clip`.
    """

    def __init__(self, control: str) -> None:
        if control not in CONTROLS:
            raise UserError(
                f"filter {FILTER}: unknown control {control!r}; expected one of {', '.join(CONTROLS)}"
            )
        self._control = control

    def apply(self, resps: Sequence[Sequence[str]], docs: Any) -> list[list[str]]:
        """The answers of every instance under the control.

        Raises:
            UserError: Answers that were not given with `controls=true`.
        """
        return [[self._pick(one) for one in said] for said in resps]

    def _pick(self, text: str) -> str:
        try:
            return str(parse_json(text, FILTER, UserError)[self._control])
        except (UserError, TypeError, KeyError):
            raise UserError(
                f"filter {FILTER}: {text[:80]!r} holds no answer under {self._control!r}; run the model with "
                "--model_args model=DIR,controls=true"
            ) from None


FILTER_REGISTRY[FILTER] = ControlFilter


def _longest_answer(request: Instance) -> int:
    """The length limit in tokens of a request that is answered greedily.

    Raises:
        UserError: It asks for another way of decoding.
    """
    asked = request.args[1]
    if asked.get("do_sample") or (asked.get("num_beams") or 1) != 1:
        raise UserError(f"task {request.args[4]}: asks for sampling or beams; answers here are greedy")
    return int(asked.get("max_new_tokens") or 64)


def _heard(clips: Sequence[list[np.ndarray]], place: int, control: str) -> list[np.ndarray]:
    """The recordings of a question under a control; for `other_clip` those of the next question about another clip."""
    if control == "no_audio":
        return []
    if control == HEADLINE or not clips[place]:
        return clips[place]
    for step in range(1, len(clips)):
        found = clips[(place + step) % len(clips)]
        if len(found) == len(clips[place]) and not all(map(np.array_equal, found, clips[place])):
            return found
    raise UserError(
        "the control 'other_clip' needs questions about at least two recordings; ask more documents"
    )


def _prompt(text: str, clips: list[np.ndarray]) -> Prompt:
    def read() -> list[np.ndarray]:
        return clips

    reader: Callable[[], list[np.ndarray]] = read
    return Prompt(
        [{"role": "user", "content": AUDIO_MARKER * len(clips) + text.replace(AUDIO_MARKER, "")}], reader
    )


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    """The text before the first stop string of a task."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop)[0] if stop else text
    return text
