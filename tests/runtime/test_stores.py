"""Stores: what was saved is loaded, what is damaged stays, and workers that save at once lose nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from langgraph.store.memory import InMemoryStore
from support.beliefs import planned_job
from support.profiles import TEMPLATE, ids, job, profile
from support.redis_home import server_url

from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.profile.merging import merged, profile_from_jobs
from llmsched_langgraph._belief.profile.serialization import VERSION, application_profile_to_json
from llmsched_langgraph._learning import stores
from llmsched_langgraph._learning.redis_profiles import KEY, RedisProfiles
from llmsched_langgraph._learning.stores import NAMESPACE, BaseStoreProfiles, DirectoryStore, as_store
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError

FAN = TEMPLATE.fingerprint
TESTS = Path(__file__).parents[1]


@pytest.fixture(params=["folder", "memory", "sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "folder":
        yield DirectoryStore(tmp_path / "new" / "profiles")
    elif request.param == "memory":
        yield BaseStoreProfiles(InMemoryStore())
    elif request.param == "redis":
        own = as_store(server_url())
        assert isinstance(own, RedisProfiles)
        own._server.delete(KEY)
        yield own
        own._server.delete(KEY)
        own._server.close()
    else:
        sqlite = pytest.importorskip("langgraph.store.sqlite")
        with sqlite.SqliteStore.from_conn_string(str(tmp_path / "store.db")) as own:
            own.setup()
            yield BaseStoreProfiles(own)


def other_profile():
    jobs = [planned_job(n, ("a", "b")[: 1 + n % 2]) for n in range(6)]
    return profile_from_jobs(template_of("planner", jobs), jobs)


def spoil(store, fingerprint, change):
    """Change what is stored under a fingerprint."""
    if isinstance(store, DirectoryStore):
        path = store.path / f"{fingerprint}.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        return path.read_bytes
    if isinstance(store, RedisProfiles):
        data = json.loads(store._server.hget(KEY, fingerprint))
        change(data)
        store._server.hset(KEY, fingerprint, json.dumps(data))
        return lambda: store._server.hget(KEY, fingerprint)
    data = json.loads(json.dumps(store.store.get(NAMESPACE, fingerprint).value))
    change(data)
    store.store.put(NAMESPACE, fingerprint, data)
    return lambda: store.store.get(NAMESPACE, fingerprint).value


def test_what_is_saved_is_loaded(store):
    """Model and all, of every application; an empty store gives an empty profile."""
    assert store.load() == (stores.Profile(), ())
    assert store.load_one(FAN) is None
    fan, planner = profile(range(12), modelled=12), other_profile()
    assert (store.save(fan), store.save(planner)) == (fan, planner)
    profiles, errors = store.load()
    assert profiles.applications == {FAN: fan, planner.application.fingerprint: planner}
    assert errors == ()
    assert profiles.job.count == 18
    assert (store.load_one(FAN), ids(store.load_one(FAN))) == (fan, ids(fan))


def test_a_save_merges(store):
    """What another worker saved meanwhile is kept, and given back."""
    store.save(profile(range(4), by="a", modelled=4))
    both = store.save(profile(range(2, 6), by="b"))
    assert ids(both) == ["a0", "a1", "a2", "b2", "a3", "b3", "b4", "b5"]
    assert (both.jobs, both.modelled) == (8, 4)
    assert store.load_one(FAN) == both
    assert store.save(profile(range(4), by="a")).jobs == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(version=VERSION + 1), f"version: {VERSION + 1} requires a newer"),
        (lambda data: data.update(format="else"), "format: must be"),
        (lambda data: data["history"][1].pop("app"), r"history\[1\]\.app: is missing"),
        (lambda data: data.clear(), "format: is missing"),
        (
            lambda data: data.update(application_profile_to_json(other_profile())),
            f"application.fingerprint: must be '{FAN}' to match its file name or key",
        ),
    ],
    ids=["newer", "foreign", "damaged", "empty", "renamed"],
)
def test_what_cannot_be_read_stays(store, change, words):
    """The error names place and field, a save refuses with the same, and other applications are loaded."""
    planner = other_profile()
    store.save(profile(range(3)))
    store.save(planner)
    now = spoil(store, FAN, change)
    before = now()
    loaded = store.load()
    assert loaded.profile.applications == {planner.application.fingerprint: planner}
    (error,) = loaded.errors
    for use in (lambda: store.load_one(FAN), lambda: store.save(profile(range(3)))):
        with pytest.raises(InvalidDataError, match=words) as raised:
            use()
        assert str(raised.value) == str(error)
        assert FAN in str(error)
    assert now() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not a complete JSON document: Expecting value at line 1, column 1"),
        (b'{"format": "llms', "is not a complete JSON document: Unterminated string"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"NaN", "NaN is not valid JSON"),
        (b"[" * 100_000, "recursion|Stack overflow"),
        (b"9" * 5_000, "integer string conversion"),
        (b"[]", "must be an object"),
    ],
)
def test_files_that_are_no_profiles(tmp_path, text, words):
    path = tmp_path / f"{FAN}.json"
    path.write_bytes(text)
    (error,) = DirectoryStore(tmp_path).load().errors
    assert str(error).startswith(f"{path}: ")
    assert re.search(words, str(error))
    with pytest.raises(InvalidDataError):
        DirectoryStore(tmp_path).save(profile([1]))
    assert path.read_bytes() == text


def test_a_truncated_file_is_an_error_wherever_it_ends(tmp_path):
    store = DirectoryStore(tmp_path)
    store.save(profile(range(2)))
    path = tmp_path / f"{FAN}.json"
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(InvalidDataError, match="is not a complete JSON document"):
            store.load_one(FAN)


def test_only_its_own_files_are_left_in_the_folder(tmp_path):
    """Nothing of an unfinished write is; what others put there is no profile, and stays."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden.json").write_text("mine")
    store = DirectoryStore(tmp_path)
    store.save(profile([1]))
    assert store.load().errors == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".{FAN}.lock",
        ".hidden.json",
        f"{FAN}.json",
        "notes.txt",
    ]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path)
    store.save(profile([1]))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        store.save(profile([2]))
    assert ids(store.load_one(FAN)) == ["1"]
    assert not list(tmp_path.glob(".*.part"))


