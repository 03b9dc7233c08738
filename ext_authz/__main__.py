"""`python -m ext_authz` and the `ext-authz` script."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from ext_authz.cli.app import app
        from ext_authz.cli.frame import run
    except KeyboardInterrupt:  # while the program is still being read
        sys.exit(130)
    sys.exit(run(app))


if __name__ == "__main__":
    main()
