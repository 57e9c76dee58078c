"""A network of the user's: what it must hold to, and what happens when it fails."""

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learnable import ALONE, last_auc, xor_examples

from learner.errors import NetworkError
from learner.features.encoder import FeatureSpec, Request
from learner.model.identity import identity, network_text
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from stream.errors import StateError
from stream.log.base import EXAMPLES, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.types import encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.meta import FORMAT_VERSION, StateMeta
from stream.state.role_state import RoleState

FEATURES = {"a": ALONE, "b": ALONE, "cost": FeatureSpec(kind="number", pairs=False)}
HEAD = "import torch\nfrom torch import nn\n"
GOOD = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.inside = nn.Linear(sum(widths.values()), 32)
        self.out = nn.Linear(32, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, inputs):
        return self.out(torch.relu(self.inside(torch.cat(list(inputs.values()), 1)))).squeeze(1)
"""
)
numbers = count()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for modules; what was imported from it is forgotten."""
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def settings_of(folder: Path, source: str = GOOD, name: str = "Net", **more: object) -> LearnerSettings:
    """Settings with a module of this source."""
    module = f"own_{next(numbers)}"
    (folder / f"{module}.py").write_text(source)
    return LearnerSettings(deep=f"{module}:{name}", deep_path=str(folder), **more)  # type: ignore[arg-type]


def with_forward(line: str, more: str = "") -> str:
    """The good network with another last line, and a line before it."""
    head, _, last = GOOD.rpartition("        return ")
    return f"{head}{more}        return {line.replace('LAST', last.strip())}\n"


def model_of(settings: LearnerSettings) -> Model:
    return Model(FEATURES, settings, learning=True)


def rows(n: int) -> list[Request]:
    return [Request(1e9 + i, {"a": i % 7}, [{"b": i % 5, "cost": float(i)}]) for i in range(n)]


# What it is given, and that it learns


def test_inputs_have_the_documented_names_and_widths(folder: Path) -> None:
    source = with_forward(
        "LAST", "        type(self).seen = {k: tuple(v.shape) for k, v in inputs.items()}\n"
    )
    model = model_of(settings_of(folder, source))
    model.score_requests(rows(3))
    seen = sys.modules[model.settings.deep.partition(":")[0]].Net.seen
    assert list(seen) == [
        "embedding.a", "embedding.b", "embedding.cost", "means", "counts", "numbers", "logit"
    ]  # fmt: skip
    assert seen["embedding.a"] == (3, 8) and seen["numbers"] == (3, 1) and seen["logit"] == (3, 1)
    assert sum(width for _, width in seen.values()) == model.deep_width


def test_it_learns_what_no_sum_can_tell_and_the_same_each_time(folder: Path) -> None:
    features = {"a": ALONE, "b": ALONE}
    settings = settings_of(folder, deep_rate=5e-3)
    examples = xor_examples(6_000)
    learners = [Learner(features, settings) for _ in range(2)]
    aucs = [last_auc(learner, examples) for learner in learners]
    assert aucs[0] > 0.75 and aucs[0] == aucs[1]
    assert learners[0].digest() == learners[1].digest() and learners[0].trainer.quarantined == 0


def test_predictions_are_those_that_learning_scores_also_with_dropout(folder: Path) -> None:
    source = GOOD.replace("torch.relu(", "nn.functional.dropout(torch.relu(").replace(
        "1)))).squeeze", "1))), 0.5, self.training)).squeeze"
    )
    settings = settings_of(folder, source.replace("nn.init.zeros_(self.out.weight)", "pass"), group=1)
    features = {"a": ALONE, "b": ALONE}
    learner = Learner(features, settings)
    examples = xor_examples(800)
    learner.learn(examples[:760])  # ids that it does not know have no vectors yet before they are learned
    for example in examples[760:]:
        (before,) = learner.model.score_requests([example]).z
        (learnt,) = learner.learn([example])
        assert before == learnt.z[0]


