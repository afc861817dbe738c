"""A Trainer that writes checkpoints and restores them exactly.

`train.engine.checkpoints` defines the files of a checkpoint and checks that it is complete.
`train.engine.trainer.last_checkpoint` chooses the checkpoint to resume from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import Trainer

from alm.common.errors import CheckpointError, UserError
from alm.common.processes import is_main_process
from encoders.checkpoint import write_weights
from train.engine import checkpoints, fsdp
from train.engine.loss_scale import LossScale
from train.processes import any_process, barrier, rank_and_world, say

PRIVATE_METHODS = {
    "_save_checkpoint": "the Trainer's is not atomic and holds frozen weights; no public hook replaces it",
    "_load_from_checkpoint": "the Trainer would load weights that our checkpoints do not hold",
    "_load_rng_state": "the Trainer would look for generator states; ours are seeded anew at every step",
    "_prepare_for_training": "weights, optimiser and schedule are restored once all of them are wrapped",
    "_run_epoch": "a run that was killed after its last step must not do another one",
    "_clip_grad_norm": "the only place where the norm is known before the optimiser uses the gradients",
}
"""Private methods of `transformers.Trainer` that are overridden here or in subclasses, and why."""

PRIVATE_ATTRIBUTES = {
    "_tr_loss": "the loss since the last log line, which a checkpoint has to keep",
    "_total_loss_scalar": "the loss before the last log line",
    "_globalstep_last_logged": "the step of the last log line",
}
"""Private attributes of `transformers.Trainer` that are read or written, and why."""


class CheckpointTrainer(Trainer):
    """Trainer that saves checkpoints and resumes exactly.

    Attributes:
        keep_checkpoints: Number of checkpoints to keep.
        loss_scale: Of fp16 training; None in other precisions.
        best: `step` and `loss` of the best validation run, and the number of runs `since`; None before the first.
    """

    keep_checkpoints = 2
    loss_scale: LossScale | None = None
    best: dict[str, Any] | None = None
    _restored: dict[str, Any] | None = None
    _saved_step = -1
    _total_before = 0.0

    @property
    def network(self) -> nn.Module:
        """The model in training, unwrapped."""
        assert isinstance(self.model, nn.Module)
        return self.model

    @property
    def _engine(self) -> Any:
        """The DeepSpeed engine around the model."""
        return self.model_wrapped

    @property
    def folder(self) -> Path:
        """Where checkpoints are."""
        return Path(str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint completely or not at all; every process must call this.

        Raises:
            UserError: It cannot be written; older checkpoints are unchanged.
        """
        folder, step = self.folder, self.state.global_step
        self.store_flos()
        unfinished = checkpoints.hidden(folder, step)
        loss = float(self._mean_loss())
        reason: str | None = None
        try:
            if is_main_process():
                checkpoints.clear_unfinished(folder)
                unfinished.mkdir(parents=True)
            barrier()
            self._write_state(unfinished)
        except (OSError, CheckpointError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
        failed = any_process([reason is not None], self.args.device)[0]
        if not failed and is_main_process():
            facts = {
                "world": self.args.world_size,
                "deepspeed": self.is_deepspeed_enabled,
                "keys": checkpoints.trained_keys(self.network),
                "best": self.best,
                "log": {
                    "loss": loss,
                    "since": self._globalstep_last_logged,
                    "total": self._total_before + self._total_loss_scalar,
                },
            }
            try:
                checkpoints.finalise(unfinished, step, facts)
                checkpoints.rotate(folder, self.keep_checkpoints)
            except OSError as error:
                reason = str(error)
        if any_process([reason is not None], self.args.device)[0]:
            if is_main_process():
                checkpoints.clear_unfinished(folder)
            last = checkpoints.found(folder)
            kept = f"{last[-1][1]} is complete" if last else "there is no older one"
            raise UserError(
                f"{folder}: the checkpoint of step {step} cannot be written ({reason or 'on another process'}); "
                f"{kept}; make room and run the same command again"
            )
        self._saved_step = step

    def _write_state(self, folder: Path) -> None:
        """Trainable weights, optimiser, schedule, loss scale and counters."""
        if self.is_deepspeed_enabled:
            self._engine.save_checkpoint(str(folder), exclude_frozen_parameters=True)
        else:
            if self.is_fsdp_enabled or is_main_process():
                weights = fsdp.whole(checkpoints.trained_weights(self.network))
                state = fsdp.whole(self.optimizer.state_dict())  # type: ignore[union-attr]
            if is_main_process():
                write_weights(folder / checkpoints.WEIGHTS, weights)
                torch.save(state, folder / checkpoints.OPTIMIZER)
        if is_main_process():
            torch.save(self.lr_scheduler.state_dict(), folder / checkpoints.SCHEDULER)  # type: ignore[union-attr]
            if self.loss_scale is not None:
                torch.save(self.loss_scale.state_dict(), folder / checkpoints.LOSS_SCALE)
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Do nothing: `_prepare_for_training` restores weights, optimiser and schedule at once."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Do nothing: generators are seeded at every step."""

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[no-untyped-call]
        if self.is_fsdp_enabled:
            fsdp.finish_sharding(self.network)
        if self.loss_scale is not None:
            assert self.optimizer is not None
            self.loss_scale.take(self.optimizer)
        if resume_from_checkpoint is not None:
            self._restore(Path(resume_from_checkpoint))
        return prepared

    def _restore(self, checkpoint: Path) -> None:
        """Load what `_write_state` wrote, strictly.

        Raises:
            CheckpointError: The checkpoint belongs to another model, or to another number of DeepSpeed processes.
        """
        facts = checkpoints.facts_of(checkpoint)
        checkpoints.check_keys(checkpoint, facts["keys"], checkpoints.trained_keys(self.network))
        if facts["deepspeed"] != self.is_deepspeed_enabled:
            wrote = "with" if facts["deepspeed"] else "without"
            raise CheckpointError(f"{checkpoint}: was written {wrote} DeepSpeed; resume {wrote} it")
        if self.is_deepspeed_enabled:
            if facts["world"] != self.args.world_size:
                raise CheckpointError(
                    f"{checkpoint}: DeepSpeed wrote it from {facts['world']} processes, now there are "
                    f"{self.args.world_size}; resume with {facts['world']}"
                )
            loaded, _ = self._engine.load_checkpoint(str(checkpoint), load_module_strict=False)
            if loaded is None:
                raise CheckpointError(f"{checkpoint}: DeepSpeed cannot load it")
        else:
            if facts["world"] != self.args.world_size:
                more = "larger" if self.args.world_size > facts["world"] else "smaller"
                say(
                    f"{checkpoint.name}: was written by {facts['world']} processes, now there are "
                    f"{self.args.world_size}; the global batch is {more}"
                )
            checkpoints.load_trained(self.network, checkpoint / checkpoints.WEIGHTS)
            state = checkpoints.load_state(checkpoint / checkpoints.OPTIMIZER)
            self.optimizer.load_state_dict(fsdp.sharded_state(state, self.optimizer))  # type: ignore
        self.lr_scheduler.load_state_dict(checkpoints.load_state(checkpoint / checkpoints.SCHEDULER))  # type: ignore[union-attr]
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(checkpoints.load_state(checkpoint / checkpoints.LOSS_SCALE))
        self._restored, self.best = facts["log"], facts["best"]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run one pass over the data; do nothing if the checkpoint is that of the last step."""
        if self.is_over():
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def resume_log(self) -> None:
        """Continue the sums of the log where the checkpoint left them; called when training begins."""
        if self._restored is not None:
            self._tr_loss += self._restored["loss"]
            self._total_before = self._restored["total"]
            self._globalstep_last_logged = self._restored["since"]
            self._restored = None

    def is_over(self) -> bool:
        """Whether all steps are done."""
        return self.state.global_step >= self.state.max_steps

    def _mean_loss(self) -> Tensor:
        """The loss summed since the last log line, as the mean over processes."""
        total = self._tr_loss.clone()
        if rank_and_world()[1] > 1:
            dist.all_reduce(total)
        return total / rank_and_world()[1]
