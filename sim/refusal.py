"""The endings that are the user's to mend. Apart from `sim.problem`, so that ``sim --help`` need not load that."""

from __future__ import annotations


class Refusal(Exception):
    """The user asked for something that cannot be done. Its text is for people; `exit_code` ends the process."""

    exit_code = 3


class Usage(Refusal):
    """What was asked for on the command line does not exist or does not fit together."""

    exit_code = 2
