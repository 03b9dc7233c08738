"""`python -m ext_authz` and the `ext-authz` script.

Law: no process of ours leaves a core file: data keys, tokens and events are in memory.
"""

import resource
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what is started from here has it too
    try:
        from ext_authz.cli.app import app
        from ext_authz.cli.frame import run
    except KeyboardInterrupt:  # while the program is still being read
        sys.exit(130)
    sys.exit(run(app))


if __name__ == "__main__":
    main()
