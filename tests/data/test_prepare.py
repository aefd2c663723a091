"""`prepare`: tables of any make become atomic files, whole or not at all."""

from __future__ import annotations

import errno
import functools
import gzip
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import recbole_diffusion
from recbole_diffusion.data import atomic_writing
from recbole_diffusion.data.atomic_files import check_layout
from recbole_diffusion.data.atomic_values import read_columns
from recbole_diffusion.data.prepare import FeatureTable, Prepared, field_names, prepare
from recbole_diffusion.data.tables import conversion, text_blocks
from recbole_diffusion.errors import UserError

ROOT = Path(recbole_diffusion.__file__).resolve().parents[1]
LOG = "user,item,time\nu1,i1,5\nu2,i2,6\nu1,i2,7\n"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Prepared]:
    """``made(content, **settings)``: writes content (text, bytes, table) to a file and prepares dataset `d` of it."""

    def make(content: str | bytes | pa.Table, name: str = "log.csv", **settings: Any) -> Prepared:
        path = tmp_path / name
        if isinstance(content, pa.Table):
            parquet.write_table(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return prepare(path, "d", data_path=tmp_path / "data", show_progress=False, **settings)

    return make


@pytest.fixture
def refused(tmp_path: Path, made: Callable[..., Prepared]) -> Callable[..., str]:
    """The error of ``made(...)``, without the folder; checks that nothing is left."""

    def make(*arguments: Any, **settings: Any) -> str:
        with pytest.raises(UserError) as error:
            made(*arguments, **settings)
        assert not (tmp_path / "data").exists()
        assert "\n" not in str(error.value)
        return str(error.value).replace(f"{tmp_path}{os.sep}", "")

    return make


def lines(result: Prepared, suffix: str = ".inter") -> list[str]:
    (path,) = (path for path in result.files if path.suffix == suffix)
    return path.read_text(encoding="utf-8").splitlines()


def notes(result: Prepared, tmp_path: Path) -> list[str]:
    return [note.replace(f"{tmp_path}{os.sep}", "") for note in result.notes]


# ---- what comes out ----


def test_a_table_becomes_an_atomic_file(made: Callable[..., Prepared], tmp_path: Path) -> None:
    result = made(LOG)
    folder = tmp_path / "data" / "d"
    assert lines(result) == ["user_id:token\titem_id:token\ttimestamp:float", "u1\ti1\t5", "u2\ti2\t6", "u1\ti2\t7"]
    assert result == Prepared(
        folder=folder,
        files=(folder / "d.inter",),
        interactions=3,
        users=2,
        items=2,
        fields={"user_id": "user", "item_id": "item", "timestamp": "time"},
        dropped={},
        times="5 to 7",
        notes=tuple(
            f"{tmp_path / 'log.csv'}: column {name!r} is taken as the {name}" for name in ("user", "item", "time")
        ),
        command=f"recbole-diff --model=DiffuRec --dataset=d --data_path={tmp_path / 'data'}",
    )
    assert [path.name for path in folder.parent.iterdir()] == ["d"]
    assert [path.name for path in folder.iterdir()] == ["d.inter"]


def test_all_that_can_be_said(made: Callable[..., Prepared], tmp_path: Path) -> None:
    content = "who;what;when;stars;price;tags;note\nu 1;i1;06.04.2014 18:44;4,0;1.5;a b|c;x\n"
    result = made(
        content.replace("4,0", "4.0"),
        user="who",
        item="what",
        time="when",
        rating="stars",
        keep=["price:float", "tags:token_seq", "note"],
        time_format="%d.%m.%Y %H:%M",
        sequence_separator="|",
        replace="_",
    )
    assert lines(result) == [
        "user_id:token\titem_id:token\ttimestamp:float\trating:float\tprice:float\ttags:token_seq\tnote:token",
        "u 1\ti1\t1396809840\t4.0\t1.5\ta_b c\tx",
    ]
    assert result.fields == {
        "user_id": "who", "item_id": "what", "timestamp": "when", "rating": "stars", "price": "price", "tags": "tags",
        "note": "note",
    }  # fmt: skip
    assert notes(result, tmp_path) == [
        "log.csv: fields are separated by a semicolon",
        "log.csv: when: dates without a time zone are taken as UTC",
        "log.csv: tags: blanks became '_' in 1 element",
    ]


def test_columns_that_are_left_out_are_named(made: Callable[..., Prepared], tmp_path: Path) -> None:
    result = made("user,item,time,rating,x\nu1,i1,5,3,y\n")
    assert "log.csv: left out are the columns rating, x (keep= takes them in)" in notes(result, tmp_path)


def test_columns_without_a_name_are_counted(made: Callable[..., Prepared], tmp_path: Path) -> None:
    said = notes(made(",user,item,time, \n0,u1,i1,5,x\n"), tmp_path)  # as pandas writes an index
    assert "log.csv: left out: 2 columns without a name" in said
    assert not any("left out are" in note for note in said)
    assert "left out: 1 column without a name" in " ".join(
        made(",user,item,time,x\n0,u1,i1,5,x\n", overwrite=True).notes
    )


def test_the_order_of_the_rows_can_be_the_time(made: Callable[..., Prepared]) -> None:
    result = made("user,item\nu1,i1\n,i2\nu1,i3\n", time="row", bad_rows="drop")
    assert lines(result)[1:] == ["u1\ti1\t1", "u1\ti3\t2"]
    assert result.fields["timestamp"] == "row"
    assert result.times == "the order of the rows, 1 to 2"


def test_ml_100k_by_way_of_csv_and_parquet_is_read_as_itself(
    shared: Path, tmp_path: Path, sequential: Callable[..., Any]
) -> None:
    source = shared / "data" / "ml-100k" / "ml-100k.inter"
    frame = pd.read_csv(source, sep="\t", dtype=str)
    frame.columns = ["userId", "movieId", "stars", "ts"]
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    typed = frame.astype({"userId": "float64", "movieId": "category"})  # as pandas makes ids when one was missing
    typed["ts"] = pd.to_datetime(frame["ts"].astype("int64"), unit="s", utc=True).dt.tz_convert("Asia/Tokyo")
    typed.to_parquet(tmp_path / "b.parquet", row_group_size=30000)
    for name, file in (("a", "a.csv.gz"), ("b", "b.parquet")):
        result = prepare(tmp_path / file, name, data_path=tmp_path, user="userId", rating="stars", show_progress=False)
        assert (result.interactions, result.users, result.items) == (100000, 943, 1682)
        assert result.times == "1997-09-20 03:05:10 to 1998-04-22 23:10:38"
        found = pd.read_csv(tmp_path / name / f"{name}.inter", sep="\t", dtype=str)
        assert list(found.columns) == ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
        assert (found.to_numpy() == frame[["userId", "movieId", "ts", "stars"]].to_numpy()).all()
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "ml.inter").symlink_to(source)
    original, prepared = sequential(tmp_path, "ml"), sequential(tmp_path, "b")
    for field in ("user_id", "item_id"):
        assert list(original.field2id_token[field]) == list(prepared.field2id_token[field])
        assert (original.inter_feat[field].to_numpy() == prepared.inter_feat[field].to_numpy()).all()


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_written_is_read_back_strictly(made: Callable[..., Prepared], seed: int) -> None:
    """Odd but legal ids and times come through prepare and strict reading unchanged."""
    draw = random.Random(seed)
    odd = [
        "u",
        "NA",
        "null",
        '"',
        "'",
        "é",
        "日",
        "a b",
        "\\",
        "#",
        "0",
        "-1",
        "1e5",
        "\u2028",
        "\x85",
        "\x0b",
        ",",
        ";",
    ]
    times = draw.choice(
        [["5", "-3", "1e3", ".5", "5.", "0.1", "1593878903.4380001", "7E-3"], ["1969-12-31T23:59:59.1Z"]]
    )
    rows = [("u" + draw.choice(odd), draw.choice(odd) + draw.choice(odd) + "i", draw.choice(times)) for _ in range(20)]
    content = "user,item,time\n" + "".join(
        ",".join('"' + value.replace('"', '""') + '"' for value in row) + "\n" for row in rows
    )
    result = made(content)
    file = check_layout(result.files[0])
    frame = read_columns(
        file, ["user_id", "item_id", "timestamp"], identifiers=["user_id", "item_id"], times=["timestamp"]
    )
    assert frame["user_id"].astype(str).tolist() == [row[0] for row in rows]
    assert frame["item_id"].astype(str).tolist() == [row[1] for row in rows]
    expected = [-0.9 if row[2].endswith("Z") else float(row[2]) for row in rows]
    assert frame["timestamp"].tolist() == expected
    assert result.users == len({row[0] for row in rows})