def test_server_follows_and_a_restart_goes_on_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    features, settings = {"a": ALONE, "b": ALONE}, settings_of(folder)
    log = MemoryLog()
    for topic in (EXAMPLES, UPDATES, "snapshots", "dead_letters"):
        log.create_topic(topic, 1)
    examples = xor_examples(640)
    whole = Learner(features, settings)
    whole.learn(examples)
    fingerprint = Learner.fingerprint(features, settings)
    for part in range(2):
        mine = examples[320 * part : 320 * (part + 1)]
        log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e)) for e in mine])
        with RoleState(tmp_path / "state", "learner", fingerprint) as state:
            learner = Learner(features, settings, state)
            runner = Runner(
                log, state, learner, Subscription(EXAMPLES, "learn", partitions=(0,)), RunnerSettings()
            ).open()
            while learner.meta.examples < 320 * (part + 1):
                runner.step()
            runner.commit()
            runner.step()
    assert learner.digest() == whole.digest()
    follower = Follower(Model(features, settings))
    follower.start(log)
    follower.poll(log)
    z = follower.model.score_requests(examples[:50]).z
    assert np.array_equal(z, learner.model.score_requests(examples[:50]).z)
    other = Follower(Model(features, msgspec.structs.replace(settings, deep_version="2")))
    other.start(log)
    other.poll(log)
    assert "another version of the code" in other.other and other.applied == 0


# When it fails


@pytest.mark.parametrize(
    ("line", "more", "why"),
    [
        ("LAST", "        if len(inputs['a']) == 0: pass\n", "KeyError"),
        ("LAST[:-1]", "", "shape"),
        ("LAST * torch.where(inputs['numbers'][:, 0].max() > 0.0, torch.nan, 1.0)", "", "not finite"),
    ],
)
def test_failing_module_quarantines_groups_and_the_fast_part_goes_on(
    folder: Path, line: str, more: str, why: str
) -> None:
    switch = "        import builtins\n        if getattr(builtins, 'own_network_fails', False):\n"
    bad = f"            {more.strip()}\n" if more else ""
    source = with_forward("LAST", f"{switch}{bad}            return {line}\n")
    last = GOOD.rpartition("        return ")[2].strip()
    settings = settings_of(folder, source.replace("LAST", last))
    model_settings = msgspec.structs.replace(settings)
    alone = Learner(FEATURES, LearnerSettings(deep="none"))
    learner = Learner(FEATURES, model_settings)
    examples = [
        msgspec.structs.replace(e, candidates=[{**e.candidates[0], "cost": 9.0}]) for e in xor_examples(320)
    ]
    learner.learn(examples[:160])
    assert learner.trainer.quarantined == 0
    weights = learner.model.deep_weights.copy()
    import builtins

    builtins.own_network_fails = True  # type: ignore[attr-defined]
    try:
        learnt = learner.learn(examples[160:])
        alone.learn(examples[:160])
        expected = alone.learn(examples[160:])
        z = learner.model.score_requests(examples[:40]).z
    finally:
        del builtins.own_network_fails  # type: ignore[attr-defined]
    assert learner.trainer.quarantined == 5 and np.array_equal(weights, learner.model.deep_weights)
    fast = np.concatenate([group.z for group in expected])
    assert np.array_equal(np.concatenate([group.z for group in learnt]), fast)
    assert np.array_equal(z, alone.model.score_requests(examples[:40]).z)
    network = learner.model.network
    assert network is not None and why in network.troubles.last  # type: ignore[attr-defined]


