"""Decoding uploads in a few threads, so that neither the event loop nor other clients wait for a large one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from instgenie.errors import InvalidInputError, MaskError, TooManyPixelsError
from instgenie.orders import Pixels
from instgenie_server.api_error import ApiError, busy, invalid

if TYPE_CHECKING:
    from PIL import Image

MaskMode = Literal["auto", "alpha", "luminance"]
MAX_THREADS = 4
Take = Callable[[int], None]
_T = TypeVar("_T")


def _freely(_num_bytes: int) -> None:
    """Whatever it needs."""


class PictureDecoder:
    """A pool of decoding threads.

    A caller waits for a thread, and then for its picture, for `seconds` at most each. A decoder that exceeds this
    cannot be stopped; its thread counts as taken until it returns.

    Args:
        threads: None is one per core, but `MAX_THREADS` at most: each may hold several copies of a large picture.
    """

    def __init__(self, seconds: float, threads: int | None = None) -> None:
        self.threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        self._seconds = seconds
        self._free = asyncio.Semaphore(self.threads)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")

    async def picture(self, data: bytes, param: str = "image", take: Take = _freely) -> Pixels:
        """Decode an upload: RGB or RGBA, upright, with its colour profile but no other metadata.

        Args:
            take: called in a thread, before decoding, with the bytes that the pixels will need at most; what it
                raises ends it.
        Raises:
            ApiError: 400 with `param`: no picture, damaged, outside the limits of size (code `too_many_pixels` where
                it is too large) or too slow to decode; 429 all threads are taken for long.
        """
        return await self.run(partial(decode_picture, data, param, take), param)

    async def picture_and_mask(
        self,
        image: bytes,
        mask: bytes | None,
        mode: MaskMode = "auto",
        *,
        invert: bool = False,
        param: str = "image",
        take: Take = _freely,
    ) -> tuple[Pixels, bytes]:
        """Decode both, side by side.

        Args:
            mask: the mask file; None takes the transparent pixels of the picture.
            mode: how a mask file is read, as in `instgenie.mask.read_mask`.
            invert: of a mask file, black is edited instead of white; goes with mode luminance only.
            param: the image's name.
            take: as of `picture`.
        Returns:
            The picture, as `picture` gives it; and height x width bytes of 0 or 1, row by row; 1 is edited.
        Raises:
            ApiError: as `picture`; also a mask of another size, one that selects nothing, or none where one is needed.
        """
        if mask is None:
            pixels = await self.picture(image, param, take)
            return pixels, await self.run(partial(_own_mask, pixels, mode), "mask")
        pixels_or_error, selection_or_error = await asyncio.gather(
            self.picture(image, param, take),
            self.run(partial(decode_mask, mask, mode, invert, take), "mask"),
            return_exceptions=True,  # so that the picture's error is the one that is told, whichever comes first
        )
        if isinstance(pixels_or_error, BaseException):
            raise pixels_or_error
        if isinstance(selection_or_error, BaseException):
            raise selection_or_error
        _check_size(selection_or_error, pixels_or_error)
        return pixels_or_error, selection_or_error.bits

    async def run(self, work: Callable[[], _T], param: str) -> _T:
        """Run `work` in a thread.

        Args:
            work: raises `InvalidInputError` where the input is at fault.
            param: name of the input.
        Raises:
            ApiError: 400 the input is at fault or takes too long, 429 all threads are taken for long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError:
            raise busy("all threads that decode pictures are taken", retry_after=1.0, code="decoders_busy") from None
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._leave)
        # Unlike wait_for, wait leaves the future alone when the time is up or the caller is cancelled: a cancelled
        # one would free its permit while the thread is still at work.
        await asyncio.wait({future}, timeout=self._seconds)
        if not future.done():
            raise invalid(f"{param}: decoding takes longer than {self._seconds:g} seconds", param, "decoding_too_slow")
        try:
            return future.result()
        except InvalidInputError as error:
            raise _refusal(error) from error

    def close(self) -> None:
        """Let the threads end, once nobody calls any more; what is being decoded comes to its end."""
        self._pool.shutdown(wait=False)

    def _leave(self, future: asyncio.Future[_T]) -> None:
        self._free.release()
        if not future.cancelled():
            future.exception()  # looked at here, since the caller may be gone


def decode_picture(data: bytes, param: str, take: Take = _freely) -> Pixels:
    """Decode an upload; takes a while.

    Raises:
        PictureError: no picture, damaged, or outside the limits of size.
    """
    # Of a picture that has transparency it has a mask's byte, too, where it comes without a mask.
    return _pixels(_open(data, param, lambda width, height: take(5 * width * height)))


@dataclass(frozen=True, slots=True)
class Selection:
    """A decoded mask file; `bits` are height x width bytes of 0 or 1, row by row."""

    width: int
    height: int
    bits: bytes


def decode_mask(data: bytes, mode: MaskMode, invert: bool = False, take: Take = _freely) -> Selection:
    """What a mask file selects; takes a while.

    Raises:
        PictureError: as `decode_picture`.
        MaskError: selects nothing, or has no alpha where the mode asks for it.
    """
    from PIL import ImageOps

    from instgenie.mask import selected_pixels

    image = _open(data, "mask", lambda width, height: take(width * height))
    if invert:
        image = ImageOps.invert(image.convert("RGB").convert("L")).convert("RGB")
        mode = "luminance"
    return Selection(image.width, image.height, selected_pixels(image, mode).tobytes())


def _check_size(selection: Selection, picture: Pixels) -> None:
    from instgenie.mask import check_mask_size

    try:
        check_mask_size((selection.width, selection.height), (picture.width, picture.height))
    except MaskError as error:
        raise _refusal(error) from error


def _own_mask(picture: Pixels, mode: MaskMode) -> bytes:
    """The transparent pixels of a picture."""
    from PIL import Image

    from instgenie.mask import selected_pixels

    if mode == "luminance":
        raise MaskError("mask", "is needed where mask_mode is luminance")
    if picture.mode == "RGBA":
        image = Image.frombytes("RGBA", (picture.width, picture.height), picture.data)
        low, high = image.getchannel("A").getextrema()
        if low != high:
            return selected_pixels(image, "alpha").tobytes()
    raise MaskError("mask", "is needed: the image has no transparent parts that could say what is edited")


def _open(data: bytes, param: str, admit: Callable[[int, int], None]) -> Image.Image:
    from instgenie.picture import open_picture

    return open_picture(data, param, admit)


def _pixels(image: Image.Image) -> Pixels:
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or profile[16:20] != b"RGB ":  # of a CMYK or grey upload, which is RGB by now
        profile = None
    mode: Literal["RGB", "RGBA"] = "RGBA" if image.mode == "RGBA" else "RGB"
    return Pixels(image.width, image.height, mode, image.tobytes(), profile)


def _refusal(error: InvalidInputError) -> ApiError:
    code = "too_many_pixels" if isinstance(error, TooManyPixelsError) else None
    return invalid(str(error), error.parameter, code)