def test_the_names_of_the_fields_are_those_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "buys.dat").write_text("7,2014-04-06T18:44:58.325Z,214536502,100,1\n", encoding="utf-8")
    columns = ["session_id", "time", "item_id", "price", "quantity"]
    result = prepare(tmp_path / "buys.dat", "yoochoose", data_path=tmp_path, columns=columns, show_progress=False)
    assert lines(result) == ["session_id:token\titem_id:token\ttimestamp:float", "7\t214536502\t1396809898.325"]
    assert field_names("steam")["ITEM_ID_FIELD"] == "product_id"
    assert field_names("anything") == {
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp", "RATING_FIELD": "rating",
    }  # fmt: skip


# ---- columns ----


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("userId,movieId,rating,timestamp", ["userId", "movieId", "timestamp"]),
        ("reviewerID,asin,overall,unixReviewTime", ["reviewerID", "asin", "unixReviewTime"]),
        ("user_id,session_id,Item ID,time_ms", ["user_id", "Item ID", "time_ms"]),  # a session where there is a user
        ("session_id,item_id,ts,x", ["session_id", "item_id", "ts"]),
        ("event_time,product_id,visitorid,x", ["visitorid", "product_id", "event_time"]),
    ],
)
def test_columns_are_taken_by_name_when_one_alone_can_be_meant(
    made: Callable[..., Prepared], header: str, found: list[str]
) -> None:
    assert list(made(f"{header}\n1,2,3,4\n").fields.values()) == found


