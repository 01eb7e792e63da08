"""A Civitai on this machine, for tests: the real client talks to it over HTTP.

``with LoopbackCivitai() as hub:`` serves the API on 127.0.0.1; files are on ``localhost``, another
host to the client, as Civitai's storage is. What it does was read from Civitai's public API
documentation and the public source of the site.
"""

from .fault import Fault
from .hub import LoopbackCivitai, Request
from .world import File, Model, Version

__all__ = ["Fault", "File", "LoopbackCivitai", "Model", "Request", "Version"]
