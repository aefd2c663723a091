"""Categories of items: every way to name them, items that have none, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_diffusion.data.item_categories import USUAL_COLUMNS, CategoriesOfItems
from recbole_diffusion.errors import UserError

INTERACTIONS = "user_id:token\titem_id:token\ttimestamp:float\nu\tx\t1\nu\ty\t2\nu\tz\t3\nu\tNA\t4\n"  # ids 1 to 4


@pytest.fixture
def read(tmp_path: Path, sequential: Callable[..., Any]) -> Callable[..., CategoriesOfItems]:
    """``read(text of the .item file or None, **settings)``."""

    def build(items: str | None, **settings: Any) -> CategoriesOfItems:
        folder = tmp_path / "toy"
        folder.mkdir()
        (folder / "toy.inter").write_text(INTERACTIONS, encoding="utf-8")
        if items is not None:
            (folder / "toy.item").write_text(items, encoding="utf-8")
        found: CategoriesOfItems = sequential(tmp_path, "toy", **settings).item_categories()
        return found

    return build


def sets_of(found: CategoriesOfItems) -> dict[int, set[str]]:
    sets: dict[int, set[str]] = {}
    for item, number in zip(found.items.tolist(), found.categories.tolist()):
        sets.setdefault(item, set()).add(found.names[number])
    return sets


def test_several_categories_an_item(read: Callable[..., CategoriesOfItems]) -> None:
    """x has a repeated one and two spaces, y none, z no line; NA is a token as any other, w is in no interaction."""
    found = read("item_id:token\tclass:token_seq\nNA\tNA\nw\tred\nx\tblue  green blue\ny\t\nx\tred\n")
    assert found.column == "class"
    assert sets_of(found) == {1: {"blue", "green"}, 4: {"NA"}}  # the second line of x does not count
    assert found.items.tolist() == [1, 1, 4]
    assert len(found.names) == 3


def test_one_category_an_item(read: Callable[..., CategoriesOfItems]) -> None:
    found = read("item_id:token\tprice:float\tcategory:token\nx\t1\tdeep blue\ny\t2\t\nz\t3\tdeep blue\n")
    assert sets_of(found) == {1: {"deep blue"}, 3: {"deep blue"}}  # a token is one category, whatever is in it


def test_another_separator(read: Callable[..., CategoriesOfItems]) -> None:
    found = read("item_id:token\tgenre:token_seq\nx\tnight sky|day\n", seq_separator="|")
    assert sets_of(found) == {1: {"night sky", "day"}}


@pytest.mark.parametrize("column", USUAL_COLUMNS)
def test_usual_columns_are_found_first_come(column: str, read: Callable[..., CategoriesOfItems]) -> None:
    later = USUAL_COLUMNS[USUAL_COLUMNS.index(column) :]
    header = "\t".join(f"{name}:token" for name in reversed(later))
    line = "\t".join(f"of-{name}" for name in reversed(later))
    found = read(f"item_id:token\t{header}\nx\t{line}\n")
    assert sets_of(found) == {1: {f"of-{column}"}}


def test_the_named_column_wins(read: Callable[..., CategoriesOfItems]) -> None:
    found = read("item_id:token\tcategory:token\tbrand:token\nx\tpaint\tOPI\n", category_field="brand")
    assert (found.column, sets_of(found)) == ("brand", {1: {"OPI"}})


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        (None, {}, r"toy\.item: no such file, and metrics of categories read it; put it there, or take them out of"),
        (
            "item_id:token\tbrand:token\tprice:float\nx\tOPI\t1\n",
            {},
            r"toy\.item:1: no column of categories named category, categories, genre, genres, class; columns of tokens "
            "are brand; name one of them with category_field",
        ),
        ("item_id:token\tprice:float\nx\t1\n", {}, "columns of tokens are none; add one, or take the metrics of"),
        (
            "item_id:token\tcategory:token\nx\tpaint\n",
            {"category_field": "categry"},
            r"toy\.item:1: no column 'categry', which category_field names; columns of tokens are category \(did you "
            r"mean 'category'\?\); name one of them with category_field",
        ),
        (
            "item_id:token\tcategory:token\tprice:float\nx\tpaint\t1\n",
            {"category_field": "price"},
            r"column 'price' \(category_field\) has type float; it must be token or token_seq",
        ),
        (
            "item_id:token\tcategory:token\nw\tpaint\nx\t\n",
            {},
            r"toy\.item: column category has a category for none of the 4 items of the interactions; name another",
        ),
        ("id:token\tcategory:token\nx\tpaint\n", {}, "no column 'item_id', needed for item features"),
    ],
)
def test_mistakes_are_one_line(
    items: str | None, settings: dict[str, Any], message: str, read: Callable[..., CategoriesOfItems]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(items, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "column", "different", "with_category"),
    [("beauty-mini", "category", 6, 721), ("ml-mini", "class", 18, 1032)],
)
def test_real_data(
    dataset: str, column: str, different: int, with_category: int, shared: Path, sequential: Callable[..., Any]
) -> None:
    found = sequential(shared / "data", dataset).item_categories()
    assert (found.column, len(found.names), len(np.unique(found.items))) == (column, different, with_category)


def test_ids_do_not_change(read: Callable[..., CategoriesOfItems], tmp_path: Path, sequential: Any) -> None:
    """Items that only the .item file has get no id."""
    read("item_id:token\tcategory:token\nw\tpaint\nx\tpaint\n")
    assert sequential(tmp_path, "toy").item_num == 5
