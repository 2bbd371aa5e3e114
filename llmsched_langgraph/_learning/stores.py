"""Knows where profiles are kept between runs and shared by workers: a folder of files, or a LangGraph store.

Does not know what is in a profile, how two are merged, nor when it is time to save.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from llmsched_langgraph._belief.profile.merging import merged, profile_of
from llmsched_langgraph._belief.profile.profile import ApplicationProfile, Profile
from llmsched_langgraph._fields import refuse_constant
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError

NAMESPACE = ("llmsched", "profiles")
"""Under which profiles are kept in a LangGraph store; the key is the application's fingerprint."""

PAGE = 1_000
"""Profiles that are asked for at once; more only come in several pages."""

TRIES = 10
"""Times that a profile is merged anew because another worker wrote at the same moment."""

PAUSE_S = 0.05
"""Between writing and looking what is stored: longer than a worker takes from its last look to its write."""


class Loaded(NamedTuple):
    """What a store holds.

    Attributes:
        profile: of all applications that could be read.
        errors: for each of the others what is wrong, and where.
    """

    profile: Profile
    errors: tuple[InvalidDataError, ...] = ()


@runtime_checkable
class ProfileStore(Protocol):
    """Keeps profiles by application. All methods may block, and may be called from any thread."""

    def load(self) -> Loaded:
        """All profiles, and the errors of those that cannot be read."""
        ...

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """The profile of one application, or None if there is none.

        Raises:
            InvalidDataError: it cannot be read; the message names place and field.
        """
        ...

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into what is stored of its application, and keep and return that.

        Raises:
            InvalidDataError: what is stored cannot be read. It stays as it is.
        """
        ...


class DirectoryStore:
    """A folder with one JSON file for each application, named by its fingerprint.

    A file is replaced as a whole, so that no reader sees half of one. Where the system has file locks
    (POSIX), workers take turns to save; elsewhere the last one of two that save at once wins, and what the
    other one has in memory is stored with its next save.

    Args:
        path: the folder. It is made with the first save.

    Raises:
        ConfigurationError: there is something at the path that is no folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(f"{self.path} is no folder; name the folder that profiles are kept in")

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.path)!r})"

    def load(self) -> Loaded:
        """All profiles, and the errors of those that cannot be read."""
        try:
            names = [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            names = []
        except OSError as error:
            return Loaded(Profile(), (InvalidDataError(f"{self.path}: cannot be read: {error.strerror}"),))
        profiles = sorted(name for name in names if name.endswith(".json") and not name.startswith("."))
        return _loaded((name.removesuffix(".json") for name in profiles), self.load_one)

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """The profile in the file of that name, see `ProfileStore.load_one`."""
        path = self._file(fingerprint)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidDataError(f"{path}: cannot be read: {error.strerror}") from None
        return _read(str(path), fingerprint, read_json(text, str(path)))

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into its file, see `ProfileStore.save`.

        Raises:
            InvalidDataError: the file cannot be read. It stays as it is.
            OSError: the file cannot be written.
        """
        fingerprint = profile.application.fingerprint
        from llmsched_langgraph._belief.profile.serialization import (
            application_profile_to_json,  # late: numpy
        )

        self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path / f".{fingerprint}.lock"):
            stored = self.load_one(fingerprint)
            result = profile if stored is None else merged(stored, profile)
            write_json(application_profile_to_json(result), self._file(fingerprint))
        return result

    def _file(self, fingerprint: str) -> Path:
        return self.path / f"{Path(fingerprint).name}.json"


class BaseStoreProfiles:
    """Profiles in a LangGraph `BaseStore`: in memory, in SQLite, in Postgres, under `NAMESPACE`.

    Such a store cannot lock what it is about to change. So a save looks right before it writes and again
    `PAUSE_S` later, and if another worker came between, merges again. What a worker that is held up for
    longer than that overwrites is stored with the other one's next save.

    Args:
        store: the store; it must answer synchronously in the thread that loads and saves.
    """

    def __init__(self, store: Any) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"BaseStoreProfiles({self.store!r})"

    def load(self) -> Loaded:
        """All profiles, and the errors of those that cannot be read."""
        found: dict[str, Any] = {}
        seen = 0
        while items := self.store.search(NAMESPACE, limit=PAGE, offset=seen):
            found |= {item.key: item.value for item in items if tuple(item.namespace) == NAMESPACE}
            seen += len(items)
        return _loaded(sorted(found), lambda key: _read(_at(key), key, found[key]))

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """The profile under that key, see `ProfileStore.load_one`."""
        value = self._value(fingerprint)
        return None if value is None else _read(_at(fingerprint), fingerprint, value)

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into the value under its key, see `ProfileStore.save`."""
        from llmsched_langgraph._belief.profile.serialization import (
            application_profile_to_json,  # late: numpy
        )

        fingerprint = profile.application.fingerprint
        with _SAVING:
            value = self._value(fingerprint)
            for _ in range(TRIES):
                if value is not None:
                    profile = merged(_read(_at(fingerprint), fingerprint, value), profile)
                made = application_profile_to_json(profile)
                before, value = value, self._value(fingerprint)
                if value == before != made:
                    self.store.put(NAMESPACE, fingerprint, made, index=False)
                    time.sleep(PAUSE_S)
                    value = self._value(fingerprint)
                if value == made:
                    break
        return profile

    def _value(self, fingerprint: str) -> Any:
        item = self.store.get(NAMESPACE, fingerprint)
        return None if item is None else item.value


_SAVING = threading.Lock()
"""Of all stores of this process, as several objects may stand for the same one."""


def as_store(given: object) -> ProfileStore:
    """The store that is meant: a store itself, a LangGraph `BaseStore`, or the path of a folder.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(given, ProfileStore):
        return given
    if isinstance(given, (str, os.PathLike)):
        return DirectoryStore(os.fspath(given))
    if all(callable(getattr(given, name, None)) for name in ("get", "put", "search")):
        return BaseStoreProfiles(given)
    raise ConfigurationError(
        f"profiles are kept in a folder (name its path), a LangGraph BaseStore or a ProfileStore, not in "
        f"{given!r}"
    )


def read_json(text: bytes, place: str) -> Any:
    """A JSON document.

    Raises:
        InvalidDataError: it is none; the message names the place.
    """
    try:
        return json.loads(text.decode("utf-8-sig"), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidDataError(f"{place}: is no whole JSON document: {error.msg} at {where}") from None
    except UnicodeDecodeError:
        raise InvalidDataError(f"{place}: is no UTF-8 text") from None
    except (InvalidDataError, RecursionError, ValueError) as error:  # a number of 4,300 digits and more
        raise InvalidDataError(f"{place}: {error}") from None


def write_json(data: Any, path: Path) -> None:
    """Write a JSON document so that whoever reads the file sees all of it or the one before.

    Raises:
        OSError: the file cannot be written.
    """
    # Nobody else uses this name, for where there are no locks two workers may write at once.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(data, file, separators=(",", ":"), allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _loaded(names: Iterable[str], load_one: Callable[[str], ApplicationProfile | None]) -> Loaded:
    found, errors = [], []
    for name in names:
        try:
            own = load_one(name)
        except InvalidDataError as error:
            errors.append(error)
        else:
            found += [] if own is None else [own]
    return Loaded(profile_of(found), tuple(errors))


def _read(place: str, fingerprint: str, data: object) -> ApplicationProfile:
    from llmsched_langgraph._belief.profile.serialization import application_profile_from_json  # late: numpy

    try:
        profile = application_profile_from_json(data)
    except InvalidDataError as error:
        raise InvalidDataError(f"{place}: {error}") from None
    if profile.application.fingerprint != fingerprint:
        raise InvalidDataError(
            f"{place}: application.fingerprint: must be {fingerprint!r}, by which it is stored, not "
            f"{profile.application.fingerprint!r}"
        )
    return profile


def _at(key: str) -> str:
    return f"store key {'/'.join((*NAMESPACE, key))}"


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Alone with this file among all threads and processes, where the system can do that."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file gives it up
        yield
