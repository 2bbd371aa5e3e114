"""Knows how machine and ledgers work together in one process: events in, grants and records out.

Does not know clocks, locks, threads or loops: the live driver and the simulator both run this object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmsched_langgraph.core.events import (
    BeliefFormed,
    CallQueued,
    Command,
    Event,
    FormBelief,
    RecordJob,
    ReleaseSlot,
    ReportFault,
    Reprioritise,
    RequestSlot,
    ResizeBackend,
    SlotGranted,
)
from llmsched_langgraph.core.ledger import SlotLedger
from llmsched_langgraph.core.machine import SchedulerMachine
from llmsched_langgraph.jobs.ended import EndedJob


@dataclass(slots=True)
class Settled:
    """What a batch of events led to.

    Attributes:
        granted: tickets that got a slot, in order.
        records: jobs to learn from.
        faults: jobs for which the policy failed.
        wanted: beliefs to form, if that is somebody else's work.
    """

    granted: list[int] = field(default_factory=list)
    records: list[EndedJob] = field(default_factory=list)
    faults: list[ReportFault] = field(default_factory=list)
    wanted: list[FormBelief] = field(default_factory=list)


@dataclass(slots=True)
class Dispatcher:
    """A machine and the memory ledgers of its backends, kept in step.

    Attributes:
        machine: decides.
        ledgers: carry it out, by backend.
        at_once: whether beliefs are formed as they are asked for; else they are told when they are there.
    """

    machine: SchedulerMachine
    ledgers: Mapping[str, SlotLedger]
    at_once: bool = False

    def __post_init__(self) -> None:
        self.machine.slots = {name: ledger.capacity for name, ledger in self.ledgers.items()}

    def handle(self, *events: Event) -> Settled:
        """Take the events; when it returns, no slot is free while a ticket waits for it."""
        settled = Settled()
        for event in events:
            commands = self.machine.handle(event)
            for backend in self._execute(commands, event.now, settled) if commands else ():
                # One at a time: a grant may change the priorities by which the next is chosen.
                while (ticket := self._next(backend, event.now, settled)) is not None:
                    self._seat(ticket, event.now, settled)
        return settled

    def _next(self, backend: str, now: float, settled: Settled) -> int | None:
        """Give a slot to whoever is to have it; None if there is nobody, or no slot."""
        ledger = self.ledgers[backend]
        if not ledger.grants:
            return None
        try:
            explored = self.machine.explore(backend, ledger.granted + 1, ledger.line, now)
        except Exception as error:
            # A policy may be anybody's object. Its bug must cost this turn's exploration, never the slot.
            settled.faults.append(ReportFault(None, error))
            explored = None
        return ledger.grant(explored)

    def _seat(self, ticket: int, now: float, settled: Settled) -> None:
        """The ticket has its slot: the machine is told, and may have something to say to it."""
        settled.granted.append(ticket)
        commands = self.machine.handle(SlotGranted(now, ticket))
        if commands:
            self._execute(commands, now, settled)

    def _execute(self, commands: list[Command], now: float, settled: Settled) -> list[str]:
        """Carry the commands out; the backends on which a grant may have become possible."""
        touched: list[str] = []
        seated: list[int] = []
        queued: list[int] = []
        for command in commands:
            match command:
                case RequestSlot():
                    ledger = self.ledgers[command.backend]
                    if ledger.request(command.ticket, command.group, command.priority, forced=command.forced):
                        seated.append(command.ticket)
                    else:
                        queued.append(command.ticket)
                case Reprioritise():
                    self.ledgers[command.backend].reprioritise(command.group, command.priority)
                case ReleaseSlot():
                    self.ledgers[command.backend].release(command.ticket)
                    touched.append(command.backend)
                case ResizeBackend():
                    self.ledgers[command.backend].resize(command.slots)
                    touched.append(command.backend)
                case RecordJob():
                    settled.records.append(command.record)
                case FormBelief():
                    if self.at_once:
                        formed = BeliefFormed(now, command.arrival, command.belief())
                        touched += self._execute(self.machine.handle(formed), now, settled)
                    else:
                        settled.wanted.append(command)
                case ReportFault():
                    settled.faults.append(command)
        # Told to the machine only now: what it answers is newer than the commands above.
        for ticket in seated:
            self._seat(ticket, now, settled)
        for ticket in queued:
            self._execute(self.machine.handle(CallQueued(now, ticket)), now, settled)
        return touched

    def check(self, *, held_before: int = 0) -> None:
        """Raise AssertionError unless machine and ledgers are sound and agree.

        Args:
            held_before: tickets that held a slot before a capacity was lowered, if one was.
        """
        self.machine.check()
        for ledger in self.ledgers.values():
            ledger.check(held_before=held_before)
        assert self.machine.waiting() == {t for ledger in self.ledgers.values() for t in ledger.backlog()}
        assert self.machine.holding() == {t for ledger in self.ledgers.values() for t in ledger.holders()}