# What is refused at the start


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GOOD.replace("nn.Module", "object").replace("super().__init__()", "return"), "no torch.nn.Module"),
        (GOOD.replace("nn.Linear(32, 1)", "nn.Linear(32, 1, device='meta')"), "on meta; expected cpu"),
        (GOOD.replace("nn.Linear(32, 1)", "nn.Linear(32, 1, dtype=torch.float64)"), "torch.float64"),
        (GOOD.replace("(32, 1)", "(32, 1); self.more = nn.LazyLinear(1)"), "no shape yet"),
        (GOOD.replace(".squeeze(1)", ""), r"shape \(1, 1\) for 1 rows; expected \(1,\).*squeeze\(1\)"),
        (GOOD.replace(".squeeze(1)", ".squeeze()"), r"shape \(\) for 1 rows"),
        (with_forward("(LAST > 0).long()"), "torch.int64"),
        (with_forward("LAST / 0"), "not finite"),
        (with_forward("LAST.detach()"), "by which torch could train it"),
        (with_forward("LAST.tolist()"), "gave a list"),
        (with_forward("inputs['user']"), r"KeyError: 'user'; its inputs are embedding.a \(n, 8\)"),
        (with_forward("LAST - LAST.mean() + inputs['means'].sum()"), "depends on the other rows"),
        (GOOD.replace("(32, 1)", "(32, 1); open('weights.bin')"), "FileNotFoundError"),
        (GOOD.replace("__init__(self, widths)", "__init__(self)"), r"Net\(widths\) raised TypeError"),
        (
            GOOD.replace("import torch", "import numpy as np\nimport torch").replace(
                "super().__init__()",
                "super().__init__(); self.more = nn.Parameter(torch.tensor([np.random.random()]))",
            ),
            "other weights each time it is made: draw",
        ),
        (
            GOOD.replace("class Net", "made = []\nclass Net").replace(
                "super().__init__()",
                "super().__init__(); made.append(1); self.more = nn.Parameter(torch.zeros(len(made)))",
            ),
            r"more has shape \(1,\), then \(2,\)",
        ),
        (GOOD.replace("class Net", "class Nett"), "has no class Net; did you mean Nett?"),
        (GOOD + "Net = Net.forward\n", "has a function, not a class"),
        ("import nothing_of_this_name\n", "cannot be imported: ModuleNotFoundError"),
        ("def (\n", "cannot be imported: SyntaxError"),
    ],
)
def test_bad_module_is_refused_with_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(NetworkError, match=message):
        model_of(settings_of(folder, source))


@pytest.mark.parametrize(
    ("deep", "message"),
    [
        ("dnn", "none of dcn, deepfm, dlrm, logistic, none, and no MODULE:CLASS.*did you mean 'dcn'"),
        ("models/two.py:Two", r'path of a file.*"two:Two".*deep_path'),
        ("/models/two.py", r'path of a file.*"two:CLASS"'),
        ("two.py:Two", r'"two:Two"'),
        ("two:", "no MODULE:CLASS"),
        (":Two", "no MODULE:CLASS"),
        ("a b:Two", "no MODULE:CLASS"),
    ],
)
def test_bad_name_is_refused_with_a_sentence(deep: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnerSettings(deep=deep)


def test_missing_module_says_where_it_was_searched(folder: Path) -> None:
    with pytest.raises(NetworkError, match=f"neither in {folder} nor on Python's path"):
        model_of(LearnerSettings(deep="no_such:Net", deep_path=str(folder)))
    with pytest.raises(NetworkError, match="another module in each process"):
        model_of(LearnerSettings(deep="__main__:Net"))


# Which code it is


def test_changed_code_is_another_model_and_says_how_to_keep_the_state(folder: Path) -> None:
    helper = folder / "own_helper.py"
    helper.write_text("SIZE = 32\n")
    source = GOOD.replace("import torch", "import torch\nfrom own_helper import SIZE", 1).replace(
        "32", "SIZE"
    )
    settings = settings_of(folder, source)
    first = Learner.fingerprint(FEATURES, settings)
    assert first["network"].startswith(f"{settings.deep}, version ")
    version = first["network"].split("version ")[1].split(",")[0]
    helper.write_text("SIZE = 32  # of the hidden layer\n")
    with pytest.raises(NetworkError, match="changed since this process imported it"):
        network_text(FEATURES, settings)
    for name in ("own_helper", settings.deep.partition(":")[0]):
        del sys.modules[name]
    renamed = settings_of(folder, source)  # as another process would find it
    assert identity(FEATURES, renamed) != identity(
        FEATURES, msgspec.structs.replace(renamed, deep_version=version)
    )
    now = {**first, "network": first["network"].replace(version, "0123456789ab")}
    meta = StateMeta(FORMAT_VERSION, "learner", first)
    with pytest.raises(StateError, match=f"deep_version = '{version}'.*freshet learn --anew"):
        meta.check(folder, "learner", now)


def test_other_files_beside_the_module_are_no_part_of_its_version(folder: Path) -> None:
    (folder / "own_other.py").write_text("A = 1\n")
    settings = settings_of(folder)
    before = network_text(FEATURES, settings)
    (folder / "own_other.py").write_text("A = 2\n")
    assert network_text(FEATURES, settings) == before


def test_built_in_network_has_the_identity_that_it_had() -> None:
    assert "network" not in Learner.fingerprint(FEATURES, LearnerSettings())
    spec = {"user": FeatureSpec(), "item": FeatureSpec()}
    assert identity(spec, LearnerSettings()) == "ce3c5f216b408518543fd77cb6cc936a"
