"""Pseudonyms are keyed, stable and give nothing away."""

import hashlib

from corlld.events.pseudonyms import Pseudonyms

SECRET = "0123456789abcdef0123456789abcdef"


def hmac_sha256(key: bytes, message: bytes) -> str:
    """Compute HMAC as RFC 2104 writes it, for keys of up to 64 bytes."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).hexdigest()


def test_a_uid_is_the_first_half_of_the_hmac_of_the_user_id_under_the_secret() -> None:
    for user in ("ann", "Ünïcödé 🦊", "with\0nul", ""):
        assert Pseudonyms(SECRET).uid(user) == hmac_sha256(SECRET.encode(), user.encode())[:32]


def test_another_secret_gives_another_uid_and_another_fingerprint() -> None:
    one, other = Pseudonyms(SECRET), Pseudonyms(SECRET[::-1])
    assert one.uid("ann") != other.uid("ann")
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Pseudonyms(SECRET).fingerprint


def test_the_fingerprint_is_the_uid_of_nobody_not_even_of_a_user_named_like_its_domain() -> None:
    names = Pseudonyms(SECRET)
    assert len(names.fingerprint) == 16
    assert int(names.fingerprint, 16) >= 0
    for user in ("", "corlld/secret-fingerprint", names.fingerprint):
        assert not names.uid(user).startswith(names.fingerprint)


def test_the_hash_of_an_event_id_is_keyed_by_the_secret_and_the_user() -> None:
    names = Pseudonyms(SECRET)
    uid = names.uid("ann")
    for event_id in ("7f3d", "\ud800 half a pair", "with\0nul"):
        hashed = names.event_id_hash(uid, event_id)
        assert len(hashed) == 8
        assert hashed == Pseudonyms(SECRET).event_id_hash(uid, event_id)
        others = {
            Pseudonyms(SECRET[::-1]).event_id_hash(uid, event_id),
            names.event_id_hash(names.uid("bob"), event_id),
            names.event_id_hash(uid, event_id + "x"),
            bytes.fromhex(uid[:16]),
        }
        assert hashed not in others


def test_neither_repr_nor_str_show_the_secret() -> None:
    names = Pseudonyms(SECRET)
    assert SECRET not in f"{names!r} {names}"
