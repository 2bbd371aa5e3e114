"""Stores profiles between runs and shares them among workers: in a folder, or in a LangGraph store.

Does not decide when to save; `serialization` converts profiles and `merging` merges them.
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
from llmsched_langgraph._fork import in_child
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError

NAMESPACE = ("llmsched", "profiles")
"""Namespace of the profiles in a LangGraph store; the key is the application's fingerprint."""

PAGE = 1_000
"""Maximum number of profiles per search request."""

TRIES = 10
"""Maximum number of merges in one save, while other workers write concurrently."""

PAUSE_S = 0.05
"""Seconds from a write to its check: longer than another worker needs from its last read to its write."""


class Loaded(NamedTuple):
    """The content of a store.

    Attributes:
        profile: the applications that could be read.
        errors: one error for each application that could not be read; its message names place and cause.
    """

    profile: Profile
    errors: tuple[InvalidDataError, ...] = ()


@runtime_checkable
class ProfileStore(Protocol):
    """Stores profiles by application. Methods may block, and are called from any thread."""

    def load(self) -> Loaded:
        """Return all profiles, and the errors of those that cannot be read."""
        ...

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """Return the profile of one application; None if there is none.

        Raises:
            InvalidDataError: the profile cannot be read; the message names place and field.
        """
        ...

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into the stored one of its application; store and return the result.

        Raises:
            InvalidDataError: the stored profile cannot be read. It is not changed.
        """
        ...


class DirectoryStore:
    """A folder with one JSON file for each application, named by its fingerprint.

    A save replaces the file atomically, so a reader never sees a partial one. On POSIX a file lock serialises
    the saves of all workers. Elsewhere the last of two concurrent saves wins; the next save of the other
    worker stores its jobs again.

    Args:
        path: the folder. The first save creates it.

    Raises:
        ConfigurationError: the path exists and is not a folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(f"{self.path} is not a folder; name the folder of the profiles")

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.path)!r})"

    def load(self) -> Loaded:
        """Return all profiles, and the errors of those that cannot be read."""
        try:
            names = [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            names = []
        except OSError as error:
            return Loaded(Profile(), (InvalidDataError(f"{self.path}: cannot be read: {error.strerror}"),))
        profiles = sorted(name for name in names if name.endswith(".json") and not name.startswith("."))
        return loaded((name.removesuffix(".json") for name in profiles), self.load_one)

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """Return the profile in the application's file; see `ProfileStore.load_one`."""
        path = self._file(fingerprint)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidDataError(f"{path}: cannot be read: {error.strerror}") from None
        return read_profile(str(path), fingerprint, read_json(text, str(path)))

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into its file; see `ProfileStore.save`.

        Raises:
            InvalidDataError: the file cannot be read. It is not changed.
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
    """Profiles under `NAMESPACE` in a LangGraph `BaseStore` (in memory, SQLite, Postgres).

    Such a store has no locks. A save therefore reads immediately before it writes and again `PAUSE_S` later,
    and merges again if another worker wrote in between. A worker that stalls for longer between its read and
    its write can overwrite another worker's jobs; the next save of that worker stores them again.

    Args:
        store: the store; it must answer synchronously in the calling thread.
    """

    def __init__(self, store: Any) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"BaseStoreProfiles({self.store!r})"

    def load(self) -> Loaded:
        """Return all profiles, and the errors of those that cannot be read."""
        found: dict[str, Any] = {}
        seen = 0
        while items := self.store.search(NAMESPACE, limit=PAGE, offset=seen):
            found |= {item.key: item.value for item in items if tuple(item.namespace) == NAMESPACE}
            seen += len(items)
        return loaded(sorted(found), lambda key: read_profile(_at(key), key, found[key]))

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """Return the profile under the application's key; see `ProfileStore.load_one`."""
        value = self._value(fingerprint)
        return None if value is None else read_profile(_at(fingerprint), fingerprint, value)

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into the value under its key; see `ProfileStore.save`."""
        from llmsched_langgraph._belief.profile.serialization import (
            application_profile_to_json,  # late: numpy
        )

        fingerprint = profile.application.fingerprint
        with _SAVING:
            value = self._value(fingerprint)
            for _ in range(TRIES):
                if value is not None:
                    profile = merged(read_profile(_at(fingerprint), fingerprint, value), profile)
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
"""Serialises the saves of all LangGraph stores in this process: several objects may be the same store."""


def _forked() -> None:
    global _SAVING
    _SAVING = threading.Lock()


in_child(_forked)


def as_store(given: object) -> ProfileStore:
    """Return the store for a `ProfileStore`, a LangGraph `BaseStore`, a URL of Redis, or a folder's path.

    Raises:
        ConfigurationError: `given` is none of these.
    """
    if isinstance(given, ProfileStore):
        return given
    if isinstance(given, str) and given.startswith(("redis://", "rediss://", "unix://")):
        from llmsched_langgraph._learning.redis_profiles import RedisProfiles

        return RedisProfiles(given)
    if isinstance(given, (str, os.PathLike)):
        return DirectoryStore(os.fspath(given))
    if all(callable(getattr(given, name, None)) for name in ("get", "put", "search")):
        return BaseStoreProfiles(given)
    raise ConfigurationError(
        f"profiles are stored in a folder (give its path), at a URL of Redis, in a LangGraph BaseStore or a "
        f"ProfileStore, not in {given!r}"
    )


def read_json(text: bytes, place: str) -> Any:
    """Parse a JSON document.

    Raises:
        InvalidDataError: the text is not valid JSON in UTF-8; the message names the place.
    """
    try:
        return json.loads(text.decode("utf-8-sig"), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidDataError(f"{place}: is not a complete JSON document: {error.msg} at {where}") from None
    except UnicodeDecodeError:
        raise InvalidDataError(f"{place}: is not UTF-8 text") from None
    except (InvalidDataError, RecursionError, ValueError) as error:  # e.g. an integer of over 4,300 digits
        raise InvalidDataError(f"{place}: {error}") from None


def write_json(data: Any, path: Path) -> None:
    """Write a JSON document atomically: a reader sees the old or the new document, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    # The name is unique per process and thread: without file locks, two workers may write at once.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(data, file, separators=(",", ":"), allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def loaded(names: Iterable[str], load_one: Callable[[str], ApplicationProfile | None]) -> Loaded:
    """Return what `load_one` returns for each name, and its errors."""
    found, errors = [], []
    for name in names:
        try:
            own = load_one(name)
        except InvalidDataError as error:
            errors.append(error)
        else:
            found += [] if own is None else [own]
    return Loaded(profile_of(found), tuple(errors))


def read_profile(place: str, fingerprint: str, data: object) -> ApplicationProfile:
    """Return the profile of a parsed JSON document.

    Raises:
        InvalidDataError: it is none, or one of another application; the message names the place.
    """
    from llmsched_langgraph._belief.profile.serialization import application_profile_from_json  # late: numpy

    try:
        profile = application_profile_from_json(data)
    except InvalidDataError as error:
        raise InvalidDataError(f"{place}: {error}") from None
    if profile.application.fingerprint != fingerprint:
        raise InvalidDataError(
            f"{place}: application.fingerprint: must be {fingerprint!r} to match its file name or key, not "
            f"{profile.application.fingerprint!r}"
        )
    return profile


def _at(key: str) -> str:
    return f"store key {'/'.join((*NAMESPACE, key))}"


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock on the file, among all threads and processes. Without POSIX, hold none."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing is not enough: a process that was forked meanwhile has a copy of the descriptor.
            fcntl.flock(file, fcntl.LOCK_UN)
