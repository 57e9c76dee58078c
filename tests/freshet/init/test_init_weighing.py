"""What `freshet init` prefers where more than one answer fits: times, names of targets, rows of entities."""

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from freshet.init.answers import Answer, Question
from freshet.init.column import Column
from freshet.init.labels.further import find_further
from freshet.init.sample import read_sample
from freshet.init.times import ask_time
from freshet.init.topics.choose import TopicSketch, look_at_topic
from freshet.init.topics.meet import find_table
from freshet.init.topics.propose import propose
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.shown import requests_of

T_S = 1_767_225_600


def times_of(folder: Path, columns: Mapping[str, Sequence[object]]) -> Question:
    path = folder / "a.csv"
    rows: list[object] = [columns, *zip(*columns.values(), strict=True)]
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return ask_time(read_sample(path))


def sketch(topic: str, rows: list[object]) -> TopicSketch:
    """A topic of JSON records, each logged at once."""
    logged = [float(T_S + i) for i in range(len(rows))]
    why = {"format": "its records are JSON"}
    read = TopicRecords("sqlite:log.db", topic, "json", "none", "", rows, rows, logged, 0, 0, why, "", {})
    return look_at_topic(read)


def test_a_written_time_goes_before_a_number_that_may_be_one(tmp_path: Path) -> None:
    found = times_of(
        tmp_path,
        {
            "sent_ts": [T_S + i for i in range(40)],
            "seen_ts": [datetime.fromtimestamp(T_S + i, UTC).isoformat() for i in range(40)],
        },
    )
    assert found.answers[0].settings == {"time_unit": "iso"}


def test_ids_of_the_size_of_times_are_none_since_they_neither_rise_nor_lie_together(tmp_path: Path) -> None:
    rng = random.Random(2)
    ids = [rng.randrange(950_000_000, 4_000_000_000) for _ in range(60)]
    labels = [i % 2 for i in range(60)]
    assert times_of(tmp_path, {"account": ids, "label": labels}).answers[0].column is None
    found = times_of(tmp_path, {"account": sorted(ids), "label": labels}).answers[0]
    assert found.settings == {"time_unit": "s"}


def test_first_target_of_a_name_without_latin_letters_is_named_by_what_it_means() -> None:
    label = Column("\u70b9\u51fb", [0, 1] * 20)
    assert find_further([], Answer(label, {}, {"": ""}, 3.0), label.name).first == "click"


def test_topic_whose_records_say_what_was_done_is_surely_of_actions() -> None:
    rows: list[object] = [
        {"sku": f"p{i % 7}", "verb": ("click", "order")[i % 2], "ts": T_S + i} for i in range(40)
    ]
    found = sketch("web.stream", rows)
    assert (found.kind, found.sure) == ("action", True)
    assert found.why == "verb says what was done"


def shown_one_by_one() -> TopicSketch:
    """Impressions of one candidate each."""
    rows: list[object] = [
        {"query": f"q{i}", "sku": product(i % 20), "user": f"u{i % 9}", "ts": T_S + i, "clicked": i % 2}
        for i in range(60)
    ]
    return sketch("ranked", rows)


def products() -> TopicSketch:
    return sketch(
        "products", [{"nr": product(i), "brand": f"b{i % 5}", "changed_at": T_S} for i in range(30)]
    )


def product(i: int) -> int | str:
    """Old products have numbers, new ones names."""
    return i if i % 3 else f"p-{i}"


def test_topic_of_rows_is_met_by_impressions_of_one_candidate_each() -> None:
    proposal = propose([shown_one_by_one(), products()])
    assert [(feature.name, feature.of) for feature in proposal.features] == [
        ("sku", ""), ("user", ""), ("brand", "sku")
    ]  # fmt: skip


def test_ids_that_are_not_all_numbers_are_not_equal_by_chance() -> None:
    found = find_table(products(), [requests_of(shown_one_by_one())])
    assert found is not None and (found.of.path, found.id.path) == ("sku", "nr")
