"""What RecBole's data code refuses, as the one line of a person's mistake.

Most mistakes are found before RecBole comes to them. What is left ends here in a line that names the keys of data that
were given: RecBole's exceptions do not say which key they are about.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

from recbole.utils.argument_list import dataset_arguments

from recbole_diffusion.data.named_columns import place_of
from recbole_diffusion.errors import UserError

_LIBRARIES = ("numpy", "pandas", "scipy", "torch")  # they raise what whoever called them is to blame for
_KEYS = (*dataset_arguments, "numerical_features", "discretization", "encoding", "eval_args", "train_neg_sample_args")


@contextlib.contextmanager
def recbole_refusals(config: Any) -> Iterator[None]:
    """Turn a ValueError, KeyError, TypeError or NotImplementedError of RecBole's code inside into a UserError.

    An exception of this package's own code, or of a dataset class of the user's, is a bug and is passed on.

    Args:
        config: the configuration, for the keys of data that were given.

    Raises:
        UserError: what RecBole said, and the keys.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        if not _is_recbole_s(error):
            raise
        is_given = getattr(config, "is_given", None)
        given = [key for key in dict.fromkeys(_KEYS) if callable(is_given) and is_given(key)]
        keys = ", ".join(f"{key}: {config[key]}{place_of(config, key)}" for key in given)
        said = f"{type(error).__name__}: {error}"
        raise UserError(
            f"RecBole cannot make the data of {config['dataset']} for {config['model']} ({said}); "
            + (f"the keys of data that were given are {keys}" if keys else "no key of data was given")
        ) from error


def _is_recbole_s(error: BaseException) -> bool:
    """Whether RecBole's code raised it, by itself or through a library that it called."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _LIBRARIES:
            return package == "recbole"
    return False
