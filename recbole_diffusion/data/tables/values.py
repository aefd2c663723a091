"""Values of a column, of whatever type the file has, as the text that stands in an atomic file.

Every column class has ``convert``, batch by batch: an Arrow array in, the text of every row out, beside the rows that
have none (:class:`Fault`). Nothing is guessed in silence: what is altered is counted, and ``notes`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_diffusion.data.atomic_fields import MISSING_NUMBERS, PADDING_TOKEN, shown
from recbole_diffusion.data.tables.files import counted
from recbole_diffusion.errors import UserError

# Spellings of a missing value in exports: those that atomic files know, databases' and pandas' own.
MISSING = (*MISSING_NUMBERS, "\\N", "NaT", "NONE", "none", "Null", "NAN", "Nan")
NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"

_CONTROL = b"\t\n\r\0"
_CONTROL_PATTERN = "\r\n|[\t\n\r\\x00]"
_EXACT_IN_FLOAT64 = 2.0**53
_MISSING_ARRAY = pa.array(MISSING)


@dataclass(frozen=True)
class Fault:
    """Rows (rising) of a batch that have no usable value: how to count them, and what the first one has."""

    rows: np.ndarray
    kind: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Converted:
    """A batch of one column: the text of every row, without meaning where a fault says so."""

    texts: pa.Array
    faults: list[Fault] = field(default_factory=list)


class Column(Protocol):
    """Turns the values of one column into text."""

    name: str

    def convert(self, values: pa.Array) -> Converted:
        """The text of each of ``values`` and the rows that cannot be taken."""
        ...

    def notes(self) -> list[str]:
        """What was altered or is worth knowing, after the last batch."""
        ...


def fault(
    rows: Iterable[bool] | np.ndarray | pa.Array, kind: str, what: Callable[[int], str], remedy: str
) -> list[Fault]:
    """The fault of the rows for which a mask holds, as a list of one; empty when it holds for none.

    Args:
        rows: (rows,) booleans, nulls meaning False.
        kind: how such rows are counted.
        what: message about one row, called for the first.
        remedy: what to do about it.
    """
    if isinstance(rows, pa.Array):
        rows = pc.fill_null(rows, False).to_numpy(zero_copy_only=False)
    found = np.flatnonzero(np.asarray(rows, dtype=bool))
    return [Fault(found, kind, what(int(found[0])), remedy)] if len(found) else []


def without_nulls(values: pa.Array, filler: str = "") -> pa.Array:
    """Text with ``filler`` where there is none."""
    return pc.fill_null(values, filler) if values.null_count else values


def is_missing(texts: pa.Array) -> pa.Array:
    """(rows,) whether a text without white space around it stands for a missing value."""
    return pc.is_in(texts, value_set=_MISSING_ARRAY)


def plain(values: pa.Array) -> pa.Array:
    """The same values without dictionary or extension around them; UUIDs as text."""
    if isinstance(values.type, pa.BaseExtensionType):
        if values.type.extension_name == "arrow.uuid":
            return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if str(values.type) in ("string_view", "binary_view"):  # which older versions of Arrow cannot cast
        values = pa.array(values.to_pylist(), pa.string() if str(values.type) == "string_view" else pa.binary())
    return values


def type_error(name: str, found: pa.DataType, wanted: str) -> UserError:
    """The error about a column whose type can never do."""
    return UserError(f"column {name!r} has the type {found} in the file; {wanted}")


def text_of(values: pa.Array, name: str) -> tuple[pa.Array, list[Fault]]:
    """A column of text, or of bytes that are UTF-8 text, as Arrow strings.

    Raises:
        UserError: the column is something else.
    """
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string()), []
    try:
        texts = values.cast(pa.string())
        texts.validate(full=True)
    except pa.ArrowNotImplementedError:
        raise type_error(name, values.type, "text or numbers are needed") from None
    except pa.ArrowInvalid:
        raw = values.cast(pa.binary()).to_pylist()
        clean = [None if value is None else value.decode("utf-8", "replace") for value in raw]
        wrong = [text is not None and text.encode() != value for value, text in zip(raw, clean, strict=True)]
        what = f"column {name!r} holds bytes that are not UTF-8 text"
        return pa.array(clean, pa.string()), fault(wrong, f"{name}: not text", lambda row: what, "write it as UTF-8")
    return texts, []


class TokenColumn:
    """Ids and other tokens: text as it is, whole numbers as their digits.

    Args:
        name: the column in the file.
        identifier: whether every row needs a value that can be an id.
        replace: what is put for tabs and line ends, which an atomic file cannot hold; None refuses them.
        trim: take white space off both ends.
    """

    def __init__(self, name: str, *, identifier: bool, replace: str | None = None, trim: bool = False) -> None:
        self.name = name
        self.identifier = identifier
        self._replace = replace
        self._trim = trim
        self.replaced = 0
        self._padded = 0
        self._quoted = 0
        self._like_missing = 0
        self._like_float = 0
        self._from_float = False

    def convert(self, values: pa.Array) -> Converted:
        """Tokens of a batch."""
        texts, faults = self._texts(plain(values))
        trimmed = pc.utf8_trim_whitespace(without_nulls(texts))
        padded = pc.sum(pc.not_equal(trimmed, without_nulls(texts))).as_py() or 0
        texts = trimmed if self._trim else without_nulls(texts)
        self._padded += padded
        if self.identifier:
            faults += fault(
                pc.equal(trimmed, ""),
                f"no {self.name}",
                lambda row: f"column {self.name!r} is empty",
                "every row needs an id",
            )
            self._like_missing += pc.sum(pc.is_in(trimmed, value_set=_ID_LIKE_MISSING)).as_py() or 0
            self._like_float += pc.sum(pc.match_substring_regex(trimmed, pattern=r"^[0-9]+\.0$")).as_py() or 0
            self._quoted += pc.sum(pc.and_(pc.starts_with(trimmed, '"'), pc.ends_with(trimmed, '"'))).as_py() or 0
        faults += fault(
            pc.equal(texts, PADDING_TOKEN),
            f"{self.name} is {PADDING_TOKEN}",
            lambda row: f"column {self.name!r} is {PADDING_TOKEN!r}, RecBole's name for padding",
            "rename it",
        )
        if has_control_characters(texts):
            texts, more = self._controlled(texts)
            faults += more
        return Converted(texts, faults)

    def _controlled(self, texts: pa.Array) -> tuple[pa.Array, list[Fault]]:
        hit = pc.match_substring_regex(texts, pattern=_CONTROL_PATTERN)
        if self._replace is None:
            return texts, fault(
                hit,
                f"{self.name}: tab or line end",
                lambda row: f"column {self.name!r} is {shown(texts[row].as_py())}, with a tab or line end in it",
                "put something in their place with replace=_",
            )
        self.replaced += pc.sum(hit).as_py()
        return pc.replace_substring_regex(texts, _CONTROL_PATTERN, self._replace.replace("\\", "\\\\")), []

    def _texts(self, values: pa.Array) -> tuple[pa.Array, list[Fault]]:
        kind = values.type
        if pa.types.is_integer(kind):
            return values.cast(pa.string()), []
        if pa.types.is_floating(kind):
            return self._whole_numbers(values.cast(pa.float64()))
        if pa.types.is_decimal(kind):
            texts = pc.replace_substring_regex(values.cast(pa.string()), r"\.0*$", "")
            return texts, self._not_whole(texts, pc.match_substring(texts, "."))
        if pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
            if self.identifier:
                raise type_error(self.name, kind, "an id is text or a whole number: choose another column")
            return values.cast(pa.string()), []
        return text_of(values, self.name)

    def _whole_numbers(self, values: pa.Array) -> tuple[pa.Array, list[Fault]]:
        """Ids that became floats, as pandas makes them when one is missing: 123.0 is the id 123."""
        self._from_float = True
        numbers = values.to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        whole = np.isfinite(numbers) & (np.mod(numbers, 1, where=np.isfinite(numbers), out=np.ones_like(numbers)) == 0)
        exact = whole & (np.abs(numbers, where=whole, out=np.zeros_like(numbers)) < _EXACT_IN_FLOAT64)
        texts = pa.array(np.where(exact, numbers, 0).astype(np.int64)).cast(pa.string())
        texts = pc.if_else(pa.array(missing), "", texts)
        return texts, self._not_whole(values.cast(pa.string()), ~missing & ~exact)

    def _not_whole(self, texts: pa.Array, rows: np.ndarray | pa.Array) -> list[Fault]:
        return fault(
            rows,
            f"{self.name}: no id",
            lambda row: f"column {self.name!r} is the number {texts[row]}: an id is text or a whole number below 2**53",
            "write the ids as text or integers",
        )

    def notes(self) -> list[str]:
        """What was altered, and values that may not mean what they say."""
        found = []
        if self.replaced:
            found.append(
                f"{self.name}: tabs or line ends became {self._replace!r} in {counted(self.replaced, 'value')}"
            )
        if self._padded:
            done = "was taken off" if self._trim else "is kept (trim takes it off)"
            found.append(f"{self.name}: white space at an end of {counted(self._padded, 'value')} {done}")
        if self._from_float:
            found.append(f"{self.name}: numbers with a decimal point in the file, written as whole numbers")
        if self._like_missing:
            found.append(
                f"{self.name}: kept as ids: {counted(self._like_missing, 'value')} such as NULL or NaN; leave these "
                "rows out beforehand if they stand for a missing id"
            )
        if self._like_float:
            found.append(
                f"{self.name}: kept as they are: {counted(self._like_float, 'value')} such as 12.0; where other files "
                "have 12, these are two ids"
            )
        if self._quoted:
            found.append(
                f"{self.name}: kept as they are: {counted(self._quoted, 'value')} between quotation marks (see quote)"
            )
        return found


_ID_LIKE_MISSING = pa.array([value for value in MISSING if value])


def has_control_characters(texts: pa.Array) -> bool:
    """Whether any of the texts has a tab, a line end or a NUL."""
    _, offsets, data = texts.buffers()
    if data is None or len(texts) == 0:
        return False
    bounds = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    raw = memoryview(data)[bounds[0] : bounds[-1]].tobytes()
    return len(raw.translate(None, _CONTROL)) != len(raw)


class NumberColumn:
    """Numbers such as ratings and prices; a missing one is empty, which RecBole fills with the column's mean."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._missing = 0
        self._rows = 0

    def convert(self, values: pa.Array) -> Converted:
        """Numbers of a batch, as they stand in the file where it is text."""
        values = plain(values)
        kind = values.type
        faults: list[Fault] = []
        if pa.types.is_boolean(kind):
            values = values.cast(pa.int8())
        if pa.types.is_integer(values.type) or pa.types.is_decimal(kind):
            texts = without_nulls(values.cast(pa.string()))
        elif pa.types.is_floating(kind):
            texts, faults = self._floats(values)
        elif pa.types.is_temporal(kind):
            raise type_error(self.name, kind, "a number is needed: keep it as a token, or use it as the time")
        else:
            texts, faults = text_of(values, self.name)
            texts = pc.utf8_trim_whitespace(without_nulls(texts))
            texts = pc.if_else(is_missing(texts), "", texts)
            written = pc.match_substring_regex(texts, pattern=NUMBER)
            numbers = pc.utf8_ltrim(pc.if_else(written, texts, "0"), "+").cast(pa.float64())
            wrong = pc.or_(pc.and_(pc.not_equal(texts, ""), pc.invert(written)), pc.is_inf(numbers))
            faults = faults or number_faults(self.name, texts, wrong, "no number")
        self._missing += pc.sum(pc.equal(texts, "")).as_py() or 0
        self._rows += len(texts)
        return Converted(pc.utf8_ltrim(texts, "+"), faults)

    def _floats(self, values: pa.Array) -> tuple[pa.Array, list[Fault]]:
        numbers = values.cast(pa.float64())
        texts = pc.if_else(pc.fill_null(pc.is_nan(numbers), True), "", numbers.cast(pa.string()))
        return texts, number_faults(self.name, texts, pc.is_inf(numbers), "no number")

    @property
    def empty(self) -> bool:
        """Whether no row has a number."""
        return self._missing == self._rows

    def notes(self) -> list[str]:
        """How many values are missing."""
        if self._missing:
            return [f"{self.name}: {self._missing} of {self._rows} values are missing; RecBole takes the mean for them"]
        return []


