"""A Kafka cluster's patience: a broker that has just started on a busy machine is not away."""

import msgspec

from stream.log.settings import LOG_DEFAULTS, KafkaSettings, LogSettings

PATIENT = KafkaSettings(away_after_s=60.0)


def patient(settings: LogSettings = LOG_DEFAULTS) -> LogSettings:
    """These settings, with a minute for each call of a Kafka cluster."""
    kafka = msgspec.structs.replace(settings.kafka, away_after_s=PATIENT.away_after_s)
    return msgspec.structs.replace(settings, kafka=kafka)
