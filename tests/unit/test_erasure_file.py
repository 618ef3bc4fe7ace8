"""The file of erasures: whatever was torn off, the lines around it are read, and the next is written whole."""

from pathlib import Path
from threading import Thread

import pytest

from features.store.erasures import FILE, Erasure, ErasuresError, keep, read
from pipelines.doctor.premises import erasures


def erasure(at: int) -> Erasure:
    return Erasure(player="{p001}1", ids=("{p001}1",), begun_us=at, by="somebody", reason='says {"player": "no"}')


def test_a_line_torn_off_anywhere_is_cut_before_the_next_one(tmp_path: Path) -> None:
    keep(tmp_path, [erasure(1)])
    whole = (tmp_path / FILE).read_bytes()
    for at in range(len(whole)):
        (tmp_path / FILE).write_bytes(whole + whole[:at])
        told = read(tmp_path / FILE)
        assert (told.erasures, told.torn) == ([erasure(1)], at > 0)
        assert erasures(tmp_path)[0].grade == ("warning" if at else "ok")
        assert keep(tmp_path, [erasure(1), erasure(2), erasure(3)]) == 2
        assert read(tmp_path / FILE) == ([erasure(1), erasure(2), erasure(3)], False)


def test_what_earlier_builds_wrote_behind_a_torn_line_is_read(tmp_path: Path) -> None:
    keep(tmp_path, [erasure(1), erasure(2)])
    first, second, _ = (tmp_path / FILE).read_bytes().split(b"\n")
    for at in range(1, len(first) + 1):
        (tmp_path / FILE).write_bytes(first[:at] + second + b"\n")
        assert read(tmp_path / FILE).erasures == [erasure(2)]
        assert keep(tmp_path, [erasure(1), erasure(2)]) == 1


def test_what_is_no_erasure_is_told_with_its_line(tmp_path: Path) -> None:
    keep(tmp_path, [erasure(1)])
    with (tmp_path / FILE).open("ab") as out:
        out.write(b"what is this\n")
    with pytest.raises(ErasuresError, match="line 2"):
        keep(tmp_path, [erasure(2)])
    (found,) = erasures(tmp_path)
    assert (found.grade, "line 2" in found.seen) == ("fault", True)


def test_many_who_write_at_once_lose_no_line(tmp_path: Path) -> None:
    threads = [Thread(target=keep, args=(tmp_path, [erasure(at), erasure(100)])) for at in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(one.begun_us for one in read(tmp_path / FILE).erasures) == [*range(50), 100]
