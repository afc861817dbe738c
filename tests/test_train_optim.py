"""Optimiser settings: per component, layer-wise, by the Trainer's names; what the optimiser's groups really hold."""

import math
import signal

import pytest
import torch
from survival import assert_bit_equal, of_stage, run_child

from alm.common.errors import ConfigError
from train.engine.arguments import check_arguments, counted, training_arguments
from train.engine.trainer import StageTrainer
from train.settings.optim import OptimSettings
from train.stage import STAGES

EVERY = {
    "encoder_lora": {"lr": 1e-4, "weight_decay": 0.1},
    "projector": {"lr": 1e-3, "weight_decay": 0.0},
    "llm_lora": {"lr": 2e-5, "max_grad_norm": 0.5},
}


@pytest.fixture
def trainer_of(data, parts, tmp_path):
    """The trainer of a stage with optimiser and schedule, and its model; nothing is trained."""

    def make(stage, optim, **values):
        settings = of_stage(stage, data, tmp_path / "run", parts, optim=optim, **values)
        STAGES.get(stage).check(settings)
        model = STAGES.get(stage).build(settings)[0]
        trainer = StageTrainer(model=model, args=training_arguments(settings.loop, tmp_path))
        trainer.optim = settings.optim
        trainer.create_optimizer_and_scheduler(settings.optim.steps)
        return trainer, model

    return make


