"""Answers of one model by vLLM and by us: whether they are equal token for token, and how many a second.

    python -m benchmarks.serving MODEL [MODEL ...] [--audio FOLDER]
    python -m benchmarks.serving --llm DIR --encoder WHISPER-DIR beats --projector mlp qformer window_qformer

Needs vLLM (docs/serving.md). Both sides answer the same prompts in one process, in float32 and greedily: one clip each,
two clips each, and text alone; vLLM with many prompts under way and one by one. Where a token differs, our logits of
both tokens are printed. The speed is that of answers with a fixed number of tokens, which no side may end early; the
sides take turns, with the same threads and the same number of prompts under way, and encode all clips anew.

Without MODEL, models are made of an LLM, every encoder and every projector, these with random weights, large enough
that answers depend on the clips. Several models are compared one after another, each in a process of its own.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alm
from alm.common.errors import AudioError
from alm.common.processes import child_environment, tied_child_command
from alm.decoding import decoding_settings, decoding_with
from alm.generation import generate_answers
from benchmarks.measure import alternate, arguments, machine, spread
from encoders.audio import load_audio
from encoders.audio.formats import search

QUESTION = "What do you hear?"
SHORTEST_S, LONGEST_S = 0.1, 20.0
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Asked:
    """A prompt: its clips, its messages, and the token ids with one placeholder a clip."""

    clips: list[np.ndarray]
    turns: list[Any]
    ids: list[int]


def noises(count: int, rate: int, shortest_s: float = SHORTEST_S) -> list[np.ndarray]:
    """Tones in noise up to 20 s, in mixed order."""
    rng = np.random.default_rng(0)
    found = []
    for seconds in rng.permutation(np.geomspace(shortest_s, LONGEST_S, count)):
        time = np.arange(round(rate * seconds)) / rate
        tone = np.sin(2 * np.pi * rng.uniform(100, 6000) * time)
        found.append((0.3 * tone + 0.03 * rng.standard_normal(len(time))).astype(np.float32))
    return found


def mixed_lengths(clips: Sequence[np.ndarray], rate: int, shortest_s: float) -> list[np.ndarray]:
    """Recordings cut, or joined with those that follow, to lengths up to 20 s, in mixed order."""
    lengths = np.random.default_rng(0).permutation(np.geomspace(shortest_s, LONGEST_S, len(clips)))
    joined = np.concatenate([*clips, *clips])
    starts = np.cumsum([0, *map(len, clips)])
    return [
        np.resize(joined[start:], round(rate * seconds)).astype(np.float32)
        for start, seconds in zip(starts, lengths, strict=False)
    ]


def shortest_s(processor: Any) -> float:
    """Length in seconds of the shortest clip that gives a token; 0.1 s, or more for encoders with long patches."""
    count, rate = processor.feature_extractor.n_audio_tokens, processor.sample_rate
    for steps in itertools.count():
        seconds = SHORTEST_S + 0.01 * steps
        try:
            if count(round(rate * seconds)):
                return seconds
        except AudioError:  # too short for a token
            continue
    raise AssertionError("unreachable")


def assemble(llm_dir: str, encoder_source: str, projector: str, gain: float, folder: Path) -> Path:
    """Save a model with a random projector.

    Args:
        llm_dir: Directory of the LLM; the saved model refers to it.
        encoder_source: Directory of an encoder, or a name, for random weights.
        projector: The projector's name; it gives about 6 tokens a second, or a fixed number.
        gain: Size of the projected tokens, where 1 is that of the LLM's text embeddings.
        folder: Where to.
    """
    from transformers import AutoTokenizer

    from alm.llm import load_llm
    from alm.model import AudioLanguageModel
    from alm.processor import build_processor
    from encoders import load_encoder

    torch.manual_seed(0)
    encoder, llm = load_encoder(encoder_source), load_llm(llm_dir)
    options = (
        {"stack": max(1, round(encoder.config.frame_rate_hz / 6))} if projector in ("mlp", "linear") else {}
    )
    model = AudioLanguageModel.assemble(encoder, llm, projector, options, llm_source=llm_dir).eval()
    wave = noises(3, encoder.config.sample_rate)[0]
    with torch.no_grad():
        out = model.encode(torch.from_numpy(wave)[None])
        tokens, mask = model.projector(out.tokens, out.mask, out.grid)
        wanted = gain * llm.get_input_embeddings().weight.std()
        last = [part for part in model.projector.modules() if isinstance(part, torch.nn.Linear)][-1]
        factor = wanted / tokens[mask].std()
        for parameter in last.parameters():
            parameter.mul_(factor)
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class Served:
    """A model in vLLM's engine.

    Args:
        model: Its directory.
        under_way: Most prompts under way.
        max_model_len: Most tokens of a prompt and its answer.
    """

    def __init__(self, model: Path, under_way: int, max_model_len: int) -> None:
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        from vllm import LLM

        from alm.serving.vllm import register

        register()
        self.llm = LLM(
            str(model),
            dtype="float32",
            enforce_eager=True,
            max_model_len=max_model_len,
            max_num_seqs=under_way,
        )

    def answer(self, prompts: Sequence[Asked], n_tokens: int, *, fixed: bool = False) -> list[list[int]]:
        """Token ids of greedy answers; nothing is left from the last call."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        requests: list[Any] = [
            {"prompt_token_ids": prompt.ids}
            | ({"multi_modal_data": {"audio": prompt.clips}} if prompt.clips else {})
            for prompt in prompts
        ]
        settings = SamplingParams(temperature=0, max_tokens=n_tokens, ignore_eos=fixed)
        outs = self.llm.generate(requests, settings, use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in outs]


