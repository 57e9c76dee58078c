"""What the live page shows, as /v1/live and /v1/live/history answer it: numbers, roles, tables, alerts."""

import msgspec

from serving.watch.alerts import Alert
from serving.watch.history import Span


class Now(msgspec.Struct):
    """The numbers of one moment; None: not known (yet). `docs/operations.md` explains each.

    `frozen`: the base model of a server that no longer follows updates, if one runs on this log.
    """

    events_per_s: float | None = None
    impressions: float | None = None  # accepted by the joiners since their states were created
    impressions_per_s: float | None = None
    examples_per_s: float | None = None
    requests_per_s: float | None = None
    score_p99_s: float | None = None  # over the last five minutes
    joiner_lag_records: float | None = None
    joiner_lag_s: float | None = None
    learner_lag_records: float | None = None
    learner_lag_s: float | None = None
    server_lag_records: float | None = None
    server_lag_s: float | None = None
    undecided: float | None = None  # requests that wait for their window
    joined_share: float | None = None  # of the actions, how many met their impression
    freshness_s: float | None = None
    base_freshness_s: float | None = None
    auc_frozen: float | None = None
    auc_base: float | None = None
    auc_corrected: float | None = None
    logloss_frozen: float | None = None
    logloss_base: float | None = None
    logloss_corrected: float | None = None
    calibration_base: float | None = None
    calibration_corrected: float | None = None
    mae_base: float | None = None  # mean absolute error, of a first target that is a value
    mae_corrected: float | None = None
    click_rate: float | None = None  # of recent examples; of a value, the mean of their labels
    mean_prediction: float | None = None  # corrected, of the same examples
    scored_examples: float | None = None  # number of examples behind the quality metrics
    gate: float | None = None  # share of the correction that is applied
    evidence: float | None = None  # examples in the error memory
    shown_coverage: float | None = None  # items shown lately, over those with a row in the model
    shown_gini: float | None = None  # of how often each of them was shown
    shown_young: float | None = None  # share that was first shown less than a day before
    table_rows: float | None = None
    dead_letters: float | None = None  # in the log
    dead_letters_per_s: float | None = None


class Role(msgspec.Struct):
    """A process that sends beats."""

    role: str  # joiner, learner, server
    name: str
    state: str  # running, frozen, standing by, silent
    heard_s: float  # seconds since its last sign of life


class TableRow(msgspec.Struct):
    """One embedding table. The rates are those of the learner that leads, or of all shards together.

    None: none reports.
    """

    feature: str
    rows: int
    admitted_per_s: float | None = None
    refused_per_s: float | None = None  # occurrences that created no row: admission, or the row budget
    expired_per_s: float | None = None
    evicted_per_s: float | None = None
    unknown_share: float | None = None  # of the ids scored in five minutes, the share without a row
    missing_share: float | None = None  # of the candidates, the share without a value


class TargetRow(msgspec.Struct):
    """The recent metrics of one target after the first, of corrected predictions; None: not known (yet)."""

    target: str
    value: bool  # its labels are numbers, else it happens or not
    examples: float | None = None  # candidates that it is learned of, as many as the window holds
    mean: float | None = None  # of the labels
    auc: float | None = None
    logloss: float | None = None
    mae: float | None = None  # of a value: mean absolute error
    calibration: float | None = None  # sum of predictions / sum of labels


class ModelRow(msgspec.Struct):
    """One of several models of a server; its recent metrics are of corrected predictions, over all requests.

    None: not known (yet).
    """

    model: str
    share: float | None = None  # of the entities that it answers
    answered_per_s: float | None = None
    ready: float | None = None  # 1 or 0
    auc: float | None = None
    logloss: float | None = None
    calibration: float | None = None
    freshness_s: float | None = None
    # Compared with the model of the largest share, whose own fields are unknown; intervals hold at any time.
    compared: float | None = None  # requests that both predicted
    difference: float | None = None  # of log loss, nats a candidate
    difference_low: float | None = None
    difference_high: float | None = None
    clicks: float | None = None  # difference of clicks a request, of what each answered
    clicks_low: float | None = None
    clicks_high: float | None = None


class Live(msgspec.Struct, omit_defaults=True):
    """Everything that the page shows at one moment."""

    step: int  # rises by one with each point
    time: float  # Unix seconds
    life: str  # random id of the collecting process: steps of different processes are not comparable
    version: str  # of the model
    ready: bool
    why_not_ready: str
    frozen: bool
    log_up: bool
    roles: list[Role]
    now: Now
    tables: list[TableRow]
    alerts: list[Alert]
    newest: Span
    targets: list[TargetRow] = []  # the further ones, where there are several
    models: list[ModelRow] = []  # where a server has several


class LiveHistory(msgspec.Struct):
    """The numbers over time, as far back as this process has them."""

    step: int  # of the newest fine point
    life: str
    fine: Span
    coarse: Span
