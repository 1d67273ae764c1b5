"""How long tests wait for what they do not judge by its time: these bounds only end what hangs.

A machine of two processors on which several stacks start gives a single process a tenth of one for seconds.
"""

#: For a program to answer after its start, seconds: as long as those of a stack have.
START_S = 120.0

#: For a process to end after it was told to, or was killed, seconds.
ENDS_S = 30.0
