"""The config is checked strictly, and what is wrong is named."""

from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.config import (
    Config,
    default_config,
    load_config,
    override_config,
    parse_config,
    resolve,
)
from freshet.errors import ConfigError
from learner.features.encoder import FeatureSpec
from stream.log.settings import KafkaSettings


def write(folder: Path, text: str) -> Path:
    file = folder / "freshet.toml"
    file.write_text(text)
    return file


def message(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text))
    assert str(folder / "freshet.toml") in str(caught.value)
    return str(caught.value)


def test_config_may_be_written_by_other_editors(tmp_path: Path) -> None:
    file = tmp_path / "freshet.toml"
    file.write_text('state = "here"\n', encoding="utf-8-sig")
    assert load_config(file).state.endswith("here")
    file.write_text('state = "here"\n', encoding="utf-16")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text .*; try `iconv -f utf-16 -t utf-8`"):
        load_config(file)


def test_empty_config_is_all_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    assert config.join == Config().join
    assert config.learner == Config().learner


def test_sections_reach_their_settings(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            "[join]\nwindow_s = 5\n[stream.runner]\nread_max = 7\n[features.user]\nttl_s = 60\n"
            "[memory]\ntau0 = [0.2]\n[learner]\ndeep = 'none'\n",
        )
    )
    assert config.join.window_s == 5.0
    assert config.stream.runner.read_max == 7
    assert config.features["user"].ttl_s == 60.0
    assert config.memory.tau0 == (0.2,)
    assert config.learner.deep == "none"


def test_paths_start_at_the_configs_folder(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'log = "sqlite:data/log.db"\nstate = "kept"'))
    assert config.log == f"sqlite:{tmp_path / 'data' / 'log.db'}"
    assert config.state_of("join") == tmp_path / "kept" / "join"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, f'log = "sqlite:///{str(tmp_path)[1:]}/elsewhere.db"'))
    assert config.log == f"sqlite:{tmp_path}/elsewhere.db"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[join]\nwindw_s = 3", "key join.windw_s is unknown; did you mean join.window_s?"),
        ("[jion]\nwindow_s = 3", "key jion is unknown; did you mean join?"),
        ("window_s = 3", "key window_s is unknown; did you mean join.window_s?"),
        (
            "[features.user]\nkinds = 'id'",
            "key features.user.kinds is unknown; did you mean features.user.kind?",
        ),
        ("[stream.runner]\nread_maxx = 3", "did you mean stream.runner.read_max?"),
        ("[memory]\nzzz = 3", "known in [memory]: kind,"),
    ],
)
def test_unknown_key_gets_suggestion(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[join]\nwindow_s = '3'", "key join.window_s: expected a number, got text"),
        ("[server]\nport = 'http'", "key server.port: expected an integer, got text"),
        ("[server]\nport = 8.5", "key server.port: expected an integer, got a number"),
        ("[learner]\ndeep = 'cnn'", "section [learner]: deep = 'cnn' is none of dcn,"),
        ("[features.user]\ndim = 'x'", "key features.user.dim: expected an integer, got text"),
        ("features = 3", "key features is an integer; expected tables, [features.NAME]"),
        ("join = 3", "key join is an integer; expected a table, [join]"),
        ("[join]\nwindow_s = nan", "key join.window_s: expected a finite number"),
        (
            "[join]\npartitions = 4\n[features.price]\nkind = 'number'",
            "shards examples, but by what? expected a feature of kind id",
        ),
    ],
)
def test_wrong_type_names_key_and_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("[join]\nwindow_s = -1", "[join]"),
        ("[memory]\ngenerations = 1", "[memory]"),
        ("[features.user]\ndim = 0", "[features.user]"),
        ("[stream]\npartitions = 0", "[stream]"),
        ("[server]\nport = 70000", "[server]"),
    ],
)
def test_value_out_of_range_names_section(tmp_path: Path, text: str, section: str) -> None:
    assert f"section {section}: " in message(tmp_path, text)


def test_broken_toml_names_line(tmp_path: Path) -> None:
    assert "line 2" in message(tmp_path, "a = [1,\nb = 2")


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such config file; .*freshet init"):
        load_config(tmp_path / "absent.toml")


def test_overrides_change_single_keys(tmp_path: Path) -> None:
    file = write(tmp_path, "[join]\nwindow_s = 5")
    config = load_config(file, ["join.window_s=9", "learner.deep=none", "features.item.kind=id"])
    assert (config.join.window_s, config.learner.deep, config.features["item"].kind) == (9.0, "none", "id")
    with pytest.raises(ConfigError, match=r"did you mean join\.window_s"):
        load_config(file, ["join.window=9"])
    with pytest.raises(ConfigError, match="expected section"):
        load_config(file, ["join.window_s"])


