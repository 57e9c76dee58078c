"""TLS and SASL settings of the Kafka client; secrets come from files and the environment."""

import base64
import os
import ssl
from pathlib import Path
from typing import Any

import msgspec

from ground import UNDECODABLE
from stream.errors import LogError
from stream.log.settings import KafkaSettings

PASSWORD_VARIABLE = "FRESHET_KAFKA_PASSWORD"
KEY_PASSWORD_VARIABLE = "FRESHET_KAFKA_KEY_PASSWORD"
PROTOCOLS = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}

Options = dict[str, Any]  # as the library has it: texts, numbers, and the functions that it calls


def login_options(settings: KafkaSettings) -> Options:
    """librdkafka's settings of TLS and SASL.

    Raises:
        LogError: a file is missing or damaged, or there is no password.
    """
    options: Options = {"security.protocol": PROTOCOLS[settings.security]}
    if settings.security in ("tls", "sasl_tls"):
        tls_context(settings)  # its error messages about the files are clearer than the library's
        if settings.ca_file:
            options["ssl.ca.location"] = settings.ca_file
        if settings.cert_file:
            options["ssl.certificate.location"] = settings.cert_file
            options["ssl.key.location"] = settings.key_file or settings.cert_file
            options["ssl.key.password"] = os.environ.get(KEY_PASSWORD_VARIABLE, "")
        options["ssl.endpoint.identification.algorithm"] = "https" if settings.check_hostname else "none"
    if settings.security in ("sasl_plaintext", "sasl_tls"):
        options["sasl.mechanism"] = settings.mechanism
        if settings.token_file:
            read_token(settings.token_file)  # a missing file is an error now, not a time-out later
            options["oauth_cb"] = lambda _: read_token(settings.token_file)
            return options
        if not settings.user:
            raise LogError(f'security = "{settings.security}" needs a user: set stream.log.kafka.user')
        if settings.token_url:
            options["sasl.oauthbearer.method"] = "oidc"
            options["sasl.oauthbearer.token.endpoint.url"] = settings.token_url
            options["sasl.oauthbearer.client.id"] = settings.user
            options["sasl.oauthbearer.client.secret"] = _password(settings)
            if settings.token_scope:
                options["sasl.oauthbearer.scope"] = settings.token_scope
            if settings.ca_file and settings.token_url.startswith("https"):
                options["https.ca.location"] = settings.ca_file
        else:
            options["sasl.username"] = settings.user
            options["sasl.password"] = _password(settings)
    return options


def read_token(file: str) -> tuple[str, float]:
    """The JWT in a file, and when it expires, in Unix seconds.

    Raises:
        LogError: there is none, or it has no time of expiry (claim `exp`, RFC 7519).
    """
    try:
        token = Path(file).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"token_file {file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        claims = token.split(".")[1]
        expires_s = msgspec.json.decode(
            base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)), type=_Claims
        ).exp
    except (IndexError, ValueError, *UNDECODABLE) as error:
        raise LogError(f"token_file {file} holds no JWT with a time of expiry (exp): {error}") from None
    return token, expires_s


class _Claims(msgspec.Struct):
    """What is read of a token; whether it is genuine is for the brokers to say."""

    exp: float


def tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Python's own reading of the certificates and the key.

    Raises:
        LogError: they cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        context.check_hostname = settings.check_hostname
        if settings.cert_file:
            password = os.environ.get(KEY_PASSWORD_VARIABLE)
            context.load_cert_chain(settings.cert_file, settings.key_file or None, password)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(f for f in (settings.ca_file, settings.cert_file, settings.key_file) if f)
        raise LogError(f"the certificates or the key cannot be read ({files}): {error}") from None
    return context


def who(settings: KafkaSettings) -> str:
    """What to check when a cluster refuses access."""
    if not settings.security.startswith("sasl"):
        return "check the cluster's access rules"
    if settings.token_file:
        return f"check the token in {settings.token_file} (stream.log.kafka.token_file) and the access rules"
    if settings.token_url:
        return (
            f"client {settings.user!r} gets its token at {settings.token_url}: check both, the client secret "
            f"(stream.log.kafka.password_file or {PASSWORD_VARIABLE}) and the cluster's access rules"
        )
    return (
        f"user {settings.user!r}, mechanism {settings.mechanism}: check them, the password "
        f"(stream.log.kafka.password_file or {PASSWORD_VARIABLE}) and the cluster's access rules"
    )


def _password(settings: KafkaSettings) -> str:
    if settings.password_file:
        try:
            return Path(settings.password_file).read_text(encoding="utf-8-sig").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise LogError(f"password_file {settings.password_file}: {why}") from None
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        raise LogError(
            f"there is no password for user {settings.user!r}: set stream.log.kafka.password_file, or the "
            f"environment variable {PASSWORD_VARIABLE}"
        )
    return password
