"""The configuration of a run.

``schema``      all settings of a run
``reading``     a YAML file and overrides -> settings, and back
``plain_yaml``  YAML that holds plain values only
``changes``     what a resumed run may change
"""

from .reading import dump, load, validate
from .schema import ConfigError, RunConfig

__all__ = ["ConfigError", "RunConfig", "dump", "load", "validate"]
