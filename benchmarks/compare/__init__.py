"""bitinfer beside other engines: see ``python -m benchmarks.compare --help``.

Each contestant runs in a process of its own (``worker``), of which only the one that is measured is
ever awake (``scheduler``).  ``measure`` decides what is measured, ``tables`` and ``plots`` show it.
A further competitor is one class in ``engines`` or ``kernels``, and its row in ``contestants``.
"""
