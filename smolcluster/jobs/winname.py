"""Windows: who this process runs as, in the words of the task scheduler. Untested there: no Windows here.

Asked of the system itself: what `whoami` writes into a pipe is in an old code page, and a name such as Jürgen would not
come through it whole.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from smolcluster.jobs.types import JobError

# NameSamCompatible of EXTENDED_NAME_FORMAT: MACHINE\user.
_SAM_COMPATIBLE = 2
# In characters; a domain's and a user's name are far shorter.
_LONGEST = 1024


def account(secur32: Any = None) -> str:
    """MACHINE\\user, or DOMAIN\\user. JobError if Windows does not say it. `secur32`: a stand-in for that library."""
    library = _secur32() if secur32 is None else secur32
    name = _asked(library) if library is not None else ""
    if name:
        return name
    domain, user = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
    if not domain or not user:
        raise JobError("Windows did not say who we are: neither GetUserNameEx nor USERDOMAIN and USERNAME do")
    return f"{domain}\\{user}"


def _asked(library: Any) -> str:
    """What GetUserNameExW says; nothing if it refuses."""
    length = ctypes.c_ulong(_LONGEST)
    text = ctypes.create_unicode_buffer(_LONGEST)
    # A BOOLEAN is one byte: the rest of what is returned means nothing.
    library.GetUserNameExW.restype = ctypes.c_ubyte
    library.GetUserNameExW.argtypes = [ctypes.c_int, ctypes.c_wchar_p, ctypes.POINTER(ctypes.c_ulong)]
    return text.value if library.GetUserNameExW(_SAM_COMPATIBLE, text, ctypes.byref(length)) else ""


def _secur32() -> Any:
    if sys.platform != "win32":
        return None
    return ctypes.WinDLL("secur32")
