"""Our whole training step with an LLM of 135M parameters: against a bare loop, a hand-written one, and the peak.

    python -m benchmarks.llm_step [--llm DIR] [--encoder DIR] [--stage align instruct]

Without directories, weights are random and have the sizes of SmolLM2-135M and Whisper tiny. Every side goes through the
same records (several questions about each clip) in every round, the sides take turns, and medians of the rounds are
compared:

- grouped: our stage with cached features and `data.group_by_length`: loader, collation, splice, loss, backward,
  optimiser;
- shared: the same with `data.share_clips`, all questions about a clip in one row;
- bare: `llm(inputs_embeds=..., labels=...)` of `transformers` on grouped's embeddings, and the optimiser;
- bare, few logits: the same with the LLM's head at labelled positions only, as ours;
- by hand: decoding, log-mel and live Whisper for every sample, batches padded in random order, logits everywhere.

All sides have the same loss (the largest difference is printed). Matrix products are timed before and after each side.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    WhisperFeatureExtractor,
)

from alm.common.files import write_text_atomic
from alm.common.pretrained import from_pretrained
from alm.common.settings import parse_settings
from alm.data.manifest import read_manifest
from alm.head import IGNORE
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.policy import Policy
from alm.processor import AudioLanguageProcessor, build_processor
from benchmarks.measure import Row, arguments, clock, gemm_gflops, machine, spread, table
from encoders import load_encoder
from encoders.audio import load_audio, save_wav
from encoders.registry import encoder_class
from eval.ablation.tokens import match_tokens
from train.data.quarantine import guarded
from train.data.sampling import EpochBatches
from train.engine.trainer import fit
from train.settings import TrainSettings
from train.text_llm.tokenizer import train_tokenizer
from train.tune.conversations import ClipFeatures, ConversationCollator
from train.tune.stage import training_data

# SmolLM2-135M's config.json; Whisper tiny's.
_LLM = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
_ENCODER = {
    "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
    "num_mel_bins": 80, "max_source_positions": 1500,
}  # fmt: skip
_TINY_LLM = {
    **_LLM,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
_TINY_ENCODER = {
    **_ENCODER,
    "d_model": 48,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
}
_TOKENS_PER_S = 6.25
_QUESTIONS = (
    ("Which sound comes first?", "a dog barking"),
    ("Is there a car in this recording?", "no"),
    ("How many different sounds do you hear?", "three"),
    ("Which sound is heard after the rain?", "a church bell"),
    ("Where might this have been recorded?", "in a park near a church"),
    ("Describe what you hear.", "A dog barks while rain falls, and then a church bell rings twice."),
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The measured work.

    Attributes:
        clips: Number of clips.
        questions: Questions about each.
        clip_s: Length of a clip in seconds.
        batch: Samples of a forward pass, or rows if a clip's questions share a row.
        rounds: How often each side goes through all records.
    """

    clips: int = 8
    questions: int = 5
    clip_s: float = 10.0
    batch: int = 4
    rounds: int = 5


class _StepClock(TrainerCallback):
    """Seconds from the start of training to the end of the last step."""

    def __init__(self) -> None:
        self.now = clock()
        self.started = self.ended = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = self.now()