def test_override_of_a_loaded_config_keeps_the_rest() -> None:
    config = override_config(default_config("movietweetings"), ["learner.deep=none"])
    assert config.learner.deep == "none"
    assert config.features == default_config("movietweetings").features


def test_digest_follows_what_is_learnt_and_not_where_it_lies() -> None:
    config = parse_config({}, "test")
    assert config.digest() == parse_config({"log": "sqlite:other.db", "server": {"port": 1}}, "test").digest()
    assert config.digest() != parse_config({"learner": {"deep": "none"}}, "test").digest()


@pytest.mark.parametrize("data", ["movietweetings", "movielens", "simulator"])
def test_built_in_configs_declare_features(data: str) -> None:
    assert "user" in default_config(data).features


def test_unknown_built_in_config_names_those_known() -> None:
    with pytest.raises(ConfigError, match="movietweetings"):
        default_config("netflix")


toml_values = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def keys_of(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a settings class and of the sections in it."""
    found: list[tuple[str, ...]] = []
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        found.append(here)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found += keys_of(field.type, here)
    return found


KEYS = [*keys_of(Config), ("features", "f"), *((*("features", "f"), *key) for key in keys_of(FeatureSpec))]


@pytest.mark.slow
@settings(max_examples=many(200), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), toml_values), min_size=1, max_size=3))
def test_any_value_of_any_key_is_taken_or_refused_in_a_sentence(
    entries: list[tuple[tuple[str, ...], object]],
) -> None:
    table: dict[str, object] = {}
    for path, value in entries:
        inner = table
        for name in path[:-1]:
            deeper = inner.get(name)
            if not isinstance(deeper, dict):
                deeper = inner[name] = {}
            inner = deeper
        inner[path[-1]] = value
    try:
        config = resolve(parse_config(table, "c"), Path("/folder"))
    except ConfigError as error:
        assert str(error).startswith("c: ")
    else:
        assert config.digest()


UNBOUNDED = {"join.seed", "memory.seed", "server.explore_seed", "data.positive_from"}
"""Numbers of which any will do."""


def far(path: tuple[str, ...], value: object) -> str:
    """The message for a config with one value; "" if it is taken."""
    table: dict[str, object] = {"features": {"item": {}}}
    inner = table
    for name in path[:-1]:
        inner = inner.setdefault(name, {})  # type: ignore[assignment]
    inner[path[-1]] = value
    try:
        parse_config(table, "c")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in keys_of(Config)
        if far(path, "text").endswith(("an integer, got text", "a number, got text"))
        and ".".join(path) not in UNBOUNDED
    ],
    ids=".".join,
)
def test_every_number_is_bounded(path: tuple[str, ...]) -> None:
    """What has no upper bound is only compared with others; the rest waits, divides, allocates or is sent."""
    assert far(path, -(1 << 62)) and far(path, 10**30)
    if path[0] == "stream" or (path[0] == "learner" and path[-1] != "seed"):
        assert far(path, (1 << 63) - 1)


@pytest.mark.parametrize(
    "text",
    [
        "[stream.log]\nrecord_bytes_max = 1000",
        "[stream.log.retain_s]\nevents = -1",
        "[stream.log.retain_bytes]\nevents = -1",
        "[stream.runner]\nread_max = 0",
        "[learner]\nspeed_tau = [1, -1, 1]",
        "[learner]\ndead_letter_window = 9223372036854775807",
        "[server]\nconnections_max = 9223372036854775807",
    ],
)
def test_what_would_lose_records_or_end_a_role_is_refused_at_once(tmp_path: Path, text: str) -> None:
    assert "section [" in message(tmp_path, text)


@pytest.mark.parametrize("override", ['server.show="\udcff"', "features.\udcff.kind=id", "log=\ud800"])
def test_override_that_is_no_utf8_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        parse_config({}, "c", [override])


def test_every_path_starts_at_the_folder_of_the_file(tmp_path: Path) -> None:
    names = [name for name in KafkaSettings.__struct_fields__ if name.endswith("_file")]
    wanted = "\n".join(f'{name} = "secrets/{name}"' for name in names if name != "token_file")
    tokens = 'mechanism = "OAUTHBEARER"\ntoken_file = "secrets/token_file"\n'
    file = tmp_path / "freshet.toml"
    file.write_text(
        f'state = "s"\nlog = "sqlite:l.db"\n[server]\ntokens = "t"\n[group]\nsnapshots = "n"\n'
        f"[stream.log.kafka]\n{tokens}{wanted}\n"
    )
    config = load_config(file)
    assert config.log == f"sqlite:{tmp_path / 'l.db'}"
    assert (config.state, config.server.tokens, config.group.snapshots) == tuple(
        str(tmp_path / name) for name in "stn"
    )
    kafka = config.stream.log.kafka
    assert {name: getattr(kafka, name) for name in names} == {
        name: str(tmp_path / "secrets" / name) for name in names
    }
