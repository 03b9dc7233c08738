"""The sidecar with workers that record nothing, to measure what recording costs: `python null_trail.py serve -c FILE`.

Here only: the product has no such switch, since everything that is decided is recorded. A log begins and ends as ever,
but a check's event is neither made nor kept.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def supervise() -> None:
    from ext_authz.__main__ import main
    from ext_authz.server import supervisor

    class Supervisor(supervisor.Supervisor):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            for worker in self._workers:
                worker.arguments[0] = Path(__file__).stem

    supervisor.Supervisor = Supervisor
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    main()


def work() -> int:
    from ext_authz import wiring
    from ext_authz.server import worker

    opened = wiring.open_spool

    def open_spool(*arguments: object) -> object:
        spool = opened(*arguments)
        spool.append = lambda _, **__: 0
        spool.append_all = len
        return spool

    wiring.open_spool = open_spool
    return worker.main(sys.argv[1:])


if __name__ == "__main__":
    if "serve" in sys.argv[1:]:
        supervise()
    else:
        sys.exit(work())
