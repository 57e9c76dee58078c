"""Shards in processes: the bits of shards in one process, and errors that say which shard is the matter."""

import os
import signal
import socket

import numpy as np
import pytest
from turns import FEATURES, SETTINGS, chunks_of, examples_of, learn, predicted
from waiting import WAIT_S

from learner.deep.autograd import have_torch
from learner.errors import ShardError
from learner.shards.gloo import Gloo
from learner.shards.owners import Owners
from learner.shards.processes import Processes
from learner.shards.together import ShardedLearner, Together
from stream.records.types import Forget

pytestmark = pytest.mark.skipif(not have_torch(), reason="torch carries the messages of shards")


@pytest.mark.process
def test_processes_have_the_bits_of_one_process_and_one_that_dies_is_named() -> None:
    chunks = chunks_of(examples_of(300), 100)
    request = Forget("f1", 1e9, {"user": ["u3"], "item": [4]})
    digests, said = [], []
    for crew in (Together(Owners(2), FEATURES, SETTINGS), Processes(Owners(2), FEATURES, SETTINGS)):
        learner = ShardedLearner(crew, 64)
        learnt = learn(learner, chunks)
        learner.forget(request)
        said.append(predicted(learnt))
        digests.append((learner.digest(), learner.table_rows(), learner.bytes_sent, learner.trainer.clock))
    assert np.array_equal(*said) and digests[0] == digests[1]
    assert isinstance(crew, Processes)
    os.kill(crew.pids[1], signal.SIGKILL)
    try:
        with pytest.raises(ShardError, match="the process of shard 1 ended by signal 9"):
            learn(learner, chunks)
    finally:
        learner.close()
    with pytest.raises(ProcessLookupError):
        os.kill(crew.pids[0], 0)


@pytest.mark.process
def test_a_port_that_is_taken_and_a_rank_that_is_there_twice_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ShardError, match=f"port {port} of 127.0.0.1 cannot be used: is it taken"):
            Gloo(0, 2, "127.0.0.1", port, WAIT_S)
    first = Gloo(0, 2, "127.0.0.1", 0, WAIT_S)
    others = [Gloo(1, 2, "127.0.0.1", first.port, wait_s) for wait_s in (3.0, WAIT_S)]
    with pytest.raises(ShardError):
        others[0].join()  # rank 0 does not come within the time
    with pytest.raises(ShardError, match="two shards of rank 1"):
        others[1].join()
    with pytest.raises(ShardError, match="not all of 2 shards came within 1 s"):
        Gloo(0, 2, "127.0.0.1", 0, 1.0).join()
