"""The company of `store.joined`: it only is there, and ends with its input; a deaf one has to be made to.

python -m killroom._company
"""

from __future__ import annotations

import json
import signal
import sys
import time

#: A deaf one ends by itself after this time, seconds: whatever a test forgets does not stay.
AT_MOST_S = 120.0


def main() -> int:
    """Take orders, be ready, and stay until the input ends."""
    line = sys.stdin.readline()
    if not line:
        return 0
    print(json.dumps({"ready": "company"}), flush=True)
    deaf = json.loads(line)["deaf"]
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.read()
    if deaf:
        time.sleep(AT_MOST_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