@pytest.mark.parametrize(
    ("header", "settings", "expected"),
    [
        (
            "user_id,uid,item,time",
            {},
            "log.csv: the user may be 'user_id' or 'uid'; columns are 'user_id', 'uid', 'item'",
        ),
        ("user,video_id,time,date", {}, "the time may be 'time' or 'date'; .* say which with time=COLUMN, or time=row"),
        ("user,asin,parent_asin,time", {}, "the item may be 'asin' or 'parent_asin'"),
        ("a,b,c,d", {}, "no column is named like the user; columns are 'a', 'b', 'c', 'd'; say which with user=COLUMN"),
        ("user,item,c,d", {}, "no column is named like the time; .* time=row for the order of the rows"),
        ("1,2,3,978300760", {}, "columns are '1', .*: a row of data\\? Then columns= gives their names"),
        ("user;item;time;x", {"separator": ","}, "the only column is .*: separator= says what separates columns"),
        ("user,item,time,x", {"user": "usr"}, r"no column 'usr' \(user\); columns are .* \(did you mean 'user'\?\)"),
        (
            "user,item,time,time",
            {"time": "time"},
            r"2 columns are named 'time' \(time\); names must differ: rename one$",
        ),
        ("user,item,time,time", {}, r"2 columns are named 'time' \(time\); names must differ: rename one$"),
        ("user,time,time,asin,ts", {}, "the time may be 'time' or 'ts'; columns are"),
        ("user,User,item,time", {"user": "USER"}, "2 columns are named 'USER'"),
        ("user,item,time,x", {"user": "item", "item": "item"}, "column 'item' cannot be the user and item at once"),
        ("user,item,time,x", {"rating": "time", "time": "time"}, "column 'time' cannot be the time and rating at once"),
        ("user,item,time,x", {"keep": ["time"]}, "keep=time: that column is in the file already"),
        ("user,item,time,x", {"keep": ["x", "x"]}, "keep=x: that column is in the file already"),
        ("user,item,time,item_id", {"item": "item", "keep": ["item_id"]}, "there is a field of that name already"),
        ("user,item,time,x", {"keep": ["x:int"]}, "keep=x:int: 'int' is no type; allowed: token, float"),
        ("user,item,time,x", {"keep": ["x:flaot"]}, r"'flaot' is no type \(did you mean 'float'\?\)"),
        ("user,item,time,a:b", {"keep": ["a:b"]}, "column 'a:b' cannot keep its name in an atomic file; rename it"),
        ("user,item,row,x", {"time": "row"}, "time=row means the order of the rows, but a column has that name"),
        ("user_id:token,item_id:token,time:float,x:token", {}, "this is an atomic file already; put it at data_path"),
    ],
)
def test_columns_that_cannot_be_told(
    refused: Callable[..., str], header: str, settings: dict[str, Any], expected: str
) -> None:
    separator = ";" if ";" in header else ","
    message = refused(header + "\n" + separator.join("1234") + "\n", **settings)
    assert re.search(expected, message), message


def test_names_are_found_whatever_their_case(made: Callable[..., Prepared]) -> None:
    assert made(LOG, user="USER ", time=" Time").fields["user_id"] == "user"


# ---- bad rows ----


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (",i,5", "log.csv:5: column 'user' is empty; every row needs an id, or leave such rows out with bad_rows=drop"),
        ("u,[PAD],5", "log.csv:5: column 'item' is '[PAD]', RecBole's name for padding; rename it"),
        ("u,i,", "log.csv:5: column 'time' has no time; every interaction needs a time"),
        ("u,i,soon", "log.csv:5: column 'time' is 'soon', neither a number nor an ISO date"),
        ("u,i,2014-04-06", "log.csv:5: column 'time' is the date '2014-04-06', where earlier times are numbers"),
        (
            '"u\tv",i,5',
            "log.csv:5: column 'user' is 'u\\tv', with a tab or line end in it; put something in their place",
        ),
        ("user,item,time", "log.csv:5: the header again; remove the line"),
        ("u,i", "log.csv:5: 2 fields where there should be 3"),
    ],
)
def test_the_first_bad_row_ends_it_or_all_are_left_out(
    made: Callable[..., Prepared], refused: Callable[..., str], row: str, expected: str
) -> None:
    assert refused(LOG + f"{row}\nu3,i3,8\n").startswith(expected)
    result = made(LOG + f"{row}\nu3,i3,8\n{row}\n", bad_rows="drop")
    assert lines(result)[1:] == ["u1\ti1\t5", "u2\ti2\t6", "u1\ti2\t7", "u3\ti3\t8"]
    assert list(result.dropped.values()) == [2]
    assert result.users == 3
    assert any("left out: 2 rows" in note and "log.csv:5: " in note for note in result.notes)


