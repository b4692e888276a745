"""Signatures of webhooks: those of the convention, of GitHub and of Stripe, and all that is none."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from orchestrator.webhooks.signing import (
    NotAuthentic,
    SecretInvalid,
    key_of,
    secret_of,
    signed_headers,
    verify_github,
    verify_standard,
    verify_stripe,
)

KEY, OTHER = b"a" * 32, b"b" * 32
BODY = b'{"type":"run.succeeded"}'


def test_the_signature_is_that_of_the_published_example() -> None:
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_what_is_signed_is_verified_with_its_id_and_time() -> None:
    signed = verify_standard(signed_headers([KEY], "id-1", 1_700_000_000, BODY), BODY, [KEY])
    assert (signed.message_id, signed.timestamp) == ("id-1", 1_700_000_000)


def test_while_one_key_replaces_another_either_side_may_be_first() -> None:
    both = signed_headers([KEY, OTHER], "id-1", 1_700_000_000, BODY)
    assert both["webhook-signature"].count("v1,") == 2
    for key in (KEY, OTHER):
        verify_standard(both, BODY, [key])
        verify_standard(signed_headers([key], "id-1", 1_700_000_000, BODY), BODY, [KEY, OTHER])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"webhook-id": "id-2"}, "no signature is that of"),
        ({"webhook-timestamp": "1700000001"}, "no signature is that of"),
        ({"webhook-signature": "v1,AAAA"}, "no signature is that of"),
        ({"webhook-signature": "v1,\u00e4"}, "no signature is that of"),
        ({"webhook-signature": "v1a,AAAA"}, "holds no signature of the kind"),
        ({"webhook-signature": ""}, "webhook-signature is missing"),
        ({"webhook-id": ""}, "webhook-id is missing"),
        ({"webhook-timestamp": "soon"}, "whole seconds since 1970"),
        ({"webhook-timestamp": "-1"}, "whole seconds since 1970"),
        ({"webhook-id": "x" * 300}, "is no id"),
    ],
)
def test_what_was_changed_on_its_way_is_not_authentic(change: dict[str, str], message: str) -> None:
    headers = {**signed_headers([KEY], "id-1", 1_700_000_000, BODY), **change}
    with pytest.raises(NotAuthentic, match=message):
        verify_standard(headers, BODY, [KEY])


def test_a_changed_body_and_a_foreign_key_are_not_authentic() -> None:
    headers = signed_headers([KEY], "id-1", 1_700_000_000, BODY)
    for body, keys in ((BODY + b" ", [KEY]), (BODY, [OTHER]), (BODY, [])):
        with pytest.raises(NotAuthentic):
            verify_standard(headers, body, keys)


def test_an_endless_list_of_signatures_costs_no_more_than_a_short_one() -> None:
    good = signed_headers([KEY], "id-1", 1_700_000_000, BODY)
    headers = {**good, "webhook-signature": "v1,AAAA " * 5000 + good["webhook-signature"]}
    with pytest.raises(NotAuthentic):
        verify_standard(headers, BODY, [KEY])


def test_githubs_signature_is_that_of_its_documentation() -> None:
    secret, body = b"It's a Secret to Everybody", b"Hello, World!"
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    signed = verify_github({"x-hub-signature-256": signature}, body, [OTHER, secret])
    assert (signed.message_id, signed.timestamp) == (None, None)
    for headers in ({}, {"x-hub-signature-256": signature.replace("sha256=", "sha1=")}):
        with pytest.raises(NotAuthentic):
            verify_github(headers, body, [secret])


def test_stripes_signature_covers_the_time() -> None:
    def header(timestamp: str, key: bytes = KEY) -> dict[str, str]:
        signature = hmac.new(key, f"{timestamp}.".encode() + BODY, hashlib.sha256).hexdigest()
        return {"stripe-signature": f"t={timestamp},v1={'0' * 64},v1={signature},v0=none"}

    assert verify_stripe(header("1700000000"), BODY, [KEY]).timestamp == 1_700_000_000
    changed = {"stripe-signature": header("1700000000")["stripe-signature"].replace("t=17", "t=18")}
    for headers in (changed, header("1700000000", OTHER), {"stripe-signature": "v1=00"}, {}):
        with pytest.raises(NotAuthentic):
            verify_stripe(headers, BODY, [KEY])


def test_a_secret_is_its_key_in_base64() -> None:
    assert key_of(secret_of(KEY)) == KEY
    assert key_of(f" {secret_of(KEY)}\n") == KEY


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("hunter2", "begins with whsec_"),
        ("whsec_not base64!", "it is base64"),
        (secret_of(b"short"), "has 5 bytes, and has to have 24 to 64"),
        (secret_of(b"x" * 65), "65 bytes"),
    ],
)
def test_a_secret_that_is_none_is_refused_without_being_repeated(secret: str, message: str) -> None:
    with pytest.raises(SecretInvalid, match=message) as refused:
        key_of(secret)
    assert secret not in str(refused.value)
