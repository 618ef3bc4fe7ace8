"""Files of players: lines of ids, CSV and Parquet, each player once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.campaigns.players import PlayersRefused, read_players


def read(tmp_path: Path, content: str, column: str | None = None) -> tuple[list[str], int]:
    file = tmp_path / "players"
    file.write_text(content, "utf8")
    return read_players(file, column)


@pytest.mark.parametrize(
    ("content", "column"),
    [
        ("a\nb\n\n c \na\n", None),
        ("\ufeffplayer_id\na\nb\nc\na\n", None),
        ("x,player_id\n1,a\n2,b\n3,c\n4,\n5,a\n", None),
        ('x;"who"\n1;a\n2;"b"\n3;c\n4\n5;a\n', "who"),
        ("player_id\tx\r\na\t1\r\nb\t2\r\nc\t3\r\na\t4\r\n", None),
    ],
)
def test_ids_are_read_in_order_each_once(tmp_path: Path, content: str, column: str | None) -> None:
    assert read(tmp_path, content, column) == (["a", "b", "c"], 1)


def test_parquet_has_them_in_a_column(tmp_path: Path) -> None:
    file = tmp_path / "players.parquet"
    pq.write_table(pa.table({"player_id": ["a", None, "b", "a"], "number": [7, 8, 9, 7]}), file)
    assert read_players(file) == (["a", "b"], 1)
    assert read_players(file, "number") == (["7", "8", "9"], 1)
    with pytest.raises(PlayersRefused, match="it has player_id, number"):
        read_players(file, "who")


@pytest.mark.parametrize(
    ("content", "column", "sentence"),
    [
        ("", None, "holds no player"),
        ("player_id\n\n", None, "holds no player"),
        ("x,y\n1,2\n", None, "--column names one of x, y"),
        ("a\nb\n", "who", "no column 'who'"),
    ],
)
def test_what_names_no_player_is_refused(tmp_path: Path, content: str, column: str | None, sentence: str) -> None:
    with pytest.raises(PlayersRefused, match=sentence):
        read(tmp_path, content, column)


def test_a_file_that_is_not_there_or_no_text_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PlayersRefused, match="cannot be read"):
        read_players(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00a\n")
    with pytest.raises(PlayersRefused, match="cannot be read"):
        read_players(tmp_path / "bytes")
