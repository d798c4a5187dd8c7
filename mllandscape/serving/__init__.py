"""A small pipeline that serves predictions, incidents in it, and the search for the layer that one of them broke.

``pipeline`` serves, ``triage`` finds the layer, ``history`` lets git find the commit, ``arithmetic`` shows what threads and instruction sets do to
the bits, ``checkpoint`` tells one set of weights from another.
"""