def test_without_file_locks(tmp_path, monkeypatch):
    """Where there is no fcntl, saving works all the same."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    store = DirectoryStore(tmp_path)
    store.save(profile([1]))
    store.save(profile([2]))
    assert ids(store.load_one(FAN)) == ["1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == [f"{FAN}.json"]


def test_threads_that_save_at_once_lose_nothing(store):
    def worker(by):
        for number in range(8):
            store.save(profile([number], by=by))

    threads = [Thread(target=worker, args=(by,)) for by in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = store.load_one(FAN)
    assert sorted(ids(own)) == sorted(f"{by}{n}" for by in "abc" for n in range(8))
    assert own.jobs == 24


WORKER = """
import sys
from contextlib import ExitStack
from support.profiles import profile
from llmsched_langgraph._belief.profile.merging import merged
from llmsched_langgraph._learning.stores import as_store

kind, path, by = sys.argv[1:]
with ExitStack() as stack:
    if kind == "folder":
        store = as_store(path)
    else:
        from langgraph.store.sqlite import SqliteStore
        store = as_store(stack.enter_context(SqliteStore.from_conn_string(path)))
    print("ready", flush=True)
    sys.stdin.readline()
    own = profile([], by=by)
    for number in range(15):
        own = merged(own, profile([number], by=by))  # what it has in memory
        store.save(own)
"""


@pytest.mark.parametrize("kind", ["folder", "sqlite"])
def test_processes_that_save_at_once_lose_nothing(tmp_path, kind):
    """In a folder for its lock; in a store without locks because each looks again after it wrote."""
    path = tmp_path / "store"
    if kind == "sqlite":
        sqlite = pytest.importorskip("langgraph.store.sqlite")
        with sqlite.SqliteStore.from_conn_string(str(path)) as own:
            own.setup()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, kind, str(path), by],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        )
        for by in "ab"
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=50)
        assert worker.returncode == 0
    if kind == "folder":
        loaded = DirectoryStore(path).load()
    else:
        with sqlite.SqliteStore.from_conn_string(str(path)) as own:
            loaded = BaseStoreProfiles(own).load()
    assert loaded.errors == ()
    found = loaded.profile.applications[FAN]
    assert sorted(ids(found)) == sorted(f"{by}{n}" for by in "ab" for n in range(15))
    assert found.jobs == 30


class Late(InMemoryStore):
    """A store into which somebody else writes right after the first write."""

    def put(self, *args, **kwargs):
        super().put(*args, **kwargs)
        late, self.late = self.late, None
        if late is not None:
            super().put(NAMESPACE, FAN, application_profile_to_json(late))


def test_who_was_overwritten_writes_again():
    """A save sees that another worker came between, and merges again."""
    store = Late()
    store.late = profile([1], by="other")
    saved = BaseStoreProfiles(store).save(profile([2], by="mine"))
    assert ids(saved) == ids(BaseStoreProfiles(store).load_one(FAN)) == ["other1", "mine2"]


def test_profiles_are_read_in_pages(monkeypatch):
    monkeypatch.setattr(stores, "PAGE", 2)
    store = BaseStoreProfiles(InMemoryStore())
    apps = [replace(TEMPLATE, name=f"app{n}") for n in range(5)]
    for app in apps:
        store.save(profile_from_jobs(app, [job(1)]))
    store.store.put((*NAMESPACE, "deeper"), "x", {"not": "a profile"})
    assert set(store.load().profile.applications) == {app.fingerprint for app in apps}


def test_what_a_store_can_be(tmp_path):
    own = DirectoryStore(tmp_path)
    assert as_store(own) is own
    for given in (tmp_path, str(tmp_path)):
        assert as_store(given).path == tmp_path
    memory = InMemoryStore()
    assert as_store(memory).store is memory
    assert str(tmp_path) in repr(own)
    for given in (None, 3, {}, object()):
        with pytest.raises(ConfigurationError, match="not in " + str(given).replace("{}", r"\{\}")[:8]):
            as_store(given)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file is not a folder; name the folder"):
        as_store(tmp_path / "file")


def test_a_profile_from_elsewhere_is_found_in_no_other_place(tmp_path):
    """A name with a way in it leads nowhere else."""
    DirectoryStore(tmp_path / "a").save(profile([1]))
    assert DirectoryStore(tmp_path / "b").load_one(f"../a/{FAN}") is None
    assert merged(profile([1]), profile([1])) == profile([1])
