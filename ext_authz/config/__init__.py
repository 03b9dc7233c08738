"""The configuration: one file, its variables and every file it names, read once into `Inputs`.

Law: every mistake is reported at once with file, line and column; what does
not load is never half used. Non-goal: building a snapshot (wiring does).
"""

from ext_authz.config.inputs import Draft, Inputs, load_inputs, patterns, read_inputs
from ext_authz.config.load import Loaded, load, read
from ext_authz.config.run_dir import KEPT_KEYS, kept_keys, prepare_run_dir, run_dir_problem
from ext_authz.config.schema import AdminSettings, ServerSettings, Settings

__all__ = [
    "KEPT_KEYS",
    "AdminSettings",
    "Draft",
    "Inputs",
    "Loaded",
    "ServerSettings",
    "Settings",
    "kept_keys",
    "load",
    "load_inputs",
    "patterns",
    "prepare_run_dir",
    "read",
    "read_inputs",
    "run_dir_problem",
]
