"""Leader and standby: one learner of a model leads, the others follow and can take over.

A standby learns the examples that the leader has learned, in the leader's order: each update names the
examples that it was made from. So a standby has the leader's state, bit for bit. When the leader fails, the
standby continues with the next update, and replicas see one sequence of updates. A new learner begins from
the newest *snapshot* of the leader's state, in a folder that all learners share.

A learner takes the lead in three steps. (1) It claims, and gets a *term* (`stream.group.membership`). (2) It
writes a record that begins the term into topics `snapshots` and `updates`; records of a lower term behind
that record do not count (`learner.updates.chain`). (3) It learns the updates before that record. This is
safe even if two learners believe that they lead: one has the higher term, and readers accept the updates of
that one only. The other notices, discards the changes that were not accepted, and stands by.
"""

import logging
import threading

from learner.role.anew import is_marked
from learner.role.rollback import GoBackError
from learner.role.session import AsideError, FencedError, LearnerOfGroup, Session
from stream.errors import StateDamagedError
from stream.run.runner import patiently
from stream.state.role_state import RoleState

_log = logging.getLogger("freshet.learner")


class Succession(LearnerOfGroup):
    """One learner of a group."""

    def run(self, stop: threading.Event) -> None:
        """Stand by and lead, in turns, until `stop` is set.

        Raises:
            FreshetError: an error that stops the role.
        """
        patiently(lambda: self._live(stop), stop, self.clock)

    def _live(self, stop: threading.Event) -> None:
        self.member.able(False)
        untried = not is_marked(self.folder, self.disk) and self.snapshots.begin(self.folder)
        try:
            with RoleState(
                self.folder, "learner", self.fingerprint, True, self.clock, self.disk, self.learning.rest
            ) as state:
                session = Session(self, state, stop)
                with self.at_work(session.runner, session.learner) as report:

                    def turn() -> None:
                        session.turn()
                        report()

                    try:
                        if untried:
                            state.finish_purging()  # it reads all files: damage shows before it leads
                        untried = False
                        patiently(turn, stop, self.clock)
                    except BaseException:
                        session.end(finish=False)  # a commit that an error cut short is not to be made again
                        raise
                    session.end(finish=stop.is_set())
        except FencedError:
            _log.warning("another learner leads; this one discards its unaccepted changes and stands by")
        except AsideError as why:
            self.put_aside(str(why), why.right_until)
        except GoBackError as ordered:
            ordered.obey(self.learning, self.folder, self.fingerprint, self.clock, self.disk)
        except StateDamagedError as error:
            if not untried:
                raise
            _log.warning("snapshot %s is damaged and will not be used: %s", self.snapshots.begun_from, error)
            self.snapshots.leave_alone()
            self.disk.remove(self.folder / "db")

    def put_aside(self, why: str, right_until: int = -1) -> None:
        """Move the state to `db.aside`, where it stays until the next state is moved there.

        Args:
            right_until: see `AsideError`.
        """
        aside = self.folder / "db.aside"
        _log.warning("%s; moves its state to %s", why, aside)
        self.snapshots.leave_alone(right_until)
        self.disk.remove(aside)
        self.disk.move(self.folder / "db", aside)
