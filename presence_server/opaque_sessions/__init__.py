"""Opaque sessions: tokens that say nothing, and what they stand for, with sliding expiry and compare-and-set.

`port` says what a store does; `memory` and `redis` are its adapters. Knows no rooms and no connections.
"""