def test_each_component_has_its_own_rate_and_decay(trainer_of):
    trainer, model = trainer_of("instruct", {"lr": 7e-4, "weight_decay": 0.02, "components": EVERY})
    found = {
        id(parameter): (group["component"], group["initial_lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    wanted = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0] + ("_lora" if "lora_" in name else "")
            decay = {"encoder_lora": 0.1, "projector": 0.0, "llm_lora": 0.02}[part]
            wanted[id(parameter)] = (part, EVERY[part]["lr"], decay if parameter.ndim > 1 else 0.0)
    assert found == wanted and len({part for part, _, _ in found.values()}) == 3


def test_without_settings_of_components_the_groups_are_the_trainers(trainer_of):
    trainer, _ = trainer_of("instruct", {"weight_decay": 0.02})
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.02, 0.0]
    assert all("component" not in group for group in trainer.optimizer.param_groups)


def test_the_weights_of_a_sum_of_layers_train_at_the_rate_of_the_projector(trainer_of):
    optim = {"lr": 1e-3, "components": {"projector": {"lr": 1e-2}}}
    trainer, model = trainer_of(
        "align", optim, encoder_options={"layer": "sum"}, data={"cache_features": False}
    )
    (group,) = [
        group
        for group in trainer.optimizer.param_groups
        if any(parameter is model.encoder.weights for parameter in group["params"])
    ]
    assert (group["component"], group["initial_lr"]) == ("projector", 1e-2)


def test_layers_of_a_trained_encoder_learn_slower_the_deeper_they_lie(trainer_of):
    optim = {"lr": 1e-3, "layer_decay": 0.5, "components": {"encoder": {"lr": 1e-2}}}
    trainer, model = trainer_of("align", optim, policy={"encoder": "full"}, data={"cache_features": False})
    rates = {id(p): group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    by_name = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    blocks = [name for name in by_name if name.startswith("encoder.blocks.")]
    assert blocks and {by_name[n] for n in blocks if ".0." in n[:17]} == {1e-2 * 0.25}
    assert {by_name[n] for n in blocks if n.startswith("encoder.blocks.1.")} == {1e-2 * 0.5}
    assert {by_name[n] for n in by_name if n.startswith("projector.")} == {1e-3}
    assert by_name["encoder.pos_embed"] == 1e-2 * 0.125
    decays = {
        id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    biases = [
        decays[id(p)] for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")
    ]
    matrix = dict(model.named_parameters())["encoder.blocks.0.attn.qkv.weight"]
    assert len(biases) > 8 and not any(biases) and decays[id(matrix)] == OptimSettings().weight_decay > 0


def test_each_component_has_its_own_schedule(trainer_of):
    own = {
        "projector": {"lr": 1.0, "lr_scheduler_type": "constant"},
        "llm_lora": {"lr": 1.0, "warmup_steps": 4},
    }
    optim = {"steps": 8, "warmup_steps": 2, "lr": 1.0, "lr_scheduler_type": "linear", "components": own}
    trainer, _ = trainer_of("instruct", optim)
    rates = {group["component"]: [] for group in trainer.optimizer.param_groups}
    for _ in range(8):
        for component in rates:
            groups = [group for group in trainer.optimizer.param_groups if group["component"] == component]
            assert len({group["lr"] for group in groups}) == 1
            rates[component].append(groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates["projector"] == [1.0] * 8
    assert rates["llm_lora"] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    assert rates["encoder_lora"] == pytest.approx([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_component_may_go_without_the_warmup_of_the_others(trainer_of):
    own = {"projector": {"warmup_steps": 0}}
    optim = {"steps": 8, "warmup_steps": 4, "lr": 1.0, "lr_scheduler_type": "linear", "components": own}
    trainer, _ = trainer_of("instruct", optim)
    first = {group["component"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert first["projector"] == 1.0 and first["llm_lora"] == 0.0


def test_options_of_a_schedule_alone_belong_to_their_component(trainer_of):
    """The schedule stays that of all parts; and one that is named again keeps `min_lr_ratio`."""
    own = {"projector": {"lr_scheduler_kwargs": {"power": 2.0}}}
    optim = {"steps": 8, "warmup_steps": 0, "lr": 1.0, "lr_scheduler_type": "polynomial", "components": own}
    trainer, _ = trainer_of("instruct", {**optim, "lr_scheduler_kwargs": {"power": 1.0, "lr_end": 0.0}})
    rates = []
    for _ in range(4):
        rates.append({group["component"]: group["lr"] for group in trainer.optimizer.param_groups})
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert [rate["projector"] for rate in rates] == pytest.approx([(1 - n / 8) ** 2 for n in range(4)])
    assert [rate["llm_lora"] for rate in rates] == pytest.approx([1 - n / 8 for n in range(4)])
    own = {"projector": {"lr_scheduler_type": "cosine_with_min_lr"}}
    trainer, _ = trainer_of(
        "instruct", {"steps": 2, "warmup_steps": 0, "lr": 1.0, "min_lr_ratio": 0.25, "components": own}
    )
    for _ in range(2):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.25}


def test_a_component_is_clipped_where_all_together_are_not(trainer_of):
    """The Trainer clips only where its own limit is not 0."""
    components = {"llm_lora": {"max_grad_norm": 0.5}}
    trainer, model = trainer_of("instruct", {"max_grad_norm": 0.0, "components": components})
    assert trainer.args.max_grad_norm > 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    trainer._clip_grad_norm(model)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    of_llm = torch.cat([grad.flatten() for name, grad in grads.items() if name.startswith("llm.")])
    assert float(of_llm.norm()) == pytest.approx(0.5, rel=1e-4)
    assert all((grad == 1).all() for name, grad in grads.items() if not name.startswith("llm."))


def test_gradients_are_clipped_per_component(trainer_of):
    components = {"llm_lora": {"max_grad_norm": 0.5}, "projector": {"max_grad_norm": 0.0}}
    trainer, model = trainer_of("instruct", {"max_grad_norm": 2.0, "components": components})
    before = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
            part = name.split(".")[0]
            before[part] = before.get(part, 0) + parameter.numel()
    norm = trainer._clip_grad_norm(model)
    assert float(norm) == pytest.approx(math.sqrt(sum(before.values())), rel=1e-5)

    def norm_of(part):
        grads = [
            p.grad for name, p in model.named_parameters() if name.startswith(part) and p.grad is not None
        ]
        return float(torch.cat([grad.flatten() for grad in grads]).norm())

    assert norm_of("llm.") == pytest.approx(0.5, rel=1e-4)
    assert norm_of("encoder.") == pytest.approx(2.0, rel=1e-4)
    assert norm_of("projector.") == pytest.approx(math.sqrt(before["projector"]), rel=1e-5)


def test_a_run_with_all_of_it_resumes_bit_equal(data, parts, tmp_path):
    own = {name: {**values, "warmup_steps": 2} for name, values in EVERY.items()}
    optim = {"components": own, "optimizer": "adafactor", "lr_scheduler_type": "polynomial",
             "lr_scheduler_kwargs": {"power": 2.0}, "max_grad_norm": 0.0}  # fmt: skip
    values = {"optim": optim, "run": {"trainer": {"adam_epsilon": 1e-6}}}
    reference = of_stage("instruct", data, tmp_path / "whole", parts, **values)
    assert run_child(reference) == 0
    run = of_stage("instruct", data, tmp_path / "killed", parts, **values)
    assert run_child(run, "forward", 11) == -signal.SIGKILL
    assert run_child(run) == 0
    assert_bit_equal(run, reference)


@pytest.mark.parametrize(
    ("optim", "n_samples", "world", "steps", "warmup"),
    [
        ({"epochs": 2, "batch_size": 4, "accumulation": 2, "warmup_ratio": 0.1}, 33, 1, 10, 1),
        ({"epochs": 0.5, "batch_size": 4, "warmup_ratio": 0.03}, 33, 2, 3, 1),
        ({"steps": 100, "warmup_ratio": 0.25}, 33, 1, 100, 25),
        ({"steps": 100, "warmup_steps": 7}, 33, 1, 100, 7),
    ],
)
def test_epochs_and_ratios_become_steps(optim, n_samples, world, steps, warmup):
    found = counted(OptimSettings(**optim), n_samples, world)
    assert (found.steps, found.warmup_steps) == (steps, warmup)


def test_epochs_are_what_a_run_makes(data, parts, tmp_path):
    """Seven samples in batches of two, two of them to a step: two steps an epoch."""
    import json

    from train.pipeline.runner import run_stage

    run = of_stage("align", data, tmp_path / "run", parts)
    run = type(run)(
        **{**vars(run), "optim": OptimSettings(epochs=1.5, batch_size=2, accumulation=2, warmup_ratio=0.5)}
    )
    run_stage(run)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optim": {"components": {"projecter": {}}}}, "did you mean 'optim.components.projector'"),
        ({"optim": {"components": {"projector": {"lrr": 1}}}}, "did you mean 'optim.components.projector.lr'"),
        ({"optim": {"components": {"projector": {"lr": 0.0}}}}, "optim.components: got lr=0"),
        ({"optim": {"components": {"llm": {"lr": 1e-3}}}}, "llm: policy.llm is lora, so it is not trainable"),
        ({"optim": {"layer_decay": 0.5}}, "optim.layer_decay: is for a trained encoder; policy.encoder is lora"),
        ({"optim": {"epochs": 2.0, "steps": 5}}, "got steps=5 and epochs=2.0; give one of them"),
        ({"optim": {"warmup_ratio": 0.1}}, "got warmup_steps=1 and warmup_ratio=0.1; give one of them"),
        ({"optim": {"lr_scheduler_type": "linear", "min_lr_ratio": 0.1}}, "min_lr_ratio: is for the schedule cosine"),
        ({"optim": {"lr_scheduler_type": "cosin"}}, "optim.lr_scheduler_type: got 'cosin'"),
        ({"optim": {"lr_scheduler_type": "greedy"}}, "optim.lr_scheduler_type: got 'greedy'"),
        ({"optim": {"lr_scheduler_kwargs": {"cycles": 3}}}, "optim.lr_scheduler_kwargs: cosine_with_min_lr: .*cycles"),
        ({"optim": {"components": {"projector": {"lr_scheduler_type": "x"}}}}, "components.projector.lr_sch"),
        ({"optim": {"optimizer": "adamw_torsh"}}, "optim.optimizer: got 'adamw_torsh'"),
        ({"optim": {"optimizer": "galore_adamw"}}, "optim.optimizer: galore_adamw: "),
        ({"optim": {"optimizer_args": "momentum"}}, "optim.optimizer_args: momentum: "),
        ({"run": {"trainer": {"learning_rate": 1}}}, "run.trainer.learning_rate: is set by optim.lr; use that"),
        ({"run": {"trainer": {"fp16": True}}}, "run.trainer.fp16: is set by run.precision"),
        ({"run": {"trainer": {"use_liger_kernel": True}}}, "run.trainer.use_liger_kernel: .* kernels"),
        ({"run": {"trainer": {"parallelism_config": {}}}}, "run.trainer.parallelism_config: .* not supported"),
        ({"run": {"trainer": {"use_cpu": True}}}, "run.trainer.use_cpu: is decided by the training loop"),
        ({"run": {"trainer": {"adam_epsilom": 1}}}, "TrainingArguments has no 'adam_epsilom'; did you mean 'adam_eps"),
        ({"run": {"trainer": {"adam_epsilon": "small"}}}, "run.trainer: .*small|run.trainer: .*str"),
        ({"run": {"trainer": {"log_level": "loud"}}}, "run.trainer: .*loud"),
        ({"run": {"deepspeed": "zero.json"}, "optim": {"components": EVERY}}, "DeepSpeed clips the whole gradient"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_loads(values, says, data, parts, tmp_path):
    with pytest.raises(ConfigError, match=says):
        check_arguments(of_stage("instruct", data, tmp_path / "run", parts, **values).loop)


def test_other_stages_do_not_take_components(data, parts, tmp_path):
    with pytest.raises(ConfigError, match="optim.components: is for stages align and instruct, not pretrain"):
        of_stage("pretrain", data, tmp_path / "run", parts, optim={"components": {"encoder": {"lr": 1e-3}}})
