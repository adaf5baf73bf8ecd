"""The index of the rooms that nodes share: which rooms have members, and how many.

`port` says what can be asked of it; `memory` and `redis` are its adapters.
"""
