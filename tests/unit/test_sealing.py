"""Seals: players' keys under a house key, which is read from its file or the environment and never shown."""

import base64
import os
import stat
from pathlib import Path
from typing import Final

import msgspec
import pytest

from features.settings.environment import SettingError
from features.store.deployment import House
from features.store.house_key import FILE, HouseKey, HouseKeyError, checked, find_key, make_key, read_key
from service.players.sealing import PLAIN, SealError, Seals, seals_of

KEY: Final = bytes(range(32))
PLAYER, OTHER = "{p017}" + "a" * 30, "{p017}" + "b" * 30
HOUSE: Final = House(format=3, partitions=256, sandbox=False, real_us=0, house_us=0, rate=1.0, secret="00")  # noqa: S106 - nobody's


# --- Seals


def test_a_seal_opens_to_the_key_that_it_was_made_of_and_never_holds_it() -> None:
    seals = Seals(HouseKey(KEY))
    made = seals.new(PLAYER)
    assert seals.open(PLAYER, made.stored) == made.key
    assert len(made.stored) == 61
    assert made.key not in made.stored
    assert seals.of(PLAYER, made.stored) == made
    assert seals.wrap(PLAYER, made.key) != made.stored, "the same key is never sealed alike twice"


def test_the_key_of_an_earlier_build_is_its_own_seal() -> None:
    for seals in (Seals(), Seals(HouseKey(KEY))):
        assert seals.open(PLAYER, bytes(PLAIN)) == bytes(PLAIN)


@pytest.mark.parametrize("at", [0, 1, 12, 13, 45, 60])
def test_a_seal_of_which_a_bit_was_changed_does_not_open(at: int) -> None:
    seals = Seals(HouseKey(KEY))
    held = bytearray(seals.new(PLAYER).stored)
    held[at] ^= 1
    with pytest.raises(SealError):
        seals.open(PLAYER, bytes(held))


def test_a_seal_opens_for_its_player_under_its_house_key_alone() -> None:
    stored = Seals(HouseKey(KEY)).new(PLAYER).stored
    for player, seals in ((OTHER, Seals(HouseKey(KEY))), (PLAYER, Seals(HouseKey(KEY[::-1]))), (PLAYER, Seals())):
        with pytest.raises(SealError) as found:
            seals.open(player, stored)
        assert player not in str(found.value)
    for length in (0, 31, 33, 60):
        with pytest.raises(SealError):
            Seals(HouseKey(KEY)).open(PLAYER, stored[:length])


def test_while_the_house_names_no_key_seals_are_made_as_earlier_builds_did() -> None:
    seals = Seals(HouseKey(KEY), wraps=False)
    made = seals.new(PLAYER)
    assert made.stored == made.key
    assert seals.open(PLAYER, Seals(HouseKey(KEY)).wrap(PLAYER, made.key)) == made.key


def test_nothing_that_is_shown_has_a_key() -> None:
    key = HouseKey(KEY)
    made = Seals(key).new(PLAYER)
    for one in (repr(key), str(key), repr(made), repr([made]), f"{key}", repr(Seals(key))):
        assert KEY.hex() not in one
        assert repr(KEY)[2:-1] not in one
        assert made.key.hex() not in one
        assert repr(made.key)[2:20] not in one


# --- The house key


@pytest.mark.parametrize(
    "text", [KEY.hex(), KEY.hex().upper() + "\n", base64.b64encode(KEY).decode(), base64.b64encode(KEY).decode() + "\n"]
)
def test_a_house_key_is_read_as_hex_and_as_base64(text: str) -> None:
    assert read_key(text.encode()) == KEY


@pytest.mark.parametrize("text", [b"", b" ", b"00", KEY.hex().encode()[:-1], KEY.hex().encode() + b"00", b"x" * 40])
def test_what_is_no_house_key_is_refused_unshown(text: bytes) -> None:
    with pytest.raises(ValueError, match="must be 32 bytes in hex or base64") as found:
        read_key(text)
    assert not text.strip() or text.decode() not in str(found.value)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = make_key(tmp_path)
    assert make_key(tmp_path).fingerprint == first.fingerprint
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    found = find_key(tmp_path)
    assert found is not None
    assert found.content == first.content


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o777])
def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    make_key(tmp_path)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(HouseKeyError, match="chmod 600"):
        find_key(tmp_path)


def test_the_environment_names_the_key_or_its_file_and_not_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_key(tmp_path) is None
    make_key(tmp_path)
    monkeypatch.setenv("CROUPIER_HOUSE_KEY", KEY.hex())
    found = find_key(tmp_path)
    assert found is not None
    assert found.content == KEY
    monkeypatch.setenv("CROUPIER_HOUSE_KEY_FILE", str(tmp_path / FILE))
    with pytest.raises(SettingError, match="both name a key"):
        find_key(tmp_path)
    monkeypatch.delenv("CROUPIER_HOUSE_KEY")
    assert find_key(tmp_path / "elsewhere") is not None
    monkeypatch.setenv("CROUPIER_HOUSE_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(HouseKeyError, match="cannot be read: No such file"):
        find_key(tmp_path)
    monkeypatch.delenv("CROUPIER_HOUSE_KEY_FILE")
    monkeypatch.setenv("CROUPIER_HOUSE_KEY", "not a key at all")
    with pytest.raises(SettingError, match="CROUPIER_HOUSE_KEY must be 32 bytes") as refused:
        find_key(tmp_path)
    assert "not a key at all" not in str(refused.value)


def test_a_house_is_opened_by_its_own_key_alone(tmp_path: Path) -> None:
    key = HouseKey(KEY)
    named = msgspec.structs.replace(HOUSE, key=key.fingerprint)
    assert checked(HOUSE, None) is None
    assert checked(named, key) is key
    with pytest.raises(HouseKeyError, match="is not here"):
        checked(named, None)
    with pytest.raises(HouseKeyError, match="was sealed under the key"):
        checked(named, HouseKey(os.urandom(32)))
    with pytest.raises(HouseKeyError, match="is not here"):
        seals_of(named, tmp_path)
    assert not seals_of(HOUSE, tmp_path).wraps


def test_a_house_without_a_key_is_stored_as_earlier_builds_stored_it() -> None:
    assert b"key" not in msgspec.json.encode(HOUSE)
    named = msgspec.structs.replace(HOUSE, key="0011223344556677")
    assert msgspec.json.decode(msgspec.json.encode(named), type=House) == named
