"""Opaque sessions: tokens that say nothing, and what they stand for, with sliding expiry and compare-and-set.

`store` is the port; `memory` and `redis` are its adapters. Knows no rooms and no connections.
"""
