"""The HTTP routes over a real socket and a real log, with a scorer whose answers are known."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
import msgspec
import pytest
from known_scorer import EVENT, Known

from learner.features.encoder import FeatureSpec
from serving.app.app import App
from serving.app.server import run_app
from serving.errors import ListenError
from serving.settings import ServerSettings
from stream.errors import LogError
from stream.log.base import EVENTS, Log, Outgoing
from stream.records.decoding import split_batch
from stream.records.types import Action, Exposure, Impression, encode

ACTION = {"type": "action", "request_id": "r", "time": 1e9, "candidate": 0}


@pytest.fixture
def scorer() -> Known:
    return Known()


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(port=0, read_timeout_s=60.0, stop_s=1.0)


@pytest.fixture
def client(running, log: Log, scorer: Known, settings: ServerSettings) -> Iterator[httpx.Client]:
    def serve(stop: threading.Event, on_listening) -> None:
        run_app(App(scorer, log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as opened:
        yield opened


def events(log: Log) -> list:
    records = [record for p in range(log.partitions(EVENTS)) for record in log.read(EVENTS, p, 0)]
    return [EVENT.decode(part) for record in records for part in split_batch(record.value)]


def test_score_answers_and_logs_what_was_served(client: httpx.Client, log: Log) -> None:
    body = {
        "request_id": "r1",
        "time": 1e9,
        "context": {"user": "ann"},
        "candidates": [{"p": 0.2}, {"p": 0.8}, {"p": 0.4}],
    }
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 200
    got = answer.json()
    assert got["request_id"] == got["prediction_id"] == "r1"
    assert got["base"] == [0.2, 0.8, 0.4]
    assert got["corrected"] == [0.1, 0.4, 0.2]
    assert got["order"] == [1, 2, 0]
    assert (got["model_version"], got["freshness_s"], got["logged"]) == ("1-2", 0.25, True)
    (impression,) = events(log)  # it is there before the answer is
    assert isinstance(impression, Impression) and impression.served is not None
    assert (impression.request_id, impression.time, impression.context) == ("r1", 1e9, {"user": "ann"})
    assert (impression.served.base, impression.served.model) == ([0.2, 0.8, 0.4], "1-2")


def test_order_that_was_drawn_is_logged_with_its_propensities(
    client: httpx.Client, log: Log, scorer: Known
) -> None:
    body = {"candidates": [{"p": 0.2}, {"p": 0.8}, {"p": 0.4}], "explore": "thompson"}
    got = [client.post("/v1/score", json={**body, "request_id": name}).json() for name in ("a", "a", "b")]
    assert (got[0]["order"], got[0]["explore"], got[0]["propensity"]) == ([0, 2, 1], "thompson", [0.25] * 3)
    assert all(draws == 127 for _, draws in scorer.explored)
    assert scorer.explored[0] == scorer.explored[1] != scorer.explored[2]  # the id decides what is drawn
    greedy = client.post("/v1/score", json={**body, "request_id": "c", "explore": "greedy"}).json()
    assert (greedy["order"], greedy["explore"], greedy["propensity"]) == ([1, 2, 0], "greedy", None)
    assert client.post("/v1/score", json={**body, "explore": "at random"}).status_code == 400
    logged = {e.request_id: e for e in events(log)}
    assert (logged["a"].place, logged["a"].propensity) == ([0, 2, 1], [0.25] * 3)
    assert (logged["c"].place, logged["c"].propensity) == (None, None)


def test_score_logs_how_much_of_the_order_is_shown(client: httpx.Client, log: Log) -> None:
    body = {"candidates": [{"p": 0.2}, {"p": 0.8}, {"p": 0.4}]}
    for name, show in (("two", 2), ("all", 9), ("none said", None), ("all again", 0)):
        got = client.post("/v1/score", json={**body, "request_id": name, "show": show}).json()
        assert got.get("shown") == {"two": [1, 2], "all": [1, 2, 0]}.get(name)
    drawn = {**body, "request_id": "d", "show": 1, "explore": "thompson"}
    assert client.post("/v1/score", json=drawn).json()["shown"] == [0]
    logged = {e.request_id: e for e in events(log)}
    assert (logged["two"].shown, len(logged["two"].candidates)) == ([1, 2], 3)  # the log keeps all three
    assert logged["all"].shown == [1, 2, 0]
    assert logged["none said"].shown is None and logged["all again"].shown is None
    assert (logged["d"].shown, logged["d"].place) == ([0], [0, 2, 1])
    for wrong in (-1, 2001, 1.5, "3", True):
        assert client.post("/v1/score", json={**body, "show": wrong}).status_code == 400


@pytest.mark.parametrize("settings", [ServerSettings(port=0, read_timeout_s=60.0, stop_s=1.0, show=1)])
def test_show_of_the_config_is_for_requests_that_do_not_say(client: httpx.Client, log: Log) -> None:
    body = {"candidates": [{"p": 0.2}, {"p": 0.8}, {"x": None}]}
    for show in (None, 2, 0):
        client.post("/v1/score", json={**body, "request_id": f"show {show}", "show": show})
    logged = {e.request_id: e.shown for e in events(log)}
    assert logged == {"show None": [1], "show 2": [1, 2], "show 0": None}


def test_feedback_says_what_was_shown_before_what_was_clicked(client: httpx.Client, log: Log) -> None:
    said = {"request_id": "r1", "time": 1e9, "candidate": 2, "shown": [2, 0], "examined": 1}
    assert client.post("/v1/feedback", json=said).status_code == 202
    assert (
        client.post("/v1/feedback", json={"request_id": "r2", "time": 1e9, "examined": 3}).status_code == 202
    )
    found = events(log)
    mine = [e for e in found if e.request_id == "r1"]
    assert mine == [Exposure("r1", 1e9, [2, 0], 1), Action("r1", 1e9, 2)]
    assert [e for e in found if e.request_id == "r2"] == [Exposure("r2", 1e9, None, 3)]
    for wrong, why in (
        ({}, "neither candidate nor shown nor examined"),
        ({"shown": [0, 0]}, "candidate 0 twice"),
        ({"shown": [2000]}, "candidate 2000"),
        ({"examined": -1}, "examined is -1"),
    ):
        answer = client.post("/v1/feedback", json={"request_id": "r3", **wrong})
        assert answer.status_code == 400 and why in answer.json()["error"]


def test_explain_takes_what_score_takes_and_logs_nothing(client: httpx.Client, log: Log) -> None:
    body = {"request_id": "r1", "context": {"user": "ann"}, "candidates": [{"p": 0.2}, {"p": 0.8}]}
    got = client.post("/v1/explain", json=body).json()
    assert (got["request_id"], got["model_version"], got["order"], got["gate"]) == ("r1", "1-2", [1, 0], 0.5)
    assert [c["corrected"] for c in got["candidates"]] == [0.1, 0.4]
    assert got["candidates"][0]["unknown"] == [{"feature": "p", "values": [7]}]
    assert client.post("/v1/explain", json={"candidates": []}).status_code == 400
    assert events(log) == []


def test_score_says_what_is_unknown_only_where_it_is_asked(client: httpx.Client, scorer: Known) -> None:
    body = {"candidates": [{"p": 0.2}, {"q": 1}]}
    assert "unknown" not in client.post("/v1/score", json=body).json()
    said = client.post("/v1/score", json={**body, "unknown": True}).json()["unknown"]
    assert said["missing"] == {"p": {"candidates": [1], "more": 0}} and said["undeclared"] == ["q"]
    metrics = client.get("/metrics").text
    assert 'freshet_scored_unknown_ids_total{feature="p"} 25.0' in metrics
    assert 'freshet_scored_missing_total{feature="p"} 5.0' in metrics


def test_event_of_another_type_of_id_than_declared_is_rejected(
    client: httpx.Client, log: Log, scorer: Known
) -> None:
    scorer.features["item"] = FeatureSpec(type="int")
    shown = [
        {"type": "impression", "request_id": f"r{i}", "time": 1e9, "candidates": [{"item": item}]}
        for i, item in enumerate([3, "3", "x"])
    ]
    answer = client.post("/v1/events", json=shown)
    assert answer.status_code == 207 and [event.request_id for event in events(log)] == ["r0", "r1"]
    assert "feature item (kind id) has the value 'x'" in answer.json()["records"][2]["error"]


def test_score_without_id_and_time_gets_both(client: httpx.Client, log: Log) -> None:
    ids = [client.post("/v1/score", json={"candidates": [{}]}).json()["request_id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert {e.request_id for e in events(log)} == set(ids)
    assert all(abs(e.time - time.time()) < 30 for e in events(log))


def test_score_with_log_false_leaves_no_record(client: httpx.Client, log: Log) -> None:
    answer = client.post("/v1/score", json={"candidates": [{}], "log": False}).json()
    assert not answer["logged"] and events(log) == []


def test_feedback_meets_its_impression_in_one_partition(client: httpx.Client, log: Log) -> None:
    for i in range(8):
        client.post("/v1/score", json={"request_id": f"r{i}", "candidates": [{}]})
        answer = client.post("/v1/feedback", json={"request_id": f"r{i}", "candidate": 0})
        assert answer.status_code == 202
        place = answer.json()
        kinds = [
            type(event).__name__
            for record in log.read(EVENTS, place["partition"], 0)
            if (event := EVENT.decode(record.value)).request_id == f"r{i}"
        ]
        assert kinds == ["Impression", "Action"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"candidates": []}, "candidates has 0 entries; expected 1 to 2000"),
        ({}, "missing required field `candidates`"),
        ({"candidates": 3}, "Expected `array`, got `int` - at `$.candidates`"),
        ({"candidates": [{}], "contxt": {}}, "unknown field `contxt`"),
        ({"candidates": [{"p": {"deep": 1}}]}, "candidates[0].p is an object; expected an id"),
        ({"candidates": [{"p": 2**63}]}, "64 bits"),
        ({"candidates": [{"p": [0.5]}]}, "candidates[0].p is a list that holds 0.5 of type float"),
        ({"candidates": [{}], "time": 1.7e12}, "milliseconds? divide by 1000"),
        ({"candidates": [{}], "time": "now"}, "got `str` - at `$.time`"),
        ({"candidates": [{}], "request_id": ""}, "1 to 128 characters"),
        ({"candidates": [{"p": "x" * 2000}]}, "2000 characters"),
    ],
)
def test_score_with_bad_body_is_400_with_a_sentence(
    client: httpx.Client, log: Log, body: dict[str, object], says: str
) -> None:
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error", "request_id"] and says in answer.json()["error"]
    assert events(log) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1,2]",
        b'{"candidates":[{"p":NaN}]}',
        b'{"candidates":[{"p":Infinity}]}',
        b'{"candidates":[{"p":1e999}]}',
        b"[" * 100_000,
        b'{"candidates":[{"p":' + b"[" * 100_000,
        b'{"candidates":[{}]} trailing',
    ],
)
def test_score_with_malformed_json_is_400(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/v1/score", content=content)
    assert answer.status_code == 400 and answer.json()["error"]
    assert client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"request_id": "r", "candidate": -1}, "candidate is -1"),
        ({"request_id": "r", "candidate": 0, "label": 0.5}, "expected 0 or 1"),
        ({"request_id": "r", "candidate": 0, "when": 1}, "unknown field `when`"),
        ({"candidate": 0}, "`request_id`"),
    ],
)
def test_feedback_with_bad_body_is_400(client: httpx.Client, body: dict[str, object], says: str) -> None:
    answer = client.post("/v1/feedback", json=body)
    assert answer.status_code == 400 and says in answer.json()["error"]


@pytest.mark.parametrize("announced", [True, False])
def test_body_over_the_limit_is_413_and_the_server_goes_on(client: httpx.Client, announced: bool) -> None:
    pieces = [b"x" * 65_536] * 40  # 2.6 MB
    content = b"".join(pieces) if announced else iter(pieces)
    answer = client.post("/v1/score", content=content)
    assert answer.status_code == 413
    assert "1,048,576 bytes (body_bytes_max)" in answer.json()["error"]
    assert client.post("/v1/score", json={"candidates": [{}]}).status_code == 200


@pytest.mark.parametrize("settings", [ServerSettings(port=0, read_timeout_s=1.0, stop_s=1.0)])
def test_body_that_never_comes_is_408(client: httpx.Client) -> None:
    url = client.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as raw:
        raw.sendall(b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        assert raw.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_unknown_path_and_wrong_method_say_what_there_is(client: httpx.Client) -> None:
    missing = client.get("/v1/nothing")
    assert missing.status_code == 404 and "POST /v1/score" in missing.json()["error"]
    wrong = client.get("/v1/score")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"


def lines(*records: object) -> bytes:
    return b"\n".join(json.dumps(r).encode() for r in records)


def test_events_take_one_record_an_array_or_lines(client: httpx.Client, log: Log) -> None:
    pretty = json.dumps(ACTION, indent=2).encode()
    packed = encode(Action(request_id="r", time=1e9, candidate=0))
    for content, count in (
        (lines(ACTION), 1),
        (pretty, 1),
        (packed, 1),
        (json.dumps([ACTION, ACTION]).encode(), 2),
        (lines(ACTION, ACTION, ACTION) + b"\r\n\n", 3),
    ):
        answer = client.post("/v1/events", content=content)
        assert answer.status_code == 202 and answer.json()["accepted"] == count
    assert len(events(log)) == 8


def test_events_give_a_verdict_for_each_record(client: httpx.Client, log: Log) -> None:
    bad = {**ACTION, "time": -1}
    answer = client.post("/v1/events", content=lines(ACTION, bad) + b"\n{oops\n" + lines(ACTION))
    assert answer.status_code == 207
    got = answer.json()
    assert (got["accepted"], got["rejected"]) == (2, 2)
    assert ["error" in verdict for verdict in got["records"]] == [False, True, True, False]
    assert "Unix seconds" in got["records"][1]["error"]
    taken = [(v["partition"], v["offset"]) for v in got["records"] if "offset" in v]
    assert taken[0] == taken[1], "both are in one message"
    assert len(events(log)) == 2


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"[{]", b"nonsense", b'{"type":"example"}'])
def test_events_without_a_good_record_are_400(client: httpx.Client, log: Log, content: bytes) -> None:
    answer = client.post("/v1/events", content=content)
    assert answer.status_code == 400 and answer.json()["error"]
    assert events(log) == []


def test_unready_server_says_why(client: httpx.Client, scorer: Known) -> None:
    assert client.get("/v2/health/ready").json() == {"ready": True}
    scorer.why_not = "the model is still loading"
    answer = client.get("/v2/health/ready")
    assert answer.status_code == 503 and answer.json()["error"] == scorer.why_not
    assert client.get("/v2/health/live").status_code == 200


def test_model_tells_version_and_record(client: httpx.Client) -> None:
    got = client.get("/v1/model").json()
    assert got["version"] == "1-2" and got["memory"]["evidence"] == 5
    assert got["base"]["overall"]["auc"] is None


def test_metrics_count_requests_by_path_and_status(client: httpx.Client) -> None:
    client.post("/v1/score", json={"candidates": [{}, {}]})
    client.post("/v1/score", json={})
    client.get("/nowhere")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert 'freshet_requests_total{path="/v1/score",status="200"} 1.0' in text
    assert 'freshet_requests_total{path="/v1/score",status="400"} 1.0' in text
    assert 'freshet_requests_total{path="other",status="404"} 1.0' in text
    assert "freshet_candidates_total 2.0" in text
    assert "freshet_log_records_total 1.0" in text
    assert 'freshet_table_rows{table="p"} 7.0' in text
    assert "freshet_freshness_seconds 0.25" in text


@pytest.mark.slow
def test_concurrent_writes_share_appends(client: httpx.Client, log: Log) -> None:
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"request_id": f"r{i}", "candidates": [{}]} for i in range(200)]
        codes = list(pool.map(lambda b: client.post("/v1/score", json=b).status_code, bodies))
    assert codes == [200] * 200
    assert {e.request_id for e in events(log)} == {b["request_id"] for b in bodies}
    metrics = client.get("/metrics").text
    batches = next(line for line in metrics.splitlines() if line.startswith("freshet_log_batches_total"))
    assert float(batches.split()[1]) <= 200
    messages = sum(end for _, end in log.ends(EVENTS))
    assert float(batches.split()[1]) <= messages <= 200


class Stubborn:
    """A log whose appends wait, or fail, as told; the rest is the real one's."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.go = threading.Event()
        self.go.set()
        self.error: LogError | None = None

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.go.wait()
        if self.error is not None:
            raise self.error
        return self.log.append(topic, records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class TestWithStubbornLog:
    @pytest.fixture
    def log_wait_s(self) -> float:
        return 60.0

    @pytest.fixture
    def settings(self, log_wait_s: float) -> ServerSettings:
        return ServerSettings(port=0, concurrency_max=2, log_wait_s=log_wait_s, log_queue_max=4, stop_s=1.0)

    @pytest.fixture
    def stubborn(self, log: Log) -> Stubborn:
        return Stubborn(log)

    @pytest.fixture
    def client(self, running, stubborn: Stubborn, scorer: Known, settings: ServerSettings):
        def serve(stop: threading.Event, on_listening) -> None:
            run_app(App(scorer, stubborn, settings), settings, stop.is_set, on_listening)  # type: ignore[arg-type]

        with running(serve) as url, httpx.Client(base_url=url, timeout=120.0) as opened:
            yield opened
            stubborn.go.set()

    def test_log_that_fails_leaves_scores_but_not_feedback(
        self, client: httpx.Client, stubborn: Stubborn
    ) -> None:
        stubborn.error = LogError("log x: disk full; free some space")
        answer = client.post("/v1/score", json={"candidates": [{"p": 0.5}]})
        assert answer.status_code == 200 and answer.json()["logged"] is False
        refused = client.post("/v1/feedback", json={"request_id": "r", "candidate": 0})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert "free some space" in refused.json()["error"]
        assert "freshet_impressions_unlogged_total 1.0" in client.get("/metrics").text

    @pytest.mark.parametrize("log_wait_s", [0.3])
    def test_log_that_hangs_is_503(self, client: httpx.Client, stubborn: Stubborn) -> None:
        stubborn.go.clear()
        answer = client.post("/v1/feedback", json={"request_id": "r", "candidate": 0})
        assert answer.status_code == 503 and "log_wait_s" in answer.json()["error"]

    def test_requests_over_the_limit_are_503(self, client: httpx.Client, stubborn: Stubborn) -> None:
        refused, taken = self.post_until_refused(
            client, stubborn, 5, 3, "/v1/feedback", json={"request_id": "r", "candidate": 0}
        )
        assert all(a.status_code == 503 and "concurrency_max" in a.json()["error"] for a in refused)
        assert [a.status_code for a in taken] == [202, 202]

    def test_full_queue_is_503(self, client: httpx.Client, stubborn: Stubborn) -> None:
        three = lines(ACTION, ACTION, ACTION)
        refused, taken = self.post_until_refused(client, stubborn, 2, 1, "/v1/events", content=three)
        assert refused[0].status_code == 503 and "3 records are on their way" in refused[0].json()["error"]
        assert [a.status_code for a in taken] == [202]

    @staticmethod
    def post_until_refused(
        client: httpx.Client, stubborn: Stubborn, posts: int, refusals: int, path: str, **body: Any
    ) -> tuple[list[httpx.Response], list[httpx.Response]]:
        """Post at once while the log hangs, and let it go on after so many answers; these, and the others."""
        stubborn.go.clear()
        with ThreadPoolExecutor(posts) as pool:
            answers = as_completed([pool.submit(client.post, path, **body) for _ in range(posts)])
            refused = [next(answers).result() for _ in range(refusals)]
            stubborn.go.set()
            return refused, [answer.result() for answer in answers]


def test_taken_port_is_a_listen_error(running, log: Log, scorer: Known) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = ServerSettings(port=other.getsockname()[1])
        with pytest.raises(ListenError, match="choose another host or port"):
            run_app(App(scorer, log, settings), settings, lambda: True, lambda url: None)


def test_settings_refuse_what_makes_no_sense() -> None:
    for bad in ({"port": 70_000}, {"candidates_max": 0}, {"window": 0}, {"stop_s": 0.0}, {"hots": "x"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, ServerSettings)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ({"by": "click * margin"}, "'margin' is neither a target nor a feature"),
        ({"by": "__import__('os')"}, "expected"),
        ({"by": "(" * 10_000 + "click" + ")" * 10_000}, "at most 1,000"),
        ({"by": "click", "of": 1}, "unknown field"),
        ("click", "Expected"),
    ],
)
def test_rank_that_is_no_arithmetic_is_refused_in_a_sentence(
    client: httpx.Client, rank: object, message: str
) -> None:
    answer = client.post("/v1/score", json={"candidates": [{"p": 0.2}], "rank": rank})
    assert answer.status_code == 400 and message in answer.json()["error"]
    good = {"candidates": [{"p": 0.2}], "rank": {"by": "click / p"}, "log": False}
    assert client.post("/v1/score", json=good).status_code == 200
