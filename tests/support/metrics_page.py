"""The admin listener's open pages, as an operator's scraper reads them. `sidecar.admin` is its address."""

import re
import urllib.error
import urllib.request


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def metric(sidecar, name):
    """Return the metric's value; None while it is not there."""
    found = re.search(rf"^{re.escape(name)}[{{ ].*?([0-9.e+-]+)$", get(f"{sidecar.admin}/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else None
