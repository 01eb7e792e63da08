"""A Hugging Face Hub on this machine, for tests: the real client talks to it over HTTP.

``with LoopbackHub() as hub:`` serves on 127.0.0.1; large files are on ``localhost``, another host
name to the client, as the Hub's own storage is. What it does was read from the client's source and
the Hub's public documentation; where neither says, the docstring of the module does.
"""

from .hub import LoopbackHub, Request
from .records import Fault, Quota, User

__all__ = ["Fault", "LoopbackHub", "Quota", "Request", "User"]
