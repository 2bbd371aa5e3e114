"""Knows where LangGraph's own tests come from, and how to make an environment that runs them.

Does not know what is done with them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOT_NEEDED = {"langgraph-cli", "py-spy", "pyperf", "pytest-cov", "pytest-dotenv", "pytest-watcher", "uvloop"}
"""What LangGraph lists for its tests and these runs do without: benchmarks, coverage, a server."""

ADDED = ("pytest-timeout", "pytest-xdist")
"""What these runs need beside that."""

FORBIDDEN = "langchain"
"""Adds itself to the metadata of every message, which some tests compare exactly."""

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

LEARNING = ("numpy",)
"""What the package learns with: without it, every run that ends would be logged as a failure to learn."""


class CheckError(Exception):
    """The check could not be made; the message says why."""


def _learning() -> list[str]:
    """The requirements of `LEARNING`, as the package has them."""
    listed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [wanted for wanted in listed if re.split(r"[<>=]", wanted)[0] in LEARNING]


def say(text: str) -> None:
    """A progress line. Results go to standard output, these do not."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Suite:
    """LangGraph's tests of one version, and an interpreter that can run them.

    Attributes:
        version: LangGraph's.
        folder: the one to run pytest in.
        python: the environment's interpreter.
        baseline: where the outcomes of the latest bare run are kept.
        versions: of everything in the environment.
    """

    version: str
    folder: Path
    python: Path
    baseline: Path
    versions: dict[str, str]


class Cache:
    """The folder in which everything fetched stays.

    Args:
        folder: made if it is not there.
        fresh: unpack and install again what is there already.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self._folder = folder
        self._fresh = fresh
        self._tag = f"py{sys.version_info.major}.{sys.version_info.minor}"

    def suite(self, version: str | None, requirements: Sequence[str]) -> Suite:
        """The suite of `version` (None for the newest), fetched if it is not there.

        Args:
            version: as the package index writes it.
            requirements: what the environment shall fulfil beside the suite's own needs.

        Raises:
            CheckError: pip failed, or there are no tests in it.
        """
        if version is None:
            version = self._fetch(None)
        folder = self._folder / "suites" / f"langgraph-{version}"
        if self._fresh or not (folder / "pyproject.toml").exists():
            self._unpack(version, folder)
        wanted = [f"langgraph=={version}", *_learning(), *_test_requirements(folder), *requirements]
        name = f"langgraph-{version}-{self._tag}"
        if requirements:
            name += "-" + hashlib.sha256(" ".join(sorted(requirements)).encode()).hexdigest()[:8]
        environment = self._folder / "environments" / name
        versions = None if self._fresh else _installed_in(environment, wanted)
        if versions is None:
            versions = self._install(environment, wanted)
        return Suite(version, folder, _interpreter(environment), environment / "bare.json", versions)

    def run_folder(self) -> Path:
        """A new folder for the logs of one run of the check."""
        parent = self._folder / "runs"
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=parent))

    def _pip(self, *arguments: str) -> None:
        # One environment has pip for all: the interpreter that runs this may have none.
        home = self._folder / "environments" / f"pip-{self._tag}"
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            call([sys.executable, "-m", "venv", str(home)])
            (home / "ready").touch()
        call([str(_interpreter(home)), "-m", "pip", "-q", *arguments])

    def _fetch(self, version: str | None) -> str:
        """Put the source distribution into the cache; which version it is."""
        say(f"fetching the source distribution of langgraph {version or '(newest)'}")
        folder = self._folder / "downloads"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = "langgraph" if version is None else f"langgraph=={version}"
        with tempfile.TemporaryDirectory() as temporary:
            # Only langgraph itself as source: what pip needs to read it may come as wheels.
            self._pip("download", "--no-deps", "--no-binary", "langgraph", "-d", temporary, wanted)
            (archive,) = Path(temporary).glob("langgraph-*.tar.gz")
            shutil.copy(archive, folder)
        return archive.name.removeprefix("langgraph-").removesuffix(".tar.gz")

    def _unpack(self, version: str, folder: Path) -> None:
        name = f"langgraph-{version}"
        archive = self._folder / "downloads" / f"{name}.tar.gz"
        if not archive.exists():
            found = self._fetch(version)
            if found != version:
                raise CheckError(f"the package index writes {version!r} as {found!r}; do so, too")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary, tarfile.open(archive) as tar:
            keep = (f"{name}/tests/", f"{name}/pyproject.toml")
            wanted = [member for member in tar if member.name.startswith(keep)]
            tar.extractall(temporary, wanted, filter="data")
            unpacked = Path(temporary) / name
            if not (unpacked / "tests" / "conftest.py").exists():
                raise CheckError(f"the source distribution of langgraph {version} ships no tests")
            unpacked.rename(folder)

    def _install(self, environment: Path, wanted: Sequence[str]) -> dict[str, str]:
        say(f"making {environment} (about a minute)")
        shutil.rmtree(environment, ignore_errors=True)
        call([sys.executable, "-m", "venv", "--without-pip", str(environment)])
        self._pip("--python", str(_interpreter(environment)), "install", *wanted)
        _marker(environment).write_text(json.dumps(list(wanted)), encoding="utf-8")
        versions = _installed_in(environment, wanted)
        if versions is None:
            raise CheckError(f"{environment} was made, but does not work")
        if FORBIDDEN in versions:
            raise CheckError(f"{FORBIDDEN} came into {environment}; leave out what requires it")
        return versions


def _interpreter(environment: Path) -> Path:
    return environment / "bin" / "python"


def _marker(environment: Path) -> Path:
    return environment / "ready.json"


def _installed_in(environment: Path, wanted: Sequence[str]) -> dict[str, str] | None:
    """The versions of all that is installed there; None unless it is whole and what is wanted."""
    program = (
        "import importlib.metadata as m, json, langgraph.graph, pytest, xdist; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}, sort_keys=True))"
    )
    try:
        if json.loads(_marker(environment).read_text(encoding="utf-8")) != list(wanted):
            return None
        versions: dict[str, str] = json.loads(call([str(_interpreter(environment)), "-c", program]))
    except (OSError, CheckError):
        return None
    return versions


def _test_requirements(folder: Path) -> list[str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project.get("dependency-groups", {}).get("test")
    if not listed:
        raise CheckError(f"{folder / 'pyproject.toml'} has no dependency group `test`")
    left_out = {*NOT_NEEDED, FORBIDDEN}
    requirements = [entry for entry in listed if isinstance(entry, str)]
    return [*(entry for entry in requirements if _distribution(entry) not in left_out), *ADDED]


def _distribution(requirement: str) -> str:
    """The name in a requirement such as `Some_Package[extra]>=2; python_version < "4"`."""
    return re.split(r"[\s\[<>=!~;@(]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def call(command: Sequence[str]) -> str:
    """What the command prints.

    Raises:
        CheckError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-10:]
        raise CheckError("\n".join([f"{' '.join(command)} failed:", *(line[:300] for line in said)]))
    return done.stdout
