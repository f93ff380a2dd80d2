"""The image that is described where none is named."""

import asyncio

from src.images.fetch import ImageFetcher
from src.schemas import ImageRequest


def test_the_default_image_is_taken_without_a_network() -> None:
    url = ImageRequest().image_url
    assert asyncio.run(ImageFetcher().fetch(url)) == url
