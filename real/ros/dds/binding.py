"""What the Python binding of Cyclone DDS does not allow two threads to do at once."""

from __future__ import annotations

import threading

#: Held while DDS policies are turned into Python (discovery data, matched endpoints, a new writer): the binding reads them
#: through buffers that all threads of the process share, and a second thread would see the first one's policies.
POLICIES = threading.RLock()