def number_faults(name: str, texts: pa.Array, rows: np.ndarray | pa.Array, kind: str) -> list[Fault]:
    """Faults of values that are no finite numbers."""

    def what(row: int) -> str:
        return f"column {name!r} is {shown(str(texts[row]))}, not a finite number"

    first = fault(rows, f"{name}: {kind}", what, "write a number")
    if first and "," in str(texts[int(first[0].rows[0])]):
        return fault(rows, f"{name}: {kind}", what, "write the decimal mark as a point, without thousands separators")
    return first


class SequenceColumn:
    """Several tokens or numbers in one value: lists, or text with a separator. Blanks separate them in atomic files.

    Args:
        name: the column in the file.
        numbers: whether they are numbers (``float_seq``).
        separator: what separates them in a text.
        replace: what is put for blanks inside one of them, and for tabs and line ends; None refuses them.
    """

    def __init__(self, name: str, *, numbers: bool, separator: str = " ", replace: str | None = None) -> None:
        self.name = name
        self._separator = separator
        self._replace = replace
        part = NumberColumn(name) if numbers else TokenColumn(name, identifier=False, replace=replace)
        self._part: NumberColumn | TokenColumn = part
        self._blanks = 0

    def convert(self, values: pa.Array) -> Converted:
        """Sequences of a batch."""
        values = plain(values)
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or _is_fixed_list(values.type):
            lists = values.cast(pa.list_(values.type.value_type))
        else:
            texts, faults = text_of(values, self.name)
            if faults:
                return Converted(texts, faults)
            texts = pc.utf8_trim_whitespace(without_nulls(texts))
            lists = pc.split_pattern(texts, self._separator)
        # (elements,) the row of every element: positions in a batch that may begin inside its buffers
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(lists)), lengths)
        converted = self._part.convert(lists.flatten())
        elements = pc.utf8_trim_whitespace(converted.texts)
        faults = [Fault(np.unique(rows[f.rows]), f.kind, f.what, f.remedy) for f in converted.faults]
        blank = pc.match_substring_regex(elements, pattern=r"\s")
        if pc.any(blank).as_py():
            if self._replace is None:
                hit = blank.to_numpy(zero_copy_only=False)
                first = elements[int(np.argmax(hit))].as_py()
                what = f"column {self.name!r} has the element {shown(first)} with a blank, which separates elements"
                remedy = "put something in its place with replace=_, or keep the column as one token"
                faults.append(Fault(np.unique(rows[hit]), f"{self.name}: blank in an element", what, remedy))
            else:
                self._blanks += pc.sum(blank).as_py()
                elements = pc.replace_substring_regex(elements, r"\s+", self._replace.replace("\\", "\\\\"))
        filled = pc.not_equal(elements, "").to_numpy(zero_copy_only=False)
        ends = np.cumsum(np.bincount(rows[filled], minlength=len(lists)))
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        joined = pc.binary_join(pa.ListArray.from_arrays(offsets, elements.filter(pa.array(filled))), " ")
        return Converted(joined, faults)

    def notes(self) -> list[str]:
        """What was altered."""
        found = self._part.notes() if isinstance(self._part, TokenColumn) else []
        if self._blanks:
            found.append(f"{self.name}: blanks became {self._replace!r} in {counted(self._blanks, 'element')}")
        return found


def _is_fixed_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
