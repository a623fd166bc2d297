"""Bodies of uploads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aiohttp

MakeForm = Callable[[], aiohttp.FormData]


def upload_form(fields: Mapping[str, str], files: Mapping[str, bytes | None]) -> MakeForm:
    """Makes the same multipart body at each call: one can be sent only once. A file of None is left out."""

    def make() -> aiohttp.FormData:
        made = aiohttp.FormData()
        for name, value in fields.items():
            made.add_field(name, value)
        for name, content in files.items():
            if content is not None:
                made.add_field(name, content, filename=name, content_type="application/octet-stream")
        return made

    return make
