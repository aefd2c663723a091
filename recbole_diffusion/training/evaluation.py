"""Evaluation by a trainer: every row ranked against all items or sampled ones, in blocks that fit `rank_memory`.

Ranking and metrics are `recbole_diffusion.evaluation`'s. What is here joins them to a trainer's model and loaders: a
model of ours is scored by its user and item vectors, any other by its `full_sort_predict` or, without one, by its
`predict` on every pair; each batch tells the model its rows' numbers in the evaluation set, so that a row's noise does
not depend on the batch; `save_per_user` keeps the rows. `sampled_items` ranks the same rows under other noise.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType
from torch import Tensor
from tqdm import tqdm

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.collector import EvaluatedRows, RankCollector
from recbole_diffusion.evaluation.per_user import write_per_user
from recbole_diffusion.evaluation.ranking import Pairs, RankedRows, by_row, rank_by_rows, rank_by_vectors, rank_scores
from recbole_diffusion.evaluation.repeated_sampling import SampledItems, items_over_samplings
from recbole_diffusion.models.base import EVALUATION_ROW, VectorRecommender, evaluation_seed, relevance
from recbole_diffusion.training.evaluation_share import own_batches
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.worker_group import ALONE, WorkerGroup

# Keys that per-user results carry along.
PER_USER_FACTS = (
    "model",
    "dataset",
    "protocol",
    "eval_args",
    "filter_seen",
    "metrics",
    "topk",
    "label_repeats",
    "category_field",
    "seed",
    "eval_seed",
)


def progress(batches: Any, description: str, show: bool) -> Iterable[Any]:
    """Iterate with a progress bar: rate and remaining time; a line every half minute where there is no terminal."""
    if not show:
        return batches
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(batches, total=len(batches), desc=description, mininterval=interval, leave=False, file=sys.stderr)


class RankingTrainer(Trainer):
    """RecBole's trainer with this package's evaluation."""

    folder: RunFolder
    workers: WorkerGroup = ALONE  # with several, each ranks its rows and the first one makes the metrics
    item_tensor: Any
    eval_collector: RankCollector
    evaluated_rows: EvaluatedRows | None = None  # of the last evaluation, where they are asked for

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: Any = None,
        show_progress: bool = False,
        *,
        split: str | None = None,
        keep_rows: bool = False,
    ) -> dict[str, float]:
        """Rank every row of `eval_data` and return the metrics.

        With `split` (valid or test) and `save_per_user` the rows are written to per_user/ of the run's folder. With
        either `save_per_user` or `keep_rows` they are to be had as `evaluated_rows`.
        """
        if load_best_model:
            self.load_best()
        sampled = isinstance(eval_data, NegSampleEvalDataLoader)
        vectors = self.ready(eval_data, sampled)
        batches, first_row, own = own_batches(eval_data, self.workers)
        numbered = self._numbered(progress(batches, "evaluate", show_progress), first_row)
        for number, batch in enumerate(numbered):
            if number not in own:
                continue
            if sampled:
                self._rank_sampled(batch)
            else:
                self._rank_all(batch, vectors)
        result, rows = self._joined()
        self.evaluated_rows = rows if keep_rows or self.config["save_per_user"] else None
        if split is not None:
            self._write_per_user(split, eval_data._dataset, result)
        return result

    @torch.no_grad()
    def sampled_items(
        self,
        eval_data: Any,
        *,
        k: int = 20,
        samplings: int = 100,
        first_seed: int | None = None,
        show_progress: bool = False,
    ) -> SampledItems:
        """Different items among the first k of each row over repeated samplings (DiffuRec, section 5.8).

        Sampling s draws its evaluation noise from `first_seed` + s. Everything else is as in `evaluate`, with the
        weights that the model has.

        Args:
            eval_data: loader of validation or test rows, ranked against all items.
            k: cut-off.
            samplings: how often every row is ranked.
            first_seed: None takes `eval_seed`, so that the first list is evaluation's; 0 where that is ~.
            show_progress: a progress bar.

        Raises:
            UserError: candidates are sampled, there are fewer items than k, or no sampling is asked for.
        """
        if isinstance(eval_data, NegSampleEvalDataLoader):
            mode = self.config["eval_args"]["mode"]
            raise UserError(f"eval_args.mode is {mode}, but items over samplings are counted among all; set mode: full")
        items = eval_data._dataset.item_num - 1
        if not 1 <= k <= items:
            raise UserError(f"k is {k}; it must be from 1 to {items}, the items of the data")
        if samplings < 1:
            raise UserError(f"samplings is {samplings}; it must be 1 or more")
        vectors = self.ready(eval_data)
        first = int(self.config["eval_seed"] or 0) if first_seed is None else first_seed

        def rank(batch: Any, seed: int) -> np.ndarray:
            with evaluation_seed(self.model, seed):
                return self.ranked(batch, vectors, k, None).items

        batches = self._numbered(progress(eval_data, "sample", show_progress), 0)
        return items_over_samplings(batches, rank, range(first, first + samplings))

    def ready(self, eval_data: Any, sampled: bool = False) -> Tensor | None:
        """Prepare to rank a loader's rows; the vectors of items (V, D), where the model scores by these."""
        self.model.eval()
        generator = getattr(eval_data, "generator", None)  # it seeds workers, alike in a resumed run
        if generator is not None:
            generator.manual_seed(self.config["seed"])
        if not sampled and self.item_tensor is None:
            self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)
        if self.config["eval_type"] == EvaluatorType.RANKING:
            self.tot_item_num = eval_data._dataset.item_num
        return self.model.item_vectors() if self._scores_by_vectors() and not sampled else None

    def _joined(self) -> tuple[dict[str, float], EvaluatedRows | None]:
        """The metrics of all workers' rows, known to all; the rows themselves, known to the first."""
        collector = self.eval_collector
        if self.workers.size > 1:
            collector.hold(self.workers.gather(collector.held()))
        found: tuple[dict[str, float], EvaluatedRows | None] = {}, None
        if self.workers.first:
            collector.model_collect(self.model)
            found = collector.evaluated(self.evaluator)
        return (found[0] if self.workers.size == 1 else self.workers.broadcast(found[0])), found[1]

    def _scores_by_vectors(self) -> bool:
        """Whether the model's scores are those of its user and item vectors, and none of its own."""
        scorer = getattr(self.model.full_sort_predict, "__func__", None)
        return scorer is VectorRecommender.full_sort_predict

    def _rank_all(self, batch: Any, item_vectors: Tensor | None) -> None:
        """Rank a batch against all items and keep it."""
        interaction, _, positive_u, positive_i = batch
        collector = self.eval_collector
        targets = by_row((positive_u, positive_i))
        ranked = self.ranked(batch, item_vectors, collector.k, targets if collector.counts_targets else None)
        collector.collect(ranked, targets, self._users(interaction))

    def ranked(self, batch: Any, item_vectors: Tensor | None, k: int, targets: Pairs | None) -> RankedRows:
        """The k best of all items for each row of a batch; in float32, since reduced precision makes ties.

        Args:
            batch: as a loader gives it, numbered.
            item_vectors: (V, D) where the model scores by vectors, else None.
            k: how many.
            targets: row and item of each target whose rank is to be counted.
        """
        interaction, seen = batch[:2]
        options: dict[str, Any] = {
            "memory": int((self.config["rank_memory"] or 256) * 2**20),
            "targets": targets,
            "seen": seen,
        }
        if item_vectors is not None:
            users = self.model.user_vectors(interaction.to(self.device))
            score = functools.partial(relevance, score=self.model.options.score)
            return rank_by_vectors(users, item_vectors, score, k, **options)
        if type(self.model).full_sort_predict is AbstractRecommender.full_sort_predict:  # a line for every pair
            lines = [*interaction.interaction.values(), *self.item_tensor.interaction.values()]
            options["bytes_per_score"] = sum(line[:1].numel() * line.element_size() for line in lines)

        def score_rows(begin: int, stop: int) -> Tensor:
            return self._full_sort_batch_eval((interaction[begin:stop], None, None, None))[1]

        return rank_by_rows(score_rows, len(interaction), self.tot_item_num, k, **options)

    def _rank_sampled(self, batch: Any) -> None:
        """Rank a batch against sampled candidates, or keep the scores of labelled lines."""
        interaction, scores, positive_u, positive_i = self._neg_sample_batch_eval(batch)
        collector = self.eval_collector
        if self.config["eval_type"] != EvaluatorType.RANKING:
            collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        targets = by_row((positive_u, positive_i))
        ranked = rank_scores(scores, collector.k, targets if collector.counts_targets else None)
        first_lines = torch.searchsorted(batch[1].cpu(), torch.arange(len(ranked.items)))
        collector.collect(ranked, targets, self._users(interaction, first_lines))

    def _users(self, interaction: Interaction, lines: Tensor | slice = slice(None)) -> Tensor | None:
        """User ids of a batch's rows; None where the data have no users."""
        field = self.config["USER_ID_FIELD"]
        return interaction[field].cpu()[lines] if field in interaction.interaction else None

    def _write_per_user(self, split: str, dataset: Any, result: dict[str, float]) -> None:
        """Keep the rows of the last evaluation where `save_per_user` asks for them."""
        if self.evaluated_rows is None:
            return
        facts = {name: self.config[name] for name in PER_USER_FACTS}
        users = dataset.field2id_token.get(dataset.uid_field)
        write_per_user(
            self.folder.per_user(split),
            self.evaluated_rows,
            dataset.field2id_token[dataset.iid_field],
            users,
            {"split": split, "result": result, **facts},
        )

    def _numbered(self, batches: Iterable[Any], first_row: int) -> Iterator[Any]:
        """The batches, each interaction with its rows' numbers in the evaluation set."""
        for batch in batches:
            interaction, candidate_row = batch[0], batch[1]
            if isinstance(candidate_row, Tensor):  # sampled candidates: several lines of the batch are one row
                within, rows = candidate_row.cpu(), int(batch[2][-1]) + 1
            else:
                within, rows = torch.arange(len(interaction)), len(interaction)
            if isinstance(self.model, VectorRecommender):
                interaction.update(Interaction({EVALUATION_ROW: first_row + within}))
            first_row += rows
            yield batch
