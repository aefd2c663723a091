"""An absent dataset: one line that says what is wanted where, or RecBole's download from a server on this machine."""

from __future__ import annotations

import io
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_tables import samples, small_rows, table

from recbole_diffusion.data import download
from recbole_diffusion.errors import UserError

PROPERTIES = Path(__file__).resolve().parents[2] / "properties" / "dataset"


@dataclass
class Server:
    """What an HTTP server on this machine answers; ``cut`` sends that many bytes less than promised."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: int = 0
    says_length: bool = True
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            if state.says_length:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - state.cut])

        def log_message(self, *arguments: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``downloads(name=address)``: RecBole's table of downloads holds these and nothing else."""
    import recbole.data.dataset.dataset as recbole_dataset

    def put(**table_of_downloads: str) -> None:
        package = tmp_path / "recbole"
        folder = package / "properties" / "dataset"
        folder.mkdir(parents=True)
        content = yaml.safe_dump({name.replace("_", "-"): url for name, url in table_of_downloads.items()})
        (folder / "url.yaml").write_text(content)
        (package / "data" / "dataset").mkdir(parents=True)
        monkeypatch.setattr(recbole_dataset, "__file__", str(package / "data" / "dataset" / "dataset.py"))

    return put


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def raw_ratings() -> str:
    """All ratings in the manner of Amazon_Beauty.inter: six users of six items, and what a 5-core takes away.

    ``rare`` is rated once, ``passing`` rates once; ``chain`` has five ratings, but one of them of ``rare``, so that it
    falls only after ``rare`` has.
    """
    core = [(f"A{u}", f"B{k}", "5.0", str(1_400_000_000 + 86_400 * k)) for u in range(6) for k in range(6)]
    chain = [("chain", f"B{k}", "1.0", str(1_390_000_000 + k)) for k in range(4)] + [("chain", "rare", "1.0", "1")]
    return table(
        [*core, ("passing", "B0", "3.0", "1400000001"), *chain],
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    )