@pytest.mark.parametrize("settings", [{"rating": "r"}, {"keep": ["r:float"]}, {"keep": ["r:float_seq"]}])
def test_numbers_beyond_all_bounds_have_their_line(
    made: Callable[..., Prepared], refused: Callable[..., str], settings: dict[str, Any]
) -> None:
    content = "user,item,time,r\nu1,i1,5,1e400\nu2,i2,6,2.5\n"
    assert refused(content, **settings).startswith("log.csv:2: column 'r' is '1e400', not a finite number; write a")
    result = made(content, bad_rows="drop", **settings)
    assert lines(result)[1:] == ["u2\ti2\t6\t2.5"]
    assert result.dropped == {"r: no number": 1}


@pytest.mark.parametrize("kind", ["float", "float_seq"])
def test_what_a_run_would_refuse_is_found_when_it_is_read_back(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    original = conversion.AtomicWriter.write

    def faulty(self: Any, columns: Any) -> None:
        original(self, [*columns[:-1], pa.array(["1e400"])])

    monkeypatch.setattr(conversion.AtomicWriter, "write", faulty)
    message = refused("user,item,time,r\nu1,i1,5,1\n", keep=[f"r:{kind}"])
    assert message.startswith("what was written cannot be read back (d.inter:2: ")


def test_the_earliest_of_several_faults_is_named(refused: Callable[..., str]) -> None:
    message = refused(LOG + "u,i,x\n,i,5\nu,i,y\n")
    assert message.startswith(
        "log.csv:5: column 'time' is 'x', neither a number nor an ISO date (and 1 more among the next"
    )


def test_a_row_with_two_faults_counts_once(made: Callable[..., Prepared]) -> None:
    result = made(LOG + ",,\n,i,\n", bad_rows="drop")
    assert result.dropped == {"no user": 2}
    assert result.interactions == 3


def test_nothing_left_is_an_error(refused: Callable[..., str]) -> None:
    message = refused("user,item,time\n,i,5\n", bad_rows="drop")
    assert message == "log.csv: no row is left; log.csv:2: column 'user' is empty"


def test_a_header_among_the_rows_where_names_are_given(refused: Callable[..., str]) -> None:
    message = refused("user_id,movie_id\nu1,i1\n", columns=["user", "item"], time="row")
    assert message.startswith(
        "log.csv:1: the header (user_id, movie_id) where the first row should be; leave out columns="
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bad_rows": "skip"}, "bad_rows is 'skip'; allowed: refuse, drop"),
        ({"replace": " "}, "replace is ' '; it must be text without blanks"),
        ({"sequence_separator": ""}, "sequence_separator is empty"),
        ({"time": "row", "time_unit": "ms"}, "time=row is the order of the rows: leave out time_format and time_unit"),
        ({"time_unit": "h"}, "time_unit is 'h'; allowed: s, ms, us, ns"),
        ({"columns": ["user", "item"]}, "log.csv:1: 3 fields in the first line where columns= names 2"),
        ({"separator": ""}, "separator is ''"),
    ],
)
def test_settings_that_cannot_be(refused: Callable[..., str], settings: dict[str, Any], expected: str) -> None:
    assert refused(LOG, **settings).startswith(expected)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "-x", "a\nb", " a", "a:b", "a*"])
