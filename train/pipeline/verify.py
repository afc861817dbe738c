"""Find, before training, every sample that the run of a config would refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alm.common.errors import ConfigError, UserError
from alm.common.settings import apply_overrides, read_yaml
from encoders.audio.options import applied
from train.stage import STAGES, parse_stage


def refused_samples(
    config: str, overrides: Sequence[str] = (), progress: Callable[[int], None] = lambda n: None
) -> tuple[int, list[tuple[str, str]]]:
    """Check every sample of a stage as training would: its clips, its template, its length in tokens.

    Args:
        config: The config of one stage.
        overrides: `KEY=VALUE` settings that replace those of the config.
        progress: Called with 1 after each sample.

    Returns:
        The number of samples, and the id and the reason of each that would be refused.

    Raises:
        ConfigError: The config is wrong, is a recipe, or is of a stage without such a check.
        ManifestError: The data cannot be opened.
    """
    values = read_yaml(config)
    if "stages" in values:
        raise ConfigError(
            f"{config}: is a recipe; give the config of one stage (configs/align, configs/instruct …)"
        )
    apply_overrides(values, overrides)
    settings = parse_stage(values, config)
    stage = STAGES.get(settings.stage)
    n_samples, refused = 0, []
    with applied(stage.audio(settings)):
        stage.check(settings)
        samples = stage.samples(settings)
        if samples is None:
            raise ConfigError(
                f"{config}: stage '{settings.stage}' has no check of its samples; run alm data verify MANIFEST"
            )
        for name, check in samples:
            n_samples += 1
            try:
                check()
            except ConfigError:
                raise
            except UserError as error:
                refused.append((name, str(error)))
            progress(1)
    return n_samples, refused
