"""Models to evaluate: one file per kind of model, which assigns `MODEL_KIND`, here or in a plug-in folder.

An evaluation sees every model as an `Answerer`; prompts, controls, scores and pages are the same for all.
"""

from alm.common.plugins import Registry
from eval.errors import EvaluationError
from eval.models.base import Answer, Answerer, ModelKind, Opening, Prompt

__all__ = ["MODEL_KINDS", "Answer", "Answerer", "ModelKind", "Opening", "Prompt", "open_model"]

MODEL_KINDS: Registry[ModelKind] = Registry(
    "kind of model",
    "MODEL_KIND",
    "eval.models",
    accepts=lambda found: isinstance(found, ModelKind),
    expected="ModelKind(...)",
)


def open_model(name: str, opening: Opening | None = None) -> Answerer:
    """Open the model that `--model` names.

    Args:
        name: A model directory or hub id, `openai:MODEL@URL`, or a Python file with an `ANSWERER`.
        opening: Device, decoding and options; None takes the defaults.

    Raises:
        UserError: No kind of model recognises the name, or it cannot be opened.
    """
    kinds = sorted((MODEL_KINDS.get(one) for one in MODEL_KINDS.names()), key=lambda kind: kind.order)
    for kind in kinds:
        if kind.recognises(name):
            return kind.open(name, opening or Opening())
    raise EvaluationError(f"model {name!r}: expected one of: {'; '.join(kind.form for kind in kinds)}")
