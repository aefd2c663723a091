"""An index beside a checkpoint: the files, and whether they are whole and of the present items.

    best/index/items.faiss    as faiss writes it
    best/index/index.json     what it is: digest of the item vectors, kind, parameters, recall, seconds, sizes, versions

index.json is written last and holds the digest of items.faiss, so files that a killed process left, that were cut or
swapped are known, before faiss looks at them. Both are data: nothing in them is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recbole_diffusion.errors import UserError
from recbole_diffusion.models.base import Score
from recbole_diffusion.provenance import file_digest, package_versions
from recbole_diffusion.retrieval.faiss_search import FaissSearch
from recbole_diffusion.retrieval.index_building import BuiltIndex, IndexRequest
from recbole_diffusion.retrieval.index_kinds import IndexSettings, Space, import_faiss, kind_for
from recbole_diffusion.training.checkpoint import write_text_atomically

FORMAT = 1
INDEX_FILE = "items.faiss"
FACTS_FILE = "index.json"
_SETTINGS = ("build", "search", "most")


class IndexFolder:
    """The folder of a checkpoint's index.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, checkpoint: Path) -> IndexFolder:
        """That of a file of weights."""
        return cls(checkpoint.parent / "index")

    @property
    def facts_file(self) -> Path:
        """What the index is."""
        return self.path / FACTS_FILE

    @property
    def index_file(self) -> Path:
        """The index."""
        return self.path / INDEX_FILE

    def write(self, built: BuiltIndex, request: IndexRequest, queries_from: str) -> dict[str, Any]:
        """Write an index, and what it is; the latter.

        Args:
            built: the index.
            request: what was asked for.
            queries_from: where the queries come from that its recall was measured with.

        Raises:
            UserError: the folder cannot be written.
        """
        faiss = import_faiss()
        search = built.search
        temporary = self.index_file.with_name(f".{INDEX_FILE}.{os.getpid()}.tmp")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                faiss.write_index(search.index, str(temporary))
                os.replace(temporary, self.index_file)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            facts = {
                "format": FORMAT,
                "items": search.indexed,
                "dimension": int(search.items.shape[1]),
                "score": search.score,
                "vectors": digest_of(search.items, search.score),
                "kind": search.settings.kind,
                **{name: getattr(search.settings, name) for name in _SETTINGS},
                "recall": built.recall,
                "asked": asdict(request),
                "recall_at": search.depth,
                "queries": built.queries,
                "queries_from": queries_from,
                "built_seconds": round(built.seconds, 3),
                "measured_seconds": round(built.measuring_seconds, 3),
                "threads": built.threads,
                "attempts": built.attempts,
                "repeatable": search.settings.kind != "hnsw" or built.threads == 1,
                "index_bytes": self.index_file.stat().st_size,
                "vectors_bytes": search.items.numel() * 4,
                "file": file_digest(self.index_file),
                "versions": {**package_versions(), "faiss": faiss.__version__},
            }
            write_text_atomically(self.facts_file, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot write the index to {self.path} ({error}); make room, or make it writable"
            ) from error
        return facts

    def facts(self) -> dict[str, Any] | None:
        """What index.json says; None where there is none.

        Raises:
            UserError: it is damaged, or of another version of this package.
        """
        if not self.facts_file.is_file():
            return None
        try:
            facts = json.loads(self.facts_file.read_text(encoding="utf-8"))
            version = facts["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.facts_file} is damaged ({error}); {_REBUILD}") from error
        if version != FORMAT:
            raise UserError(f"{self.facts_file} has format {version!r}, and this version writes {FORMAT}; {_REBUILD}")
        return dict(facts)

    def read(self, items: Tensor, score: Score) -> tuple[FaissSearch, dict[str, Any]]:
        """The index, if it is whole and of these items, and what it is.

        Args:
            items: (V, D) the model's item vectors, row 0 padding.
            score: how it compares them.

        Raises:
            UserError: there is none, it is damaged, or it is of other vectors.
        """
        faiss = import_faiss()
        facts = self.facts()
        if facts is None:
            raise UserError(f"there is no index at {self.path}; recbole-diff index builds one")
        try:
            if facts["vectors"] != digest_of(items, score):
                raise UserError(
                    f"{self.path} is an index of other item vectors ({facts['items']} items) than the checkpoint's "
                    f"({len(items) - 1} items); {_REBUILD}"
                )
            settings = IndexSettings(kind_for(facts["kind"], 1), *(_numbers(facts[name]) for name in _SETTINGS))
            depth = int(facts["recall_at"])
            expected = facts["file"]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.facts_file} is damaged ({error!r}); {_REBUILD}") from error
        if not self.index_file.is_file() or file_digest(self.index_file) != expected:
            raise UserError(f"{self.index_file} is not the file that {FACTS_FILE} is of, it is damaged; {_REBUILD}")
        try:
            index = faiss.read_index(str(self.index_file))
        except RuntimeError as error:
            reason = str(error).splitlines()[0][-160:]
            raise UserError(
                f"faiss {faiss.__version__} cannot read {self.index_file} ({reason}); {_REBUILD}"
            ) from error
        return FaissSearch(index, items, score, settings, Space(score), depth), facts


_REBUILD = "recbole-diff index builds it anew"


def _numbers(values: dict[str, Any]) -> dict[str, int]:
    return {str(name): int(value) for name, value in values.items()}


def digest_of(items: Tensor, score: Score) -> str:
    """SHA-256 of item vectors (V, D), padding left out, and of how they are compared."""
    values = np.ascontiguousarray(items[1:].detach().cpu().float().numpy())
    digest = hashlib.sha256(f"{score} {values.shape[0]} {values.shape[1]}\n".encode())
    digest.update(values.view(np.uint8).data if values.size else b"")
    return digest.hexdigest()
