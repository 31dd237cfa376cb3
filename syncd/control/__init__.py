"""
How a running syncd is looked at and steered: HTTP on a Unix socket, and read-only on loopback.

The socket belongs to whoever runs syncd and to its group; every peer is asked for its credentials.
The same application on TCP answers GET only, and only under a loopback name: a web page that some
browser on this machine has open must not reach it by rebinding its own name. Nothing here wakes up
unless somebody asks.
"""

from syncd.control.desk import Desk
from syncd.control.serving import serve

__all__ = ["Desk", "serve"]
