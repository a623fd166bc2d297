"""Forms as the OpenAI SDK writes them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from tests.server.intake.conftest import IntakeServer

IMAGE, MASK = b"\x89PNG\r\n\x1a\n--picture\r\n", b"\x89PNG mask"


@pytest.fixture
async def openai(intake: IntakeServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=str(intake.server.make_url("/v1")), api_key="none", max_retries=0) as client:
        yield client


async def edit(openai: AsyncOpenAI, **parameters: Any) -> Any:
    """Send an edit; what the server read."""
    response = await openai.images.with_raw_response.edit(**({"image": IMAGE, "prompt": "a cat"} | parameters))
    return json.loads(response.text)


async def test_bare_bytes(openai: AsyncOpenAI) -> None:
    read = await edit(openai, prompt="ein Kürbis\r\n", mask=MASK)
    assert (read["image"], read["mask"]) == (len(IMAGE), len(MASK))
    assert read["values"]["prompt"] == "ein Kürbis\r\n"


@pytest.mark.parametrize("images", [[IMAGE], [IMAGE, b"another", b"third"]])
async def test_lists_of_images(openai: AsyncOpenAI, images: list[bytes]) -> None:
    assert (await edit(openai, image=images))["image"] == len(IMAGE)


async def test_files_paths_and_tuples(openai: AsyncOpenAI, tmp_path: Path) -> None:
    image, mask = tmp_path / 'an "image".png', tmp_path / "Maske ä.png"
    image.write_bytes(IMAGE)
    mask.write_bytes(MASK)
    with image.open("rb") as image_file, mask.open("rb") as mask_file:
        pairs = [
            (image, mask),
            (image_file, mask_file),
            (("a.png", IMAGE, "image/png"), ("m.png", MASK)),
            ([image], mask),
        ]
        for given, given_mask in pairs:
            read = await edit(openai, image=given, mask=given_mask)
            assert (read["image"], read["mask"]) == (len(IMAGE), len(MASK))


async def test_all_of_its_parameters(openai: AsyncOpenAI) -> None:
    read = await edit(
        openai,
        n=2,
        size="1024x1536",
        response_format="b64_json",
        output_format="webp",
        output_compression=80,
        stream=False,
        partial_images=0,
        model="instgenie-builtin",
        user="me",
        quality="high",
        background="opaque",
        input_fidelity="high",
    )
    values = read["values"]
    assert (values["n"], values["size"], values["stream"], values["output_compression"]) == (2, "1024x1536", False, 80)


async def test_our_own_parameters(openai: AsyncOpenAI) -> None:
    ours = {
        "seed": 7,
        "steps": 12,
        "guidance": 2.5,
        "strength": 0.5,
        "crop": False,
        "cache": "only",
        "deadline_ms": 900,
    }
    read = await edit(openai, extra_body=ours | {"mask_mode": "luminance", "priority": -3, "template_prompt": ""})
    assert ours.items() <= read["values"].items()
    assert (read["values"]["mask_mode"], read["values"]["priority"]) == ("luminance", -3)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"extra_body": {"lora": {"name": "a"}}}, "lora"),
        ({"extra_body": {"sed": 7}}, "sed"),
        ({"n": 0}, "n"),
        ({"background": "transparent"}, "background"),
        ({"model": "gpt-image-1"}, "model"),
        ({"image": []}, "image"),
    ],
)
async def test_errors_are_typed(openai: AsyncOpenAI, parameters: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        await edit(openai, **parameters)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


async def test_the_synchronous_client(intake: IntakeServer) -> None:
    def send() -> int:
        with OpenAI(base_url=str(intake.server.make_url("/v1")), api_key="none", max_retries=0) as client:
            return client.images.edit(image=base64.b64decode(b"QUJD"), prompt="a cat").created

    assert await asyncio.to_thread(send) == 1
