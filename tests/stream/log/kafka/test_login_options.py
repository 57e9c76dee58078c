"""What the library is told of a log-in, without a broker: whom it says it is, and when its token ends."""

import base64
import json
from pathlib import Path

import pytest

from stream.errors import LogError
from stream.log.kafka.login import PASSWORD_VARIABLE, login_options, read_token
from stream.log.settings import KafkaSettings


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")


def token(folder: Path, claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    (folder / "token").write_text(f" head.{body}.signature\n")
    return str(folder / "token")


def test_a_client_id_asks_for_its_tokens_as_it_is_called() -> None:
    settings = KafkaSettings(
        security="sasl_plaintext", mechanism="OAUTHBEARER", user="shop", token_url="https://tokens/",
        token_scope="kafka",
    )  # fmt: skip
    assert login_options(settings) == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://tokens/",
        "sasl.oauthbearer.client.id": "shop",
        "sasl.oauthbearer.client.secret": "secret",
        "sasl.oauthbearer.scope": "kafka",
    }


def test_files_of_secrets_may_begin_as_other_editors_write_them(tmp_path: Path) -> None:
    file = tmp_path / "password"
    settings = KafkaSettings(security="sasl_plaintext", user="ann", password_file=str(file))
    file.write_text("s3cret\n", encoding="utf-8-sig")
    assert login_options(settings)["sasl.password"] == "s3cret"
    file.write_text("s3cret\n", encoding="utf-16")
    with pytest.raises(LogError, match=r"password_file .*password: .*utf-8"):
        login_options(settings)


def test_a_password_is_sent_with_its_user_and_never_without_one() -> None:
    assert login_options(KafkaSettings(security="sasl_plaintext", user="ann")) == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ann",
        "sasl.password": "secret",
    }
    with pytest.raises(LogError, match=r"needs a user: set stream\.log\.kafka\.user"):
        login_options(KafkaSettings(security="sasl_plaintext"))
    assert login_options(KafkaSettings()) == {"security.protocol": "PLAINTEXT"}


def test_a_token_file_is_read_again_whenever_the_library_asks(tmp_path: Path) -> None:
    file = token(tmp_path, {"exp": 1_800_000_000, "sub": "ann"})
    settings = KafkaSettings(security="sasl_plaintext", mechanism="OAUTHBEARER", token_file=file)
    ask = login_options(settings)["oauth_cb"]
    text = (tmp_path / "token").read_text().strip()
    assert ask("") == read_token(file) == (text, 1_800_000_000.0)
    token(tmp_path, {"exp": 1_900_000_000.5})
    assert ask("")[1] == 1_900_000_000.5


@pytest.mark.parametrize("claims", [{}, {"exp": "soon"}, [1]])
def test_a_token_without_an_end_is_refused(tmp_path: Path, claims: object) -> None:
    with pytest.raises(LogError, match="no JWT with a time of expiry"):
        read_token(token(tmp_path, claims))
    (tmp_path / "token").write_text("one part")
    with pytest.raises(LogError, match="no JWT with a time of expiry"):
        read_token(str(tmp_path / "token"))
    with pytest.raises(LogError, match="No such file"):
        read_token(str(tmp_path / "none"))