def test_names_that_no_dataset_can_have(tmp_path: Path, name: str) -> None:
    (tmp_path / "log.csv").write_text(LOG, encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset is .*; it must be a name that a folder can have"):
        prepare(tmp_path / "log.csv", name, data_path=tmp_path / "data", show_progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


# ---- Parquet ----


def parquet_log(**columns: Any) -> pa.Table:
    base = {"user": ["u1", "u2", "u1"], "item": [1, 2, 2], "time": pa.array([5, 6, 7], pa.timestamp("ns"))}
    return pa.table({**base, **columns})


def test_parquet_keeps_nanoseconds_apart(made: Callable[..., Prepared], sequential: Callable[..., Any]) -> None:
    ticks = [1396809898123456790, 1396809898123456789, 1396809898123456788]
    result = made(
        parquet_log(user=["u", "u", "u"], item=["c", "b", "a"], time=pa.array(ticks, pa.timestamp("ns", "UTC")))
    )
    assert [Decimal(line.split("\t")[2]).scaleb(9) for line in lines(result)[1:]] == ticks
    dataset = sequential(
        result.folder.parent, "d", eval_args={"split": {"LS": "valid_only"}, "order": "TO", "mode": "full"}
    )
    items = dataset.field2id_token["item_id"][dataset.inter_feat["item_id"].to_numpy()]
    assert list(items) == ["a", "b", "c"]


def test_types_of_kept_columns_come_from_the_file(made: Callable[..., Prepared]) -> None:
    table = parquet_log(
        price=[1.5, None, 2.0], count=[1, 2, None], tags=[["a", "b"], [], None], sizes=[[1.5], [2.0, 3.0], []]
    )
    result = made(table, keep=["price", "count", "tags", "sizes"])
    assert lines(result) == [
        "user_id:token\titem_id:token\ttimestamp:float\tprice:float\tcount:token\ttags:token_seq\tsizes:float_seq",
        "u1\t1\t0.000000005\t1.5\t1\ta b\t1.5",
        "u2\t2\t0.000000006\t\t2\t\t2 3",
        "u1\t2\t0.000000007\t2\t\t\t",
    ]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (parquet_log(user=["u", None, "v"]), "log.csv row 2: column 'user' is empty"),
        (parquet_log(user=[1.0, 2.5, 3.0]), "log.csv row 2: column 'user' is the number 2.5: an id is text or a whole"),
        (
            parquet_log(user=pa.array([5, 6, 7], pa.timestamp("s"))),
            "column 'user' has the type timestamp[ms] in the file",
        ),
        (parquet_log(user=[["a"], ["b"], ["c"]]), "column 'user' has the type list<"),
        (parquet_log(time=[True, False, True]), "column 'time' has the type bool in the file; a time is a number"),
        (parquet_log(time=pa.array([5, None, 7], pa.timestamp("s"))), "log.csv row 2: column 'time' has no time"),
        (parquet_log()[:0], "log.csv: the file has no rows"),
        (parquet_log().drop(["time"]), "log.csv: no column is named like the time"),
        (parquet_log(user=[b"a", b"\xff", b"c"]), "log.csv row 2: column 'user' holds bytes that are not UTF-8 text"),
    ],
)
def test_parquet_that_cannot_be_taken(refused: Callable[..., str], table: pa.Table, expected: str) -> None:
    assert refused(table).startswith(expected)


def test_rows_of_parquet_are_numbered_over_row_groups(tmp_path: Path) -> None:
    table = pa.table({"user": ["u"] * 200000 + [None], "item": ["i"] * 200001, "time": list(range(200001))})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=150000)
    with pytest.raises(UserError, match=r"x.parquet row 200001: column 'user' is empty"):
        prepare(tmp_path / "x.parquet", "d", data_path=tmp_path, show_progress=False)


