"""What can go wrong with a stack, in words for the user."""

from sim.problem import Refusal


class StackError(Refusal):
    """The stack could not be brought up, found or taken down; the message says where, why, and what to do."""

    exit_code = 4
