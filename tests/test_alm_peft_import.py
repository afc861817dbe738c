"""peft without bitsandbytes: until something is quantised, nothing imports bitsandbytes or warns about it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import logging, sys
from importlib.util import find_spec

from torch import nn

from alm.cli import main
from alm.policy import inject_lora

main(["config", "list"])
main(["encoders", "check", "whisper"])

values = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["0"]}
plain = nn.Sequential(nn.Linear(64, 64))
inject_lora(plain, values)
assert type(plain[0]).__module__ == "peft.tuners.lora.layer"
assert "bitsandbytes" not in sys.modules and find_spec("bitsandbytes") is not None
print("before", file=sys.stderr)

import peft.helpers
from peft.tuners.lora import model

assert model.is_bnb_available() and "bitsandbytes" not in sys.modules
dequantise = peft.helpers.bnb.functional.dequantize_4bit  # peft's own use
import bitsandbytes

assert dequantise is bitsandbytes.functional.dequantize_4bit and bitsandbytes.__file__
assert logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING)  # what it warns of is shown now
quantised = nn.Sequential(bitsandbytes.nn.Linear8bitLt(64, 64))
quantised.is_loaded_in_8bit = True
inject_lora(quantised, values)
assert type(quantised[0]).__module__ == "peft.tuners.lora.bnb"
"""


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes, of the extra quant")
def test_adapters_import_bitsandbytes_where_something_is_quantised_alone():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr.split("before\n")[0]
