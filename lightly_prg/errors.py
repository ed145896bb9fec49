"""The one exception that a command turns into a sentence and exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """Something the caller can mend: a missing file, a wrong key, an unfit image.

    The message is one clear sentence that names what was given and what is allowed. Commands print it without a
    traceback and exit with code 2; from Python it is an ordinary ``ValueError``.
    """


class MissingImages(UserError):
    """The images of a data set are not where the recipe says."""


class FlowBrokeDown(UserError):
    """The ODE of a trained flow left all bounds, so that what was asked of it cannot be measured."""