class Own:
    """A model of ours.

    Args:
        folder: Its directory.
        batch_size: Prompts of a batch.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.model, self.processor = alm.load(folder, device="cpu")
        self.model.float()
        self.batch_size = batch_size

    def ask(self, text: str, *clips: np.ndarray) -> Asked:
        """A prompt of one user turn."""
        turns: list[Any] = [{"role": "user", "content": self.processor.audio_token * len(clips) + text}]
        return Asked(list(clips), turns, self.processor.prompt_ids(turns, list(clips)))

    def answer(self, prompts: Sequence[Asked], n_tokens: int) -> list[list[int]]:
        """Token ids of greedy answers, up to and with the token that ends them."""
        settings = decoding_settings(self.model, self.processor, n_tokens)
        order = sorted(range(len(prompts)), key=lambda i: sum(map(len, prompts[i].clips)))
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self._inputs([prompts[i] for i in rows])
            with decoding_with(self.model, settings) as config:
                out = self.model.generate(**batch, generation_config=config)
            for row, ids in zip(rows, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((i + 1 for i, one in enumerate(ids) if one in settings["eos_token_id"]), len(ids))
                found[row] = ids[:end]
        return [found[i] for i in range(len(prompts))]

    def texts(self, prompts: Sequence[Asked], n_tokens: int) -> list[str]:
        """Answers of `generate_answers` with exactly so many tokens."""
        turns, clips = [prompt.turns for prompt in prompts], [prompt.clips for prompt in prompts]
        answers = generate_answers(
            self.model, self.processor, turns, clips, n_tokens, self.batch_size, eos_token_id=None
        )
        return [text for _, text in sorted(answers)]

    @torch.no_grad()
    def logits(self, prompt: Asked, answer: Sequence[int]) -> torch.Tensor:
        """Logits (V,) behind the first tokens of an answer, without others in the batch."""
        batch = self._inputs([prompt])
        more = torch.tensor([list(answer)], dtype=torch.long)
        batch["input_ids"] = torch.cat([batch["input_ids"], more], dim=1)
        batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(more)], dim=1)
        last: torch.Tensor = self.model(**batch).logits[0, -1]
        return last

    def _inputs(self, prompts: Sequence[Asked]) -> dict[str, torch.Tensor]:
        return dict(
            self.processor.apply_chat_template(
                [prompt.turns for prompt in prompts],
                audio=[prompt.clips for prompt in prompts],
                tokenize=True,
                return_dict=True,
                add_generation_prompt=True,
            )
        )


def differences(
    own: Own, prompts: Sequence[Asked], expected: Sequence[list[int]], found: Sequence[list[int]]
) -> list[str]:
    """Where answers part, and how near both tokens are in our logits there."""
    lines = []
    for number, (prompt, ours, theirs) in enumerate(zip(prompts, expected, found, strict=True)):
        if ours == theirs:
            continue
        place = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        text = f"prompt {number}, token {place}: "
        if place == min(len(ours), len(theirs)):
            lines.append(text + f"{len(ours)} tokens by us, {len(theirs)} by vLLM")
            continue
        logits = own.logits(prompt, ours[:place])
        mine, other = (float(logits[ids[place]]) for ids in (ours, theirs))
        rank = int((logits > other).sum())
        lines.append(
            text + f"{ours[place]} by us, {theirs[place]} by vLLM; our logits {mine:.6f} and {other:.6f} "
            f"(gap {mine - other:.2e}, vLLM's token is number {rank + 1} of ours)"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the answers, time both sides, print what came out; 1 where an answer differs."""
    parser = arguments(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("model", type=Path, nargs="*")
    parser.add_argument("--llm", help="without MODEL: directory of an LLM")
    parser.add_argument("--encoder", nargs="+", help="without MODEL: directories of encoders, or names")
    parser.add_argument("--projector", nargs="+", default=["mlp"], help="without MODEL: names of projectors")
    parser.add_argument("--gain", type=float, default=1.0, help="size of the random projector's tokens")
    parser.add_argument("--audio", type=Path, help="a folder of recordings (default: tones in noise)")
    parser.add_argument(
        "--mixed", action="store_true", help="cut and join the recordings to 0.1 to 20 s (as the tones)"
    )
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--under-way", type=int, default=16, help="prompts of a batch, and under way in vLLM")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds; 0 compares answers alone")
    parser.add_argument("--max-model-len", type=int, default=512)
    options = parser.parse_args(argv)
    if not options.model and None in (options.llm, options.encoder):
        parser.error("give MODEL, or --llm and --encoder")
    made = [] if options.model else list(itertools.product(options.encoder, options.projector))
    if len(options.model) + len(made) > 1:
        return _each_alone(options, made)
    if options.model:
        return compare(options.model[0], options)
    [(encoder, projector)] = made
    with tempfile.TemporaryDirectory() as folder:
        return compare(
            assemble(options.llm, encoder, projector, options.gain, Path(folder) / "model"), options
        )


