"""The plug-in by which vLLM serves models of this toolkit: `register` is its entry point (`vllm.general_plugins`).

Encoder and projector run as they are, replicated on every device; the LLM is vLLM's own. Only the modules
behind this one import vLLM.
"""

from __future__ import annotations

import logging

_logger = logging.getLogger(__name__)


def register() -> None:
    """Make the architecture known to vLLM; called in each of its processes, and does nothing the second time.

    A release of vLLM that cannot take it is reported and otherwise left alone: it may be there to serve other models.
    """
    import alm  # noqa: F401 (registers with the Auto classes of transformers)

    try:
        from alm.serving.vllm.release import register_with_vllm

        register_with_vllm()
    except (ImportError, AttributeError) as error:
        _logger.warning(
            "alm-toolkit: this release of vLLM cannot serve audio-language models (%s); install vllm 0.32",
            error,
        )
