"""The benches run, and both sides of each compute the same thing."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import ablation_start, processor_call
from benchmarks.__main__ import main
from benchmarks.cuda import Step
from benchmarks.flops import forward_flops, step_flops
from benchmarks.measure import Pair
from benchmarks.train_step import PlainViT, make_views, ours_step, plain_step
from encoders import AudioMosaicEncoder
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from eval.ablation.grid import make_arms
from eval.ablation.settings import load_ablation


def test_all_benches_in_quick_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # this process has other tests to run
    main(["--quick", "--out", str(tmp_path / "results.md")])
    text = (tmp_path / "results.md").read_text()
    for part in ("CPU: ", "load average", "Quick mode", "ms/sample", "flop_counter", "difference max"):
        assert part in text
    benches = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert benches == {"bench", "loader", "frontend", "train step", "gradient caching", "pretraining"}
    without = find_spec("audiomentations") is None
    assert ("reference not installed: pip install" in text) == without


def test_the_processors_call_is_compared_with_a_siblings() -> None:
    sides = processor_call.sides()
    (ours, theirs), (same, _) = ([call() for call in sides[what]] for what in ("call", "call and front end"))
    without, sibling_without = (call() for call in sides["call without audio"])
    assert torch.equal(without["input_ids"], sibling_without["input_ids"])
    assert torch.equal(ours["input_values"], same["input_values"])
    assert len(ours["input_ids"]) == len(theirs["input_ids"]) == len(theirs["input_features"]) == 8
    rows = processor_call.run(quick=True)
    assert [row.what.split(",")[0] for row in rows] == list(sides)
    assert all("x [" in row.ratio for row in rows)


def test_plain_model_is_the_same_function() -> None:
    encoder = AudioMosaicEncoder.tiny()
    encoder = AudioMosaicEncoder(encoder.config.replace(drop_path_rate=0.0, attn_drop_rate=0.0)).train()
    plain = PlainViT(encoder).train()
    views = make_views(encoder.config, 4)
    assert torch.allclose(ours_step(encoder, views), plain_step(plain, views), atol=1e-5)
    assert torch.allclose(encoder.pos_embed.grad, plain.pos_embed.grad, atol=1e-5)
    assert torch.allclose(encoder.patch_embed.proj.weight.grad, plain.proj.weight.grad, atol=1e-5)
    assert torch.allclose(
        encoder.blocks[0].attn.qkv.weight.grad, plain.blocks[0].attn.in_proj_weight.grad, atol=1e-5
    )


def test_the_step_measured_on_cuda_learns() -> None:
    """Here the step runs on the CPU with tiny sizes, but completely, so its loss on one batch falls."""
    torch.manual_seed(0)
    config = AudioMosaicEncoder.tiny().config.replace(drop_path_rate=0.0)
    # In float32: oneDNN's bfloat16 convolution over one channel gives NaN on some CPUs with AMX.
    step = Step(4, config, compiled=False, device="cpu", dtype=torch.float32)
    for group in step.optimiser.param_groups:
        group["lr"] = 3e-3
    losses = [float(step()) for _ in range(6)]
    assert losses[-1] < losses[0] - 0.05
    assert [view.shape for view in step.views()] == [(4, 64, 32)] * 2


def test_flops_of_the_published_encoder() -> None:
    """ViT-B/16 costs about 2 x 85 million operations a token, and the attention on top."""
    config = AudioMosaicConfig()
    plain = 2 * 12 * 12 * 768**2 * 201
    assert forward_flops(config, 200) == pytest.approx(plain, rel=0.06)
    one = step_flops(config, (200, 256))
    assert 2.9 * forward_flops(config, 228) * 2 < one < 3.05 * forward_flops(config, 228) * 2


def test_ratio_is_of_medians() -> None:
    pair = Pair((1.0, 2.0, 9.0), (4.0, 4.0, 4.0))
    assert pair.ratio == 2.0 and str(pair) == "2.00x [0.44, 4.00]"


def test_evaluation_in_batches_gives_the_same_predictions(tmp_path: Path) -> None:
    from benchmarks.evaluation import differing, evaluation, write_clips
    from benchmarks.generation import small_model

    model, processor = small_model()
    manifest = write_clips(tmp_path, 6)
    batched, single = (evaluation(model, processor, manifest, size)() for size in (4, 1))
    assert differing(batched, single) == 0
    lines = (single / "predictions.jsonl").read_text().splitlines()
    (single / "predictions.jsonl").write_text(
        "\n".join([lines[0].replace('"prediction": "', '"prediction": "x'), *lines[1:]])
    )
    assert differing(batched, single) == 1


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_all_sides_of_the_llm_step_have_the_same_loss(stage: str, tmp_path: Path) -> None:
    """Shared rows, grouped batches, the bare LLM and the hand-written step compute the same thing."""
    from benchmarks.llm_step import Bench, Sizes

    bench = Bench(tmp_path, Sizes(clips=2, questions=3, clip_s=2.0, batch=2, rounds=1), quick=True)
    bench.start(stage)
    loss, flops, supervised = bench.cost(group_by_length=True)
    shared_loss, shared_flops, as_many = bench.cost(share_clips=3)
    assert supervised == as_many and 0 < shared_flops < flops
    others = [bench.bare(few_logits=False)(), bench.bare(few_logits=True)(), bench.by_hand()()]
    assert [shared_loss, *others] == pytest.approx([loss] * 4, rel=1e-5)
    assert bench.ours(share_clips=3)() > 0


def test_the_bench_of_forked_steps_has_a_valid_grid_and_refuses_other_results(tmp_path: Path) -> None:
    grid = ablation_start.write_grid(tmp_path, tmp_path / "llm", n_seeds=3)
    settings = load_ablation(grid, ["warm_start=false"], None)
    assert {arm.name for arm in make_arms(settings)} == {"mlp", "linear"} and settings.seeds == (0, 1, 2)
    sides = {}
    for side, answer in (("a", "a bell"), ("b", "a bell"), ("c", "a dog")):
        run = tmp_path / side / "steps" / "score-1" / "run"
        (run / "checkpoints").mkdir(parents=True)
        (run / "predictions.jsonl").write_text(answer)
        (run / "checkpoints" / "model.safetensors").write_text(
            side
        )  # holds what differs between any two runs
        sides[side] = ablation_start.results(tmp_path / side)
    ablation_start.check_equal(sides["a"], sides["b"])
    with pytest.raises(RuntimeError, match=r"differ: score-1/run/predictions.jsonl"):
        ablation_start.check_equal(sides["a"], sides["c"])
    with pytest.raises(RuntimeError, match="there are none"):
        ablation_start.check_equal({}, {})