@pytest.mark.parametrize("cut", [4, 100, -4, -20])
def test_damaged_parquet(tmp_path: Path, refused: Callable[..., str], cut: int) -> None:
    parquet.write_table(parquet_log(), tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    assert refused(raw[:cut]).startswith("log.csv: Parquet cannot be read: ")


def test_parquet_damaged_within(tmp_path: Path, refused: Callable[..., str]) -> None:
    table = pa.table({"user": [f"u{n}" for n in range(5000)], "item": ["i"] * 5000, "time": list(range(5000))})
    parquet.write_table(table, tmp_path / "whole", compression="gzip", use_dictionary=False)
    raw = bytearray((tmp_path / "whole").read_bytes())
    raw[200:2000] = b"\0" * 1800
    assert refused(bytes(raw)).startswith("log.csv: Parquet cannot be read after row 0: ")


# ---- parts ----


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.csv.crc").touch()
    (folder / "part-1.csv").write_text("time,item,user\n7,i2,u1\n", encoding="utf-8")
    (folder / "part-0.csv").write_text(
        "user,item,time,x\nu1,i1,5,\nu2,i2,6,\n".replace(",x", "").replace(",\n", "\n"), encoding="utf-8"
    )
    result = prepare(folder, "d", data_path=tmp_path, show_progress=False)
    assert lines(result)[1:] == ["u1\ti1\t5", "u2\ti2\t6", "u1\ti2\t7"]
    rows = prepare(folder, "e", data_path=tmp_path, time="row", show_progress=False)
    assert [line.split("\t")[2] for line in lines(rows)[1:]] == ["1", "2", "3"]
    (folder / "part-2.csv").write_text("user,item\nu1,i1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"part-2.csv: no column 'time', which part-0.csv has; parts must agree"):
        prepare(folder, "f", data_path=tmp_path, show_progress=False)


def test_parquet_parts(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in (1, 0):
        parquet.write_table(parquet_log(user=[f"u{number}"] * 3), tmp_path / "parts" / f"part-{number}.snappy.parquet")
    result = prepare(tmp_path / "parts", "d", data_path=tmp_path, show_progress=False)
    assert [line.split("\t")[0] for line in lines(result)[1:]] == ["u0"] * 3 + ["u1"] * 3


def parts_of(tmp_path: Path, *contents: str | pa.Table) -> Path:
    """A folder with a part of each content, in this order."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, content in enumerate(contents):
        if isinstance(content, pa.Table):
            parquet.write_table(content, folder / f"part-{number}.parquet")
        else:
            (folder / f"part-{number}.csv").write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("bad_rows", ["refuse", "drop"])
@pytest.mark.parametrize(
    ("contents", "first", "count"),
    [
        (("user,item,time\n", LOG, "user,item,time\n\n"), "part-0.csv: a header but no row after it", 2),
        (("", LOG, "\n\n"), "part-0.csv: the file is empty (zero bytes)", 2),
        ((LOG, ""), "part-1.csv: the file is empty (zero bytes)", 1),
    ],
)
def test_parts_without_rows_are_passed_over(
    tmp_path: Path, contents: tuple[str, ...], first: str, count: int, bad_rows: str
) -> None:
    folder = parts_of(tmp_path, *contents)
    result = prepare(folder, "d", data_path=tmp_path / "data", bad_rows=bad_rows, show_progress=False)
    assert lines(result)[1:] == ["u1\ti1\t5", "u2\ti2\t6", "u1\ti2\t7"]
    assert result.dropped == {}
    said = f"parts: passed over: {count} part{'s' * (count > 1)} without rows, first parts{os.sep}{first}"
    assert any(note.startswith(said) for note in notes(result, tmp_path))


def test_parquet_parts_without_rows_are_passed_over(tmp_path: Path) -> None:
    log = pa.table({"user": ["u1"], "item": [1], "time": [5], "price": [1.5]})
    nothing = log[:0].set_column(3, "price", pa.nulls(0))  # the types of the part without rows say nothing
    folder = parts_of(tmp_path, nothing, log, log[:0])
    result = prepare(folder, "d", data_path=tmp_path / "data", keep=["price"], show_progress=False)
    assert lines(result) == ["user_id:token\titem_id:token\ttimestamp:float\tprice:float", "u1\t1\t5\t1.5"]
    (folder / "part-1.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"part-1.parquet: the file is empty \(zero bytes\)"):
        prepare(folder, "e", data_path=tmp_path / "data", show_progress=False)


@pytest.mark.parametrize("bad_rows", ["refuse", "drop"])
@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (("user,item,time\n", "user,item,time\n"), "parts: no part of it holds a row; give a table with rows"),
        (("", ""), "parts: no part of it holds a row; give"),
        (("", "user,item,time\n"), "part-1.csv: a header but no row after it"),
        ((parquet_log()[:0],) * 2, "parts: no part of it holds a row; give"),
        (("user,item,time\n", "user,item\nu,i\n"), "part-1.csv: no column 'time', which part-0.csv has"),
    ],
)
def test_a_table_without_any_row_is_refused(
    tmp_path: Path, contents: tuple[str | pa.Table, ...], expected: str, bad_rows: str
) -> None:
    folder = parts_of(tmp_path, *contents)
    with pytest.raises(UserError, match=re.escape(expected)):
        prepare(folder, "d", data_path=tmp_path / "data", bad_rows=bad_rows, show_progress=False)
    assert not (tmp_path / "data").exists()


def test_folders_that_are_no_table(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()

    def message() -> str:
        with pytest.raises(UserError) as error:
            prepare(folder, "d", data_path=tmp_path, show_progress=False)
        return str(error.value)

    assert "the folder is empty" in message()
    (folder / "a.csv").write_text(LOG, encoding="utf-8")
    (folder / "a.parquet").write_text(LOG, encoding="utf-8")
    assert "holds files of several kinds (.csv, .parquet)" in message()
    (folder / "a.parquet").unlink()
    (folder / "year=2014").mkdir()
    assert "holds the folder year=2014" in message()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv.gz").touch()
    with pytest.raises(UserError, match=r"no file .*ratings.csv; there is ratings.csv.gz"):
        prepare(tmp_path / "ratings.csv", "d", data_path=tmp_path, show_progress=False)


# ---- features ----


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_features_of_items_and_users(made: Callable[..., Prepared], tmp_path: Path) -> None:
    items = write(tmp_path / "items.dat", "i1::Toy Story (1995)::Animation|Comedy::1.5\ni2::Heat::Crime::\n")
    users = write(tmp_path / "users.csv", "user,age,town\nu2,30,\nu1,20,Rome\n")
    result = made(
        LOG,
        items=FeatureTable(
            items, "movie", ["title", "genres:token_seq", "price:float"], ["movie", "title", "genres", "price"]
        ),
        users=FeatureTable(users),
        sequence_separator="|",
    )
    assert lines(result, ".item") == [
        "item_id:token\ttitle:token\tgenres:token_seq\tprice:float",
        "i1\tToy Story (1995)\tAnimation Comedy\t1.5",
        "i2\tHeat\tCrime\t",
    ]
    assert lines(result, ".user") == ["user_id:token\tage:token\ttown:token", "u2\t30\t", "u1\t20\tRome"]
    assert [path.name for path in result.files] == ["d.inter", "d.item", "d.user"]
    said = notes(result, tmp_path)
    assert "users.csv: all columns are kept, as age:token, town:token (users_keep= chooses columns and types)" in said
    assert "items.dat: price: 1 of 2 values are missing; RecBole takes the mean for them" in said


def test_features_that_are_missing_or_repeated_are_counted(made: Callable[..., Prepared], tmp_path: Path) -> None:
    items = write(tmp_path / "items.csv", "item,title\ni1,a\ni1,b\ni9,c\n")
    said = notes(made(LOG, items=FeatureTable(items)), tmp_path)
    assert "items.csv: 1 row with the item of an earlier one, which runs take" in said
    assert (
        "items.csv: 1 of 2 items have no row; runs leave out their interactions unless filter_inter_by_user_or_item "
        "is False" in said
    )


def test_each_text_is_written_its_own_way(made: Callable[..., Prepared], tmp_path: Path) -> None:
    (tmp_path / "items.tsv").write_text("item\ttitle\ni1\tGrün, teuer\ni2\tx\n", encoding="utf-8")
    (tmp_path / "users.csv").write_bytes("# ages\nuser|town\nu1|'Orléans\nü2|\"x\n".encode("utf-16-le"))
    result = made(
        "# made by x\nuser;item;time\nu1;i1;5\nü2;i2;6\n".encode("cp1252"),
        separator=";",
        encoding="cp1252",
        skip_lines=1,
        items=FeatureTable(tmp_path / "items.tsv"),
        users=FeatureTable(tmp_path / "users.csv", separator="pipe", quote="none", encoding="utf-16-le", skip_lines=1),
    )
    assert lines(result)[1:] == ["u1\ti1\t5", "ü2\ti2\t6"]
    assert lines(result, ".item")[1:] == ["i1\tGrün, teuer", "i2\tx"]
    assert lines(result, ".user")[1:] == ["u1\t'Orléans", 'ü2\t"x']


def test_keys_of_text_are_refused_for_parquet(
    made: Callable[..., Prepared], refused: Callable[..., str], tmp_path: Path
) -> None:
    said = {"columns": ["a", "b", "c"], "encoding": "cp1252", "separator": ";", "quote": "none", "skip_lines": 3}
    for key, value in said.items():
        message = refused(parquet_log(), **{key: value})
        assert message.startswith(f"log.csv: this is Parquet, which says itself how it is written; leave out {key}=")
    parquet.write_table(pa.table({"item": ["1", "2"], "title": ["a", "b"]}), tmp_path / "items")
    items = FeatureTable(tmp_path / "items", encoding="cp1252", skip_lines=1)
    assert "items: this is Parquet, " in (message := refused(LOG, items=items))
    assert message.endswith("leave out items_encoding= and items_skip_lines=, for text alone")
    assert "separator" not in refused(pa.table({"who": ["u"]}))
    plain = FeatureTable(tmp_path / "items")
    assert made(LOG.replace(",i1", ",1").replace(",i2", ",2"), skip_lines=0, items=plain).items == 2


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        ("i1,a\ni2,b\n", {}, "columns are 'i1', 'a'"),
        ("1,a\n2,b\n", {}, "a row of data\\? Then items_columns= gives their names"),
        ("one\n", {"separator": ","}, "the only column is 'one': items_separator= says what separates columns"),
        (
            "item,title\nx,a\n",
            {},
            "items.csv: none of the items of the interactions is in column 'item'; set items_key",
        ),
        ("item\ni1\n", {}, "items.csv: no column beside 'item', so there are no features"),
        ("item,time,x\ni1,2,3\n", {}, None),
        (
            "item,timestamp,x\ni1,2,3\n",
            {},
            "items.csv: 'timestamp' is a field already; rename it, or name other columns",
        ),
        ("item,title\n,a\n", {}, "items.csv:2: column 'item' is empty"),
        ("name,title\ni1,a\n", {}, "items.csv: no column is named like the item; .* items_key=COLUMN"),
        ("item,title\ni1,a\n", {"key": "itm"}, r"items.csv: no column 'itm' \(items_key\)"),
        ("item,title\ni1,a\n", {"keep": ["titel"]}, r"items.csv: no column 'titel' \(items_keep\)"),
        ("item,price\ni1,x\n", {"keep": ["price:float"]}, "items.csv:2: column 'price' is 'x', not a finite number"),
        (
            "item,price\ni1,\n",
            {"keep": ["price:float"]},
            "items.csv: column 'price' has no number in any row; leave it out",
        ),
    ],
)
def test_features_that_cannot_be(
    made: Callable[..., Prepared],
    refused: Callable[..., str],
    tmp_path: Path,
    content: str,
    settings: dict[str, Any],
    expected: str | None,
) -> None:
    table = FeatureTable(write(tmp_path / "items.csv", content), **settings)
    if expected is None:
        assert made(LOG, items=table).files[1].name == "d.item"
    else:
        assert re.search(expected, refused(LOG, items=table))


# ---- whole or not at all ----


def test_what_is_there_is_replaced_on_request_only(made: Callable[..., Prepared], tmp_path: Path) -> None:
    first = made(LOG)
    with pytest.raises(
        UserError, match=r"d.inter is there already; choose another dataset, or replace it with overwrite"
    ):
        made("user,item,time\nx,y,1\n")
    assert len(lines(first)) == 4
    items = write(tmp_path / "items.csv", "item,title\ny,a\n")
    second = made("user,item,time\nx,y,1\n", overwrite=True, items=FeatureTable(items))
    assert lines(second)[1:] == ["x\ty\t1"]
    third = made(LOG, overwrite=True)
    assert any(note.endswith("also holds d.item, which runs will read as well") for note in third.notes)
    assert [path.name for path in sorted((tmp_path / "data").iterdir())] == ["d"]


def test_other_files_of_the_folder_stay(made: Callable[..., Prepared], tmp_path: Path) -> None:
    (tmp_path / "data" / "d").mkdir(parents=True)
    (tmp_path / "data" / "d" / "README").touch()
    assert made(LOG).interactions == 3
    assert sorted(path.name for path in (tmp_path / "data" / "d").iterdir()) == ["README", "d.inter"]


def test_a_failed_replacement_leaves_what_was_there(made: Callable[..., Prepared]) -> None:
    first = made(LOG)
    with pytest.raises(UserError, match=r"log.csv:5"):
        made(LOG + "u\n", overwrite=True)
    assert len(lines(first)) == 4
    assert [path.name for path in first.folder.parent.iterdir()] == ["d"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing(
    made: Callable[..., Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    original = atomic_writing.AtomicWriter.write

    def interrupted(self: Any, columns: Any) -> None:
        original(self, columns)
        if self.rows > 1:
            raise error

    monkeypatch.setattr(atomic_writing.AtomicWriter, "write", interrupted)
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 10)
    with pytest.raises(error):
        made(LOG)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, columns: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_writing.AtomicWriter, "write", full)
    assert refused(LOG) == f"cannot write data{os.sep}d{os.sep}d.inter: No space left on device; nothing is left behind"


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    source = write(tmp_path / "log.csv", LOG)
    write(tmp_path / "file", "x")
    with pytest.raises(UserError, match=r"cannot write to .*file.*; change data_path"):
        prepare(source, "d", data_path=tmp_path / "file" / "data", show_progress=False)
    with pytest.raises(UserError, match="file is there and is no folder; change dataset or data_path"):
        prepare(source, "file", data_path=tmp_path, show_progress=False)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_what_a_killed_process_leaves_is_no_dataset_and_goes_next_time(tmp_path: Path) -> None:
    """The process waits in the midst of writing, is killed there, and the next preparation clears its traces away."""
    source = write(tmp_path / "log.csv", LOG)
    code = f"""
import sys, time
from recbole_diffusion.data import atomic_writing
from recbole_diffusion.data.prepare import prepare
original = atomic_writing.AtomicWriter.write
def slow(self, columns):
    original(self, columns)
    self._file.flush()
    print("writing", flush=True)
    time.sleep(600)
atomic_writing.AtomicWriter.write = slow
prepare({str(source)!r}, "d", data_path={str(tmp_path / "data")!r}, show_progress=False)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    with pytest.raises(UserError):  # while it runs, its folder is left alone
        prepare(tmp_path / "nowhere.csv", "d", data_path=tmp_path / "data", show_progress=False)
    (left,) = (tmp_path / "data").iterdir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left.name.startswith(".d-prepare-")
    assert (left / "d.inter").read_text(encoding="utf-8").count("\n") == 4
    assert not (tmp_path / "data" / "d").exists()
    prepare(source, "d", data_path=tmp_path / "data", show_progress=False)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["d"]


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_ctrl_c_ends_the_program_and_leaves_nothing(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 1000},i{n % 77},{n}\n" for n in range(300000))
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(b"user,item,time\n" + rows.encode() * 10, 1, mtime=0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "recbole_diffusion", "prepare", "--input=log.csv.gz", "--dataset=d"]
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a test run may ignore it
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding,  # noqa: PLW1509
    )
    for _ in range(3000):
        if (tmp_path / "dataset").exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv.gz"]