def test_raw_download_becomes_5_core(
    tmp_path: Path,
    sequential: Callable[..., Any],
    server: Server,
    downloads: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.files["/Amazon_Beauty.zip"] = archive({"Amazon_Beauty.inter": raw_ratings(), "Amazon_Beauty.item": "x"})
    downloads(amazon_beauty=f"{server.address}/Amazon_Beauty.zip")
    data = tmp_path / "new" / "data"
    with caplog.at_level("INFO"):
        dataset = sequential(data, "amazon-beauty", files=[PROPERTIES / "amazon-beauty.yaml"])
    assert (dataset.user_num - 1, dataset.item_num - 1, len(dataset.inter_feat)) == (6, 6, 36)
    assert sorted(dataset.field2token_id["user_id"]) == ["A0", "A1", "A2", "A3", "A4", "A5", "[PAD]"]
    assert "filters keep 36 of 42 interactions: 6 users, 6 items" in caplog.text
    assert list(dataset.field2type) == ["user_id", "item_id", "timestamp"]
    assert samples(dataset.build()[2])[0] == ("A0", ("B0", "B1", "B2", "B3", "B4"), "B5")
    assert [path.name for path in data.iterdir()] == ["amazon-beauty"]
    assert sorted(path.name for path in (data / "amazon-beauty").iterdir()) == [
        "amazon-beauty.inter",
        "amazon-beauty.item",
    ]
    sequential(data, "amazon-beauty", files=[PROPERTIES / "amazon-beauty.yaml"])
    assert server.requests == ["/Amazon_Beauty.zip"], "the second time it is there"


def test_name_of_the_papers(
    tmp_path: Path, sequential: Callable[..., Any], server: Server, downloads: Callable[..., None]
) -> None:
    """amazon-toys is amazon-toys-games in RecBole's table; an archive may hold a folder, and no length is needed."""
    server.files["/Amazon_Toys_and_Games.zip"] = archive({"toys/Amazon_Toys_and_Games.inter": raw_ratings()})
    server.says_length = False
    downloads(amazon_toys_games=f"{server.address}/Amazon_Toys_and_Games.zip")
    for name in ("amazon-toys", "amazon-toys-games"):
        dataset = sequential(tmp_path / "data", name, files=[PROPERTIES / f"{name}.yaml"])
        assert len(dataset.inter_feat) == 36


def test_empty_folder_is_filled(
    tmp_path: Path, sequential: Callable[..., Any], server: Server, downloads: Callable[..., None]
) -> None:
    server.files["/toy.zip"] = archive({"toy.inter": table(small_rows())})
    downloads(toy=f"{server.address}/toy.zip")
    (tmp_path / "data" / "toy").mkdir(parents=True)
    assert len(sequential(tmp_path / "data", "toy").inter_feat) == 24


def broken_member() -> bytes:
    content = bytearray(archive({"toy.inter": table(small_rows(users=40))}))
    content[60] ^= 0xFF
    return bytes(content)


FAILURES: dict[str, tuple[bytes | None, int, str]] = {
    "not found": (None, 0, "failed: .*404|failed: Not Found"),
    "cut short": (archive({"toy.inter": table(small_rows())}), 10, "stopped after|failed: IncompleteRead"),
    "no archive": (b"<html>moved</html>", 0, "no intact zip archive"),
    "damaged archive": (broken_member(), 0, "no intact zip archive"),
    "no .inter file": (archive({"README.txt": "x"}), 0, r"holds no single dataset \(.inter file\): README.txt"),
    "several datasets": (archive({"a.inter": "x", "b.inter": "x"}), 0, "holds no single dataset"),
    "file name that leads out": (archive({"../../toy.inter": "x"}), 0, "unsafe file name"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_failed_download_leaves_nothing_behind(
    tmp_path: Path, sequential: Callable[..., Any], server: Server, downloads: Callable[..., None], kind: str
) -> None:
    content, server.cut, reason = FAILURES[kind]
    if content is not None:
        server.files["/toy.zip"] = content
    downloads(toy=f"{server.address}/toy.zip")
    data = tmp_path / "new" / "data"
    with pytest.raises(UserError) as raised:
        sequential(data, "toy")
    wanted = re.escape(
        f"dataset 'toy' is not on this machine: wanted {data}/toy/toy.inter (put it there, or set data_path"
    )
    assert re.match(f"{wanted}.*; download of {server.address}/toy.zip.*({reason})", str(raised.value)), raised.value
    assert not (tmp_path / "new").exists()
    # and the next attempt starts from the beginning
    server.files["/toy.zip"], server.cut = archive({"toy.inter": table(small_rows())}), 0
    assert len(sequential(data, "toy").inter_feat) == 24


def test_interrupted_download_leaves_nothing_behind(
    tmp_path: Path,
    sequential: Callable[..., Any],
    server: Server,
    downloads: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files["/toy.zip"] = archive({"toy.inter": table(small_rows())})
    downloads(toy=f"{server.address}/toy.zip")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_unpack", interrupted)
    (tmp_path / "data").mkdir()
    with pytest.raises(KeyboardInterrupt):
        sequential(tmp_path / "data", "toy")
    assert list((tmp_path / "data").iterdir()) == []


def test_offline_is_one_line(
    tmp_path: Path, sequential: Callable[..., Any], downloads: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    downloads(toy=f"http://127.0.0.1:{port}/toy.zip")
    with pytest.raises(
        UserError, match=r"wanted .*toy/toy.inter .*data_path.*download of http.* failed: .*refused"
    ) as raised:
        sequential(tmp_path / "data", "toy")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_full_disk_is_noticed_before(
    tmp_path: Path,
    sequential: Callable[..., Any],
    server: Server,
    downloads: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files["/toy.zip"] = archive({"toy.inter": table(small_rows())})
    downloads(toy=f"{server.address}/toy.zip")
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"GB on disk, 0\.0 GB are free"):
        sequential(tmp_path / "data", "toy")
    assert not (tmp_path / "data").exists()


def test_unknown_name_gives_the_nearest(written: Callable[..., Path], sequential: Callable[..., Any]) -> None:
    data = written(table(small_rows()), name="my-shop")
    with pytest.raises(
        UserError, match=r"wanted .*amazon-beaty.inter .*no download of that name; did you mean amazon-beauty"
    ):
        sequential(data, "amazon-beaty")
    with pytest.raises(UserError, match=r"no download of that name; did you mean my-shop\?"):
        sequential(data, "myshop")
    with pytest.raises(UserError, match=r"no download of that name$"):
        sequential(data, "qqqqqqqqqqqq")
    assert sorted(path.name for path in data.iterdir()) == ["my-shop"]


def test_folder_without_the_file(written: Callable[..., Path], sequential: Callable[..., Any]) -> None:
    data = written(table(small_rows()), suffix=".csv")
    with pytest.raises(
        UserError, match=r"toy/toy.inter: no such file; .*/toy holds toy.csv; put or rename .* data_path"
    ):
        sequential(data, "toy")
    with pytest.raises(UserError, match=r"toy/toy.train.inter: no such file; .*change benchmark_filename"):
        sequential(data, "toy", benchmark_filename=["train", "test"])


def test_knowledge_graph_files_are_asked_for(written: Callable[..., Path], configured: Callable[..., Any]) -> None:
    from recbole.data.dataset import KnowledgeBasedDataset

    from recbole_diffusion.data.reading import checked_dataset

    data = written(table(small_rows()))
    negatives = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    columns = {
        "inter": ["user_id", "item_id", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
    }
    config = configured(data, "toy", model="CKE", load_col=columns, train_neg_sample_args=negatives)
    made = checked_dataset(KnowledgeBasedDataset)
    with pytest.raises(UserError, match=r"toy.kg: no such file; .*knowledge-aware models need .kg and .link"):
        made(config)
    triples = [(f"m{k}", "near", f"m{(k + 1) % 7}") for k in range(7)]
    written(table(triples, "head_id:token\trelation_id:token\ttail_id:token"), suffix=".kg")
    written(table([(f"i{k}", f"m{k}") for k in range(7)], "item_id:token\tentity_id:token"), suffix=".link")
    dataset = made(config)
    theirs = KnowledgeBasedDataset(config)
    assert (dataset.entity_num, dataset.relation_num, len(dataset.kg_feat)) == (8, 3, 7)
    for name in ("user_id", "item_id", "entity_id", "head_id"):
        assert dataset.field2id_token[name].tolist() == theirs.field2id_token[name].tolist()
    written(table(triples, "head_id:token\tkind:token\ttail_id:token"), suffix=".kg")
    with pytest.raises(UserError, match=r"toy.kg:1: no column 'relation_id'.*RELATION_ID_FIELD"):
        made(config)


def test_only_the_first_process_downloads(
    tmp_path: Path, configured: Callable[..., Any], server: Server, downloads: Callable[..., None]
) -> None:
    from recbole.data.dataset import SequentialDataset

    from recbole_diffusion.data.reading import checked_dataset

    downloads(toy=f"{server.address}/toy.zip")
    config = configured(tmp_path / "data", "toy")
    config.final_config_dict["local_rank"] = 1
    with pytest.raises(UserError, match="dataset 'toy' is not on this machine"):
        checked_dataset(SequentialDataset)(config)
    assert server.requests == []
