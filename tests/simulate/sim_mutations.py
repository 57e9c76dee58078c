"""Faults that the simulator must find: each takes one mending out of Freshet's code.

`install` replaces text of one module before it is imported; nothing on the disk changes. Modules with
compiled kernels are left alone, since they would be compiled anew.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """Text of a module, and what stands in its place."""

    module: str
    old: str
    new: str


MUTATIONS = {
    "a repeated record is taken twice": Mutation(
        "stream.state.repeats", "                if seq <= newest:\n                    continue\n", ""
    ),
    "an offset is not in the commit of what was taken": Mutation(
        "stream.run.runner",
        "self._commit.set_offset(self._topic, partition, self._next[partition])",
        "partition",
    ),
    "what was committed and not sent is forgotten at a restart": Mutation(
        "stream.state.role_state", 'Outbox(self._scan(OUTBOX, b"", b""))', "Outbox(iter(()))"
    ),
    "a full disk is taken for a commit": Mutation(
        "stream.state.role_state",
        '            helps = trouble.helps or "repair the disk',
        '            if trouble.kind == "full":\n                return\n'
        '            helps = trouble.helps or "repair the disk',
    ),
    "a purge asked for during another is forgotten": Mutation(
        "stream.state.role_state",
        "                if not self._purge_due:\n                    database.delete(PURGE_KEY)",
        "                database.delete(PURGE_KEY)\n                self._purge_due = False",
    ),
    "a purge that failed is forgotten": Mutation(
        "stream.state.role_state",
        "                self._purge_again_s = self._clock.now_s() + PURGE_AGAIN_S\n"
        "                self._purge_due = True\n",
        "                pass\n",
    ),
    "any error is called damage": Mutation(
        "ground.rocks",
        "    if type(error) is not Exception:\n        return None\n",
        '    if type(error) is not Exception:\n        return Trouble("damaged", "")\n',
    ),
    "damage is an error like any other": Mutation(
        "stream.state.role_state",
        '        if trouble.kind == "damaged":\n            return self._damaged(error)\n',
        "",
    ),
    "a thread dies in silence": Mutation(
        "ground.threads",
        "        if self.failure is not None:\n            raise self.failure\n",
        "        return\n",
    ),
    "records that are gone are passed over": Mutation(
        "stream.run.runner", '        if self._settings.on_gap == "stop":', "        if False:"
    ),
    "the journal is not kept": Mutation(
        "stream.run.runner", "            self._journal.note(self._taken, self._commit)\n", ""
    ),
    "a claim in doubt is never made again": Mutation(
        "stream.group.membership",
        "return leader.incarnation != self.incarnation or self._leading != leader.term",
        "return leader.incarnation != self.incarnation",
    ),
    "a claim counts that its claimer gave up": Mutation(
        "stream.group.membership",
        "        self.look()  # if this fails, the caller has no term, and claims again\n"
        "        self._leading = term\n",
        "        self._leading = term\n        self.look()\n",
    ),
    "a member reads on and on where there is no record": Mutation(
        "stream.group.membership",
        "                    self._position = end  # there are offsets without records\n"
        "                    return",
        "                    continue",
    ),
    "a standby reads on and on where there is no record": Mutation(
        "learner.role.session",
        "                self.offset = until  # the rest are offsets without records",
        "                continue",
    ),
    "a follower reads on and on where there is no record": Mutation(
        "learner.updates.snapshots",
        "                self._next = end  # the rest are offsets without records",
        "                continue",
    ),
    "a deposed leader's updates count": Mutation(
        "learner.updates.chain", "        if update.term < self.term:", "        if False:"
    ),
    "parts that are sent again are added again": Mutation(
        "learner.updates.chain",
        "[*parts[: update.part], update]",
        "[*parts, update]",
    ),
    "a learner keeps updates that another has made": Mutation(
        "learner.role.session",
        "            if update.term != meta.term:\n",
        "            if False:\n",
    ),
    "a learner keeps updates that were never accepted": Mutation(
        "learner.role.session",
        "        if right < meta.seq and self._chain.made_in > meta.term:\n"
        '            raise AsideError(f"update {meta.seq} came after another learner had begun to lead", '
        "right)\n"
        "        if meta.seq and right < meta.seq and self._chain.term > meta.term:\n",
        "        if False:\n",
    ),
    "a deposed leader goes on": Mutation(
        "learner.role.session",
        "        if not self._member.leads(self.term):\n            raise FencedError\n",
        "",
    ),
    "rows that a standby freed before its leader are never named": Mutation(
        "learner.updates.unsaid", "            return changes.with_deleted(keys)\n", ""
    ),
    "a standby does not free what its leader has freed": Mutation(
        "learner.updates.unsaid",
        "            keeper.table.delete(followed, counted=False)",
        "            pass",
    ),
    "a gap in the updates is jumped": Mutation(
        "learner.role.session",
        '            raise AsideError(f"the log no longer holds update {meta.seq + 1}")',
        "            pass",
    ),
    "a damaged snapshot is tried again and again": Mutation(
        "learner.role.shared_snapshots", "        self._left_alone.add(self.begun_from)", "        pass"
    ),
    "an older snapshot is loaded over a newer model": Mutation(
        "learner.updates.follower",
        "        if newest.number <= (self._chain.made_in, self.model.epoch, self.model.seq):\n"
        "            return False\n",
        "",
    ),
    "updates carry no rising numbers": Mutation(
        "learner.updates.publisher", "            meta.record_seq += 1\n", "            pass\n"
    ),
    "updates are dropped that the older snapshot needs": Mutation(
        "learner.updates.snapshots",
        "first_update_after(self._log, older.head)",
        "first_update_after(self._log, self._newest[1].head) + 1",
    ),
    "a server answers with the model of before a snapshot": Mutation(
        "serving.replica.live_follower", "        self._live.model = self.model\n", ""
    ),
    "a joiner says that it has sent what it has not": Mutation(
        "stream.join.assignment", "        if self._state.unsent():\n            return\n", ""
    ),
    "a joiner begins where the other is, not where it reaches back to": Mutation(
        "stream.join.assignment",
        "            begin = note.offset if first <= note.offset or first > sent else first",
        "            begin = note.position",
    ),
    "a joiner begins behind a jump of the clock": Mutation(
        "stream.join.partition",
        "over = max(clock + self._remembered_s, decided + self._remembered_s + self._window_s)",
        "over = point.clock + self._decided_s + self._remembered_s",
    ),
    "a joiner keeps what another one has": Mutation(
        "stream.join.assignment",
        "        self._leavings.erase_due(self._partitions, self._runner.partitions)\n",
        "",
    ),
    "one event far ahead closes all windows": Mutation(
        "stream.join.joiner", "latest_s = progress.latest(event.time, max_ahead_s)", 'latest_s = float("inf")'
    ),
    "an event far ahead of the log counts as of its own time": Mutation(
        "stream.join.joiner",
        "            latest_s = ingest_s + clock_ahead_s",
        "            latest_s = ingest_s + 1e12",
    ),
    "a joiner does not forget": Mutation(
        "stream.join.partition", "        self.pairing.forget(Entity(forget.entity))\n", ""
    ),
    "a joiner's files keep what was forgotten": Mutation(
        "stream.join.partition", "        self.commit.purge = True\n", ""
    ),
    "a learner does not forget": Mutation(
        "learner.role.learner", "in forget(self.model, request.entity, int(self.trainer.clock)):", "in ():"
    ),
    "a learner's files keep what was forgotten": Mutation(
        "learner.role.learner", "            commit.purge = True\n", "            pass\n"
    ),
    "snapshots from before a purge stay": Mutation(
        "learner.role.session", "alone = purges > self._purges", "alone = False"
    ),
    "refused ids are admitted after a restart": Mutation(
        "learner.role.taking.intake", "        self._refusals.save(commit)\n", ""
    ),
    "what was said of items is lost at a restart": Mutation(
        "learner.role.taking.intake", "        saved.save(changes, commit)\n", ""
    ),
    "a candidate is filled with what became true later": Mutation(
        "learner.entities.store",
        "newest.values if time >= newest.since else as_of(kept, time)",
        "newest.values",
    ),
    "metrics are lost at a restart": Mutation(
        "learner.role.learner",
        "        self.saved_metrics.save(commit)\n",
        "",
    ),
}
"""By what goes wrong."""


class _Loader(importlib.abc.SourceLoader):
    def __init__(self, mutation: Mutation, path: str) -> None:
        self._mutation, self._path = mutation, path

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        return mutated(self._mutation).encode()


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutation.module:
            return None
        file = str(path_of(self._mutation))
        return importlib.util.spec_from_file_location(fullname, file, loader=_Loader(self._mutation, file))


def path_of(mutation: Mutation) -> Path:
    """The file of its module."""
    return ROOT / (mutation.module.replace(".", "/") + ".py")


def mutated(mutation: Mutation) -> str:
    """The text of its module with the mending taken out.

    Raises:
        ValueError: the module does not have that text, or more than once.
    """
    text = path_of(mutation).read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.module} has {mutation.old!r} {text.count(mutation.old)} times")
    return text.replace(mutation.old, mutation.new)


def install(name: str) -> None:
    """Take one mending out of this process. Call it before anything of Freshet is imported."""
    mutation = MUTATIONS[name]
    if mutation.module in sys.modules:
        raise RuntimeError(f"{mutation.module} is imported already")
    mutated(mutation)
    sys.meta_path.insert(0, _Finder(mutation))