class Bench:
    """The model, the records and the sides.

    Args:
        folder: For clips, manifest and runs.
        sizes: The measured work.
        llm: Directory of an LLM; None takes random weights of SmolLM2-135M's sizes.
        encoder: Directory of a Whisper encoder; None takes random weights of Whisper tiny's sizes.
        quick: Take tiny random parts.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Sizes,
        llm: str | None = None,
        encoder: str | None = None,
        quick: bool = False,
    ) -> None:
        self.folder, self.sizes = folder, sizes
        torch.manual_seed(0)
        if encoder is not None:
            hearing = load_encoder(encoder)
        else:
            kind = encoder_class("whisper")
            hearing = kind(kind.config_class(transformers=_TINY_ENCODER if quick else _ENCODER))
        if llm is not None:
            speaking, tokenizer = load_llm(llm), from_pretrained(AutoTokenizer, llm, role="llm: tokenizer")
        else:
            config = LlamaConfig(**(_TINY_LLM if quick else _LLM))
            speaking = LlamaForCausalLM(config)
            tokenizer = train_tokenizer([f"{q} {a}" for q, a in _QUESTIONS], 400)
        options = match_tokens(hearing.config, "mlp", {}, _TOKENS_PER_S, sizes.clip_s).options
        self.model = AudioLanguageModel.assemble(hearing.eval(), speaking, "mlp", options)
        self.processor: AudioLanguageProcessor = build_processor(tokenizer, self.model)
        self.manifest = _write_records(folder, sizes)
        self.records = read_manifest(self.manifest)
        refs = list(dict.fromkeys(ref for record in self.records for ref in record.audio))
        self.features = ClipFeatures(hearing, refs, 4.0, torch.device("cpu"), batch_size=4)
        self._runs = 0

    def start(self, stage: str) -> None:
        """Set the trainable parts of a stage."""
        self.model.set_policy(Policy(llm="lora" if stage == "instruct" else "frozen"))
        self.model.train()
        self.stage = stage

    # ---- our side ----
    def settings(self, **data: Any) -> TrainSettings:
        """The config of our stage; the learning rate changes nothing, so that all rounds have the same losses."""
        steps = self.sizes.clips if data.get("share_clips") else self.sizes.clips * self.sizes.questions
        values = {
            "stage": "align",
            "out": str(self.folder / "run"),
            "encoder": "whisper",
            "llm": "llm",
            "data": {"train": [str(self.manifest)], "cache_features": True, **data},
            "optim": {
                "steps": -(-steps // self.sizes.batch),
                "batch_size": self.sizes.batch,
                "lr": 1e-12,
                "warmup_steps": 0,
                "weight_decay": 0.0,
            },
        }
        return parse_settings(TrainSettings, values, "benchmarks.llm_step")

    def ours(self, **data: Any) -> Callable[[], float]:
        """A run of our stage over all records; returns the seconds of its steps."""
        settings = self.settings(**data)
        dataset, collator = training_data(settings, self.records, self.processor, self.features)

        def work() -> float:
            self._runs += 1
            folder = self.folder / f"run{self._runs}"
            folder.mkdir()
            watch = _StepClock()
            trained_on = guarded(dataset, collator.check, settings.data, folder)
            fit(settings.loop, self.model, trained_on, collator, folder, "align", callbacks=[watch])
            return watch.ended - watch.started

        return work

    def batches(self, **data: Any) -> tuple[list[dict[str, Tensor]], list[list[int]], ConversationCollator]:
        """The batches of our stage, the numbers of their samples, and their collator."""
        settings = self.settings(**data)
        dataset, collator = training_data(settings, self.records, self.processor, self.features)
        order = EpochBatches(dataset, self.sizes.batch, settings.run.seed)
        numbers = [order.batch(number) for number in range(len(order))]
        return [collator([dataset[i] for i in some]) for some in numbers], numbers, collator

    # ---- the other sides ----
    def optimiser(self, parts: Sequence[nn.Module]) -> Callable[[], None]:
        """AdamW's step on the trainable parameters of some parts."""
        parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        if not parameters:
            return lambda: None
        adam = torch.optim.AdamW(parameters, lr=1e-12, weight_decay=0.0)

        def step() -> None:
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            adam.zero_grad()

        return step

    def bare(self, few_logits: bool) -> Callable[[], float]:
        """The LLM alone on the embeddings of grouped's batches; returns the summed loss."""
        llm, step = self.model.llm, self.optimiser([self.model.llm])
        prepared = []
        for batch in self.batches(group_by_length=True)[0]:
            audio = {key: batch[key] for key in ("audio_index", "features", "features_mask")}
            with torch.no_grad():
                embeds = self.model.embed(batch["input_ids"], **audio)
            prepared.append((embeds, batch["attention_mask"], batch["labels"]))

        def work() -> float:
            total = 0.0
            for embeds, mask, labels in prepared:
                given = embeds.detach().requires_grad_()
                if few_logits:
                    hidden = llm.base_model(inputs_embeds=given, attention_mask=mask, use_cache=False)[0]
                    here = labels[:, 1:] != IGNORE
                    logits = llm.get_output_embeddings()(hidden[:, :-1][here])
                    loss = cross_entropy(logits.float(), labels[:, 1:][here])
                else:
                    loss = llm(inputs_embeds=given, attention_mask=mask, labels=labels, use_cache=False).loss
                loss.backward()
                step()
                total += float(loss.detach()) * int((labels[:, 1:] != IGNORE).sum())
            return total

        return work

    def by_hand(self) -> Callable[[], float]:
        """What a user would write; returns the summed loss. Texts are tokenised beforehand, in the user's favour."""
        model = self.model
        whisper, projector, llm = model.encoder.model, model.projector, model.llm
        step = self.optimiser([projector, llm])
        listen = WhisperFeatureExtractor(feature_size=whisper.config.num_mel_bins)
        batches, numbers, _ = self.batches()
        samples = []
        for batch, some in zip(batches, numbers, strict=True):
            rows = zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), some, strict=True)
            samples.append([(ids[here], labels[here], self.records[i].audio[0].path)
                            for ids, labels, here, i in rows])  # fmt: skip
        audio_id, pad = model.config.audio_token_id, nn.utils.rnn.pad_sequence

        def work() -> float:
            total = 0.0
            for batch in samples:
                waves = [load_audio(path, 16000) for _, _, path in batch]
                mel = listen(waves, sampling_rate=16000, return_tensors="pt").input_features
                with torch.no_grad():
                    heard = whisper(mel).last_hidden_state  # (B, 1500, D)
                steps = [-(-len(wave) // 320) for wave in waves]
                heard = heard[:, : max(steps)]
                mask = torch.arange(max(steps)) < torch.tensor(steps)[:, None]
                projected, valid = projector(heard, mask, (max(steps), 1))
                rows = []
                for (ids, _, _), tokens, real in zip(batch, projected, valid, strict=True):
                    is_audio = ids == audio_id
                    row = llm.get_input_embeddings()(ids.masked_fill(is_audio, 0))
                    rows.append(row.masked_scatter(is_audio[:, None], tokens[real]))
                labels = pad([labels for _, labels, _ in batch], batch_first=True, padding_value=IGNORE)
                lengths = torch.tensor([len(row) for row in rows])
                loss = llm(
                    inputs_embeds=pad(rows, batch_first=True),
                    attention_mask=(torch.arange(labels.shape[1]) < lengths[:, None]).long(),
                    labels=labels,
                    use_cache=False,
                ).loss
                loss.backward()
                step()
                total += float(loss.detach()) * int((labels[:, 1:] != IGNORE).sum())
            return total

        return work

    # ---- losses and operations ----
    def cost(self, **data: Any) -> tuple[float, float, int]:
        """Summed loss of our batches, their matrix products' operations, and their labelled tokens."""
        loss, supervised = 0.0, 0
        with FlopCounterMode(display=False) as counter:
            for batch in self.batches(**data)[0]:
                one = self.model(**batch).loss
                one.backward()
                self.model.zero_grad()
                labelled = int((batch["labels"][:, 1:] != IGNORE).sum())
                loss, supervised = loss + float(one.detach()) * labelled, supervised + labelled
        return loss, float(counter.get_total_flops()), supervised


def _write_records(folder: Path, sizes: Sizes) -> Path:
    """Clips of noise, all different, and the questions about each."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(sizes.clips):
        file = folder / f"{number}.wav"
        save_wav(file, 0.1 * rng.standard_normal(int(16000 * sizes.clip_s)), 16000)
        for place in range(sizes.questions):
            question, answer = _QUESTIONS[place % len(_QUESTIONS)]
            record = {"id": f"{number}-{place}", "audio": str(file), "question": question, "answer": answer}
            lines.append(json.dumps(record) + "\n")
    write_text_atomic(folder / "records.jsonl", "".join(lines))
    return folder / "records.jsonl"


def _timed(work: Callable[[], float]) -> Callable[[], float]:
    now = clock()

    def timed() -> float:
        start = now()
        work()
        return now() - start

    return timed


def measure(bench: Bench, stage: str, product: int = 2048) -> list[Row]:
    """The rows of one stage."""
    bench.start(stage)
    grouped, shared = {"group_by_length": True}, {"share_clips": bench.sizes.questions}
    loss, flops, supervised = bench.cost(**grouped)
    shared_loss, shared_flops, _ = bench.cost(**shared)
    others = {
        "bare": bench.bare(few_logits=False),
        "bare, few logits": bench.bare(few_logits=True),
        "by hand": bench.by_hand(),
    }
    losses = [shared_loss, *(work() for work in others.values())]  # this also warms them up
    apart = max(abs(one - loss) for one in losses) / abs(loss)
    sides = {"grouped": bench.ours(**grouped), "shared": bench.ours(**shared)}
    for work in sides.values():
        work()
    sides |= {name: _timed(work) for name, work in others.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    shares: dict[str, list[float]] = {name: [] for name in sides}
    peak = gemm_gflops(product, 3)
    for number in range(bench.sizes.rounds):
        for name in sides if number % 2 == 0 else reversed(sides):
            times[name].append(sides[name]())
            before, peak = peak, gemm_gflops(product, 3)
            work_done = shared_flops if name == "shared" else flops
            shares[name].append(work_done / times[name][-1] / 1e9 / max(before, peak))
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    n_samples = bench.sizes.clips * bench.sizes.questions
    what = f"{stage}, {n_samples} samples about {bench.sizes.clips} clips of {bench.sizes.clip_s:g} s"

    def against(ours: str, other: str, aim: str, note: str = "") -> Row:
        return Row(
            "llm step",
            f"{what}: {ours} against {other}",
            spread(times[ours], 1, "s"),
            spread(times[other], 1, "s"),
            f"{middle[other] / middle[ours]:.3f}x",
            aim,
            note or f"ours takes {100 * (middle[ours] / middle[other] - 1):+.1f} %",
        )

    tokens_per_s = {name: f"{supervised / seconds:.0f}" for name, seconds in middle.items()}
    return [
        against("grouped", "bare", ">= 0.952x"),
        against("grouped", "bare, few logits", ">= 0.952x"),
        against("grouped", "by hand", ">= 4x"),
        against("shared", "by hand", ">= 4x"),
        against("shared", "grouped", ">= 2.5x",
                f"{tokens_per_s['shared']} supervised tokens/s against {tokens_per_s['grouped']}"),
        *(
            Row("llm step", f"{what}: {name}, share of the matrix-product peak", spread(shares[name], 100, "%"),
                aim=">= 70 %", note=f"losses of all sides within {apart:.0e}, relative")
            for name in ("grouped", "shared", "bare, few logits")
        ),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the stages and print their rows."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--llm", help="directory of the LLM (default: random weights, SmolLM2-135M's sizes)")
    parser.add_argument(
        "--encoder", help="directory of a Whisper encoder (default: random, Whisper tiny's sizes)"
    )
    parser.add_argument("--stage", nargs="+", choices=("align", "instruct"), default=["align", "instruct"])
    for field in dataclasses.fields(Sizes):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=type(field.default), default=field.default)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
    if options.quick:
        sizes = Sizes(clips=2, questions=2, clip_s=2.0, batch=2, rounds=2)
    print("\n".join(machine()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), sizes, options.llm, options.encoder, options.quick)
        for stage in options.stage:
            print(table(measure(bench, stage, 256 if options.quick else 2048)), flush=True)


if __name__ == "__main__":
    main()