def _each_alone(options: Any, made: Sequence[tuple[str, str]]) -> int:
    """Compare several models, each in a process of its own, with the other options of the command line."""
    own = ("model", "llm", "encoder", "projector", "quick", "mixed")
    more = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in vars(options).items()
        if name not in own and value is not None
    ] + [f"--{name}" for name in ("quick", "mixed") if getattr(options, name)]
    sources = [[str(folder)] for folder in options.model]
    sources += [
        [f"--llm={options.llm}", f"--encoder={encoder}", f"--projector={projector}"]
        for encoder, projector in made
    ]
    failed = 0
    for words in sources:
        print("\n== " + " ".join(words), flush=True)
        command = tied_child_command("benchmarks.serving", *more, *words)
        failed += subprocess.run(command, env=child_environment({}), check=False).returncode != 0
    print(f"\n{len(sources) - failed} of {len(sources)} models: all answers equal")
    return 1 if failed else 0


def compare(folder: Path, options: Any) -> int:
    """Compare and time both sides of a model's directory; the options are those of the command line."""
    count, rounds = (4, min(1, options.rounds)) if options.quick else (options.clips, options.rounds)
    about = machine()
    served = Served(folder, options.under_way, options.max_model_len)
    own = Own(folder, options.under_way)
    torch.set_num_threads(options.threads)
    rate = own.processor.sample_rate
    if options.audio is None:
        clips = noises(count, rate, shortest_s(own.processor))
    else:
        files = search(options.audio).audio
        picked = files[:: max(1, len(files) // count)][:count]
        clips = [load_audio(file, rate) for file in picked]
        if options.mixed:
            clips = mixed_lengths(clips, rate, shortest_s(own.processor))
    prompts = [own.ask(options.question, clip) for clip in clips]
    pairs = list(itertools.islice(itertools.pairwise(clips), 8))
    prompts += [own.ask(options.question, *two) for pair in pairs for two in (pair, pair[::-1])]
    prompts.append(own.ask(options.question))
    expected = own.answer(prompts, options.tokens)
    together = served.answer(prompts, options.tokens)
    alone = [served.answer([prompt], options.tokens)[0] for prompt in prompts]
    print("\n".join(about))
    seconds = [len(clip) / rate for clip in clips]
    different = len(set(map(tuple, expected[: len(clips)])))
    print(
        f"{len(clips)} prompts with a clip of {min(seconds):.1f} to {max(seconds):.1f} s, {2 * len(pairs)} with two "
        f"clips, 1 of text; up to {options.tokens} tokens; {different} different answers to the {len(clips)} clips"
    )
    n_differing = 0
    for name, found in ((f"{options.under_way} under way", together), ("alone", alone)):
        lines = differences(own, prompts, expected, found)
        n_differing += len(lines)
        print(f"{name}: {len(prompts) - len(lines)} of {len(prompts)} equal to ours, token for token")
        print("".join(f"  {line}\n" for line in lines), end="")
    if rounds:
        singles = prompts[: len(clips)]
        timed = alternate(
            lambda: served.answer(singles, options.tokens, fixed=True),
            lambda: own.texts(singles, options.tokens),
            rounds,
            warm_up=False,
        )
        print(
            f"{options.tokens} tokens to each clip, {options.under_way} under way: vLLM {spread(timed.ours, 1, 's')}, "
            f"batched generate_answers {spread(timed.reference, 1, 's')}"
        )
        print(
            f"answers a second: vLLM {len(singles) / sorted(timed.ours)[len(timed.ours) // 2]:.2f}, ours "
            f"{len(singles) / sorted(timed.reference)[len(timed.reference) // 2]:.2f}; vLLM is {timed} as fast"
        )
    return 1 if n_differing else 0


if __name__ == "__main__":
    sys.exit(main())
