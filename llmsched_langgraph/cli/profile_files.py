"""Defines the actions of `llmsched profile` on files: show, export, import and draw.

Does not learn, store or draw profiles itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmsched_langgraph.cli.complaints import needs_matplotlib, written
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError

if TYPE_CHECKING:
    from llmsched_langgraph._belief.profile.profile import ApplicationProfile

_PATH = "the folder of a store, or a file that `export` or `fit` wrote"


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions to `llmsched profile`."""
    show = action(actions, "show", run_show, "print profiles")
    show.add_argument("path", metavar="PATH", type=Path, help=_PATH)
    show.add_argument("app", metavar="APP", nargs="?", help="only this application, by name or fingerprint")
    show.add_argument("--json", action="store_true", help="print one JSON list")

    export = action(actions, "export", run_export, "write all profiles of a store into one file")
    export.add_argument("path", metavar="PATH", type=Path, help=_PATH)
    export.add_argument("out", metavar="OUT", type=Path, help="the file to write")

    take = action(actions, "import", run_import, "merge the profiles in a file into a store")
    take.add_argument("file", metavar="FILE", type=Path, help="a file that `export` or `fit` wrote")
    take.add_argument("path", metavar="PATH", type=Path, help="the store's folder, created if missing")

    draw = action(actions, "draw", run_draw, "draw the learned network of an application")
    draw.add_argument("path", metavar="PATH", type=Path, help=_PATH)
    draw.add_argument("app", metavar="APP", help="the application, by name or fingerprint")
    draw.add_argument("out", metavar="OUT", type=Path, help="a file that ends in .svg or .png")


def action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    words: str,
    more: str = "",
) -> argparse.ArgumentParser:
    """Add an action.

    Args:
        actions: the actions of `llmsched profile`.
        name: the name of the action.
        run: runs the action and returns the exit status.
        words: its line in the list of actions.
        more: text that its own help page adds to `words`.
    """
    parser = actions.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.{more}")
    parser.set_defaults(run=run)
    return parser


def run_show(options: argparse.Namespace) -> int:
    """Print the summary of each profile.

    Raises:
        InvalidDataError: there is no readable profile, or the named application has none.
    """
    from llmsched_langgraph._belief.profile.summary import summary_of
    from llmsched_langgraph._views.profile_text import profile_text

    profiles = _read(options.path)
    summaries = [summary_of(own) for own in (profiles if options.app is None else _named(profiles, options))]
    if options.json:
        print(json.dumps([summary.to_json() for summary in summaries], indent=2))
    else:
        print("\n\n".join(map(profile_text, summaries)))
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write all profiles of a store into one file.

    Raises:
        InvalidDataError: there is no readable profile.
        ConfigurationError: the file cannot be written.
    """
    profiles = _read(options.path)
    write_profiles(profiles, options.out)
    print(f"{count_of(profiles)} written to {options.out}")
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Merge a file into a store.

    Raises:
        InvalidDataError: the file, or the stored profile of one of its applications, cannot be read.
        ConfigurationError: the store cannot be written.
    """
    from llmsched_langgraph._learning.stores import DirectoryStore

    profiles = _read(options.file)
    store = DirectoryStore(options.path)
    with written("PATH", options.path):
        for own in profiles:
            now = store.save(own)
            print(f"{own.application.name}: {own.jobs:,} jobs taken in, {now.jobs:,} in {options.path}")
    return 0


def run_draw(options: argparse.Namespace) -> int:
    """Draw the network of one application.

    Raises:
        InvalidDataError: the application has no profile, or its profile has no model.
        ConfigurationError: the file cannot be written, or a .png file is named and matplotlib is missing.
    """
    from llmsched_langgraph._views.network_picture import network_picture
    from llmsched_langgraph._views.picture import write_svg

    out: Path = options.out
    if out.suffix.lower() == ".svg":
        write = write_svg
    elif out.suffix.lower() == ".png":
        with needs_matplotlib(f"OUT {out}"):
            from llmsched_langgraph._views.picture_png import write_png as write
    else:
        raise ConfigurationError(f"OUT {out}: name a file that ends in .svg or .png")
    found = _named(_read(options.path), options)
    if len(found) > 1:
        keys = ", ".join(own.application.fingerprint for own in found)
        raise InvalidDataError(f"several applications are called {options.app}; name one of {keys}")
    (own,) = found
    if own.model is None:
        raise InvalidDataError(f"{own.application.name}: no model was learned of its {own.jobs} jobs yet")
    with written("OUT", out):
        write(network_picture(own.template, own.model), out)
    print(f"{own.application.name}: network of {own.model.jobs} jobs drawn into {out}")
    return 0


def _read(path: Path) -> list[ApplicationProfile]:
    """Return the profiles of a store or a file; print what is unreadable in a store to standard error."""
    from llmsched_langgraph._belief.profile.serialization import profiles_from_json
    from llmsched_langgraph._learning.stores import DirectoryStore, read_json

    if path.is_dir():
        profile, errors = DirectoryStore(path).load()
        for error in errors if profile.applications else ():
            print(f"left out: {error}", file=sys.stderr)
        if not profile.applications:
            raise errors[0] if errors else InvalidDataError(f"{path}: there are no profiles in the folder")
        return sorted(profile.applications.values(), key=lambda own: own.application.name)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidDataError(f"{path}: cannot be read: {error.strerror}") from None
    data = read_json(text, str(path))
    try:
        return profiles_from_json(data)
    except InvalidDataError as error:
        raise InvalidDataError(f"{path}: {error}") from None


def _named(profiles: list[ApplicationProfile], options: argparse.Namespace) -> list[ApplicationProfile]:
    """Return the profiles whose name or fingerprint is `options.app`."""
    found = [own for own in profiles if options.app in (own.application.name, own.application.fingerprint)]
    if not found:
        known = ", ".join(sorted({own.application.name for own in profiles}))
        raise InvalidDataError(f"{options.path}: has no application {options.app!r}; it has: {known}")
    return found


def check_file(out: Path) -> None:
    """Check that `out` is not a folder.

    Raises:
        ConfigurationError: `out` is a folder.
    """
    if out.is_dir():
        raise ConfigurationError(
            f"OUT {out} is a folder; give a file name. To merge FILE into that store, run "
            f"`llmsched profile import FILE {out}`"
        )


def write_profiles(profiles: list[ApplicationProfile], out: Path) -> None:
    """Write profiles into one file.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    from llmsched_langgraph._belief.profile.merging import profile_of
    from llmsched_langgraph._belief.profile.serialization import profile_to_json
    from llmsched_langgraph._learning.stores import write_json

    check_file(out)
    with written("OUT", out):
        write_json(profile_to_json(profile_of(profiles)), out)


def count_of(profiles: list[ApplicationProfile]) -> str:
    """Return the numbers of applications and jobs as text."""
    jobs = sum(own.jobs for own in profiles)
    return f"{len(profiles)} application{'s' * (len(profiles) != 1)} of {jobs:,} jobs"
