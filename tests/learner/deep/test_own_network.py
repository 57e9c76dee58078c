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
from learner.metrics import auc
from learner.model.identity import identity, network_text
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from stream.errors import StateError
from stream.log.base import EXAMPLES, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.meta import FORMAT_VERSION, StateMeta
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

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
WIDE = (
    GOOD.replace("(self, widths)", "(self, widths, targets)")
    .replace("nn.Linear(32, 1)", "nn.Linear(32, len(targets))")
    .replace(".squeeze(1)", "")
)
THREE = Targets(
    {"click": Target(), "buy": Target(of="click"), "minutes": Target(kind="value", of="click")}, 60.0
)
FAILS_HEAD = (
    HEAD
    + """
import builtins

class Fails(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        if getattr(builtins, 'own_network_fails', True):
            raise RuntimeError("no way back")
        return gradient
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


@pytest.mark.parametrize("kind", ["double", "bfloat16"])
def test_logits_of_any_float_are_taken(folder: Path, kind: str) -> None:
    learner = Learner(FEATURES, settings_of(folder, with_forward(f"LAST.{kind}()")))
    learner.learn(xor_examples(64))
    assert learner.trainer.quarantined == 0 and np.isfinite(learner.model.score_requests(rows(3)).z).all()


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


@pytest.mark.slow
def test_it_learns_what_no_sum_can_tell_and_the_same_each_time(folder: Path) -> None:
    features = {"a": ALONE, "b": ALONE}
    settings = settings_of(folder, deep_rate=5e-3)
    examples = xor_examples(6_000)
    learners = [Learner(features, settings) for _ in range(2)]
    aucs = [last_auc(learner, examples) for learner in learners]
    assert aucs[0] > 0.75 and aucs[0] == aucs[1]
    assert learners[0].digest() == learners[1].digest() and learners[0].trainer.quarantined == 0


@pytest.mark.slow
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


def with_more(examples: list[Example], *, of_all: bool = False) -> list[Example]:
    """After each click (or each example) what was not bought and how long it was watched, as is clicked."""
    found = []
    for example in examples:
        found.append(example)
        (clicked,) = example.labels
        if clicked or of_all:
            for name, label in (("buy", 1.0 - clicked), ("minutes", 1.0 + 6.0 * clicked)):
                found.append(msgspec.structs.replace(example, labels=[label], target=name))
    return found


def test_each_target_has_a_column_that_learns_what_no_sum_can_tell(folder: Path) -> None:
    """Of all candidates: what is clicked is not bought and is watched for long."""
    settings = settings_of(folder, WIDE, deep_rate=5e-3)
    targets = Targets({"click": Target(), "buy": Target(), "minutes": Target(kind="value")})
    learner = Learner({"a": ALONE, "b": ALONE}, settings, None, targets)
    done = learner.learn(with_more(xor_examples(5_000), of_all=True)) + learner.finish()
    assert learner.trainer.quarantined == 0
    for t in range(3):
        p, y = (np.concatenate([getattr(g, name)[g.target == t] for g in done])[-400:] for name in "py")
        told = auc(p, (y > 1.0) * 1.0 if t == 2 else y)
        assert told is not None and told > 0.75, targets.names[t]


def test_a_column_is_trained_by_its_own_target_alone(folder: Path) -> None:
    learner = Learner({"a": ALONE, "b": ALONE}, settings_of(folder, WIDE), None, THREE)
    network = learner.model.network
    assert network is not None
    out = network.split(learner.model.deep_weights)["out.weight"]  # (3, 32)
    examples = with_more(xor_examples(640))
    learner.learn([example for example in examples if not example.target])
    assert np.abs(out[0]).max() > 0.0 and not out[1:].any()
    clicks = learner.model.deep_weights.copy()
    learner.learn([example for example in examples if example.target == "minutes"])
    assert np.abs(out[2]).max() > 0.0 and not out[1].any()
    assert not np.array_equal(clicks, learner.model.deep_weights)


@pytest.mark.parametrize("targets", [UNDECLARED, THREE], ids=["one", "three"])
def test_server_follows_and_a_restart_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, targets: Targets
) -> None:
    features, settings = {"a": ALONE, "b": ALONE}, settings_of(folder, WIDE)
    log = MemoryLog()
    for topic in (EXAMPLES, UPDATES, "snapshots", "dead_letters"):
        log.create_topic(topic, 1)
    examples = xor_examples(640) if len(targets) == 1 else with_more(xor_examples(400))[:640]
    whole = Learner(features, settings, None, targets)
    whole.learn(examples)
    fingerprint = Learner.fingerprint(features, settings, targets)
    for part in range(2):
        mine = examples[320 * part : 320 * (part + 1)]
        log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e)) for e in mine])
        with RoleState(tmp_path / "state", "learner", fingerprint) as state:
            learner = Learner(features, settings, state, targets)
            runner = Runner(
                log, state, learner, Subscription(EXAMPLES, "learn", partitions=(0,)), RunnerSettings()
            ).open()
            while learner.meta.examples < 320 * (part + 1):
                runner.step()
            runner.commit()
            runner.step()
    assert learner.digest() == whole.digest()
    follower = Follower(Model(features, settings, targets))
    follower.start(log)
    follower.poll(log)
    batch = learner.model.encoder.encode(examples[:50])
    for t in range(len(targets)):
        assert np.array_equal(follower.model.score(batch, t).p, learner.model.score(batch, t).p)
    other = Follower(Model(features, msgspec.structs.replace(settings, deep_version="2"), targets))
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
        ("LAST * torch.inf", "", "not finite"),
        ("LAST.to(torch.complex64)", "", "torch.complex64"),
        ("LAST + Fails.apply(LAST)", "", "no way back"),
    ],
)
def test_failing_module_quarantines_groups_and_the_fast_part_goes_on(
    folder: Path, line: str, more: str, why: str
) -> None:
    switch = "        import builtins\n        if getattr(builtins, 'own_network_fails', False):\n"
    bad = f"            {more.strip()}\n" if more else ""
    source = with_forward("LAST", f"{switch}{bad}            return {line}\n")
    last = GOOD.rpartition("        return ")[2].strip()
    source = source.replace(HEAD, FAILS_HEAD.replace("fails', True", "fails', False"))
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
    if "Fails" not in line:  # it fails going back only, and can predict
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
        (with_forward("LAST + torch.inf"), "not finite"),
        (with_forward("LAST.to(torch.complex64)"), "torch.complex64"),
        (with_forward("LAST.to('meta')"), "on meta"),
        (with_forward("LAST + torch.rand(())"), "other logits each time"),
        (with_forward("LAST + self.out.bias.data.add_(0.5)"), "changes its own weights"),
        (
            with_forward("Fails.apply(LAST)").replace(GOOD[: len(HEAD)], FAILS_HEAD),
            "RuntimeError: no way back",
        ),
        (GOOD.replace("__init__(self, widths)", "__init__(self, widths, size)"), "raised TypeError.*'size'"),
        (with_forward("LAST if len(inputs['numbers']) > 1 else LAST[:0]"), r"shape \(0,\) for 1 rows"),
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
    ("source", "message"),
    [
        (GOOD, r"shape \(1,\) for 1 rows; expected \(1, 3\), one logit for each and each of the targets "
         r"click, buy, minutes, in this order; a constructor with a parameter `targets` is given"),
        (GOOD.replace(".squeeze(1)", ""), r"\(1, 1\) for 1 rows; expected \(1, 3\).*parameter `targets`"),
        (WIDE.replace("len(targets)", "len(targets) + 1"), r"\(1, 4\) for 1 rows; expected \(1, 3\)"),
        (WIDE.replace("len(targets)", "1"), r"\(1, 1\) for 1 rows; expected \(1, 3\).*in this order$"),
        (WIDE.replace("(inputs.values()), 1))))", "(inputs.values()), 1)))).T"), r"shape \(3, 1\)"),
        (WIDE.replace("len(targets)", "targets['click']"), r"Net\(widths, targets\) raised TypeError"),
        (WIDE.replace("targets)", "targets, /)", 1), r"Net\(widths, targets\) raised TypeError"),
    ],
)  # fmt: skip
def test_module_with_other_columns_than_there_are_targets_is_refused(
    folder: Path, source: str, message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        Model(FEATURES, settings_of(folder, source), THREE)


def test_columns_need_no_names_and_one_target_may_have_one(folder: Path) -> None:
    fixed = GOOD.replace("nn.Linear(32, 1)", "nn.Linear(32, 3)").replace(".squeeze(1)", "")
    for source, targets in ((fixed, THREE), (WIDE, UNDECLARED)):
        learner = Learner(FEATURES, settings_of(folder, source), None, targets)
        learner.learn(xor_examples(64))
        assert learner.trainer.quarantined == 0
    names = WIDE.replace("super()", "type(self).told = targets; super()")
    model = Model(FEATURES, settings_of(folder, names), THREE)
    assert sys.modules[model.settings.deep.partition(":")[0]].Net.told == THREE.names


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
