"""Loaded by schemathesis: where the contract has a file, give pictures that can be edited, and some that cannot."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import strategies as st

from tests.server.processes.requests import mask_png, picture_png

PICTURES = st.sampled_from([picture_png(0), picture_png(1), mask_png()])
BROKEN = st.one_of(st.binary(max_size=64), PICTURES.map(lambda png: png[: len(png) // 2]))

FILES = st.one_of(PICTURES, PICTURES, BROKEN)

schemathesis.openapi.format("binary", FILES)
schemathesis.openapi.format("byte", FILES.map(lambda data: base64.b64encode(data).decode()))
